"""What is attached to a model while it reads a task: a prompt, adapters, nothing."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from promot_jax.base import trees
from promot_jax.base.trees import Tree
from promot_jax.models import Batch, Model
from promot_jax.models.networks import lora
from promot_jax.models.networks.lora import Adapters


@dataclasses.dataclass(frozen=True)
class Attached:
    """A prompt of any kind and adapters; hashable, as what a compiled program depends on.

    Attributes:
      prompt: name of the prompt of every row, None for none.
      adapters: what the stages added; None leaves the model those that it came with, if any.
    """

    prompt: str | None = None
    adapters: Adapters | None = None

    def params(self, model: Model, params: Tree) -> Tree:
        """Returns the tree with what is attached; all other prompts and adapters are left out.

        Equal structure means one compiled program for every method.
        """
        prompts = () if self.prompt is None else (self.prompt,)
        return only(params, prompts, in_force(model, self.adapters))

    def model(self, model: Model, params: Tree) -> Model:
        """Returns the bare model with what is attached; `params` are those of `Attached.params`."""
        adapters = in_force(model, self.adapters)
        return model.with_prompts_of(params).with_lora(adapters)

    def batch(self, batch: Batch) -> Batch:
        """Returns the batch with the prompt's number in every row."""
        if self.prompt is None:
            return batch
        rows = len(batch["encoder_input_tokens"])
        return {**batch, "prompt_ids": np.zeros(rows, np.int32)}


BARE = Attached()


def bare_batch(batch: Batch) -> Batch:
    """Returns a training batch, packed or not, for a model with nothing attached."""
    marks = ("adapted", "decoder_adapted")
    return without_prompts({name: array for name, array in batch.items() if name not in marks})


def without_prompts(batch: Batch) -> Batch:
    """Returns a training batch, packed or not, without the prompts of its rows.

    In a packed one the slots of prompts become padding, and positions count from behind them.
    """
    if "decoder_prompts" not in batch:
        return {name: array for name, array in batch.items() if name != "prompt_ids"}
    held = (batch["decoder_prompts"] >= 0).astype(jnp.int32)
    positions = batch["decoder_positions"]
    # Of each slot: the prompt's slots up to it, less those before its row.
    before = jnp.cumsum(held, axis=1)
    begins = jnp.arange(held.shape[1]) - positions
    own = before - jnp.take_along_axis(before - held, begins, axis=1)
    return batch | {
        "decoder_prompts": jnp.full_like(held, -1),
        "decoder_segment_ids": batch["decoder_segment_ids"] * (1 - held),
        "decoder_positions": jnp.maximum(positions - own, 0),
    }


def in_force(model: Model, added: Adapters | None) -> Adapters | None:
    """Returns the adapters in force: those that stages added, else what the model came with."""
    return added or model.network.config.lora


def only(params: Tree, prompts: Sequence[str], adapters: Adapters | None) -> Tree:
    """Returns the tree with these prompts alone, and with adapters only if any are in force."""
    params = trees.keep_prompts(params, prompts)
    return params if adapters else lora.remove(params)
