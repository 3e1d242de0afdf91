"""Grouped-query attention with rotary positions and a cache, for decoder-only networks.

As many heads of keys and values as of queries are multi-head attention, one is multi-query
attention (Shazeer 2019), and between the two are the groups of Ainslie et al. 2023.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

from promot_jax.networks import layers, rotary
from promot_jax.networks.lora import Lora


class GroupedAttention(nn.Module):
    """Self-attention in which groups of queries share a head of keys and values.

    Logits are divided by the square root of D. With `cache_slots` a call creates the collection
    `cache` for so many slots and fills the first: `cached_key` and `cached_value`
    `[B, slots, Nkv, D]`.
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
          x: `[B, X, H]`.
          mask: bool `[B, X, keys]`, true where attention is allowed.
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
        key = self._cached("cached_key", key, slot, layer)
        value = self._cached("cached_value", value, slot, layer)
        # The G queries of a group meet their key without a copy of it for each.
        group = self.num_heads // self.num_kv_heads
        query = query.reshape(*query.shape[:2], self.num_kv_heads, group, self.head_dim)
        logits = jnp.einsum("bqngd,bsnd->bngqs", query, key, preferred_element_type=jnp.float32)
        logits = jnp.where(mask[:, None, None], logits * self.head_dim**-0.5, layers.MASKED)
        weights = jax.nn.softmax(logits).astype(self.dtype)
        # One dropout pattern for all queries, as in T5.
        weights = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(
            weights, deterministic=self.deterministic
        )
        mixed = jnp.einsum("bngqs,bsnd->bqngd", weights, value)
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

    def _cached(
        self, name: str, new: jax.Array, slot: jax.Array | None, layer: jax.Array | None
    ) -> jax.Array:
        """Stores `[B, X, Nkv, D]` if there is a cache; returns what queries may attend to."""
        if self.cache_slots is not None:
            free = self.cache_slots - new.shape[1]
            self.put_variable("cache", name, jnp.pad(new, ((0, 0), (0, free), (0, 0), (0, 0))))
        if slot is None:
            return new
        cache = self.get_variable("cache", name)
        if layer is None:
            cache = jax.lax.dynamic_update_slice(cache, new, (0, slot, 0, 0))
            self.put_variable("cache", name, cache)
            return cache
        cache = jax.lax.dynamic_update_slice(cache, new[:, None], (0, layer, slot, 0, 0))
        self.put_variable("cache", name, cache)
        return jax.lax.dynamic_index_in_dim(cache, layer, axis=1, keepdims=False)
