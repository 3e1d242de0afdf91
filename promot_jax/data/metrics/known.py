"""The metrics that a person may name, each with all that the program asks of it.

A further metric is an entry in `PLAIN`.
"""

import dataclasses
from collections.abc import Callable

from promot_jax.data.metrics import t5
from promot_jax.data.metrics.answers import accuracy, exact_match
from promot_jax.data.metrics.normalization import normalize_answer
from promot_jax.data.metrics.scripts import words
from promot_jax.data.metrics.texts import BLEU_TOKENIZERS, bleu, bleu_by, f1, rouge2, squad_words


@dataclasses.dataclass(frozen=True)
class Metric:
    """A score of predicted texts, 0 to 100.

    Attributes:
      name: the key of the score; what a person types and run folders hold.
      score: takes `targets` and `predictions`, as seqio's `metric_fns` do, and gives {name: score}.
      printed: the name in tables and charts.
      classes: targets are the labels of classes; else answers are free text.
      several_answers: a target may be a list of accepted answers.
      form: the form in which a target is told apart from others.
    """

    name: str
    score: Callable[..., dict[str, float]]
    printed: str
    classes: bool = False
    several_answers: bool = False
    form: Callable[[str], str] = str.strip


def _words(text: str) -> str:
    return " ".join(words(text)) or text


def _bag(text: str) -> str:
    return " ".join(sorted(squad_words(text).elements()))


def _by_name(*metrics: Metric) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


PLAIN = _by_name(
    Metric("accuracy", accuracy, "accuracy", classes=True),
    Metric("exact_match", exact_match, "exact match", several_answers=True, form=normalize_answer),
    Metric("f1", f1, "F1", several_answers=True, form=_bag),
    Metric("bleu", bleu, "BLEU"),
    Metric("rouge2", rouge2, "ROUGE-2", form=_words),
)
# BLEU of a tokenizer that does not depend on the targets.
TOKENIZED = _by_name(
    *(Metric(f"bleu-{name}", bleu_by(name), f"bleu-{name}") for name in BLEU_TOKENIZERS)
)
METRICS = PLAIN | TOKENIZED
# Those of T5's code score under the names of ours.
_T5 = (
    dataclasses.replace(PLAIN["exact_match"], score=t5.trivia_qa, form=t5.normalize_trivia_qa),
    dataclasses.replace(PLAIN["exact_match"], score=t5.squad, form=t5.normalize_squad),
    dataclasses.replace(PLAIN["bleu"], score=t5.bleu),
    dataclasses.replace(PLAIN["rouge2"], score=t5.rouge2),
)


def of_function(score: Callable) -> Metric | None:
    """Returns the metric that a function of this package computes; None for one of a person's."""
    return next((m for m in (*METRICS.values(), *_T5) if m.score is score), None)
