"""ROUGE-N (Lin, 2004) of two rows of words, bit for bit as rouge-score computes it.

rouge-score itself loads nltk with all of scipy.stats, which takes longer than jax does.
"""

import collections
import re
from collections.abc import Sequence

_ASCII_WORD = re.compile("[a-z0-9]+")


def ascii_words(text: str) -> list[str]:
    """Returns what rouge-score takes for words: runs of ASCII letters and digits, lower-cased."""
    return _ASCII_WORD.findall(text.lower())


def f1(target: Sequence[str], prediction: Sequence[str], order: int) -> float:
    """Returns the F1 of ROUGE-N, 0 to 1.

    Args:
      target: words that are wanted.
      prediction: words that were said.
      order: N, words that count together.
    """
    wanted, said = _sequences(target, order), _sequences(prediction, order)
    both = (wanted & said).total()
    precision, recall = both / max(said.total(), 1), both / max(wanted.total(), 1)
    return 2 * precision * recall / (precision + recall) if both else 0.0


def _sequences(words: Sequence[str], order: int) -> collections.Counter[tuple[str, ...]]:
    return collections.Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))
