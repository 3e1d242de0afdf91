"""Scores of answers that are right or wrong."""

import collections
import unicodedata
from collections.abc import Callable, Collection, Sequence

from promot_jax.data.metrics.normalization import normalize_answer

Answers = str | Sequence[str]
# What may follow a label in an output: punctuation, but no sign that makes another label of it.
_NO_ENDING = set("%#*&@\\/")


def check_lengths(targets: Sequence[object], predictions: Sequence[str]) -> None:
    """Raises ValueError unless both hold the same number of items, at least one."""
    if not predictions or len(targets) != len(predictions):
        raise ValueError(
            f"A score needs as many predictions as targets and at least one, got"
            f" {len(predictions)} predictions and {len(targets)} targets; is the split empty?"
        )


def accepted(target: Answers) -> list[str]:
    """Returns the accepted answers of a target as a list."""
    return [target] if isinstance(target, str) else list(target)


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the per cent of predictions that equal their target as strings."""
    check_lengths(targets, predictions)
    hits = sum(
        target == prediction for target, prediction in zip(targets, predictions, strict=True)
    )
    return {"accuracy": 100.0 * hits / len(targets)}


def exact_match(targets: Sequence[Answers], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the per cent of predictions that equal an accepted answer by `normalize_answer`.

    Args:
      targets: for each prediction one answer or several accepted ones.
      predictions: the predicted texts.
    """
    return matches(targets, predictions, normalize_answer)


def matches(
    targets: Sequence[Answers], predictions: Sequence[str], form: Callable[[str], str]
) -> dict[str, float]:
    """Returns the per cent of predictions that have the form of an accepted answer."""
    check_lengths(targets, predictions)
    hits = sum(
        form(prediction) in set(map(form, accepted(target)))
        for target, prediction in zip(targets, predictions, strict=True)
    )
    return {"exact_match": 100.0 * hits / len(targets)}


def label_share(predictions: Sequence[str], labels: Collection[str]) -> float:
    """Returns the per cent of outputs that are one of the labels (the paper's Figure 2).

    White space around an output and punctuation after it do not count; "True story" is no label.
    This is how far a model answers other tasks in the format of the one it was tuned on.

    Args:
      predictions: the outputs on another task.
      labels: the target task's labels, for instance `("True", "False")`; those that end in
        punctuation, such as "yes!", are found too.
    """
    check_lengths(predictions, predictions)
    known = {label.strip() for label in labels}
    outputs = collections.Counter(predictions)
    found = sum(count for output, count in outputs.items() if _is_one_of(output.strip(), known))
    return 100.0 * found / len(predictions)


def _is_one_of(output: str, labels: Collection[str]) -> bool:
    """Whether an output is a label, or becomes one when its ending is cut sign by sign."""
    while output and output not in labels:
        if not (_may_end(output[-1]) or output[-1].isspace()):
            return False
        output = output[:-1]
    return output in labels


def _may_end(character: str) -> bool:
    if character in _NO_ENDING:
        return False
    return unicodedata.category(character)[0] == "P"
