"""What a perfect answer would score: the targets of a task, as a model's vocabulary writes them.

They take the way of predictions: cut to the feature lengths, decoded, post-processed, scored. Below
100 no training reaches the target's score, and the reason is named.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from promot_jax.data import metrics
from promot_jax.data.scoring import Judge
from promot_jax.data.tasks import Row
from promot_jax.data.vocabularies import Vocabulary

# A score that is 100 but for rounding.
PERFECT = 99.995
# Distinct targets that are compared with each other.
MOST_TARGETS = 20_000

Decode = Callable[[Sequence[Sequence[int]]], list[str]]


@dataclasses.dataclass(frozen=True)
class Oracle:
    """The score of perfect answers.

    Attributes:
      score: by the task's metric, in 0..100.
      reasons: why it is not 100, and which targets count as one.
    """

    score: float
    reasons: list[str]


def ask(
    task: str,
    metric: str | None,
    examples: Sequence[Row],
    vocabulary: Vocabulary | None,
    length: int | None = None,
    decode: Decode | None = None,
    further: Sequence[str] = (),
) -> Oracle:
    """Scores the targets of rows as if they were predictions.

    Args:
      task: registered name.
      metric: key of the task's metrics; None takes its first.
      examples: rows as `batching.examples` gives them.
      vocabulary: of the model; None is the task's own.
      length: longest target in tokens, its end-of-sequence token included; None cuts nothing.
      decode: the model's; the vocabulary's, if None.
      further: targets of rows that are not scored; they must differ from others, too.
    """
    judge = Judge(task, examples, vocabulary)
    words = judge.writer.vocabulary
    ids = words.encode_batch(judge.wanted)
    cut = [row if length is None or len(row) < length else row[: length - 1] for row in ids]
    predictions = decode(cut) if decode else [words.decode(row) for row in cut]
    answers = judge.answers(predictions)
    found = judge.metrics(answers)
    score = next(iter(found.values())) if metric is None else found[metric]
    reasons = _equal_targets(judge, further)
    if score < PERFECT:
        lost = [row != whole for row, whole in zip(cut, ids, strict=True)]
        reasons = [*_reasons(judge, ids, lost, length, answers), *reasons]
    return Oracle(score, reasons)


def _reasons(judge: Judge, ids, lost, length, answers) -> list[str]:
    """Returns a line for each reason, with the number of targets and one of them."""
    kinds: dict[str, list[int]] = collections.defaultdict(list)
    for i, answer in enumerate(answers):
        target = judge.targets[i]
        if answer == target or (isinstance(target, list) and answer in target):
            kind = "metric"
            if _perfect(judge.metric_fns[0], target, answer):
                continue
        elif judge.writer.loses(ids[i]):
            kind = "unknown"
        else:
            kind = "cut" if lost[i] else "cleaned"
        kinds[kind].append(i)
    said = {
        "unknown": "hold characters that the vocabulary does not know, so that no answer is right",
        "cut": f"are cut at {length} tokens",
        "cleaned": "are changed by the post-processing of outputs",
        "metric": "score less than 100 by the metric even where the answer equals them",
    }
    lines = []
    for kind, what in said.items():
        if rows := kinds[kind]:
            example = f"{judge.wanted[rows[0]]!r}"
            if kind == "cleaned":
                example += f" to {answers[rows[0]]!r}"
            lines.append(f"{len(rows)} of {len(answers)} targets {what}, such as {example}")
    return lines


def _perfect(metric_fn: Any, target: Any, answer: Any) -> bool:
    return all(score >= PERFECT for score in metric_fn([target], [answer]).values())


def _equal_targets(judge: Judge, further: Sequence[str]) -> list[str]:
    """Returns a line that names targets which differ in the rows and count as one, if there are.

    Several answers to one row are meant to be equal and do not count.
    """
    known = metrics.of_function(judge.metric_fns[0])
    form = known.form if known else str.strip
    targets = itertools.chain(judge.plain_targets(), further)
    texts = dict.fromkeys(text.strip() for target in targets if (text := _first(target)))
    groups: dict[str, set[str]] = collections.defaultdict(set)
    for text in itertools.islice(texts, MOST_TARGETS):
        groups[form(judge.writer(text))].add(text)
    several = [sorted(group) for group in groups.values() if len(group) > 1]
    if not several:
        return []
    name = getattr(judge.metric_fns[0], "__name__", "the metric")
    more = f", and {len(several) - 3} more" if len(several) > 3 else ""
    pairs = "; ".join(" and ".join(map(repr, group[:4])) for group in several[:3])
    return [f"targets that count as equal by {name}, as the vocabulary writes them: {pairs}{more}"]


def _first(target: Any) -> str:
    """Returns the first accepted text of a target; "" of what is no text."""
    text = target[0] if isinstance(target, list) and target else target
    return text if isinstance(text, str) else ""
