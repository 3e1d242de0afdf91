"""Building blocks of networks: dense, norm, embedding, MLP; relative position, attention of T5.

Parameters are float32 and carry T5X's names, shapes and logical axes; `dtype` is that of
activations. Kernels are two-dimensional: heads and head dimension share one axis (`joined_kv`).
"""

import functools
import operator
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import partitioning

from promot_jax.base.values import Range
from promot_jax.models.networks.lora import Lora, low_rank
from promot_jax.models.networks.prompt import Initializer

Activation = Annotated[
    str,
    Range(
        "the name of an activation in flax.linen, such as 'gelu', or 'linear'",
        lambda name: name == "linear" or (name.islower() and callable(getattr(nn, name, None))),
    ),
]

# Large enough to vanish in a float32 softmax, finite so that a row without any valid key is
# uniform and not NaN.
MASKED = -1e10

RELATIVE_BUCKETS = 32
RELATIVE_MAX_DISTANCE = 128

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
    lora: Lora | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x @ kernel + bias` in `dtype`."""
        x = x.astype(self.dtype)
        shape = (x.shape[-1], self.features)
        kernel = partitioning.param_with_axes(
            "kernel", self.init_fn, shape, jnp.float32, axes=self.axes
        )
        y = jnp.dot(x, kernel.astype(self.dtype))
        if self.lora is not None and self.lora.adapts("/".join((*self.path, "kernel"))):
            y += low_rank(x, self.lora, self.features, self.axes)
        if self.use_bias:
            bias = partitioning.param_with_axes(
                "bias", nn.initializers.zeros, (self.features,), jnp.float32, axes=self.axes[1:]
            )
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
        scale = partitioning.param_with_axes(
            "scale", nn.initializers.ones, (x.shape[-1],), jnp.float32, axes=("embed",)
        )
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return (scale * x * jax.lax.rsqrt(mean_square + self.epsilon)).astype(self.dtype)


class Embedding(nn.Module):
    """Token embedding `[V, H]`, shared by all that reads or scores tokens."""

    vocab_size: int
    features: int
    dtype: str = "float32"

    def setup(self):
        """Declares the parameter."""
        self.embedding = partitioning.param_with_axes(
            "embedding",
            nn.initializers.normal(1.0),
            (self.vocab_size, self.features),
            jnp.float32,
            axes=("vocab", "embed"),
        )

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Embeds int `[B, T]` as `[B, T, H]` in `dtype`; an id of V or more gives NaN."""
        embedded = jnp.take(self.embedding, tokens.astype(jnp.int32), axis=0).astype(self.dtype)
        return partitioning.with_sharding_constraint(embedded, ("batch", "length", "embed"))

    def attend(self, x: jax.Array) -> jax.Array:
        """Scores `[B, U, H]` against every embedding: float32 `[B, U, V]`."""
        return jnp.dot(x.astype(jnp.float32), self.embedding.T)


def distance_buckets(num_buckets: int, max_distance: int) -> np.ndarray:
    """Buckets of the distances 0 .. max_distance: exact for the nearer half, then logarithmic.

    The formula is T5's (Raffel et al. 2020, section 2.1; rounding as in T5X). Distances beyond
    `max_distance` share its bucket. Returns int32 `[max_distance + 1]`.
    """
    max_exact = num_buckets // 2
    distance = np.arange(max_distance + 1)
    # The epsilon keeps exact powers, where the logarithm is a whole number, from rounding down.
    growth = np.log(np.maximum(distance, 1) / max_exact + np.finfo(np.float32).eps)
    steps = growth / np.log(max_distance / max_exact) * (num_buckets - max_exact)
    far = np.minimum(max_exact + steps.astype(np.int32), num_buckets - 1)
    return np.where(distance < max_exact, distance, far).astype(np.int32)


class RelativePositionBias(nn.Module):
    """T5's learned bias on attention logits, one value for each head and bucket of distance."""

    num_heads: int

    @nn.compact
    def __call__(
        self, query_positions: jax.Array, key_positions: jax.Array, *, bidirectional: bool
    ) -> jax.Array:
        """Returns the bias between positions.

        Args:
          query_positions: int `[Q]`.
          key_positions: int `[S]`.
          bidirectional: whether keys after the query have buckets of their own (encoder); if
            not, all of them count as distance 0 and the causal mask hides them (decoder).

        Returns:
          float32 `[1, N, Q, S]`.
        """
        bias = partitioning.param_with_axes(
            "rel_embedding",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
            (self.num_heads, RELATIVE_BUCKETS),
            jnp.float32,
            axes=("heads", "relpos_buckets"),
        )
        behind = query_positions[:, None] - key_positions[None, :]
        sides = 2 if bidirectional else 1
        table = jnp.asarray(distance_buckets(RELATIVE_BUCKETS // sides, RELATIVE_MAX_DISTANCE))
        distance = jnp.abs(behind) if bidirectional else jnp.maximum(behind, 0)
        bucket = table[jnp.minimum(distance, RELATIVE_MAX_DISTANCE)]
        if bidirectional:
            bucket += (behind < 0) * (RELATIVE_BUCKETS // 2)
        return bias[:, bucket][None]


class Attention(nn.Module):
    """Projections and dot product that self- and cross-attention share.

    There is no division by the square root of the head dimension: T5 folds it into the
    initialiser of the query.
    """

    num_heads: int
    head_dim: int
    features: int
    dropout_rate: float
    dtype: str = "float32"
    lora: Lora | None = None

    def setup(self):
        """Declares the projections."""
        into_heads = functools.partial(
            Dense,
            self.num_heads * self.head_dim,
            ("embed", "joined_kv"),
            dtype=self.dtype,
            lora=self.lora,
        )
        self.query = into_heads(
            init_fn=nn.initializers.variance_scaling(1.0 / self.head_dim, "fan_in", "normal")
        )
        self.key = into_heads(init_fn=fan_in_normal)
        self.value = into_heads(init_fn=fan_in_normal)
        self.out = Dense(
            self.features, ("joined_kv", "embed"), fan_in_normal, self.dtype, lora=self.lora
        )
        # One dropout pattern for all queries, as in T5.
        self.dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))

    def heads(self, projected: jax.Array) -> jax.Array:
        """Splits `[B, X, N*D]` into `[B, X, N, D]`."""
        split = projected.reshape(*projected.shape[:-1], self.num_heads, self.head_dim)
        return partitioning.with_sharding_constraint(split, ("batch", "length", "heads", "kv"))

    def attend(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        mask: jax.Array,
        bias: jax.Array | None,
        deterministic: bool,
    ) -> jax.Array:
        """Attends with `[B, Q, N, D]` to `[B, S, N, D]`; returns `[B, Q, N*D]`.

        `mask` (bool) and `bias` (float32) broadcast to the logits `[B, N, Q, S]`, which are
        float32 up to and including the softmax.
        """
        logits = jnp.einsum("bqnd,bsnd->bnqs", query, key, preferred_element_type=jnp.float32)
        if bias is not None:
            logits += bias
        weights = jax.nn.softmax(jnp.where(mask, logits, MASKED)).astype(self.dtype)
        weights = self.dropout(weights, deterministic=deterministic)
        mixed = jnp.einsum("bnqs,bsnd->bqnd", weights, value)
        return mixed.reshape(*mixed.shape[:2], self.num_heads * self.head_dim)


class SelfAttention(Attention):
    """Attention of a sequence to itself, with a cache for step-by-step decoding."""

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        bias: jax.Array,
        *,
        deterministic: bool,
        decode: bool = False,
        index: jax.Array | None = None,
        layer: jax.Array | None = None,
    ) -> jax.Array:
        """Attends within `x`.

        Args:
          x: `[B, X, H]`; one position (X = 1) in a decoding step.
          mask: bool, broadcasts to `[B, N, X, keys]`.
          bias: float32, broadcasts to the same.
          deterministic: disables dropout.
          decode: keeps the collection `cache`: `cached_key` and `cached_value`
            `[B, N, D, L]`, length last as in T5X.
          index: int scalar, the position of a decoding step. None with `decode` means that
            the cache is created, empty, for X positions.
          layer: int scalar in a decoding step where all layers share `cached_key` and
            `cached_value`, then `[B, layers, N, D, L]`: the part that is this layer's.

        Returns:
          `[B, X, H]`.
        """
        query = self.heads(self.query(x))
        key, value = self.heads(self.key(x)), self.heads(self.value(x))
        if decode:
            key = self._cached("cached_key", key, index, layer)
            value = self._cached("cached_value", value, index, layer)
        return self.out(self.attend(query, key, value, mask, bias, deterministic))

    def _cached(
        self, name: str, new: jax.Array, index: jax.Array | None, layer: jax.Array | None
    ) -> jax.Array:
        """Writes `[B, 1, N, D]` at `index` and returns the whole cache as `[B, L, N, D]`."""
        length_last = jnp.moveaxis(new, 1, -1)
        if index is None:
            self.put_variable("cache", name, jnp.zeros_like(length_last))
            return new
        cache = self.get_variable("cache", name)
        if layer is None:
            own = cache = jax.lax.dynamic_update_slice_in_dim(cache, length_last, index, axis=-1)
        else:
            start = (0, layer, 0, 0, index)
            cache = jax.lax.dynamic_update_slice(cache, length_last[:, None], start)
            own = jax.lax.dynamic_index_in_dim(cache, layer, axis=1, keepdims=False)
        self.put_variable("cache", name, cache)
        return jnp.moveaxis(own, -1, 1)


class CrossAttention(Attention):
    """Attention of the decoder to the encoder's output.

    Its keys and values do not change from step to step. A `decode` call with the collection
    `cross` mutable stores them (`cross_key`, `cross_value`, `[B, S, N, D]`); later calls read
    them. Without the collection they are computed from `encoded` in every call.
    """

    def __call__(
        self,
        x: jax.Array,
        encoded: jax.Array,
        mask: jax.Array,
        *,
        deterministic: bool,
        decode: bool = False,
    ) -> jax.Array:
        """Attends from `[B*K, U, H]` to `[B, S, H]`; returns `[B*K, U, H]`.

        The K beams of a row are consecutive. They share its keys and values as K·U queries, so
        nothing of the encoder's side is copied. `mask` broadcasts to `[B, N, K*U, S]`.
        """
        query = self.heads(self.query(x))
        key, value = self._keys_and_values(encoded, decode)
        # [B*K, U, N, D] -> [B, K*U, N, D]
        shared = query.reshape(key.shape[0], -1, *query.shape[2:])
        mixed = self.attend(shared, key, value, mask, None, deterministic)
        return self.out(mixed.reshape(*query.shape[:2], -1))

    def _keys_and_values(self, encoded: jax.Array, decode: bool) -> tuple[jax.Array, jax.Array]:
        """Reads, or computes and possibly stores, keys and values `[B, S, N, D]`."""
        store = decode and self.is_mutable_collection("cross")
        if decode and not store and self.has_variable("cross", "cross_key"):
            return self.get_variable("cross", "cross_key"), self.get_variable(
                "cross", "cross_value"
            )
        key, value = self.heads(self.key(encoded)), self.heads(self.value(encoded))
        if store:
            self.put_variable("cross", "cross_key", key)
            self.put_variable("cross", "cross_value", value)
        return key, value


class MLP(nn.Module):
    """Feed-forward block: the product of activations of linear maps, mapped back.

    One activation gives the parameter `wi`; several (gated, Shazeer 2020) give `wi_0`, `wi_1`.
    Activations are names in `flax.linen` or "linear".
    """

    hidden: int
    activations: tuple[str, ...]
    dropout_rate: float
    dtype: str = "float32"
    lora: Lora | None = None
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
        return dense(x.shape[-1], ("mlp", "embed"), name="wo")(hidden)
