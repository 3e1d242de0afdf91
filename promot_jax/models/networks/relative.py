"""Relative position bias of T5 (Raffel et al. 2020, section 2.1): what `rotary` is to others."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from promot_jax.models.networks.parameters import parameter

BUCKETS = 32
MAX_DISTANCE = 128


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
        init_fn = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        shape, axes = (self.num_heads, BUCKETS), ("heads", "relpos_buckets")
        bias = parameter(self, "rel_embedding", init_fn, shape, axes)
        behind = query_positions[:, None] - key_positions[None, :]
        sides = 2 if bidirectional else 1
        table = jnp.asarray(distance_buckets(BUCKETS // sides, MAX_DISTANCE))
        distance = jnp.abs(behind) if bidirectional else jnp.maximum(behind, 0)
        bucket = table[jnp.minimum(distance, MAX_DISTANCE)]
        if bidirectional:
            bucket += (behind < 0) * (BUCKETS // 2)
        return bias[:, bucket][None]
