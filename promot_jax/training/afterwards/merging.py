"""Merging by task vectors, the differences of ends and their start: TIES and DARE."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from promot_jax.base import trees, values
from promot_jax.base.trees import Tree
from promot_jax.training.afterwards.transform import MODEL, At, by_layer, changed, common, numbers


@dataclasses.dataclass(frozen=True)
class Ties:
    """TIES of one end: `start + at * (the largest changes)`; see `ties`.

    Attributes:
      density: share of the changes of each matrix that is kept.
    """

    density: values.Probability = 0.2
    of: ClassVar[str] = MODEL
    points: At = (1.0,)
    name: values.Text = "ties"
    label: values.Text = "TIES"

    def __post_init__(self):
        values.check_fields(self)

    def apply(self, start: Tree, end: Tree, at: float, seed: int) -> Tree:
        """See `Transform.apply`; nothing is drawn."""
        return ties(start, [end], self.density, at)


def ties(start: Tree, ends: Sequence[Tree], density: float, at: float) -> Tree:
    """Merges ends of one start: trim, elect signs, merge (Yadav et al. 2023, arXiv 2306.01708).

    Of each matrix of each end the largest changes are kept; each element then has the sign of the
    sum of what is left, and the mean of the changes with this sign, times `at`.

    Args:
      start: what all ends began with.
      ends: one at least. What they have beyond the start is that of the first.
      density: share of the changes that is kept; of equally large ones all.
      at: factor of the merged change.
    """
    begun, first, *others = map(trees.flatten, (start, *ends))
    leaves = dict(first)
    paths = sorted({path for end in ends for path in common(start, end)})
    for path in paths:
        merge = by_layer(_merge(density), path)
        rest = [other[path] for other in others]
        leaves[path] = changed(merge, first[path], begun[path], at, *rest)
    return trees.unflatten(leaves)


@functools.cache
def _merge(density: float):
    def merge(first, start, at, *others):
        kept = jnp.stack([_trimmed(end - start, density) for end in (first, *others)])
        elected = jnp.where(kept.sum(0) >= 0, 1.0, -1.0)
        agrees = jnp.sign(kept) == elected
        count = jnp.maximum(agrees.sum(0), 1)
        return start + at * (kept * agrees).sum(0) / count

    return merge


def _trimmed(change: jax.Array, density: float) -> jax.Array:
    """Returns the largest elements of a change, zero elsewhere."""
    count = int(density * change.size)
    if not count:
        return jnp.zeros_like(change)
    # Bits of floats that are not negative are in the order of their values. Bit by bit it takes a
    # count over the elements, which stay where they are; a sort would gather those of all devices.
    bits = jax.lax.bitcast_convert_type(jnp.abs(change), jnp.uint32)

    def add_bit(place, least):
        more = least | (jnp.uint32(1) << (30 - place).astype(jnp.uint32))
        return jnp.where((bits >= more).sum() >= count, more, least)

    least = jax.lax.fori_loop(0, 31, add_bit, jnp.uint32(0))
    return jnp.where(bits >= least, change, 0.0)


@dataclasses.dataclass(frozen=True)
class Dare:
    """DARE: drops changes at random and rescales the others (Yu et al. 2023, arXiv 2311.03099).

    It is `start + at * mask * (end - start) / (1 - drop)`.

    Attributes:
      drop: probability with which an element goes back to the start.
    """

    drop: values.Share = 0.9
    of: ClassVar[str] = MODEL
    points: At = (1.0,)
    name: values.Text = "dare"
    label: values.Text = "DARE"

    def __post_init__(self):
        values.check_fields(self)

    def apply(self, start: Tree, end: Tree, at: float, seed: int) -> Tree:
        """See `Transform.apply`; the mask of a matrix depends on its path and the seed."""
        begun, leaves = trees.flatten(start), trees.flatten(end)
        for path in common(start, end):
            leaf, drop = leaves[path], by_layer(_drop(self.drop), path)
            leaves[path] = changed(drop, leaf, begun[path], numbers(path, leaf), seed, at)
        return trees.unflatten(leaves)


@functools.cache
def _drop(share: float):
    def drop(end, start, number, seed, at):
        key = jax.random.fold_in(jax.random.key(seed), number)
        kept = jax.random.bernoulli(key, 1 - share, end.shape)
        return start + at * jnp.where(kept, (end - start) / (1 - share), 0.0)

    return drop
