"""What predictions are worth on the rows of a task, by the task's own post-processing and metrics.

Targets are compared as the vocabulary writes them, see `written`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio

from promot_jax.data import batching, written

FEATURES = ("inputs", "targets")


class Judge:
    """Rows of a task and the answers that they accept.

    Attributes:
      inputs, wanted: the texts of each row.
      targets: what the metrics compare predictions with, as the vocabulary writes it.
    """

    def __init__(
        self, task: str, examples: Sequence[Mapping[str, Any]], vocabulary: seqio.Vocabulary | None
    ):
        """Takes the rows as `data.examples` gives them; None is the task's own vocabulary."""
        self._task = batching.with_vocabulary(task, vocabulary)
        words = self._task.output_features["targets"].vocabulary
        self.writer = written.Writer(words)
        texts = [[text(row, name, words.decode) for row in examples] for name in FEATURES]
        self.inputs, self.wanted = texts
        # The texts are held once, and ids not at all where there are texts.
        self._rest = [_without_texts(row) for row in examples]
        self.targets = [self.writer.target(target) for target in self.plain_targets()]

    @property
    def metric_fns(self) -> Sequence[Any]:
        """The task's metrics."""
        return self._task.predict_metric_fns

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
        example = dict(self._rest[i])
        for name, texts in zip(FEATURES, (self.inputs, self.wanted), strict=True):
            if name not in example:
                example[f"{name}_pretokenized"] = texts[i].encode()
        return self._task.postprocess_fn(text, example=example, is_target=is_target)


def text(row: Mapping[str, Any], feature: str, decode: Callable[[list[int]], str]) -> str:
    """Returns a feature of a row as a text; ids alone are decoded."""
    if f"{feature}_pretokenized" in row:
        return row[f"{feature}_pretokenized"].decode()
    return decode([int(i) for i in row[feature]])


def _without_texts(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = dict(row)
    for name in FEATURES:
        if kept.pop(f"{name}_pretokenized", None) is not None:
            kept.pop(name, None)
    return kept
