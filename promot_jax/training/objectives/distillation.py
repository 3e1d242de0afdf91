"""Distillation: the start model with something attached teaches the model that trains."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from promot_jax.base import values
from promot_jax.base.trees import Tree
from promot_jax.models import Batch
from promot_jax.models.losses import Direction
from promot_jax.training.objectives.interface import Objective, Sample, Tokens
from promot_jax.training.objectives.rows import row_sums


@dataclasses.dataclass(frozen=True)
class Distillation(Objective):
    """Learns what the start model says with a prompt or adapters, those of `Stage.teacher`.

    It is context distillation (Askell et al. 2021; Snell et al. 2022) whose context an earlier
    stage learnt. On replayed rows, in front of which nothing stands, the start itself teaches.

    Attributes:
      weight: factor of the mean divergence from the teacher over targets.
      direction: "forward" is KL(teacher || model), "reverse" KL(model || teacher).
      gold: whose targets are learnt as they are. "unsolved": rows of which the teacher would not
        say each target; there the teacher is not followed. "all": every row, beside the teacher.
        "none": no row.
    """

    needs_reference = asks_teacher = teaches = True
    asks_reference = False
    weight: values.Weight = 1.0
    direction: Direction = "forward"
    gold: Literal["unsolved", "all", "none"] = "unsolved"

    @property
    def needs_another_teacher(self) -> bool:
        """See `Objective`."""
        return self.gold == "none"

    def weights(self, tokens: Tokens, measured: Tree) -> jax.Array:
        """See `Objective`."""
        return ~solved(tokens) & (self.gold != "none") | (self.gold == "all")

    def token_penalty(self, tokens: Tokens, measured: Tree) -> jax.Array:
        """See `Objective`."""
        found = tokens.scored.divergence(tokens.taught, self.direction)
        return self.weight * found * self._followed(tokens)

    def _followed(self, tokens: Tokens) -> jax.Array:
        """Returns at which targets the teacher is followed, bool `[B, U]`."""
        return solved(tokens) | (self.gold != "unsolved")


@dataclasses.dataclass(frozen=True)
class OnPolicy(Distillation):
    """Distils on what the model itself says: it draws answers anew in each step.

    It is on-policy self-distillation (Shenfeld et al. 2026), with a teacher that stands still.
    What is drawn has no gradient, as in generalised knowledge distillation (Agarwal et al. 2024).
    Answers are as long as the targets of their batch, at most. Replayed rows get some, too.

    Attributes:
      direction: as in `Distillation`.
      share: of the rows that get answers; in the others targets stay, and `gold` counts.
      temperature: of the draws.
    """

    samples = True
    direction: Direction = "reverse"
    share: values.Probability = 1.0
    temperature: values.Positive = 1.0

    @property
    def needs_another_teacher(self) -> bool:
        """See `Objective`."""
        return self.share == 1 or super().needs_another_teacher

    def written(self, batch: Batch, sample: Sample, rng: jax.Array) -> Batch:
        """See `Objective`."""
        weights = batch["decoder_loss_weights"]
        answers, held = sample(self.temperature, jax.random.fold_in(rng, 0))
        # Rows that fill up a batch stay empty.
        drawn = jnp.any(weights > 0, axis=1, keepdims=True)
        if self.share < 1:
            drawn &= jax.random.bernoulli(jax.random.fold_in(rng, 1), self.share, drawn.shape)
        targets = jnp.where(drawn, answers, batch["decoder_target_tokens"])
        return batch | {
            "decoder_target_tokens": targets,
            "decoder_input_tokens": jnp.pad(targets[:, :-1], ((0, 0), (1, 0))),
            "decoder_loss_weights": jnp.where(drawn, held, weights),
            "drawn": drawn,
        }

    def weights(self, tokens: Tokens, measured: Tree) -> jax.Array:
        """See `Objective`."""
        return ~tokens.batch["drawn"] * super().weights(tokens, measured)

    def _followed(self, tokens: Tokens) -> jax.Array:
        return tokens.batch["drawn"] | super()._followed(tokens)


def solved(tokens: Tokens) -> jax.Array:
    """Returns for each target whether the teacher would say all targets of its row, `[B, U]`."""
    wrong = (~tokens.taught.losses.correct).astype(jnp.float32)
    return row_sums(wrong, tokens.counted, tokens.rows) == 0
