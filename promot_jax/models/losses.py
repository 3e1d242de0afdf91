"""Cross-entropy of token ids, with label smoothing and z-loss, and scores of tokens.

The definitions are T5X's. Soft targets are never built: their sum against log-probabilities
follows from the target's log-probability and the sum over the vocabulary. `cross_entropy` takes
logits; `projection.token_losses` takes what they are computed from, and never holds all of them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Loss(NamedTuple):
    """Weighted sums over the tokens of a batch, float32 scalars.

    Attributes:
      total: cross-entropy in nats, with the z-loss.
      z_loss: the z-loss alone.
      weight: sum of the loss weights; divides the others into means.
      correct: weighted count of tokens whose largest logit is the target's.
    """

    total: jax.Array
    z_loss: jax.Array
    weight: jax.Array
    correct: jax.Array


def _shift(logits: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns logits less their maximum, their log-normaliser, and the maximum, in float32."""
    logits = logits.astype(jnp.float32)
    maximum = jax.lax.stop_gradient(logits.max(axis=-1))
    shifted = logits - maximum[..., None]
    return shifted, jnp.log(jnp.sum(jnp.exp(shifted), axis=-1)), maximum


def _pick(values: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.take_along_axis(values, targets[..., None], axis=-1)[..., 0]


def token_log_probs(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the log-probability of each target, float32 `[B, U]`, in nats.

    Args:
      logits: `[B, U, V]`.
      targets: int `[B, U]`.
    """
    shifted, log_sum, _ = _shift(logits)
    return _pick(shifted, targets) - log_sum


def cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Loss:
    """Sums the cross-entropy of a batch.

    With label smoothing s (Szegedy et al. 2016) the target distribution is 1 - s on the target
    and s / (V - 1) on every other token; its entropy is subtracted, so the smallest loss is 0.
    The z-loss is `z_loss * log(Z)**2` with the softmax's normaliser Z.

    Args:
      logits: `[B, U, V]`.
      targets: int `[B, U]`.
      weights: `[B, U]`, 0 where no loss is taken.
      label_smoothing: s, at least 0 and below 1.
      z_loss: factor of the z-loss.

    Raises:
      ValueError: label_smoothing out of range, or shapes that do not belong together.
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing = {label_smoothing}; give a number in [0, 1)")
    if not logits.shape[:-1] == targets.shape == weights.shape:
        raise ValueError(
            f"logits {logits.shape} need targets and weights of shape {logits.shape[:-1]}, "
            f"got {targets.shape} and {weights.shape}"
        )
    shifted, log_sum, maximum = _shift(logits)
    target_log_prob = _pick(shifted, targets) - log_sum
    if label_smoothing:
        loss = _smoothed_loss(target_log_prob, shifted, log_sum, label_smoothing)
    else:
        loss = -target_log_prob
    token_z_loss = z_loss * jnp.square(log_sum + maximum)
    weights = weights.astype(jnp.float32)
    correct = jnp.argmax(shifted, axis=-1) == targets
    return Loss(
        total=jnp.sum((loss + token_z_loss) * weights),
        z_loss=jnp.sum(token_z_loss * weights),
        weight=jnp.sum(weights),
        correct=jnp.sum(correct * weights),
    )


def _smoothed_loss(
    target_log_prob: jax.Array, shifted: jax.Array, log_sum: jax.Array, smoothing: float
) -> jax.Array:
    """Divergence of the model from the smoothed target distribution, float32 `[B, U]`."""
    vocab_size = shifted.shape[-1]
    other = smoothing / (vocab_size - 1)
    entropy = -((1 - smoothing) * np.log(1 - smoothing) + smoothing * np.log(other))
    sum_log_prob = jnp.sum(shifted, axis=-1) - vocab_size * log_sum
    return -((1 - smoothing - other) * target_log_prob + other * sum_log_prob) - entropy
