"""Whether answers to unseen tasks take on the form of the target's; no labels are needed."""

import dataclasses
from collections.abc import Callable

from promot_jax.base import values
from promot_jax.data import batching
from promot_jax.data.metrics import leak
from promot_jax.experiment.probes.bench import Bench, Moment, by_task


@dataclasses.dataclass(frozen=True)
class AnswerForm:
    """Answers to unseen tasks beside those of the start and beside the training targets.

    It reads the answers that followed unseen tasks got anyway, as their metrics do. It costs no
    pass of the model but the start's answers, once.

    Attributes:
      targets: training targets of each target task that answers are compared with, the first ones.
    """

    targets: values.Count = 256

    # It reads no row as the stage does.
    task = None

    def bind(self, bench: Bench) -> Callable[[Moment], dict[str, float]]:
        """Reads the training targets and returns the measurement.

        Its scalars are `form/SIGN/TASK` for each sign of `leak.signs`, and `form/SIGN`, the mean
        over the tasks that are answered in free text.

        Raises:
          UserError: rows of a target cannot be read.
        """
        texts = [
            row["targets"].strip()
            for target in bench.targets
            for row in batching.examples(target.name, "train", self.targets)
        ]
        written = bench.evaluator.written(list(dict.fromkeys(texts)))

        def measure(moment: Moment) -> dict[str, float]:
            return by_task(
                "form",
                [
                    (task, leak.signs(given.answers, bench.answers_of_start(task).answers, written))
                    for task, given in moment.answers
                ],
            )

        return measure
