"""Masked thought: the model reads its targets with holes."""

import dataclasses

import jax
import jax.numpy as jnp

from promot_jax.base import values
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.models import Batch, Model
from promot_jax.training.objectives.interface import Objective


@dataclasses.dataclass(frozen=True)
class MaskedThought(Objective):
    """Replaces targets by a mask where they are read, never where they are predicted.

    From Chen et al. 2024. A target of one token is never read, so of labels nothing is masked.

    Attributes:
      mask_id: the token in place of a target: one that stands for nothing, such as padding.
      rate: of targets; the authors have 0.4 for GSM8K and 0.2 for larger sets.
      warmup: share of the stage in which the rate rises from 0 along a line.
    """

    mask_id: values.Whole
    rate: values.Share = 0.4
    warmup: values.Share = 0.66

    def check(self, model: Model, leaves: Tree) -> None:
        """See `Objective`."""
        size = model.network.config.vocab_size
        if self.mask_id >= size:
            raise UserError(
                f"MaskedThought.mask_id = {self.mask_id}; the model has {size} tokens, give the id "
                "of one of them"
            )

    def read(self, batch: Batch, progress: jax.Array, rng: jax.Array) -> Batch:
        """See `Objective`."""
        rate = self.rate
        if self.warmup:
            rate *= jnp.minimum(progress / self.warmup, 1.0)
        name, held = _read_targets(batch)
        masked = held & jax.random.bernoulli(rng, rate, held.shape)
        return batch | {name: jnp.where(masked, self.mask_id, batch[name])}


def _read_targets(batch: Batch) -> tuple[str, jax.Array]:
    """Returns the field in which targets are read, and where it holds ones that are learnt."""
    learnt = batch["decoder_loss_weights"] > 0
    if "decoder_tokens" not in batch:
        return "decoder_input_tokens", jnp.pad(learnt[:, :-1], ((0, 0), (1, 0)))
    # A target stands behind the slot that predicts it, unless it is the last of its row: the next
    # row begins there, with something that is no target.
    lines, slots = batch["decoder_tokens"].shape
    behind = jnp.where(learnt, batch["decoder_target_slots"] + 1, slots)
    held = jnp.zeros((lines, slots + 1), bool).at[jnp.arange(lines)[:, None], behind].set(True)
    inside = (batch["decoder_prefix"] == 0) & (batch["decoder_segment_ids"] > 0)
    return "decoder_tokens", held[:, :slots] & inside
