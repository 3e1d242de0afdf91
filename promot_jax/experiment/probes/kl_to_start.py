"""How far a model has moved from its start on the rows of a target, in both directions.

What fine-tuning forgets is predicted by the divergence from the start on the new task (Shenfeld et
al. 2025, "RL's Razor"). KL(start‖tuned) is large where the model gave up what the start would say,
KL(tuned‖start) where it says what the start would not.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from promot_jax.base import partitioning, values
from promot_jax.base.trees import Tree
from promot_jax.experiment.evaluation import EvalTask
from promot_jax.experiment.probes.bench import Bench, Moment
from promot_jax.models import Batch, Model
from promot_jax.models.attached import BARE, Attached


@dataclasses.dataclass(frozen=True)
class KlToStart:
    """Mean KL divergences per target token, in nats, teacher-forced on the targets of the rows.

    The start is always read with nothing attached, the model with nothing (`bare`) and, where that
    is something else, with what the stage attaches (`attached`). Each costs a forward pass of both
    models over the rows.

    Attributes:
      task: registered task, usually the target.
      task_feature_lengths: longest inputs and targets in tokens.
      split: whose first rows are read.
      examples: how many.
    """

    task: values.Text
    task_feature_lengths: values.Lengths | None
    split: values.Text = "validation"
    examples: values.Count = 64

    def bind(self, bench: Bench) -> Callable[[Moment], dict[str, float]]:
        """Reads the rows and returns the measurement.

        Its scalars are `kl/start_tuned/WITH` and `kl/tuned_start/WITH`, WITH being `bare` or
        `attached`.

        Raises:
          UserError: the task cannot be read.
        """
        task = EvalTask(self.task, self.task, "kl", self.task_feature_lengths)
        batches = bench.rows(task, self.split, self.examples)

        @functools.partial(
            jax.jit,
            static_argnames="attached",
            out_shardings=partitioning.replicated(bench.mesh),
        )
        def sums(start, params, batch, attached):
            return divergences(bench.model, start, params, batch, attached)

        def mean(params: Tree, attached: Attached) -> np.ndarray:
            params, start = attached.params(bench.model, params), bench.bare_start()
            with partitioning.activate(bench.mesh):
                found = [
                    sums(start, params, bench.placed(batch, attached), attached)
                    for batch, _ in batches
                ]
            forward, reverse, tokens = np.sum(jax.device_get(found), axis=0, dtype=np.float64)
            return np.array([forward, reverse]) / tokens

        def measure(moment: Moment) -> dict[str, float]:
            read = {"bare": BARE, "attached": moment.attached}
            if moment.attached == BARE:
                del read["attached"]
            scalars = {}
            for name, attached in read.items():
                forward, reverse = mean(moment.params, attached)
                scalars[f"kl/start_tuned/{name}"] = float(forward)
                scalars[f"kl/tuned_start/{name}"] = float(reverse)
            return scalars

        return measure


def divergences(
    model: Model, start: Tree, params: Tree, batch: Batch, attached: Attached
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns KL(start‖tuned), KL(tuned‖start), summed over target tokens, and their number.

    Args:
      model: bare model.
      start: parameters of the start, as the bare model reads them.
      params: those of the tuned model, with what is attached.
      batch: rows, with the prompt's number where one is attached.
      attached: to the tuned model.
    """
    bare = {name: field for name, field in batch.items() if name != "prompt_ids"}
    before = jax.nn.log_softmax(BARE.model(model, start).logits(start, bare))
    after = jax.nn.log_softmax(attached.model(model, params).logits(params, batch))
    counted = batch["decoder_loss_weights"] > 0
    forward = jnp.sum(jnp.exp(before) * (before - after), axis=-1)
    reverse = jnp.sum(jnp.exp(after) * (after - before), axis=-1)
    return jnp.sum(forward * counted), jnp.sum(reverse * counted), jnp.sum(counted)
