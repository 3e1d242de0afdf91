"""What predictions are worth on the rows of a task, by the task's own post-processing and metrics.

Targets are compared as the vocabulary writes them, see `written`.
"""

from collections.abc import Sequence
from typing import Any

from promot_jax.data import tasks, written
from promot_jax.data.tasks import Row
from promot_jax.data.vocabularies import Vocabulary

FEATURES = ("inputs", "targets")


class Judge:
    """Rows of a task and the answers that they accept.

    Attributes:
      inputs, wanted: the texts of each row.
      targets: what the metrics compare predictions with, as the vocabulary writes it.
    """

    def __init__(self, task: str, rows: Sequence[Row], vocabulary: Vocabulary | None):
        """Takes the rows as `batching.examples` gives them; None is the task's own vocabulary."""
        self._task, self._rows = tasks.task(task, vocabulary), rows
        self.writer = written.Writer(vocabulary or self._task.vocabulary())
        self.inputs, self.wanted = ([row[feature] for row in rows] for feature in FEATURES)
        self.targets = [self.writer.target(target) for target in self.plain_targets()]

    @property
    def metric_fns(self) -> Sequence[Any]:
        """The task's metrics."""
        return self._task.metric_fns

    def plain_targets(self) -> list[Any]:
        """Returns the targets of the metrics as the rows have them."""
        return [self._processed(i, text, True) for i, text in enumerate(self.wanted)]

    def answers(self, predictions: Sequence[str]) -> list[Any]:
        """Returns what post-processing makes of a prediction for each row."""
        return [self._processed(i, text, False) for i, text in enumerate(predictions)]

    def metrics(self, answers: Sequence[Any]) -> dict[str, float]:
        """Returns the task's metrics of post-processed predictions for all rows."""
        found = {}
        for metric_fn in self.metric_fns:
            found |= metric_fn(self.targets, answers)
        return found

    def _processed(self, i: int, text: str, is_target: bool) -> Any:
        return self._task.postprocess(text, example=self._rows[i], is_target=is_target)
