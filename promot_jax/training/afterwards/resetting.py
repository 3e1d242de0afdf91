"""A part of the matrices as they were at the start."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from promot_jax.base import trees, values
from promot_jax.base.trees import Tree
from promot_jax.training.afterwards.transform import (
    MODEL,
    At,
    by_layer,
    changed,
    common,
    layer_names,
)


@dataclasses.dataclass(frozen=True)
class HalfReset:
    """Puts whole matrices back to the start, drawn at random: half-reset of HFT (arXiv 2404.18466).

    `at` is the share of the matrices that stay as the stages trained them: of each layer's every
    leaf counts as one. The ones that stay at a smaller share stay at a larger one too.
    """

    of: ClassVar[str] = MODEL
    points: At = (0.5,)
    name: values.Text = "half_reset"
    label: values.Text = "Half-reset"

    def __post_init__(self):
        values.check_fields(self)

    def apply(self, start: Tree, end: Tree, at: float, seed: int) -> Tree:
        """See `Transform.apply`; above 1 it is the end."""
        begun, leaves = trees.flatten(start), trees.flatten(end)
        paths = common(start, end)
        names = {path: layer_names(path, leaves[path]) for path in paths}
        # In an order that does not depend on whether layers are stacked.
        matrices = sorted(name for several in names.values() for name in several)
        order = np.random.default_rng(seed).permutation(len(matrices))
        kept = {matrices[place] for place in order[: round(at * len(matrices))]}
        for path in paths:
            stays = np.array([name in kept for name in names[path]])
            stays = stays if trees.STACKED in path.split("/") else stays[0]
            choose = by_layer(_chosen, path)
            leaves[path] = changed(choose, leaves[path], begun[path], stays)
        return trees.unflatten(leaves)


def _chosen(end: jax.Array, start: jax.Array, stays: jax.Array) -> jax.Array:
    return jnp.where(stays, end, start)
