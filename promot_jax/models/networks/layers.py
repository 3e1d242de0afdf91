"""Building blocks of networks: dense, norms, embedding, MLP.

Parameters are float32 and carry T5X's names, shapes and logical axes; `dtype` is that of
activations. Kernels are two-dimensional: heads and head dimension share one axis (`joined_kv`).
"""

import functools
import operator
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

from promot_jax.base.values import Range
from promot_jax.models.networks import acting, parallel
from promot_jax.models.networks import lora as low_rank
from promot_jax.models.networks.lora import Adapters
from promot_jax.models.networks.parallel import Parallel
from promot_jax.models.networks.parameters import Initializer, parameter

Activation = Annotated[
    str,
    Range(
        "the name of an activation in flax.linen, such as 'gelu', or 'linear'",
        lambda name: name == "linear" or (name.islower() and callable(getattr(nn, name, None))),
    ),
]

fan_in_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
fan_in_truncated = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class Dense(nn.Module):
    """Linear map over the last axis, `[B, X, in]` -> `[B, X, features]`.

    Without a bias unless `use_bias`; with a low-rank adapter where `lora` says so.
    """

    features: int
    axes: tuple[str, str]
    init_fn: Initializer = fan_in_truncated
    dtype: str = "float32"
    use_bias: bool = False
    lora: Adapters | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x @ kernel + bias` in `dtype`."""
        x = x.astype(self.dtype)
        shape = (x.shape[-1], self.features)
        kernel = parameter(self, "kernel", self.init_fn, shape, self.axes)
        y = jnp.dot(x, kernel.astype(self.dtype))
        if self.lora is not None and self.lora.adapts("/".join((*self.path, "kernel"))):
            y = low_rank.adapted(self, x, y, kernel, self.lora, self.axes)
        if self.use_bias:
            zeros = nn.initializers.zeros
            bias = parameter(self, "bias", zeros, (self.features,), self.axes[1:])
            y += bias.astype(self.dtype)
        # Rows stay divided, so that what moves is the kernel, where `embed` is divided too.
        return partitioning.with_sharding_constraint(y, ("batch", "length", self.axes[1]))


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32 (Zhang & Sennrich 2019)."""

    epsilon: float = 1e-6
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `scale * x / rms(x)` in `dtype`, of the shape of `x`."""
        scale = parameter(self, "scale", nn.initializers.ones, (x.shape[-1],), ("embed",))
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return (scale * x * jax.lax.rsqrt(mean_square + self.epsilon)).astype(self.dtype)


class LayerNorm(RMSNorm):
    """Layer norm over the last axis without bias, computed in float32 (Ba et al. 2016)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `scale * (x - mean) / std` in `dtype`, of the shape of `x`."""
        x = x.astype(jnp.float32)
        return super().__call__(x - jnp.mean(x, axis=-1, keepdims=True))


class Embedding(nn.Module):
    """Token embedding `[V, H]`, shared by all that reads or scores tokens."""

    vocab_size: int
    features: int
    dtype: str = "float32"

    def setup(self):
        """Declares the parameter."""
        shape = (self.vocab_size, self.features)
        init_fn = nn.initializers.normal(1.0)
        self.embedding = parameter(self, "embedding", init_fn, shape, ("vocab", "embed"))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Embeds int `[B, T]` as `[B, T, H]` in `dtype`; an id of V or more gives NaN."""
        embedded = jnp.take(self.embedding, tokens.astype(jnp.int32), axis=0).astype(self.dtype)
        return partitioning.with_sharding_constraint(embedded, ("batch", "length", "embed"))

    def attend(self, x: jax.Array) -> jax.Array:
        """Scores `[B, U, H]` against every embedding: float32 `[B, U, V]`."""
        return jnp.dot(x.astype(jnp.float32), self.embedding.T)


class MLP(nn.Module):
    """Feed-forward block: the product of activations of linear maps, mapped back.

    One activation gives the parameter `wi`; several (gated, Shazeer 2020) give `wi_0`, `wi_1`.
    Activations are names in `flax.linen` or "linear". A parallel adapter adds to it where `lora` is
    such.
    """

    hidden: int
    activations: tuple[str, ...]
    dropout_rate: float
    dtype: str = "float32"
    lora: Adapters | None = None
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        """Maps `[B, X, H]` to `[B, X, H]` through `[B, X, F]`."""
        dense = functools.partial(Dense, dtype=self.dtype, use_bias=self.use_bias, lora=self.lora)
        factors = []
        for number, name in enumerate(self.activations):
            wi = "wi" if len(self.activations) == 1 else f"wi_{number}"
            projected = dense(self.hidden, ("embed", "mlp"), name=wi)(x)
            factors.append(projected if name == "linear" else getattr(nn, name)(projected))
        hidden = functools.reduce(operator.mul, factors)
        hidden = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(
            hidden, deterministic=deterministic
        )
        y = dense(x.shape[-1], ("mlp", "embed"), name="wo")(hidden)
        if isinstance(self.lora, Parallel) and self.lora.stands_beside("/".join(self.path)):
            y = acting.chosen(y + parallel.beside(self, x.astype(self.dtype), self.lora), y)
        return y
