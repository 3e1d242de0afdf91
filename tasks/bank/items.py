"""An item of the bank, and the draws by which items are made."""

import dataclasses
import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

from promot_jax.tasks.bank.rules import Rule

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Item:
    """A question that a rule judges.

    Attributes:
      kind: short name of its template; with the language it names those that are alike.
      language: in which it is asked.
      asked: the question, one line.
      right: an answer that the rule accepts.
      wrong: three that it refuses.
      rule: judges answers.
      side: of kinds whose answers fall into a few classes, which it is: a label, or whether the
        answer can be known. Exemplars of such a kind show two sides.
    """

    kind: str
    language: str
    asked: str
    right: str
    wrong: tuple[str, str, str]
    rule: Rule
    side: str = ""


class Draw:
    """Choices that look random and that a key decides, the same in every release of Python.

    Of `random` only what is promised to stay is used: seeds of bytes and `random()`.
    """

    def __init__(self, *key: object):
        """Takes what decides the choices."""
        seed = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
        self._random = random.Random(int.from_bytes(seed, "big")).random

    def number(self, low: int, high: int) -> int:
        """Returns a whole number from `low` to `high`, both included."""
        return low + int(self._random() * (high - low + 1))

    def one(self, options: Sequence[T]) -> T:
        """Returns one of the options."""
        return options[self.number(0, len(options) - 1)]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """Returns so many different ones of the options, in an order of their own."""
        left = list(options)
        return [left.pop(self.number(0, len(left) - 1)) for _ in range(count)]


def digest(text: str) -> bytes:
    """Returns what deals out and orders items: a hash of their question."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def others(draw: Draw, options: Sequence[str], right: Sequence[str], count: int = 3) -> list[str]:
    """Returns different options that are none of the right answers, in any case."""
    known = {text.casefold() for text in right}
    left = dict.fromkeys(text for text in options if text.casefold() not in known)
    return draw.some(list(left), count)


def three(*wrong: str) -> tuple[str, str, str]:
    """Returns exactly three wrong answers, the first different ones of those given."""
    first, second, third, *_ = dict.fromkeys(wrong)
    return first, second, third
