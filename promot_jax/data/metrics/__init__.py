"""Scores of predicted texts, in the customary units of the paper's section 5.1: 0 to 100.

A metric's function takes `targets` and `predictions`, two lists of the same length, and returns a
dict of its name to a float, which is what seqio's `metric_fns` want. `METRICS` has what else there
is to know of each; `metrics.t5` has those of T5's code, by which the paper's tasks are scored.
Nothing here knows jax, and what loads slowly is imported on use.
"""

from promot_jax.data.metrics.answers import accuracy, exact_match, label_share
from promot_jax.data.metrics.known import METRICS, PLAIN, Metric, of_function
from promot_jax.data.metrics.normalization import normalize_answer
from promot_jax.data.metrics.texts import bleu, f1, rouge2

__all__ = [
    "METRICS",
    "PLAIN",
    "Metric",
    "accuracy",
    "bleu",
    "exact_match",
    "f1",
    "label_share",
    "normalize_answer",
    "of_function",
    "rouge2",
]
