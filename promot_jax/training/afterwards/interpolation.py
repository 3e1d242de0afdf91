"""Interpolation with the start."""

import dataclasses
from typing import ClassVar

import jax

from promot_jax.base import partitioning, trees, values
from promot_jax.base.trees import Tree
from promot_jax.training.afterwards.transform import MODEL, At, changed, common

# In order of what they tell: the first few of them already show a curve.
USUAL = (0.5, 0.7, 0.3, 0.9, 0.6, 0.8, 0.4)


@dataclasses.dataclass(frozen=True)
class Interpolation:
    """`(1 - at) * start + at * end`: WiSE-FT (Wortsman et al. 2021, arXiv 2109.01903).

    At 0 it is the start and at 1 the end, bit for bit. Above 1 it goes on beyond the end: the
    scaled task vector of task arithmetic (Ilharco et al. 2022, arXiv 2212.04089).
    """

    of: ClassVar[str] = MODEL
    points: At = USUAL
    name: values.Text = "interpolation"
    label: values.Text = "Interpolation with the start"

    def __post_init__(self):
        values.check_fields(self)

    def apply(self, start: Tree, end: Tree, at: float, seed: int) -> Tree:
        """See `Transform.apply`; nothing is drawn."""
        begun, leaves = trees.flatten(start), trees.flatten(end)
        for path in common(start, end):
            if at in (0, 1):
                leaves[path] = partitioning.on_device((begun, leaves)[int(at)][path])
            else:
                leaves[path] = changed(_between, leaves[path], begun[path], 1 - at, at)
        return trees.unflatten(leaves)


def _between(end: jax.Array, start: jax.Array, of_start: float, of_end: float) -> jax.Array:
    return of_start * start + of_end * end
