"""Batches of which each process has a part."""

from typing import Any

from promot_jax.base import distributed

# (number, count): which of how many equal parts of each batch a process holds.
Share = tuple[int, int]
WHOLE = (0, 1)


def agreed(value: Any, share: Share) -> list[Any]:
    """Returns the values of all processes, one for each part of a batch, in the order of the parts.

    Args:
      value: of this process, as JSON keeps it; processes that hold the same rows give the same.
      share: the part that this process holds.
    """
    if share[1] == 1:
        return [value]
    found = dict(distributed.gathered([share[0], value]))
    return [found[number] for number in range(share[1])]
