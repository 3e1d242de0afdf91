"""What probes measure with, what they measure, and what a probe is."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import jax

from promot_jax.base import partitioning
from promot_jax.base.trees import Tree
from promot_jax.data import batching
from promot_jax.experiment.evaluation import EvalTask, Evaluation, Evaluator
from promot_jax.models import Model
from promot_jax.models.attached import BARE, Attached

# Logits that a probe holds of one model at a time, in elements (float32).
LOGITS = 2**24


@dataclasses.dataclass(frozen=True)
class Bench:
    """What probes measure with.

    Attributes:
      model: bare model.
      mesh: devices.
      evaluator: of the experiment.
      targets: the tasks that methods fine-tune on.
      tasks: the unseen tasks that stages follow.
      examples: rows of each of those.
      seed: returns the seed of the start, None where all seeds have the same.
      start: returns the parameters that methods start from, with nothing attached. A stage that
        trains the model has taken these over: they are then loaded again, a second copy.
      answers_of_start: returns what the start answers to the rows of an unseen task; kept.
    """

    model: Model
    mesh: jax.sharding.Mesh
    evaluator: Evaluator
    targets: Sequence[EvalTask]
    tasks: Sequence[EvalTask]
    examples: int
    seed: Callable[[], int | None]
    start: Callable[[], Tree]
    answers_of_start: Callable[[EvalTask], Evaluation]

    def bare_start(self) -> Tree:
        """Returns the start as the bare model reads it."""
        return BARE.params(self.model, self.start())

    def batch_size(self, targets: int) -> int:
        """Returns how many rows of so many target tokens keep their logits within `LOGITS`."""
        rows = LOGITS // (targets * self.model.network.config.vocab_size)
        return partitioning.divisible(self.mesh, min(max(rows, 1), batching.GROUP))

    def rows(self, task: EvalTask, split: str, examples: int) -> batching.EvalBatches:
        """Returns the first rows of a split in batches of such a size.

        Raises:
          UserError: an unknown task or split, or a split without rows.
        """
        rows = self.batch_size(task.task_feature_lengths["targets"])
        return batching.eval_batches(
            task.name,
            task.task_feature_lengths,
            split,
            batch_size=min(rows, partitioning.divisible(self.mesh, examples)),
            limit=examples,
            vocabulary=self.model.vocabulary,
        )

    def placed(self, batch: batching.Batch, attached: Attached = BARE) -> batching.Batch:
        """Returns a host batch on the devices, with what is attached to its rows."""
        return partitioning.shard_batch(self.mesh, attached.batch(batch))


@dataclasses.dataclass(frozen=True)
class Moment:
    """A model in the course of a stage.

    Attributes:
      params: its parameters.
      attached: what the stage attaches to the rows of the probe's task.
      unseen: what unseen tasks are read with.
      answers: unseen tasks that were followed, and what it answered to their rows.
    """

    params: Tree
    attached: Attached
    unseen: Attached
    answers: Sequence[tuple[EvalTask, Evaluation]]


class Probe(Protocol):
    """A measurement of a model in the course of its training.

    Attributes:
      task: whose rows it reads with what the stage attaches to them; None where it reads none so.
    """

    task: str | None

    def bind(self, bench: Bench) -> Callable[[Moment], dict[str, float]]:
        """Returns the measurement: its scalars by name."""


def by_task(name: str, found: Sequence[tuple[EvalTask, Mapping[str, float]]]) -> dict[str, float]:
    """Returns `NAME/KIND/TASK` of each task, and `NAME/KIND`: the mean over tasks of free text.

    Args:
      name: of the probe's scalars.
      found: {kind: value} of each task; all have the same kinds.
    """
    scalars = {
        f"{name}/{kind}/{task.name}": value
        for task, values in found
        for kind, value in values.items()
    }
    generative = [values for task, values in found if task.generative]
    for kind in generative[0] if generative else ():
        scalars[f"{name}/{kind}"] = statistics.fmean(values[kind] for values in generative)
    return scalars
