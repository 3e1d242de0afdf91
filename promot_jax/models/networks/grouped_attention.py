"""Grouped-query attention with rotary positions and a cache, for decoder-only networks.

As many heads of keys and values as of queries are multi-head attention, one is multi-query
attention (Shazeer 2019), and between the two are the groups of Ainslie et al. 2023.
"""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

from promot_jax.models.networks import layers, rotary
from promot_jax.models.networks.lora import Lora


class GroupedAttention(nn.Module):
    """Self-attention in which groups of queries share a head of keys and values.

    Logits are divided by the square root of D. With `cache_slots` a call creates the collection
    `cache`: its own keys and values as `prefix_key` and `prefix_value` `[B, X, Nkv, D]`, which all
    beams of a row share, and so many empty slots `[B, slots, Nkv, D]` as `cached_key` and
    `cached_value` for the tokens that follow, of which each beam has its own.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    dropout_rate: float
    dtype: str
    norm_epsilon: float
    qkv_bias: bool
    out_bias: bool
    qk_norm: bool
    lora: Lora | None
    deterministic: bool
    cache_slots: int | None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        angles: tuple[jax.Array, jax.Array],
        slot: jax.Array | None,
        layer: jax.Array | None,
    ) -> jax.Array:
        """Attends within `x`, or in a decoding step to the cache.

        Args:
          x: `[B, X, H]`; `[B*K, 1, H]` in a decoding step, the K beams of a row consecutive.
          mask: bool `[B, X, keys]`, true where attention is allowed; in a decoding step over the
            prefix and the slots.
          angles: rotation of the positions of `x`.
          slot: int scalar, where a decoding step writes its key and value; None elsewhere.
          layer: int scalar, the number of this layer where all share a cache, whose leaves are
            then `[B, layers, slots, Nkv, D]`; None elsewhere.

        Returns:
          `[B, X, H]`.
        """
        query = self._project("query", self.num_heads, x)
        key = self._project("key", self.num_kv_heads, x)
        value = self._project("value", self.num_kv_heads, x)
        if self.qk_norm:
            query = layers.RMSNorm(self.norm_epsilon, self.dtype, name="query_norm")(query)
            key = layers.RMSNorm(self.norm_epsilon, self.dtype, name="key_norm")(key)
        query, key = rotary.rotate(query, angles), rotary.rotate(key, angles)
        keys = self._known("key", key, slot, layer)
        values = self._known("value", value, slot, layer)
        # The G queries of a group meet their key without a copy of it for each.
        group = self.num_heads // self.num_kv_heads
        query = query.reshape(*query.shape[:2], self.num_kv_heads, group, self.head_dim)
        logits = _join([_logits(query, key) for key in keys])
        logits = jnp.where(mask[:, None, None], logits * self.head_dim**-0.5, layers.MASKED)
        weights = jax.nn.softmax(logits).astype(self.dtype)
        # One dropout pattern for all queries, as in T5.
        weights = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(
            weights, deterministic=self.deterministic
        )
        ends = itertools.accumulate(value.shape[1] for value in values)
        parts = jnp.split(weights, list(ends)[:-1], axis=-1)
        mixed = sum(_mix(part, value) for part, value in zip(parts, values, strict=True))
        return layers.Dense(
            x.shape[-1],
            ("joined_kv", "embed"),
            layers.fan_in_normal,
            self.dtype,
            use_bias=self.out_bias,
            lora=self.lora,
            name="out",
        )(mixed.reshape(*x.shape[:2], self.num_heads * self.head_dim))

    def _project(self, name: str, heads: int, x: jax.Array) -> jax.Array:
        """Projects `[B, X, H]` to heads `[B, X, heads, D]`.

        Fewer heads than the queries have are not divided over the mesh: a multi-query head is
        one, and every device needs it.
        """
        axis = "joined_kv" if heads == self.num_heads else "kv"
        projected = layers.Dense(
            heads * self.head_dim,
            ("embed", axis),
            layers.fan_in_normal,
            self.dtype,
            use_bias=self.qkv_bias,
            lora=self.lora,
            name=name,
        )(x)
        projected = partitioning.with_sharding_constraint(projected, ("batch", "length", axis))
        return projected.reshape(*x.shape[:2], heads, self.head_dim)

    def _known(
        self, kind: str, new: jax.Array, slot: jax.Array | None, layer: jax.Array | None
    ) -> list[jax.Array]:
        """Stores `[B, X, Nkv, D]` if there is a cache; returns what queries may attend to.

        That is `new` itself or, in a decoding step, the prefix `[B, S, Nkv, D]` and the slots.
        """
        prefix, cached = f"prefix_{kind}", f"cached_{kind}"
        if self.cache_slots is not None:
            self.put_variable("cache", prefix, new)
            empty = jnp.zeros((len(new), self.cache_slots, *new.shape[2:]), new.dtype)
            self.put_variable("cache", cached, empty)
        if slot is None:
            return [new]
        known, slots = self.get_variable("cache", prefix), self.get_variable("cache", cached)
        if layer is None:
            slots = jax.lax.dynamic_update_slice(slots, new, (0, slot, 0, 0))
            self.put_variable("cache", cached, slots)
            return [known, slots]
        slots = jax.lax.dynamic_update_slice(slots, new[:, None], (0, layer, slot, 0, 0))
        self.put_variable("cache", cached, slots)
        return [
            jax.lax.dynamic_index_in_dim(leaf, layer, axis=1, keepdims=False)
            for leaf in (known, slots)
        ]


def _logits(query: jax.Array, key: jax.Array) -> jax.Array:
    """Returns float32 `[B*K, N, G, Q, S]` of queries `[B*K, Q, N, G, D]` and keys `[B, S, N, D]`.

    The K beams of a row share its keys, which are not copied.
    """
    beams = len(query) // len(key)
    if beams == 1:
        return jnp.einsum("bqngd,bsnd->bngqs", query, key, preferred_element_type=jnp.float32)
    query = query.reshape(len(key), beams, *query.shape[1:])
    logits = jnp.einsum("bkqngd,bsnd->bkngqs", query, key, preferred_element_type=jnp.float32)
    return logits.reshape(-1, *logits.shape[2:])


def _mix(weights: jax.Array, value: jax.Array) -> jax.Array:
    """Returns `[B*K, Q, N, G, D]` of weights `[B*K, N, G, Q, S]` and values `[B, S, N, D]`."""
    beams = len(weights) // len(value)
    if beams == 1:
        return jnp.einsum("bngqs,bsnd->bqngd", weights, value)
    weights = weights.reshape(len(value), beams, *weights.shape[1:])
    mixed = jnp.einsum("bkngqs,bsnd->bkqngd", weights, value)
    return mixed.reshape(-1, *mixed.shape[2:])


def _join(parts: list[jax.Array]) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
