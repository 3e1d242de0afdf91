"""What kernels read: the second moments of their inputs over the rows of a batch."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from promot_jax.base import trees
from promot_jax.base.trees import Tree
from promot_jax.models.base import Batch, Model
from promot_jax.models.networks.layers import Dense
from promot_jax.models.networks.lora import Lora

# Kernels of a decoder that read what the encoder wrote.
OF_ENCODER = re.compile(r"encoder/.*|.*/encoder_decoder_attention/(key|value)/kernel")


def of_inputs(model: Model, params: Tree, batch: Batch, lora: Lora) -> dict[str, jax.Array]:
    """Returns {path of a kernel: sum over rows of `x' x`}, float32 [in, in], to be compiled.

    Padding counts for nothing. Each row is divided by its largest number, as in CorDA, so that
    none outweighs the others.

    Args:
      model: bare model; layers that are stacked are told apart, as `layers_0` and so on.
      params: its parameters.
      batch: rows that are not packed, with nothing attached.
      lora: which kernels to look at.
    """
    stacked = model.stacked
    if stacked:
        model, params = model.unstacked(), trees.unstack_layers(params)
    valid, found = model.valid_positions(batch), {}

    def watch(call, arguments, options, context):
        module = context.module
        if isinstance(module, Dense) and context.method_name == "__call__":
            path = "/".join((*module.path, "kernel"))
            seen = re.sub(r"/layers_\d+/", "/layers/", path) if stacked else path
            if lora.adapts(seen):
                side = "encoder" if OF_ENCODER.fullmatch(path) else "decoder"
                found[path] = _moment(arguments[0], valid[side])
        return call(*arguments, **options)

    with nn.intercept_methods(watch):
        model.with_remat("none").logits(params, batch)
    return found


def _moment(x: jax.Array, valid: jax.Array) -> jax.Array:
    # The output's projection reads the last positions alone.
    valid = valid[:, valid.shape[1] - x.shape[1] :, None]
    x = jnp.where(valid, x.astype(jnp.float32), 0.0)
    largest = jnp.abs(jnp.max(x, axis=(1, 2), keepdims=True))
    x = x / jnp.where(largest > 0, largest, 1.0)
    return jnp.einsum("bxi,bxj->ij", x, x, precision="highest")
