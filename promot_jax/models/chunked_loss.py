"""Cross-entropy straight from hidden states, a chunk of the vocabulary at a time.

With 250 thousand tokens the logits `[B, U, V]` in float32 are the largest array of a training step.
Here they never exist: a chunk of columns is computed, folded into a running maximum and sum, and
dropped. The gradient with respect to the hidden states needs the softmax's mean of the columns,
which is folded along in the same pass, as attention does with its values (Rabe & Staats 2021, Dao
et al. 2022). Only where the output projection itself trains are the chunks computed a second time.

The target's own column stays out of maximum, sum and mean, and is added at the end. A token that is
all but certain has the gradient `sum of p_j (w_j - w_t)` over the others: small numbers. Were the
target in the mean, `w_t` would be subtracted from nearly itself, and what would be left is how much
a matrix product rounds (to bfloat16 on a TPU, to 10 bits of fraction on a GPU).

The chunks run along an axis that no device divides: the vocabulary is seen as `[S, V / S]`, where S
is the mesh's `model` axis. So the same code runs sharded, and parameters that are divided over
`fsdp` are gathered one chunk at a time.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax.linen import partitioning

from promot_jax.models.losses import TokenLosses

# Logits that are computed at a time, in elements (float32), over all devices.
CHUNK = 2**22
# Fewer columns than this make poor matrix products.
FEWEST_COLUMNS = 2048


# Number and columns [H, S*C] of a chunk -> gradients of its logits, float32 [B, U, S, C].
OfChunk = Callable[[jax.Array, jax.Array], jax.Array]


class Head(NamedTuple):
    """The output projection: logits are `hidden @ kernel`.

    Attributes:
      kernel: `[H, V]`, or a token embedding `[V, H]`.
      vocab_axis: which axis of `kernel` is V.
    """

    kernel: jax.Array
    vocab_axis: int


def token_losses(
    hidden: jax.Array,
    head: Head,
    targets: jax.Array,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> TokenLosses:
    """Returns what `losses.token_losses` does, without its logits.

    Args:
      hidden: `[B, U, H]`, of any float dtype. As in T5X, logits are products of float32 numbers:
        a bfloat16 hidden state is widened, the projection is never rounded.
      head: the output projection.
      targets: int `[B, U]`.
      label_smoothing: s, at least 0 and below 1.
      z_loss: factor of the z-loss.
    """
    settings = (head.vocab_axis, float(label_smoothing), float(z_loss))
    hidden = hidden.astype(jnp.float32)
    loss, *rest = _token_losses(settings, hidden, head.kernel, targets)
    surprise, log_z, correct = map(jax.lax.stop_gradient, rest)
    return TokenLosses(loss, z_loss * jnp.square(log_z), surprise, log_z, correct)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_losses(settings, hidden, kernel, targets):
    return _forward(settings, hidden, kernel, targets, pull=False)


def _forward_rule(settings, hidden, kernel, targets):
    *outputs, on_target, pulled = _forward(settings, hidden, kernel, targets, pull=True)
    return tuple(outputs), (hidden, kernel, targets, outputs[2], on_target, pulled)


def _backward_rule(settings, saved, cotangents):
    hidden, kernel, targets, log_z, on_target, pulled = saved
    scale = cotangents[0]
    gradient = _kernel_gradient(settings, hidden, kernel, targets, log_z, on_target, scale)
    return scale[..., None] * pulled, gradient, None


_token_losses.defvjp(_forward_rule, _backward_rule)


class Chunks:
    """A kernel seen as `[H, S, V/S]`, an embedding as `[S, V/S, H]`, in chunks of C along V/S.

    Where S is 1 that axis is left out: with it, XLA copies a whole kernel into another layout.
    """

    def __init__(self, kernel: jax.Array, vocab_axis: int, tokens: int):
        vocab_size = kernel.shape[vocab_axis]
        self.axis, self.kernel = vocab_axis, kernel.shape
        self.parts = _parts(vocab_size)
        self.inner = vocab_size // self.parts
        wanted = max(CHUNK // tokens, FEWEST_COLUMNS) // self.parts
        count = max(1, round(self.inner / wanted))
        self.width = -(-self.inner // count)
        self.count = -(-self.inner // self.width)
        # The axis of the view along which the chunks lie.
        self.along = vocab_axis + (self.parts > 1)
        self.view = self.placed(kernel.reshape(self.shaped(self.inner)), "embed")

    def shaped(self, width: int) -> tuple[int, ...]:
        """Returns the shape of a view of so many columns a part."""
        split = (width,) if self.parts == 1 else (self.parts, width)
        return (*self.kernel[: self.axis], *split, *self.kernel[self.axis + 1 :])

    def placed(self, view: jax.Array, embed: str | None) -> jax.Array:
        """Constrains an array of the shape of all chunks, or of one, to its place on the mesh."""
        split = (None,) if self.parts == 1 else ("vocab", None)
        names = (embed, *split) if self.axis else (*split, embed)
        return partitioning.with_sharding_constraint(view, names)

    def start(self, number: jax.Array) -> jax.Array:
        """Returns where a chunk begins; the last one overlaps the one before if it must."""
        return jnp.minimum(number * self.width, self.inner - self.width)

    def read(self, number: jax.Array) -> jax.Array:
        """Returns a chunk as float32 `[H, S*C]`, gathered over the devices that divide H."""
        chunk = jax.lax.dynamic_slice_in_dim(
            self.view, self.start(number), self.width, axis=self.along
        )
        chunk = self.placed(chunk, None).astype(jnp.float32)
        if self.axis:
            return chunk.reshape(chunk.shape[0], -1)
        return chunk.reshape(-1, chunk.shape[-1]).T

    def logits(self, hidden: jax.Array, chunk: jax.Array) -> jax.Array:
        """Returns float32 `[B, U, S, C]`."""
        logits = _dot(hidden.reshape(-1, hidden.shape[-1]), chunk)
        return logits.reshape(*hidden.shape[:-1], self.parts, self.width)

    def mean(self, weights: jax.Array, chunk: jax.Array) -> jax.Array:
        """Returns the weighted sum of columns, float32 `[B, U, H]`."""
        rows = weights.reshape(-1, chunk.shape[1])
        return _dot(rows, chunk.T).reshape(*weights.shape[:2], -1)

    def outer(self, hidden: jax.Array, gradients: jax.Array) -> jax.Array:
        """Returns the gradient of a chunk from that of its logits."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        gradients = gradients.reshape(len(rows), -1)
        shape = self.shaped(self.width)
        if not self.axis:
            return _dot(gradients.T, rows).reshape(shape)
        # On a CPU the product takes half the time if the transposition stays out of it.
        columns = jax.lax.optimization_barrier(rows.T)
        return _dot(columns, gradients).reshape(shape)

    def gradient(self, hidden: jax.Array, of_chunk: OfChunk) -> jax.Array:
        """Returns the gradient of the whole kernel, float32, from those of its chunks' logits."""

        def add(number, gradient):
            part = self.outer(hidden, of_chunk(number, self.read(number)))
            axis, start = self.along, self.start(number)
            if self.inner % self.width:
                part += jax.lax.dynamic_slice_in_dim(gradient, start, self.width, axis=axis)
            return jax.lax.dynamic_update_slice_in_dim(gradient, part, start, axis=axis)

        zeros = self.placed(jnp.zeros(self.view.shape, jnp.float32), "embed")
        return jax.lax.fori_loop(0, self.count, add, zeros).reshape(self.kernel)

    def places(self, number):
        """Returns the token ids of a chunk and which of them no chunk before it had: `[S, C]`."""
        column = self.start(number) + jnp.arange(self.width)
        ids = jnp.arange(self.parts)[:, None] * self.inner + column
        return ids, jnp.broadcast_to(column >= number * self.width, ids.shape)


def _dot(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.dot(left, right, preferred_element_type=jnp.float32)


def _parts(vocab_size: int) -> int:
    """Returns into how many parts the mesh divides the vocabulary."""
    parts = jax.sharding.get_abstract_mesh().shape.get("model", 1)
    return parts if vocab_size % parts == 0 else 1


def _smoothing(smoothing: float, vocab_size: int) -> tuple[float, float]:
    """Returns what every token but the target weighs, and the entropy of the smoothed target."""
    other = smoothing / (vocab_size - 1)
    entropy = 0.0
    if smoothing:
        entropy = -((1 - smoothing) * math.log(1 - smoothing) + smoothing * math.log(other))
    return other, entropy


def _forward(settings, hidden, kernel, targets, *, pull):
    """Returns losses, surprises, log-normalisers and hits `[B, U]`; with `pull` two gradients more.

    These are of the target's logit and of h. The gradient of a logit is p (1 + 2 z log Z), less
    1 - s for the target and `other` for others.
    """
    vocab_axis, smoothing, z_loss = settings
    chunks = Chunks(kernel, vocab_axis, targets.size)
    vocab_size = kernel.shape[vocab_axis]
    other, entropy = _smoothing(smoothing, vocab_size)

    def fold(number, carry):
        maximum, total, target, summed, added, pulled = carry
        chunk = chunks.read(number)
        logits = chunks.logits(hidden, chunk)
        ids, new = chunks.places(number)
        hit = ids == targets[..., None, None]
        target += jnp.sum(jnp.where(new & hit, logits, 0.0), axis=(2, 3))
        rest = new & ~hit
        if smoothing:
            summed += jnp.sum(jnp.where(rest, logits, 0.0), axis=(2, 3))
        logits = jnp.where(rest, logits, -jnp.inf)
        higher = jnp.maximum(maximum, jnp.max(logits, axis=(2, 3)))
        weights = jnp.exp(logits - higher[..., None, None])
        shrink = jnp.exp(maximum - higher)
        total = total * shrink + jnp.sum(weights, axis=(2, 3))
        if pull:
            pulled = pulled * shrink[..., None] + chunks.mean(weights, chunk)
            if smoothing:
                added += jnp.sum(jnp.where(new.reshape(-1), chunk, 0.0), axis=1)
        return higher, total, target, summed, added, pulled

    zeros = jnp.zeros(targets.shape, jnp.float32)
    pulled = jnp.zeros(hidden.shape, jnp.float32) if pull else None
    added = jnp.zeros(hidden.shape[-1], jnp.float32)
    # Finite, since a chunk may hold nothing but the target.
    lowest = jnp.full(targets.shape, jnp.finfo(jnp.float32).min)
    carry = (lowest, zeros, zeros, zeros, added, pulled)
    carry = jax.lax.fori_loop(0, chunks.count, fold, carry)
    maximum, total, target, summed, added, pulled = carry
    # Log-odds against the target: all that follows is exact however certain it is.
    against = maximum + jnp.log(total) - target
    surprise = jax.nn.softplus(against)
    # Not `target + surprise`, which has been rounded twice more: see `chunked_divergence`.
    higher = jnp.maximum(maximum, target)
    log_z = higher + jnp.log(total * jnp.exp(maximum - higher) + jnp.exp(target - higher))
    loss = surprise - entropy + z_loss * jnp.square(log_z)
    if smoothing:
        loss -= smoothing * surprise + other * (summed - (vocab_size - 1) * log_z)
    correct = target >= maximum
    if not pull:
        return loss, surprise, log_z, correct
    missed = jax.nn.sigmoid(against)
    on_target = smoothing - missed + 2 * z_loss * log_z * (1 - missed)
    pulled *= ((1 + 2 * z_loss * log_z) * missed / total)[..., None]
    columns = jnp.take(kernel, targets, axis=vocab_axis, mode="clip").astype(jnp.float32)
    columns = jnp.moveaxis(columns, 0, -1) if vocab_axis else columns
    if smoothing:
        pulled -= other * added
    pulled += (on_target + other)[..., None] * columns
    # What follows waits for this last reading of the kernel, so that an optimizer can update it in
    # place: where the order is open, XLA copies all of it. A column of NaN has made log Z one too.
    log_z = jnp.where(columns[..., 0] == columns[..., 0], log_z, jnp.nan)
    return loss, surprise, log_z, correct, on_target, pulled


def _kernel_gradient(settings, hidden, kernel, targets, log_z, on_target, scale):
    """Returns the gradient of the sum of `scale` × loss with respect to the kernel."""
    vocab_axis, smoothing, z_loss = settings
    chunks = Chunks(kernel, vocab_axis, targets.size)
    other, _ = _smoothing(smoothing, kernel.shape[vocab_axis])

    def of_chunk(number, chunk):
        ids, new = chunks.places(number)
        share = jnp.exp(chunks.logits(hidden, chunk) - log_z[..., None, None])
        share = share * (1 + 2 * z_loss * log_z)[..., None, None] - other
        share = jnp.where(ids == targets[..., None, None], on_target[..., None, None], share)
        return jnp.where(new, share * scale[..., None, None], 0.0)

    return chunks.gradient(hidden, of_chunk).astype(kernel.dtype)
