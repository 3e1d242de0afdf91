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
      log_z: float32 `[B, U]`, the normalisers, whose gradient counts.
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
    found, pulled = _forward(settings, hidden, kernel, fixed, pull=True)
    return found, (hidden, kernel, fixed, found, pulled)


def _backward_rule(settings, saved, scale):
    hidden, kernel, fixed, found, pulled = saved
    gradient = _kernel_gradient(settings, hidden, kernel, fixed, found, scale)
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

    def slope(self, log_p: jax.Array, log_q: jax.Array, found: jax.Array | float) -> jax.Array:
        """Returns the gradient of each logit, given the divergence `[B, U, 1, 1]`."""
        if self.direction == "forward":
            return probability_less(log_p, log_q)
        return jnp.exp(log_p) * (log_p - log_q - found)


def _forward(settings, hidden, kernel, fixed, *, pull):
    """Returns the divergence `[B, U]`; with `pull` also its gradient by the hidden state."""
    pair = _Pair(settings, hidden, kernel, fixed)
    chunks = pair.chunks

    def fold(number, carry):
        total, pulled, mean = carry
        chunk = chunks.read(number)
        log_p, log_q, new = pair.read(number, chunk)
        terms = divergence_terms(pair.direction, log_p, log_q)
        total += jnp.sum(jnp.where(new, terms, 0.0), axis=(2, 3))
        if pull:
            slope = pair.slope(log_p, log_q, 0.0)
            pulled += chunks.mean(jnp.where(new, slope, 0.0), chunk)
        if mean is not None:
            mean += chunks.mean(jnp.where(new, jnp.exp(log_p), 0.0), chunk)
        return total, pulled, mean

    # What the divergence itself takes from each slope is known at the end.
    later = pull and pair.direction == "reverse"
    zeros = jnp.zeros(hidden.shape, jnp.float32)
    carry = (jnp.zeros(pair.log_z.shape), zeros if pull else None, zeros if later else None)
    total, pulled, mean = jax.lax.fori_loop(0, chunks.count, fold, carry)
    if later:
        pulled -= total[..., None] * mean
    return (total, pulled) if pull else total


def _kernel_gradient(settings, hidden, kernel, fixed, found, scale):
    """Returns the gradient of the sum of `scale` × divergence with respect to the kernel."""
    pair = _Pair(settings, hidden, kernel, fixed)

    def of_chunk(number, chunk):
        log_p, log_q, new = pair.read(number, chunk)
        slope = pair.slope(log_p, log_q, found[..., None, None])
        return jnp.where(new, slope * scale[..., None, None], 0.0)

    return pair.chunks.gradient(hidden, of_chunk).astype(kernel.dtype)
