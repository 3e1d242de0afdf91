"""What a model still knows of text that has nothing to do with its tasks."""

import dataclasses
from collections.abc import Callable

from promot_jax.base import values
from promot_jax.experiment.evaluation import EvalTask
from promot_jax.experiment.probes.bench import Bench, Moment


@dataclasses.dataclass(frozen=True)
class NeutralLoss:
    """Mean loss on plain text, in nats per target token.

    It is read as unseen tasks are: with nothing attached, or with adapters that are in use for
    every task. What it is compared with is the start, never an untrained prompt or adapter. It
    costs a forward pass over the rows; the start takes another one, once.

    Attributes:
      neutral_task: registered task of plain text, see `neutral.task`.
      task_feature_lengths: longest inputs and targets in tokens.
      split: whose first rows are read.
      examples: how many.
    """

    neutral_task: values.Text
    task_feature_lengths: values.Lengths
    split: values.Text = "validation"
    examples: values.Count = 64

    # It reads no row as the stage does.
    task = None

    def bind(self, bench: Bench) -> Callable[[Moment], dict[str, float]]:
        """Returns the measurement: `neutral/loss`, and `neutral/loss_of_start`."""
        text = EvalTask(self.neutral_task, "Neutral text", "loss", self.task_feature_lengths)
        rows = {"split": self.split, "limit": self.examples}
        of_start: dict[int | None, float] = {}

        def measure(moment: Moment) -> dict[str, float]:
            if (seed := bench.seed()) not in of_start:
                of_start[seed] = bench.evaluator.loss(bench.start(), text, **rows)
            found = bench.evaluator.loss(moment.params, text, attached=moment.unseen, **rows)
            return {"neutral/loss": found, "neutral/loss_of_start": of_start[seed]}

        return measure
