"""Which entries are the largest: an exact number of them, found without sorting.

Magnitudes are ordered as the bits of their float32 are. So the k-th largest is found bit by bit, by
counting 32 times; each device counts its own part. Nothing of the size of a parameter is gathered.
"""

import jax
import jax.numpy as jnp
import numpy as np

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree


def magnitudes(values: jax.Array) -> jax.Array:
    """Returns uint32 of the same shape, ordered as the absolute values of floats."""
    return jax.lax.bitcast_convert_type(jnp.abs(values.astype(jnp.float32)), jnp.uint32)


def kth_largest(values: jax.Array, k: int) -> jax.Array:
    """Returns the k-th largest of an array of uint32, which has less than 2^32 elements."""

    def narrow(number, found):
        candidate = found | (jnp.uint32(1) << (31 - number).astype(jnp.uint32))
        enough = jnp.sum(values >= candidate, dtype=jnp.uint32) >= k
        return jnp.where(enough, candidate, found)

    return jax.lax.fori_loop(0, 32, narrow, jnp.uint32(0))


def largest(values: jax.Array, k: int) -> jax.Array:
    """Returns a mask of exactly k elements of an array of uint32; of equal ones the first."""
    least = kth_largest(values, k)
    above = values > least
    left = k - jnp.sum(above, dtype=jnp.uint32)
    return above | _first(values == least, left)


def most_changed(before: Tree, after: Tree, count: int) -> Tree:
    """Returns a mask for each leaf: the entries, of all leaves together, that changed most.

    Of equal changes those come first whose path is, and in a leaf those that are first in its rows.
    Stacked or not, layers have the same masks. Differences are taken in float32 and never kept.

    Args:
      before, after: trees of the same leaves, on the devices.
      count: entries that are chosen, at least 1 and at most as many as there are.

    Returns:
      Booleans of the shapes and shardings of `before`.

    Raises:
      UserError: no entry changed.
    """

    def at_least(least):
        return list(map(int, jax.device_get(_counted(before, after, np.uint32(least)))))

    least = 0
    for bit in reversed(range(32)):
        if sum(at_least(least | 1 << bit)) >= count:
            least |= 1 << bit
    above = at_least(least + 1)
    if not least and not sum(above):
        raise UserError(
            "selections.MostChanged: the stage before changed none of the parameters that train "
            "here; put one before it that trains them"
        )
    quotas, left = [], count - sum(above)
    for number, more in zip(at_least(least), above, strict=True):
        quotas.append(np.uint32(min(number - more, left)))
        left -= int(quotas[-1])
    masks = _chosen(before, after, np.uint32(least), quotas)
    return jax.device_put(masks, jax.tree.map(lambda leaf: leaf.sharding, before))


def _changes(before: Tree, after: Tree) -> dict[str, jax.Array]:
    """Returns the magnitudes of what changed, by the path that each layer has by itself."""
    old, new = (trees.flatten(trees.unstack_layers(tree)) for tree in (before, after))
    return {
        path: magnitudes(new[path].astype(jnp.float32) - old[path].astype(jnp.float32))
        for path in old
    }


@jax.jit
def _counted(before, after, least):
    found = _changes(before, after).values()
    return [jnp.sum(values >= least, dtype=jnp.uint32) for values in found]


@jax.jit
def _chosen(before, after, least, quotas):
    """Returns masks of what is above the least, and of so many in each leaf that equal it."""
    found = {}
    for (path, values), quota in zip(_changes(before, after).items(), quotas, strict=True):
        equal = values == least
        # Hardly ever there are more of these than are wanted.
        some = jax.lax.cond(
            jnp.sum(equal, dtype=jnp.uint32) > quota, _first, lambda mask, _: mask, equal, quota
        )
        found[path] = (values > least) | some
    tree = trees.unflatten(found)
    return trees.stack_layers(tree) if trees.is_stacked(before) else tree


def _first(mask: jax.Array, count: jax.Array) -> jax.Array:
    """Keeps the first elements of a mask that are true, so many of them."""
    place = jnp.cumsum(mask.ravel(), dtype=jnp.uint32).reshape(mask.shape)
    return mask & (place <= count)
