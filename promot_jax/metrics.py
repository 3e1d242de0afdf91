"""Scores of predicted texts, in the customary units of the paper's section 5.1: 0 to 100.

Each metric takes `targets` and `predictions`, two lists of the same length, and returns a dict of
its name to a float, which is what seqio's `metric_fns` want. Nothing here knows jax.
"""

import collections
import re
import string
from collections.abc import Collection, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _check_lengths(targets: Sequence[object], predictions: Sequence[str]) -> None:
    """Raises ValueError unless both hold the same number of items, at least one."""
    if not predictions or len(targets) != len(predictions):
        raise ValueError(
            f"A score needs as many predictions as targets and at least one, got"
            f" {len(predictions)} predictions and {len(targets)} targets; is the split empty?"
        )


def normalize_answer(text: str) -> str:
    """Lower-cases and drops punctuation, English articles and extra white space.

    The customary normalisation of question answering (SQuAD, Rajpurkar et al., 2016; TriviaQA,
    Joshi et al., 2017).
    """
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the per cent of predictions that equal their target as strings."""
    _check_lengths(targets, predictions)
    hits = sum(
        target == prediction for target, prediction in zip(targets, predictions, strict=True)
    )
    return {"accuracy": 100.0 * hits / len(targets)}


def exact_match(
    targets: Sequence[str | Sequence[str]], predictions: Sequence[str]
) -> dict[str, float]:
    """Returns the per cent of predictions that equal an accepted answer after normalisation.

    Args:
      targets: for each prediction one answer or several accepted ones.
      predictions: the predicted texts.
    """
    _check_lengths(targets, predictions)
    hits = 0
    for target, prediction in zip(targets, predictions, strict=True):
        answers = [target] if isinstance(target, str) else target
        hits += normalize_answer(prediction) in {normalize_answer(answer) for answer in answers}
    return {"exact_match": 100.0 * hits / len(targets)}


def bleu(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns sacrebleu's corpus BLEU (Papineni et al., 2002; Post, 2018), default signature.

    Outputs of fewer than four words have no 4-grams: score such a task by `exact_match`.
    """
    # Imported on use: only translation needs it.
    import sacrebleu

    _check_lengths(targets, predictions)
    return {"bleu": sacrebleu.corpus_bleu(list(predictions), [list(targets)]).score}


def rouge2(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the mean ROUGE-2 F1 (Lin, 2004) with Porter stemming, as rouge-score counts it."""
    # Imported on use: it loads nltk, which takes seconds.
    from rouge_score import rouge_scorer

    _check_lengths(targets, predictions)
    scorer = rouge_scorer.RougeScorer(["rouge2"], use_stemmer=True)
    scores = [
        scorer.score(target, prediction)["rouge2"].fmeasure
        for target, prediction in zip(targets, predictions, strict=True)
    ]
    return {"rouge2": 100.0 * sum(scores) / len(scores)}


def label_share(predictions: Sequence[str], labels: Collection[str]) -> float:
    """Returns the per cent of outputs that are one of the labels (the paper's Figure 2).

    White space around an output and punctuation after it do not count; "True story" is no label.
    This is how far a model answers other tasks in the format of the one it was tuned on.

    Args:
      predictions: the outputs on another task.
      labels: the target task's labels, for instance `("True", "False")`.
    """
    _check_lengths(predictions, predictions)
    outputs = collections.Counter(
        prediction.strip().rstrip(string.punctuation + string.whitespace)
        for prediction in predictions
    )
    return 100.0 * sum(outputs[label] for label in labels) / len(predictions)
