"""Scores of predicted texts, in the customary units of the paper's section 5.1: 0 to 100.

Each metric takes `targets` and `predictions`, two lists of the same length, and returns a dict of
its name to a float, which is what seqio's `metric_fns` want. `metrics.t5` has those of T5's code,
by which the paper's tasks are scored. Nothing here knows jax.
"""

from collections.abc import Callable

from promot_jax.data.metrics import t5
from promot_jax.data.metrics.answers import accuracy, exact_match, label_share
from promot_jax.data.metrics.normalization import normalize_answer
from promot_jax.data.metrics.scripts import words
from promot_jax.data.metrics.texts import BLEU_TOKENIZERS, bleu, bleu_by, rouge2

__all__ = ["accuracy", "bleu", "exact_match", "label_share", "named", "normalize_answer", "rouge2"]

NAMED = {"accuracy": accuracy, "exact_match": exact_match, "bleu": bleu, "rouge2": rouge2}
# What a person may type.
NAMES = (*NAMED, *(f"bleu-{name}" for name in BLEU_TOKENIZERS))
# The form in which a metric tells two targets apart.
_FORMS = {
    accuracy: str.strip,
    exact_match: normalize_answer,
    rouge2: lambda text: " ".join(words(text)) or text,
    t5.trivia_qa: t5.normalize_trivia_qa,
    t5.squad: t5.normalize_squad,
    t5.rouge2: lambda text: " ".join(words(text)) or text,
}


def named(name: str) -> Callable[..., dict[str, float]] | None:
    """Returns the metric of a name in `NAMES`, which is also its key; None for another name."""
    fixed = name not in NAMED and name in NAMES
    return bleu_by(name.removeprefix("bleu-")) if fixed else NAMED.get(name)


def form(metric: Callable) -> Callable[[str], str]:
    """Returns what makes of a target the form in which a metric compares it."""
    return _FORMS.get(metric, str.strip)
