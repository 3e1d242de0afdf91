"""Beam search against transformers' `generate`, by its rules."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from benchmarks import workers
from benchmarks.shapes import Shape
from benchmarks.train_step import OURS

# Share of rows that must be equal: random weights give beams whose scores are next to equal.
EQUAL = {"float32": 0.75, "bfloat16": 0.0}


def measure(
    shape: Shape, folder: str, dtype: str, rounds: int, times: int, beams: int
) -> Iterator[dict[str, Any]]:
    """Yields one result as `workers.compare` gives it, with a `name` and `equal_rows`.

    Raises:
      RuntimeError: the contenders find different texts.
    """
    given = {"shape": dataclasses.asdict(shape), "folder": folder, "dtype": dtype, "beams": beams}
    contenders = {
        OURS: ("benchmarks.ours:decode", given),
        "transformers": ("benchmarks.peers:decode", given),
    }
    result = workers.compare(contenders, rounds, times)
    found = [row["facts"]["first"]["tokens"] for row in result["contenders"].values()]
    equal = sum(a == b for a, b in zip(*found, strict=True)) / shape.rows
    if equal < EQUAL[dtype]:
        raise RuntimeError(f"the contenders agree on {equal:.0%} of the rows only")
    for row in result["contenders"].values():
        del row["facts"]["first"], row["facts"]["then"]
    name = f"{shape.targets} tokens, beam {beams}"
    yield {"name": name, **result, "equal_rows": equal}
