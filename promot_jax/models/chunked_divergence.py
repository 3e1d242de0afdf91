"""The divergence of a model from a reference, a chunk of the vocabulary at a time.

It is `losses.divergence` without the two arrays of logits, which would be the largest of a step.
Each chunk of both is computed, compared and dropped. The gradient of a hidden state under
KL(reference || model) is the output projection's mean under the model less its mean under the
reference. Both means are large and nearly equal while the models are, and a matrix product may
round its operands to bfloat16. So the probabilities are subtracted first, and one product is taken
of the difference. That needs the normalisers beforehand; `chunked_loss` has found them.
"""

import functools

import jax
import jax.numpy as jnp

from promot_jax.models.chunked_loss import Chunks, Head
from promot_jax.models.losses import Direction, divergence_terms, probability_less


def divergence(
    hidden: jax.Array,
    head: Head,
    log_z: jax.Array,
    reference: tuple[jax.Array, Head, jax.Array],
    direction: Direction,
) -> jax.Array:
    """Returns the divergence of each token's prediction, float32 `[B, U]`, in nats.

    Args:
      hidden: float `[B, U, H]`.
      head: the output projection.
      log_z: float32 `[B, U]`, the normalisers, that `hidden` and `head` have.
      reference: the same three of the reference, which have no gradient.
      direction: see `losses.Direction`.
    """
    other, other_head, other_log_z = reference
    settings = (head.vocab_axis, other_head.vocab_axis, direction)
    fixed = (other.astype(jnp.float32), other_head.kernel, other_log_z)
    fixed = jax.lax.stop_gradient((log_z, fixed))
    return _divergence(settings, hidden.astype(jnp.float32), head.kernel, fixed)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _divergence(settings, hidden, kernel, fixed):
    return _forward(settings, hidden, kernel, fixed, pull=False)


def _forward_rule(settings, hidden, kernel, fixed):
    found, pulled, mean_slope = _forward(settings, hidden, kernel, fixed, pull=True)
    return found, (hidden, kernel, fixed, mean_slope, pulled)


def _backward_rule(settings, saved, scale):
    hidden, kernel, fixed, mean_slope, pulled = saved
    gradient = _kernel_gradient(settings, hidden, kernel, fixed, mean_slope, scale)
    return scale[..., None] * pulled, gradient, None


_divergence.defvjp(_forward_rule, _backward_rule)


class _Pair:
    """The log-probabilities of a model and of its reference, chunk by chunk."""

    def __init__(self, settings, hidden, kernel, fixed):
        axis, other_axis, self.direction = settings
        self.hidden, (self.log_z, (self.other, other_kernel, self.other_log_z)) = hidden, fixed
        self.chunks = Chunks(kernel, axis, self.log_z.size)
        self.others = Chunks(other_kernel, other_axis, self.log_z.size)

    def read(self, number: jax.Array, chunk: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns both, float32 `[B, U, S, C]`, and which tokens no chunk before had `[S, C]`."""
        log_p = self.chunks.logits(self.hidden, chunk) - self.log_z[..., None, None]
        log_q = self.others.logits(self.other, self.others.read(number))
        return log_p, log_q - self.other_log_z[..., None, None], self.chunks.places(number)[1]

    def slope(self, log_p: jax.Array, log_q: jax.Array, mean: jax.Array | float = 0.0) -> jax.Array:
        """Returns the gradient of each logit; in reverse, less what all have in common.

        That is p times `mean` `[B, U, 1, 1]`, the sum of the slopes without it: the divergence, but
        with the errors of the normalisers that are in each slope, so that they cancel.
        """
        if self.direction == "forward":
            return probability_less(log_p, log_q)
        return jnp.exp(log_p) * (log_p - log_q - mean)


def _forward(settings, hidden, kernel, fixed, *, pull):
    """Returns the divergence `[B, U]`; with `pull` its gradient by h, and `_Pair.slope`'s mean."""
    pair = _Pair(settings, hidden, kernel, fixed)
    chunks = pair.chunks

    # The mean of the slopes, and that of the columns which it weighs, are known at the end.
    later = pull and pair.direction == "reverse"

    def fold(number, carry):
        total, pulled, mean_slope, mean = carry
        chunk = chunks.read(number)
        log_p, log_q, new = pair.read(number, chunk)
        terms = divergence_terms(pair.direction, log_p, log_q)
        total += jnp.sum(jnp.where(new, terms, 0.0), axis=(2, 3))
        if pull:
            slope = jnp.where(new, pair.slope(log_p, log_q), 0.0)
            pulled += chunks.mean(slope, chunk)
        if later:
            mean_slope += jnp.sum(slope, axis=(2, 3))
            mean += chunks.mean(jnp.where(new, jnp.exp(log_p), 0.0), chunk)
        return total, pulled, mean_slope, mean

    nothing = jnp.zeros(pair.log_z.shape)
    zeros = jnp.zeros(hidden.shape, jnp.float32)
    carry = (
        nothing,
        zeros if pull else None,
        nothing if later else None,
        zeros if later else None,
    )
    total, pulled, mean_slope, mean = jax.lax.fori_loop(0, chunks.count, fold, carry)
    if later:
        pulled -= mean_slope[..., None] * mean
    return (total, pulled, mean_slope) if pull else total


def _kernel_gradient(settings, hidden, kernel, fixed, mean_slope, scale):
    """Returns the gradient of the sum of `scale` × divergence with respect to the kernel."""
    pair = _Pair(settings, hidden, kernel, fixed)
    mean = 0.0 if mean_slope is None else mean_slope[..., None, None]

    def of_chunk(number, chunk):
        log_p, log_q, new = pair.read(number, chunk)
        slope = pair.slope(log_p, log_q, mean)
        return jnp.where(new, slope * scale[..., None, None], 0.0)

    return pair.chunks.gradient(hidden, of_chunk).astype(kernel.dtype)
