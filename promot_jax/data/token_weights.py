"""What the losses of a row's targets are multiplied by, found in its text before training.

It is found where rows become tokens, so that a span of text may be several tokens, or a part of
one: a token that shares a character with the span has the weight of it.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from promot_jax.base import values
from promot_jax.base.errors import UserError
from promot_jax.data.tasks import Row, Tokens
from promot_jax.data.vocabularies import Vocabulary

Span = tuple[int, int]


class TokenWeights(Protocol):
    """Weights of the targets of a row."""

    def __call__(self, row: Row, tokens: Tokens, words: Vocabulary) -> np.ndarray:
        """Returns the weight of each target, float32 [U].

        Args:
          row: texts.
          tokens: of it.
          words: the vocabulary of these.
        """


@dataclasses.dataclass(frozen=True)
class ByPattern:
    """Targets in what a pattern finds count as much together as all others (Ye et al. 2024).

    Of n targets and k found ones, a found one weighs `min((n - k) / k, most)`. Then all are divided
    by their mean, so that rows count as they did.

    Attributes:
      pattern: regular expression, searched in the text of the targets.
      most: largest weight before the division.
    """

    pattern: values.Pattern
    most: values.Positive = 9.0

    def __post_init__(self):
        values.check_fields(self)

    def __call__(self, row: Row, tokens: Tokens, words: Vocabulary) -> np.ndarray:
        """See `TokenWeights`."""
        text, places = _places(tokens, words)
        keys = _inside(places, [found.span() for found in re.finditer(self.pattern, text)])
        count = keys.sum()
        weights = np.ones(len(keys), np.float32)
        if 0 < count < len(keys):
            weights[keys] = min((len(keys) - count) / count, self.most)
        return weights / weights.mean()


@dataclasses.dataclass(frozen=True)
class Given:
    """Weights that rows bring, as those of critical tokens do (Lin et al. 2024).

    Attributes:
      column: of a row: pairs of a text and its weight, in the order in which the texts stand in the
        targets. What stands in none has the weight 1.
    """

    column: values.Text = "token_weights"

    def __post_init__(self):
        values.check_fields(self)

    def __call__(self, row: Row, tokens: Tokens, words: Vocabulary) -> np.ndarray:
        """See `TokenWeights`.

        Raises:
          UserError: a row of chat or without the column, or a text that is not in its targets.
        """
        if "messages" in row:
            raise UserError(
                "given_weights reads rows that templates fill, not rows of chat; leave it out"
            )
        if self.column not in row:
            raise UserError(
                f"a row has no column {self.column!r}; it has {', '.join(sorted(row))}; give each "
                "row a list of pairs of a text and its weight"
            )
        text, places = _places(tokens, words)
        weights, begin = np.ones(len(places), np.float32), 0
        for part, weight in row[self.column]:
            begin = text.find(part, begin)
            if begin < 0:
                raise UserError(
                    f"{self.column}: {part!r} does not stand where it should in the targets "
                    f"{text[:60]!r}; give texts in their order"
                )
            weights[_inside(places, [(begin, begin + len(part))])] = weight
            begin += len(part)
        return weights


def _places(tokens: Tokens, words: Vocabulary) -> tuple[str, list[Span]]:
    """Returns the text of targets and where each of these stands in it."""
    ids = tokens.targets.tolist()
    ends = [0, *(len(words.decode(ids[: i + 1])) for i in range(len(ids)))]
    if ids and ids[-1] == words.eos_id:
        # The end of the sequence is no text.
        ids.pop()
        ends[-1] = ends[-2]
    return words.decode(ids), list(itertools.pairwise(ends))


def _inside(places: Iterable[Span], spans: Iterable[Span]) -> np.ndarray:
    """Returns which places share a character with one of the spans, bool [U]."""
    spans = list(spans)
    return np.array([any(max(a, c) < min(b, d) for c, d in spans) for a, b in places], dtype=bool)
