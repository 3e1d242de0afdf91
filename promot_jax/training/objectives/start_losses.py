"""Weights from the losses of the start model: what it held possible is learnt, and costs little.

Its losses are computed in each step. They are the same in every epoch, so a pass that keeps them
would save the forward pass of the reference from the second epoch on.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from promot_jax.base import values
from promot_jax.base.trees import Tree
from promot_jax.models import Batch
from promot_jax.training.objectives.interface import Objective, Sample, Start, Tokens
from promot_jax.training.objectives.rows import places, row_means, row_sums

_TARGETS = "decoder_target_tokens"


@dataclasses.dataclass(frozen=True)
class STM(Objective):
    """Selective token masking (Wu et al. 2025): targets that surprise the start are not learnt.

    They stay in the input. Of targets of one token, which are labels, it may leave nothing.

    Attributes:
      perplexity: largest one of a target that is learnt.
      leaves_out: "surprising" ones, or for comparison as many "random" ones of a microbatch, drawn
        in each step, or its most "expected" ones.
    """

    needs_reference = True
    perplexity: Annotated[
        float, values.Range("a number above 1", lambda perplexity: perplexity > 1)
    ] = 2.5
    leaves_out: Annotated[Literal["surprising", "random", "expected"], values.LATER] = "surprising"

    def written(self, batch: Batch, sample: Sample, rng: jax.Array) -> Batch:
        """See `Objective`."""
        if self.leaves_out != "random":
            return batch
        return batch | {"drawn_places": jax.random.uniform(rng, batch[_TARGETS].shape)}

    def weights(self, tokens: Tokens, measured: Tree) -> jax.Array:
        """See `Objective`."""
        surprise = tokens.reference.losses.surprise
        keeps = surprise <= math.log(self.perplexity)
        if self.leaves_out == "surprising":
            return keeps
        order = -surprise if self.leaves_out == "expected" else tokens.batch["drawn_places"]
        counted = tokens.counted.reshape(1, -1)
        found = places(order.reshape(1, -1), counted, jnp.zeros(counted.shape, jnp.int32))
        return (found >= jnp.sum(~keeps & tokens.counted)).reshape(keeps.shape)


@dataclasses.dataclass(frozen=True)
class FLOW(Objective):
    """Upweighs easy rows (Sanyal et al. 2025): exp(-loss / temperature), loss under the start.

    Attributes:
      level: "row" weighs by a row's mean loss, "token" by each target's own.
      temperature: in nats; None is the median of these losses in the first batches.
      batches: that the median is taken of.
    """

    needs_reference = True
    level: Literal["row", "token"] = "row"
    temperature: values.Positive | None = None
    batches: values.Count = 16

    @property
    def measures(self) -> bool:
        """See `Objective`."""
        return self.temperature is None

    def unmeasured(self, leaves: Tree) -> Tree:
        """See `Objective`."""
        return {"median": jnp.ones(())}

    def measure(self, start: Start, batch: Batch, rng: jax.Array) -> Tree:
        """See `Objective`; the losses of empty rows and of padding are not numbers."""
        found = start.scored(batch).losses.surprise
        counted = batch["decoder_loss_weights"] > 0
        if self.level == "row":
            return jnp.sum(found * counted, axis=1) / jnp.sum(counted, axis=1)
        return jnp.where(counted, found, jnp.nan)

    def settle(self, found: Sequence[Tree]) -> Tree:
        """See `Objective`."""
        return {"median": jnp.nanmedian(jnp.concatenate([part.reshape(-1) for part in found]))}

    def weights(self, tokens: Tokens, measured: Tree) -> jax.Array:
        """See `Objective`."""
        found = tokens.reference.losses.surprise
        if self.level == "row":
            found = row_means(found, tokens.counted, tokens.rows)
        temperature = measured["median"] if self.temperature is None else self.temperature
        return jnp.exp(-found / temperature)


@dataclasses.dataclass(frozen=True)
class SSToken(Objective):
    """Learns the targets of each row whose loss fell most since the start (Qin et al. 2025).

    It is the half of the method that needs no attention, which its authors call gamma = 1. Of
    equal ones, as all are at first, those that stand first are taken.

    Attributes:
      share: of a row's targets that is learnt, rounded up.
    """

    needs_reference = True
    share: values.Probability = 0.6

    def weights(self, tokens: Tokens, measured: Tree) -> jax.Array:
        """See `Objective`."""
        fallen = tokens.reference.losses.surprise - tokens.surprise
        found = places(fallen, tokens.counted, tokens.rows)
        counts = row_sums(jnp.ones_like(fallen), tokens.counted, tokens.rows)
        # A product such as 0.6 * 5 may be a little more than it should be.
        return found < jnp.ceil(counts * self.share * (1 - 1e-6))
