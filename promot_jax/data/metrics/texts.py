"""Scores of free texts: how much of the target's words a prediction has."""

import collections
import functools
from collections.abc import Callable, Sequence

from promot_jax.data.metrics import rouge, scripts
from promot_jax.data.metrics.answers import Answers, accepted, check_lengths
from promot_jax.data.metrics.t5 import normalize_squad

# Those of sacrebleu that need neither a further package nor a download.
BLEU_TOKENIZERS = ("13a", "intl", "zh", "char", "none")


def bleu(
    targets: Sequence[Answers], predictions: Sequence[str], tokenizer: str | None = None
) -> dict[str, float]:
    """Returns sacrebleu's corpus BLEU (Papineni et al., 2002; Post, 2018).

    Sequences of words are as long as the longest target allows, 4 at most, so that short targets
    can be matched, too; smoothing is sacrebleu's "exp".

    Args:
      targets: one text for each prediction.
      predictions: the predicted texts.
      tokenizer: one of `BLEU_TOKENIZERS`; None goes by the script of the targets: `zh` for Chinese,
        `char` for other scripts without spaces, else `intl`, which is T5's.
    """
    # Imported on use: only translation needs it.
    from sacrebleu.metrics import BLEU

    check_lengths(targets, predictions)
    texts = [accepted(target)[0] for target in targets]
    tokenizer = tokenizer or scripts.bleu_tokenizer(texts)
    order = max(1, *(min(4, count) for count in _word_counts(texts, tokenizer)))
    scorer = BLEU(tokenize=tokenizer, max_ngram_order=order)
    return {"bleu": scorer.corpus_score(list(predictions), [texts]).score}


def _word_counts(texts: Sequence[str], tokenizer: str) -> list[int]:
    from sacrebleu.metrics import BLEU

    split = BLEU(tokenize=tokenizer).tokenizer
    return [len(split(text.rstrip()).split()) for text in texts]


@functools.cache
def bleu_by(tokenizer: str) -> Callable[[Sequence[str], Sequence[str]], dict[str, float]]:
    """Returns `bleu` with one of `BLEU_TOKENIZERS`, under the name `bleu-TOKENIZER`."""
    name = f"bleu-{tokenizer}"

    def score(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
        return {name: bleu(targets, predictions, tokenizer)["bleu"]}

    score.__name__ = name
    return score


def rouge2(targets: Sequence[Answers], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the mean ROUGE-2 F1 (Lin, 2004) without stemming, as rouge-score counts it.

    Words are those of `scripts.words`, of ASCII texts the same as T5's. A target of one word has no
    pair of words and is scored by single words; one without any, such as "☃ ☃", by its parts
    between spaces.
    """
    check_lengths(targets, predictions)
    total = 0.0
    for target, prediction in zip(targets, predictions, strict=True):
        text, split = accepted(target)[0], scripts.words
        if not (wanted := split(text)):
            split = str.split
            wanted = split(text)
        equal = not wanted and not prediction.strip()
        total += equal or rouge.f1(wanted, split(prediction), 2 if len(wanted) > 1 else 1)
    return {"rouge2": 100.0 * total / len(targets)}


def f1(targets: Sequence[Answers], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the mean F1 of words (Rajpurkar et al., 2016), in per cent.

    A prediction counts by the accepted answer that it shares most with. The order of words does
    not count.

    Args:
      targets: for each prediction one answer or several accepted ones.
      predictions: the predicted texts.
    """
    check_lengths(targets, predictions)
    total = sum(
        max(_f1(answer, prediction) for answer in accepted(target))
        for target, prediction in zip(targets, predictions, strict=True)
    )
    return {"f1": 100.0 * total / len(targets)}


def _f1(answer: str, prediction: str) -> float:
    wanted, said = squad_words(answer), squad_words(prediction)
    # Of what has no words nothing is near, as in SQuAD 2.0.
    if not wanted or not said:
        return float(wanted == said)
    return 2 * (wanted & said).total() / (wanted.total() + said.total())


def squad_words(text: str) -> collections.Counter[str]:
    """Returns how often each word stands in a text, by SQuAD's clean-up (`t5.normalize_squad`).

    Words stand between spaces; of scripts without spaces each character is one.
    """
    parts = normalize_squad(text).split()
    return collections.Counter(word for part in parts for word in scripts.divided(part))
