"""Cross-entropy of token ids, with label smoothing and z-loss, and divergence of two models.

The definitions are T5X's. Soft targets are never built: their sum against log-probabilities
follows from the target's log-probability and the sum over the vocabulary. Functions here take
logits; `chunked_loss` and `chunked_divergence` take what they are computed from, and never hold all
of them.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Of a model from its reference: KL(reference || model), or KL(model || reference).
Direction = Literal["forward", "reverse"]


class TokenLosses(NamedTuple):
    """Of each target token, float32 `[B, U]` in nats; only `loss` has a gradient.

    Attributes:
      loss: cross-entropy, smoothed if that is asked for, with the z-loss.
      z_loss: the z-loss alone.
      surprise: minus the log-probability of the target.
      log_z: logarithm of the softmax's normaliser.
      correct: bool, whether the target's logit is the largest.
    """

    loss: jax.Array
    z_loss: jax.Array
    surprise: jax.Array
    log_z: jax.Array
    correct: jax.Array


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


def summed(tokens: TokenLosses, weights: jax.Array) -> Loss:
    """Returns the sums over a batch.

    Args:
      tokens: of each target.
      weights: `[B, U]`, 0 where no loss is taken.

    Raises:
      ValueError: shapes that do not belong together.
    """
    if tokens.loss.shape != weights.shape:
        raise ValueError(f"losses {tokens.loss.shape} need as many weights, got {weights.shape}")
    weights = weights.astype(jnp.float32)
    return Loss(
        total=jnp.sum(tokens.loss * weights),
        z_loss=jnp.sum(tokens.z_loss * weights),
        weight=jnp.sum(weights),
        correct=jnp.sum(tokens.correct * weights),
    )


def token_losses(
    logits: jax.Array, targets: jax.Array, *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> TokenLosses:
    """Returns the losses of each target.

    With label smoothing s (Szegedy et al. 2016) the target distribution is 1 - s on the target
    and s / (V - 1) on every other token; its entropy is subtracted, so the smallest loss is 0.
    The z-loss is `z_loss * log(Z)**2` with the softmax's normaliser Z.

    Args:
      logits: `[B, U, V]`.
      targets: int `[B, U]`.
      label_smoothing: s, at least 0 and below 1.
      z_loss: factor of the z-loss.

    Raises:
      ValueError: label_smoothing out of range, or shapes that do not belong together.
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing = {label_smoothing}; give a number in [0, 1)")
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"logits {logits.shape} need as many targets, got {targets.shape}")
    logits = logits.astype(jnp.float32)
    maximum = jax.lax.stop_gradient(logits.max(axis=-1))
    shifted = logits - maximum[..., None]
    log_sum = jnp.log(jnp.sum(jnp.exp(shifted), axis=-1))
    picked = jnp.take_along_axis(shifted, targets[..., None], axis=-1)[..., 0]
    target_log_prob = picked - log_sum
    if label_smoothing:
        loss = _smoothed_loss(target_log_prob, shifted, log_sum, label_smoothing)
    else:
        loss = -target_log_prob
    log_z = log_sum + maximum
    token_z_loss = z_loss * jnp.square(log_z)
    rest = token_z_loss, -target_log_prob, log_z, jnp.argmax(shifted, axis=-1) == targets
    return TokenLosses(loss + token_z_loss, *map(jax.lax.stop_gradient, rest))


def divergence(logits: jax.Array, reference: jax.Array, direction: Direction) -> jax.Array:
    """Returns the divergence of each token's prediction from a reference's, float32 `[B, U]`.

    Args:
      logits, reference: `[B, U, V]`; the reference has no gradient.
      direction: see `Direction`.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    log_q = jax.nn.log_softmax(jax.lax.stop_gradient(reference).astype(jnp.float32))
    return jnp.sum(divergence_terms(direction, log_p, log_q), axis=-1)


def divergence_terms(direction: Direction, log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """Returns what each token of the vocabulary adds to a divergence, none of it below 0.

    To `a log(a/b)` is added `b - a`, whose sum is 0. So errors of the normalisers cancel: nearly
    equal predictions have a small divergence, not what rounding leaves, and equal ones have none.

    Args:
      direction: see `Direction`.
      log_p, log_q: log-probabilities under the model and its reference, of any shape.
    """
    log_a, log_b = (log_q, log_p) if direction == "forward" else (log_p, log_q)
    return jnp.exp(log_a) * (log_a - log_b) + probability_less(log_b, log_a)


def probability_less(log_b: jax.Array, log_a: jax.Array) -> jax.Array:
    """Returns b - a, exact to rounding however near they are."""
    a, further = jnp.exp(log_a), log_b - log_a
    # Where `further` is large, its exponential overflows.
    near = a * jnp.expm1(jnp.minimum(further, 1.0))
    return jnp.where(further < 1.0, near, jnp.exp(log_b) - a)


def _smoothed_loss(
    target_log_prob: jax.Array, shifted: jax.Array, log_sum: jax.Array, smoothing: float
) -> jax.Array:
    """Divergence of the model from the smoothed target distribution, float32 `[B, U]`."""
    vocab_size = shifted.shape[-1]
    other = smoothing / (vocab_size - 1)
    entropy = -((1 - smoothing) * np.log(1 - smoothing) + smoothing * np.log(other))
    sum_log_prob = jnp.sum(shifted, axis=-1) - vocab_size * log_sum
    return -((1 - smoothing - other) * target_log_prob + other * sum_log_prob) - entropy
