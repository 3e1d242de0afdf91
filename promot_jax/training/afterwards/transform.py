"""What a transform is, and how one goes through the leaves of a start and an end."""

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from promot_jax.base import partitioning, trees, values
from promot_jax.base.trees import Tree
from promot_jax.models.networks import lora

# Where a transform is evaluated: values of its coefficient, each once.
At = Annotated[Sequence[values.Weight], values.SOME, values.DISTINCT]

# What a transform changes: leaves that the start has too, or low-rank adapters.
MODEL, ADAPTERS = "the model", "adapters"


class Transform(Protocol):
    """Makes parameters of a start and an end; frozen, and hashable.

    Attributes:
      of: what it changes, `MODEL` or `ADAPTERS`.
      name: for files.
      label: for tables and figures.
      points: the coefficients at which it is evaluated.
    """

    of: ClassVar[str]
    name: str
    label: str
    points: Sequence[float]

    def apply(self, start: Tree, end: Tree, at: float, seed: int) -> Tree:
        """Returns the parameters at a coefficient.

        Args:
          start: parameters that the stages began with. Leaves may lie in the memory of the host,
            those of `end` too; of what no stage trained both have the same array.
          end: what the stages made of them.
          at: the coefficient.
          seed: of what is drawn.
        """


# A leaf of the start and of the end, in float32 -> what takes their place.
Change = Callable[..., jax.Array]


def common(start: Tree, end: Tree) -> list[str]:
    """Returns the paths of the leaves that both have and that may differ, in order.

    Soft prompts and adapters are none of them, whether or not the start has some.
    """
    begun, ended = trees.flatten(start), trees.flatten(end)
    return [
        path
        for path, leaf in ended.items()
        if path in begun
        and begun[path] is not leaf
        and not trees.PROMPT.fullmatch(path)
        and path.split("/")[-1] not in lora.LEAVES
    ]


def changed(change: Change, end: Any, *others: Any) -> Any:
    """Returns `change(end, *others)` with dtype and sharding of `end`, on the devices.

    Args:
      change: of arrays in float32 and of plain numbers; compiled once for equal shapes.
      end: a leaf, or a tuple of leaves.
      *others: what else `change` takes, leaves among it.
    """
    ended, given = jax.tree.map(_placed, (end, others))
    places = jax.tree.map(lambda leaf: leaf.sharding, ended)
    # One leaf after the other: all those of the host would come at once.
    return jax.block_until_ready(_compiled(change, places)(ended, *given))


def _placed(value: Any) -> Any:
    return partitioning.on_device(value) if isinstance(value, jax.Array) else value


@functools.lru_cache(maxsize=64)
def _compiled(change: Change, places: Any) -> Callable[..., Any]:
    def run(end: Any, *others: Any) -> Any:
        found = change(*jax.tree.map(_wide, (end, *others)))
        return jax.tree.map(lambda new, leaf: new.astype(leaf.dtype), found, end)

    return jax.jit(run, out_shardings=places)


def _wide(value: Any) -> Any:
    """Returns a floating-point array in float32, anything else as it is."""
    is_float = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating)
    return value.astype(jnp.float32) if is_float else value


def layer_names(path: str, leaf: jax.Array) -> list[str]:
    """Returns the path of each matrix in a leaf, as it is where layers are not stacked."""
    parts = path.split("/")
    if trees.STACKED not in parts:
        return [path]
    place = parts.index(trees.STACKED)
    names = (f"{trees.STACKED}_{number}" for number in range(leaf.shape[0]))
    return ["/".join([*parts[:place], name, *parts[place + 1 :]]) for name in names]


def by_layer(change: Change, path: str) -> Change:
    """Returns a change of one matrix as one of a leaf: of stacked layers, layer by layer."""
    return _mapped(change) if trees.STACKED in path.split("/") else change


@functools.cache
def _mapped(change: Change) -> Change:
    def mapped(*arguments: Any) -> Any:
        # Numbers are the same for all layers.
        axes = jax.tree.map(lambda one: 0 if jnp.ndim(one) else None, arguments)
        return jax.vmap(change, in_axes=axes)(*arguments)

    return mapped


def numbers(path: str, leaf: jax.Array) -> np.ndarray:
    """Returns a number for each matrix of a leaf, uint32 [layers] or []: to draw from.

    It is that of the matrix's own path, the same whether or not layers are stacked.
    """
    found = np.array([zlib.crc32(name.encode()) for name in layer_names(path, leaf)], np.uint32)
    return found if trees.STACKED in path.split("/") else found[0]
