"""Adapters afterwards: less of them, or without what no pretrained matrix has."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp

from promot_jax.base import trees, values
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.models.networks.lora import MAGNITUDE, Lora, lengths
from promot_jax.training.afterwards import interpolation
from promot_jax.training.afterwards.transform import ADAPTERS, At, by_layer, changed


@dataclasses.dataclass(frozen=True)
class AdapterScale:
    """What each adapter adds, times `at`; DoRA's lengths go the same way from those of the kernel.

    For low-rank adapters that are in use for every task it is the interpolation of the model that
    they are merged into (of DoRA's, only nearly so): at 0 the start, at 1 the end bit for bit.
    """

    of: ClassVar[str] = ADAPTERS
    points: At = interpolation.USUAL
    name: values.Text = "adapter_scale"
    label: values.Text = "Share of the adapters"

    def __post_init__(self):
        values.check_fields(self)

    def apply(self, start: Tree, end: Tree, at: float, seed: int) -> Tree:
        """See `Transform.apply`; the start plays no part, and nothing is drawn."""
        leaves = trees.flatten(end)
        for path in [
            path for path in leaves if path.endswith(("/lora_b", "/lora_b0", "/adapter_up"))
        ]:
            leaves[path] = changed(_scaled, leaves[path], at)
        for path in [path for path in leaves if path.endswith(MAGNITUDE) and at != 1]:
            kernel = leaves[path.removesuffix(MAGNITUDE) + "kernel"]
            leaves[path] = changed(_between_lengths, leaves[path], kernel, at)
        return trees.unflatten(leaves)


def _scaled(leaf: jax.Array, at: float) -> jax.Array:
    return at * leaf


def _between_lengths(leaf: jax.Array, kernel: jax.Array, at: float) -> jax.Array:
    begun = lengths(kernel)
    return begun + at * (leaf - begun)


@dataclasses.dataclass(frozen=True)
class Intruders:
    """Scales the intruder dimensions of adapters by `at` (Shuttleworth et al., arXiv 2410.21228).

    These are singular vectors of the adapted kernel, among its first `first`, that are like none of
    the kernel without its adapter: no cosine reaches `threshold`. What is left of the change
    becomes an adapter of the same rank again. As in PEFT's `lora.intruders`, vectors are those of
    the output's dimension. At 1 every adapter stays as it is.

    Attributes:
      lora: the adapters.
      first: how many singular vectors of a kernel may be intruders.
      threshold: the cosine below which one is.
    """

    lora: Lora
    first: values.Count = 10
    threshold: values.Probability = 0.5
    of: ClassVar[str] = ADAPTERS
    points: At = (0.75,)
    name: values.Text = "intruders"
    label: values.Text = "Intruder dimensions scaled"

    def __post_init__(self):
        values.check_fields(self)
        if self.lora.form != "lora" or self.lora.init is not None:
            raise UserError(
                "Intruders.lora has a form or an init, and its change of a kernel is not of its "
                "rank; leave the transform out"
            )

    def apply(self, start: Tree, end: Tree, at: float, seed: int) -> Tree:
        """See `Transform.apply`; the start plays no part, and nothing is drawn."""
        leaves = trees.flatten(end)
        for path in [path for path in leaves if path.endswith("/lora_a") and at != 1]:
            stem = path.removesuffix("lora_a")
            pair = path, f"{stem}lora_b"
            kernel = leaves[f"{stem}kernel"]
            reduced = by_layer(_reduced(self.first), path)
            numbers = self.lora.scale, self.threshold, at
            found = changed(reduced, tuple(leaves[one] for one in pair), kernel, *numbers)
            leaves |= dict(zip(pair, found, strict=True))
        return trees.unflatten(leaves)


@functools.cache
def _reduced(first: int):
    """Returns the change of an adapter (a [in, r], b [r, out]) of a kernel [in, out]."""

    def reduced(pair, kernel, scale, threshold, at):
        product = functools.partial(jnp.matmul, precision="highest")
        delta = scale * product(*pair)
        bare = jnp.linalg.svd(kernel, full_matrices=False)
        adapted = jnp.linalg.svd(kernel + delta, full_matrices=False)
        cosines = jnp.abs(product(adapted.Vh, bare.Vh.T)).max(axis=1)
        strange = (cosines < threshold) & (jnp.arange(len(cosines)) < first)
        sizes = jnp.where(strange, adapted.S, 0.0)
        left = (delta + (at - 1) * product(adapted.U * sizes, adapted.Vh)) / scale
        u, s, v = jnp.linalg.svd(left, full_matrices=False)
        rank = pair[0].shape[-1]
        roots = jnp.sqrt(s[:rank])
        fresh = u[:, :rank] * roots, roots[:, None] * v[:rank]
        return jax.tree.map(lambda old, new: jnp.where(strange.any(), new, old), pair, fresh)

    return reduced
