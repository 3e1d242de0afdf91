"""Attention of a sequence to itself or to another, in groups of heads, with a cache.

As many heads of keys and values as of queries are multi-head attention, one is multi-query
attention (Shazeer 2019), and between the two are the groups of Ainslie et al. 2023.

Decoding step by step keeps keys and values in two collections of variables:

* `cache` has what a step adds to, for each beam its own: `cached_key` and `cached_value`
  `[B*K, Nkv, D, L]`, length last as in T5X, or `[B*K, L, Nkv, D]` of groups;
* `shared` has what stays, for all beams of a row once: `key` and `value` `[B, S, Nkv, D]`.
"""

import functools
import itertools
import operator
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

from promot_jax.models.networks import rotary
from promot_jax.models.networks.layers import Dense, RMSNorm, fan_in_normal
from promot_jax.models.networks.lora import Adapters
from promot_jax.models.networks.parameters import Initializer
from promot_jax.models.networks.prompt_kinds import Prefixes

# Large enough to vanish in a float32 softmax, finite so that a row without any valid key is
# uniform and not NaN.
MASKED = -1e10

# Keys and values, both [B, S, Nkv, D].
Known = tuple[jax.Array, jax.Array]


class Attention(nn.Module):
    """Projections, dot product and cache of self- and cross-attention.

    Attributes:
      num_heads: N, heads of queries.
      head_dim: D.
      features: H of the result.
      dropout_rate: of the weights.
      dtype: of activations; logits and softmax are float32.
      num_kv_heads: Nkv, heads of keys and values, a divisor of N; None is N.
      scale: multiplies the logits.
      query_init: initialiser of the projection to queries.
      qkv_bias, out_bias: the projections have biases, the output has one.
      qk_norm_epsilon: of an RMS norm of each head of query and key; None is no norm.
      lora: which kernels have a low-rank adapter.
    """

    num_heads: int
    head_dim: int
    features: int
    dropout_rate: float
    dtype: str = "float32"
    num_kv_heads: int | None = None
    scale: float = 1.0
    query_init: Initializer = fan_in_normal
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm_epsilon: float | None = None
    lora: Adapters | None = None

    def setup(self):
        """Declares the projections."""
        kv_heads = self.num_kv_heads or self.num_heads
        # Fewer heads than the queries have are not divided over the mesh: a multi-query head is
        # one, and every device needs it.
        kv_axis = "joined_kv" if kv_heads == self.num_heads else "kv"
        dense = functools.partial(Dense, dtype=self.dtype, lora=self.lora)
        into_heads = functools.partial(dense, use_bias=self.qkv_bias)
        self.query = into_heads(
            self.num_heads * self.head_dim, ("embed", "joined_kv"), self.query_init
        )
        self.key = into_heads(kv_heads * self.head_dim, ("embed", kv_axis), fan_in_normal)
        self.value = into_heads(kv_heads * self.head_dim, ("embed", kv_axis), fan_in_normal)
        self.out = dense(
            self.features, ("joined_kv", "embed"), fan_in_normal, use_bias=self.out_bias
        )
        if self.qk_norm_epsilon is not None:
            self.query_norm = RMSNorm(self.qk_norm_epsilon, self.dtype)
            self.key_norm = RMSNorm(self.qk_norm_epsilon, self.dtype)
        # One dropout pattern for all queries, as in T5.
        self.dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        *,
        deterministic: bool,
        bias: jax.Array | None = None,
        angles: tuple[jax.Array, jax.Array] | None = None,
        slots: int | None = None,
        keep: bool = False,
        index: jax.Array | None = None,
        layer: jax.Array | None = None,
        placed: Prefixes | None = None,
        ahead: Prefixes | None = None,
    ) -> jax.Array:
        """Attends within `x`, or in a decoding step to what is known.

        Args:
          x: `[B, X, H]`; `[B*K, 1, H]` in a decoding step, the K beams of a row consecutive.
          mask: bool, true where attention is allowed, broadcasts to `[B, N, X, keys]`; keys are
            those of `x` or, in a decoding step, the shared ones and then the L slots.
          deterministic: disables dropout.
          bias: float32, added to the logits, broadcasts to their shape.
          angles: rotation of the positions of `x`, see `rotary`; None for none.
          slots: L, creates `cache` with so many empty slots.
          keep: with `slots`, also stores the keys and values of `x` in `shared`.
          index: int scalar, the slot that a decoding step fills.
          layer: int scalar in a decoding step where all layers have one `cache`, whose leaves then
            have an axis of layers behind the batch: the part that is this layer's.
          placed: keys and values in place of those of the first F slots of `x`, or, where F is X,
            of those whose number is not below 0.
          ahead: further keys and values in front of all others; the mask and the bias know them.

        Returns:
          `[B, X, H]`.
        """
        query, key = self._split(self.query(x)), self._split(self.key(x))
        value = self._split(self.value(x))
        if self.qk_norm_epsilon is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if angles is not None:
            query, key = rotary.rotate(query, angles), rotary.rotate(key, angles)
        if placed is not None:
            key, value = map(
                functools.partial(_replaced, placed.slots), (key, value), self._taken(placed)
            )
        # For those who begin a prefix with what the network itself knows of some rows.
        self.sow("intermediates", "known", (key, value))
        known = [(key, value)]
        if slots is not None:
            self._create(key, slots)
            if keep:
                self._share((key, value))
        elif index is not None:
            own = self._add("cached_key", key, index, layer)
            known = [*self._shared(), (own, self._add("cached_value", value, index, layer))]
        if ahead is not None:
            known = [self._taken(ahead), *known]
        return self.out(self._attend(query, known, mask, bias, deterministic))

    def _taken(self, prefixes: Prefixes) -> Known:
        """Returns keys and values of each row, two `[B, F, Nkv, D]`."""
        both = (jnp.take(bank, prefixes.slots, axis=0) for bank in prefixes.by_layer)
        return tuple(self._split(rows.astype(self.dtype)) for rows in both)

    def across(
        self,
        x: jax.Array,
        source: jax.Array,
        mask: jax.Array,
        *,
        deterministic: bool,
        decode: bool = False,
    ) -> jax.Array:
        """Attends from `[B*K, U, H]` to `source` `[B, S, H]`; returns `[B*K, U, H]`.

        The K beams of a row are consecutive. They share its keys and values as K·U queries, so
        nothing of the source is copied. `mask` broadcasts to `[B, N, K*U, S]`. Keys and values do
        not change from step to step: a `decode` call with the collection `shared` mutable stores
        them, later calls read them. Without the collection each call computes them.
        """
        query = self._split(self.query(x))
        store = decode and self.is_mutable_collection("shared")
        known = self._shared() if decode and not store else []
        if not known:
            known = [(self._split(self.key(source)), self._split(self.value(source)))]
            if store:
                self._share(known[0])
        # [B*K, U, N, D] -> [B, K*U, N, D]
        queries = query.reshape(known[0][0].shape[0], -1, *query.shape[2:])
        mixed = self._attend(queries, known, mask, None, deterministic)
        return self.out(mixed.reshape(*query.shape[:2], -1))

    def _split(self, projected: jax.Array) -> jax.Array:
        """Splits `[B, X, heads * D]` into `[B, X, heads, D]`, divided over the mesh by heads."""
        split = projected.reshape(*projected.shape[:-1], -1, self.head_dim)
        if self.num_kv_heads not in (None, self.num_heads):
            return split
        return partitioning.with_sharding_constraint(split, ("batch", "length", "heads", "kv"))

    def _attend(
        self,
        query: jax.Array,
        known: Sequence[Known],
        mask: jax.Array,
        bias: jax.Array | None,
        deterministic: bool,
    ) -> jax.Array:
        """Attends with `[B, Q, N, D]` to all that is known; returns `[B, Q, N*D]`.

        The library's `dot_product_attention` has neither dropout nor keys that beams share. Of one
        head a group it computes the same at 0.5 to 0.9 of the speed (float32 on a CPU, forward
        and backward) and rounds otherwise; of larger groups at 1.03 to 1.27, the result bit for
        bit the same.
        """
        (key, value), *others = known
        drops = self.dropout_rate > 0 and not deterministic
        if key.shape[2] != self.num_heads and not others and not drops:
            mixed = jax.nn.dot_product_attention(query, key, value, bias, mask, scale=self.scale)
            return mixed.reshape(*query.shape[:2], -1)
        logits = [_logits(query, key) for key, _ in known]
        logits = jnp.concatenate(logits, axis=-1) if others else logits[0]
        if self.scale != 1.0:
            logits *= self.scale
        if bias is not None:
            logits += bias
        weights = jax.nn.softmax(jnp.where(mask, logits, MASKED)).astype(self.dtype)
        weights = self.dropout(weights, deterministic=deterministic)
        ends = itertools.accumulate(value.shape[1] for _, value in known)
        parts = jnp.split(weights, list(ends)[:-1], axis=-1)
        mixed = [_mix(part, value) for part, (_, value) in zip(parts, known, strict=True)]
        return functools.reduce(operator.add, mixed).reshape(*query.shape[:2], -1)

    @property
    def _length_axis(self) -> int:
        """Where in leaves of `cache` the slots stand.

        Each place is the faster one in a step on a CPU: with the slots last, attention takes half
        the time for single heads, and 1.3 times as long for groups.
        """
        return 3 if self.num_kv_heads in (None, self.num_heads) else 1

    def _create(self, key: jax.Array, slots: int) -> None:
        """Creates empty slots for keys and values of the shape of `[B, X, Nkv, D]`."""
        empty = jnp.zeros((len(key), slots, *key.shape[2:]), key.dtype)
        empty = jnp.moveaxis(empty, 1, self._length_axis)
        self.put_variable("cache", "cached_key", empty)
        self.put_variable("cache", "cached_value", empty)

    def _add(
        self, name: str, new: jax.Array, index: jax.Array, layer: jax.Array | None
    ) -> jax.Array:
        """Writes `[B, 1, Nkv, D]` into slot `index`; returns all slots as `[B, L, Nkv, D]`."""
        axis = self._length_axis
        cache, new = self.get_variable("cache", name), jnp.moveaxis(new, 1, axis)
        if layer is None:
            own = cache = jax.lax.dynamic_update_slice_in_dim(cache, new, index, axis)
        else:
            start = [0, layer, 0, 0, 0]
            start[axis + 1] = index
            cache = jax.lax.dynamic_update_slice(cache, new[:, None], start)
            own = jax.lax.dynamic_index_in_dim(cache, layer, axis=1, keepdims=False)
        self.put_variable("cache", name, cache)
        return jnp.moveaxis(own, axis, 1)

    def _share(self, known: Known) -> None:
        """Stores keys and values for all beams."""
        for name, leaf in zip(("key", "value"), known, strict=True):
            self.put_variable("shared", name, leaf)

    def _shared(self) -> list[Known]:
        """Returns the keys and values of all beams, if there are any."""
        if not self.has_variable("shared", "key"):
            return []
        return [(self.get_variable("shared", "key"), self.get_variable("shared", "value"))]


def _replaced(slots: jax.Array, own: jax.Array, given: jax.Array) -> jax.Array:
    """Puts `[B, F, Nkv, D]` in place of the first F of `[B, X, Nkv, D]`, see `Attention`."""
    if (front := slots.shape[1]) < own.shape[1]:
        return jnp.concatenate([given, own[:, front:]], axis=1)
    return jnp.where(slots[..., None, None] >= 0, given, own)


def _logits(query: jax.Array, key: jax.Array) -> jax.Array:
    """Returns float32 `[B*K, N, Q, S]` of queries `[B*K, Q, N, D]` and keys `[B, S, Nkv, D]`.

    The K beams of a row are K·Q queries of its keys. Neither they nor the heads of a group get
    copies.
    """
    rows, length, heads, _ = query.shape
    batch, size, kv_heads, head_dim = key.shape
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    if heads == kv_heads:
        logits = dot("bqnd,bsnd->bnqs", query.reshape(batch, -1, heads, head_dim), key)
    else:
        groups = query.reshape(batch, -1, kv_heads, heads // kv_heads, head_dim)
        logits = dot("bqngd,bsnd->bngqs", groups, key)
    if rows == batch:
        return logits.reshape(batch, heads, length, size)
    beams_apart = logits.reshape(batch, heads, -1, length, size)
    return jnp.swapaxes(beams_apart, 1, 2).reshape(rows, heads, length, size)


def _mix(weights: jax.Array, value: jax.Array) -> jax.Array:
    """Returns `[B*K, Q, N, D]` of weights `[B*K, N, Q, S]` and values `[B, S, Nkv, D]`."""
    rows, heads, length, size = weights.shape
    batch, _, kv_heads, head_dim = value.shape
    if rows != batch:
        weights = jnp.swapaxes(weights.reshape(batch, -1, *weights.shape[1:]), 1, 2)
    if heads == kv_heads:
        mixed = jnp.einsum("bnqs,bsnd->bqnd", weights.reshape(batch, heads, -1, size), value)
    else:
        groups = weights.reshape(batch, kv_heads, heads // kv_heads, -1, size)
        mixed = jnp.einsum("bngqs,bsnd->bqngd", groups, value)
    return mixed.reshape(rows, length, heads, head_dim)
