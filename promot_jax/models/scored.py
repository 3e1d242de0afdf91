"""What a model says of the targets of a batch: their losses, and how far others are from it."""

from typing import NamedTuple, Protocol

import jax

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


class Whole(NamedTuple):
    """Predictions as logits, where these are small."""

    losses: TokenLosses
    logits: jax.Array

    def divergence(self, reference: Scored, direction: Direction) -> jax.Array:
        """See `Scored`."""
        return losses.divergence(self.logits, reference.logits, direction)


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
