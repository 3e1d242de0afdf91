"""The metrics of T5's code (t5/evaluation/metrics.py), which the paper's tasks are scored by.

They keep our keys; what they count is T5's to the letter, also where `bleu`, `rouge2` and
`exact_match` are kinder to short texts, other scripts and numbers.
"""

import re
import string
from collections.abc import Sequence

from promot_jax.data.metrics import rouge
from promot_jax.data.metrics.answers import Answers, accepted, check_lengths, matches

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`_", " "))

_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)


def trivia_qa(targets: Sequence[Answers], predictions: Sequence[str]) -> dict[str, float]:
    """Returns T5's `trivia_qa` "em": per cent that equal an answer after TriviaQA's clean-up."""
    return matches(targets, predictions, normalize_trivia_qa)


def normalize_trivia_qa(text: str) -> str:
    """Lower-cases, makes punctuation spaces, drops English articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def squad(targets: Sequence[Answers], predictions: Sequence[str]) -> dict[str, float]:
    """Returns T5's `squad` "em", by which its closed-book WebQuestions is scored."""
    return matches(targets, predictions, normalize_squad)


def normalize_squad(text: str) -> str:
    """As `normalize_trivia_qa`, but ASCII punctuation alone is dropped, with no space for it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_ASCII_PUNCTUATION)).split())


def bleu(targets: Sequence[Answers], predictions: Sequence[str]) -> dict[str, float]:
    """Returns T5's `bleu`: sacrebleu's corpus BLEU of 4-grams, tokenizer `intl`."""
    # Imported on use: only translation needs it.
    import sacrebleu

    check_lengths(targets, predictions)
    references = [accepted(target)[0] for target in targets]
    found = sacrebleu.corpus_bleu(
        list(predictions),
        [references],
        smooth_method="exp",
        smooth_value=0.0,
        tokenize="intl",
        use_effective_order=False,
    )
    return {"bleu": found.score}


def rouge2(targets: Sequence[Answers], predictions: Sequence[str]) -> dict[str, float]:
    """Returns T5's `rouge_mean` "rouge2": the mean F1 of rouge-score without stemming.

    T5's `rouge` gives the median of bootstrap samples of this mean, another number at each call.
    """
    check_lengths(targets, predictions)
    words = rouge.ascii_words
    scores = [
        rouge.f1(words(accepted(target)[0]), words(prediction), 2)
        for target, prediction in zip(targets, predictions, strict=True)
    ]
    return {"rouge2": 100.0 * sum(scores) / len(scores)}
