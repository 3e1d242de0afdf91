"""Signs that answers have taken on the form of a task that a model was tuned on, without labels.

Each compares answers to rows of another task with those that the start model gave to the same rows.
"""

import collections
import json
import statistics
import unicodedata
from collections.abc import Collection, Sequence

import numpy as np

from promot_jax.data.metrics.answers import check_lengths

# Characters of the pieces by which texts are compared.
_PIECE = 3


def signs(
    answers: Sequence[str], before: Sequence[str], targets: Collection[str]
) -> dict[str, float]:
    """Returns how far answers differ from those of the start, by four signs of a leak.

    `target_likeness` is the mean similarity to the nearest training target (0 to 100, see
    `Nearest`) less that of the start's answers; `json` the per cent of answers that are a JSON
    object or array, less the start's; `other_script` the per cent that are mostly in another script
    than the start's answer to the row; `length` the ratio of mean lengths in characters. Equal
    answers give 0, 0, 0 and 1.

    Args:
      answers: of the tuned model.
      before: of the start, to the same rows.
      targets: texts that the model was tuned to answer, at least one.
    """
    check_lengths(before, answers)
    nearest = Nearest(targets)
    likeness, json_share = (
        [statistics.fmean(map(sign, texts)) for texts in (answers, before)]
        for sign in (nearest.similarity, is_json)
    )
    other = [script(one) != script(two) for one, two in zip(answers, before, strict=True)]
    # One more each, so that a start that answers nothing has a ratio, too.
    lengths = [1.0 + statistics.fmean(map(len, texts)) for texts in (answers, before)]
    return {
        "target_likeness": 100.0 * (likeness[0] - likeness[1]),
        "json": 100.0 * (json_share[0] - json_share[1]),
        "other_script": 100.0 * statistics.fmean(other),
        "length": lengths[0] / lengths[1],
    }


class Nearest:
    """Finds how near a text comes to the nearest of some others.

    Texts are compared by the sets of their character trigrams, case folded and with a space at both
    ends: twice the number of shared ones by the sum of both (Dice).
    """

    def __init__(self, texts: Collection[str]):
        """Takes the texts, at least one."""
        self._known: dict[str, float] = {}
        pieces = [_pieces(text) for text in dict.fromkeys(texts)]
        self._sizes = np.array([len(found) for found in pieces])
        holders = collections.defaultdict(list)
        for number, found in enumerate(pieces):
            for piece in found:
                holders[piece].append(number)
        self._holders = {piece: np.array(numbers) for piece, numbers in holders.items()}

    def similarity(self, text: str) -> float:
        """Returns the similarity to the nearest text, from 0 to 1 where they are alike."""
        if text not in self._known:
            found = _pieces(text)
            shared = np.zeros(len(self._sizes))
            for piece in found:
                if piece in self._holders:
                    shared[self._holders[piece]] += 1
            self._known[text] = float((2 * shared / (self._sizes + len(found))).max())
        return self._known[text]


def _pieces(text: str) -> set[str]:
    """Returns the trigrams of a text; one without a character has one of its own."""
    text = f" {' '.join(text.casefold().split())} "
    return {text[i : i + _PIECE] for i in range(max(1, len(text) - _PIECE + 1))}


def is_json(text: str) -> bool:
    """Whether a text is a JSON object or array."""
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def script(text: str) -> str:
    """Returns the script of most letters of a text as Unicode names it, such as "LATIN"; or ""."""
    counts = collections.Counter(
        unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha()
    )
    return counts.most_common(1)[0][0] if counts else ""
