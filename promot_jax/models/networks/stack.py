"""Stacks of equal layers: unrolled or scanned, rematerialised or not.

Unrolled, layer i has its parameters at `layers_i`. Scanned (`nn.scan`, so that a deep network
compiles as fast as a shallow one), all layers share the place `layers`, where every parameter has
a first axis `layers`. `trees.stack_layers` and `trees.unstack_layers` convert parameters.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

from promot_jax.base.errors import UserError

# What the backward pass finds stored; everything else it computes again. None: nothing.
REMAT_POLICIES = {
    "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": None,
}

Remat = Literal["none", "minimal", "full"]

# Calls one layer: (layer, x, number of the layer where it shares a cache, else None, its part of
# `parts`) -> x.
Call = Callable[[nn.Module, jax.Array, jax.Array | None, Any], jax.Array]


def check_remat(remat: str) -> None:
    """Raises UserError unless `remat` is "none", "minimal" or "full"."""
    if remat != "none" and remat not in REMAT_POLICIES:
        known = ", ".join(repr(name) for name in ("none", *REMAT_POLICIES))
        raise UserError(f"remat = {remat!r} is unknown; give one of {known}")


def apply_layers(
    make: Callable[..., nn.Module],
    call: Call,
    x: jax.Array,
    num_layers: int,
    *,
    scan: bool,
    remat: str,
    step: bool = False,
    parts: Any = None,
) -> jax.Array:
    """Sends `x` through L new layers of the calling module; to be called in its compact method.

    Scanned, the collections of a layer gain an axis of the layers: `params` and `shared` in front,
    `cache` behind the batch, whose axis must stay first for a search that reorders rows. A decoding
    step would have to move that axis there and back, so it does not slice the cache: each layer
    gets the whole one, with its own number, and changes its part in place.

    Args:
      make: makes a layer, given `name`.
      call: calls a layer. The number it gets is an int scalar in a scanned decoding step, where
        leaves of `cache` are `[B, layers, ...]`; otherwise None, and the cache is the layer's own.
      x: `[B, X, H]`; a layer must keep its shape and dtype.
      num_layers: L.
      scan: whether to scan.
      remat: "none", "minimal" (stores results of matrix products without batch dimensions, which
        are those with parameters) or "full" (stores the input of each layer only).
      step: whether this is a decoding step, which reads a cache that exists.
      parts: a tree of arrays `[L, ...]`, of which each layer gets its own; None for none.

    Returns:
      The output of the last layer.
    """
    inner = call

    def call(layer: nn.Module, x: jax.Array, number: jax.Array | None, own: Any) -> jax.Array:
        x = inner(layer, x, number, own)
        return partitioning.with_sharding_constraint(x, ("batch", "length", "embed"))

    if remat != "none":
        # Within a scan, the loop itself keeps the compiler from undoing it.
        call = nn.remat(call, policy=REMAT_POLICIES[remat], prevent_cse=not scan)
    if not scan:
        for number in range(num_layers):
            own = jax.tree.map(lambda part, number=number: part[number], parts)
            x = call(make(name=f"layers_{number}"), x, None, own)
        return x

    def body(layer: nn.Module, x: jax.Array, number: jax.Array, own: Any):
        return call(layer, x, number if step else None, own), None

    axes = {"params": 0, "shared": 0, "intermediates": 0}
    scanned = partitioning.scan_with_axes(
        body,
        variable_axes=axes if step else axes | {"cache": 1},
        variable_carry="cache" if step else False,
        split_rngs={"params": True, "dropout": True},
        axis_name="layers",
    )
    return scanned(make(name="layers"), x, jnp.arange(num_layers), parts)[0]
