"""What a model says of the targets of a batch: their losses, and how far others are from it."""

import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from promot_jax.models import chunked_divergence, losses
from promot_jax.models.chunked_loss import Head
from promot_jax.models.losses import Direction, TokenLosses


class Scored(Protocol):
    """Predictions of a model for the targets of a batch.

    Attributes:
      losses: of each target.
      logits: float32 `[B, U, V]`; computed here where they would be large.
    """

    losses: TokenLosses
    logits: jax.Array

    def divergence(self, reference: "Scored", direction: Direction) -> jax.Array:
        """Returns how far each prediction is from a reference's, float32 `[B, U]`, in nats."""

    def entropy(self) -> jax.Array:
        """Returns the entropy of each prediction, float32 `[B, U]` in nats, without gradient."""


class Whole(NamedTuple):
    """Predictions as logits, where these are small."""

    losses: TokenLosses
    logits: jax.Array

    def divergence(self, reference: Scored, direction: Direction) -> jax.Array:
        """See `Scored`."""
        return losses.divergence(self.logits, reference.logits, direction)

    def entropy(self) -> jax.Array:
        """See `Scored`."""
        log_p = jax.nn.log_softmax(jax.lax.stop_gradient(self.logits).astype(jnp.float32))
        return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


class InChunks(NamedTuple):
    """Predictions as hidden states float32 `[B, U, H]`, whose logits are made chunk by chunk."""

    losses: TokenLosses
    hidden: jax.Array
    head: Head

    @property
    def logits(self) -> jax.Array:
        """See `Scored`."""
        kernel = self.head.kernel.astype(self.hidden.dtype)
        return self.hidden @ (kernel if self.head.vocab_axis else kernel.T)

    def divergence(self, reference: Scored, direction: Direction) -> jax.Array:
        """See `Scored`."""
        if isinstance(reference, Whole):
            return losses.divergence(self.logits, reference.logits, direction)
        theirs = reference.hidden, reference.head, reference.losses.log_z
        return chunked_divergence.divergence(
            self.hidden, self.head, self.losses.log_z, theirs, direction
        )

    def entropy(self) -> jax.Array:
        """See `Scored`; it is what is missing to equal probabilities, those of hidden states 0."""
        hidden = jax.lax.stop_gradient(self.hidden)
        head = self.head._replace(kernel=jax.lax.stop_gradient(self.head.kernel))
        largest = math.log(head.kernel.shape[head.vocab_axis])
        even = jnp.zeros_like(hidden), head, jnp.full_like(self.losses.log_z, largest)
        missing = chunked_divergence.divergence(
            hidden, head, self.losses.log_z, even, direction="reverse"
        )
        return largest - missing
