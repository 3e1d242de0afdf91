"""Windows of training rows, and how the rows of one become batches.

A window is some hundred rows of the stream that are read and tokenised together, and a fixed number
of batches. Number n of the batches is therefore a function of the seed and n alone, also where rows
are sorted by length: a window holds the same places of the stream whatever the rows before it.

A process reads the rows that its own devices hold. Sorted windows are divided into lanes for that:
a lane is sorted for itself and gives each batch the same number of rows, so that whoever holds some
rows of a batch needs to know their lanes alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from promot_jax.base.values import Count
from promot_jax.data import tasks
from promot_jax.data.order import Order
from promot_jax.data.tasks import Tokens
from promot_jax.data.token_weights import TokenWeights
from promot_jax.data.vocabularies import Vocabulary

# Bytes of tokens that are kept for the next epoch, and what a row takes beside them, about.
MOST, ROW = 2**26, 400

# Longest inputs T and targets U, in tokens.
Bucket = tuple[Count, Count]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The batches of a window.

    Attributes:
      sizes: rows of each batch; of a sorted window, the batch with the longest rows first.
      lanes: into how many parts a sorted window is divided, which divides every size; None where
        rows stay in the order of the stream.
      bounds: lengths by which rows are sorted: first by those that hold a row.
    """

    sizes: Sequence[int]
    lanes: int | None = None
    bounds: Sequence[Bucket] = ()

    @property
    def rows(self) -> int:
        """Rows of a window."""
        return sum(self.sizes)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The training rows of a mixture, as a model reads them.

    Attributes:
      parts: its tasks.
      rows: of each task.
      order: of the stream.
      lengths: longest `inputs` and `targets` of each task, in tokens.
      vocabulary: of the tokens; None takes each task's own.
      weights: what finds, for rows of a task, what the losses of targets are multiplied by.
    """

    parts: Sequence[tasks.Task]
    rows: Sequence[tasks.Rows]
    order: Order
    lengths: Sequence[tasks.Lengths]
    vocabulary: Vocabulary | None
    weights: Mapping[str, TokenWeights] = dataclasses.field(default_factory=dict)
    _kept: "_Kept" = dataclasses.field(default_factory=lambda: _Kept())

    def read(self, begin: int, count: int) -> list[Tokens]:
        """Returns the tokens of the places from `begin` on."""
        return self.at(*self.order(begin, count))

    def at(self, whose: np.ndarray, numbers: np.ndarray) -> list[Tokens]:
        """Returns the tokens of rows that the order names."""
        found: list = [None] * len(whose)
        for task in np.unique(whose).tolist():
            mine = np.flatnonzero(whose == task)
            read = self._of_task(task, numbers[mine].tolist())
            for place, tokens in zip(mine.tolist(), read, strict=True):
                found[place] = tokens
        return found

    def _of_task(self, task: int, numbers: list[int]) -> list[Tokens]:
        known = self._kept.rows.setdefault(task, {})
        missing = [number for number in numbers if number not in known]
        if not missing:
            return [known[number] for number in numbers]
        fresh = dict(zip(missing, self._encoded(task, missing), strict=True))
        found = [known.get(number) or fresh[number] for number in numbers]
        self._kept.add(task, fresh)
        return found

    def _encoded(self, task: int, numbers: list[int]) -> list[Tokens]:
        part, rows = self.parts[task], self.rows[task]
        # Some rows are read sooner many at a time.
        at = getattr(rows, "at", None)
        texts = at(np.array(numbers)) if at else [rows[number] for number in numbers]
        words = self.vocabulary or part.vocabulary()
        encoded = part.encode(texts, words, self.lengths[task])
        if weights := self.weights.get(part.name):
            encoded = [
                tokens._replace(scales=weights(text, tokens, words))
                for text, tokens in zip(texts, encoded, strict=True)
            ]
        return encoded


@dataclasses.dataclass
class _Kept:
    """Rows that were read, which need not be tokenised again in the next epoch.

    Without room no other row is kept: of an epoch that is larger, a part.

    Attributes:
      rows: {task: {number: tokens}}.
      room: bytes that are left.
    """

    rows: dict[int, dict[int, Tokens]] = dataclasses.field(default_factory=dict)
    room: int = dataclasses.field(default_factory=lambda: MOST)

    def add(self, task: int, fresh: Mapping[int, Tokens]) -> None:
        """Keeps rows of a task, as long as there is room."""
        if self.room > 0:
            self.rows[task].update(fresh)
            self.room -= sum(
                ROW + sum(part.nbytes for part in row if part is not None) for row in fresh.values()
            )


class Held(NamedTuple):
    """The rows of a batch that one process holds.

    Attributes:
      whose: numbers of their tasks [B].
      rows: their tokens; None is an empty row.
    """

    whose: np.ndarray
    rows: list[Tokens | None]


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of rows by number: what one process holds of their batches.

    Where the processes do not divide a batch, the last ones hold empty rows.

    Attributes:
      rows: of the mixture.
      layout: of every window.
      seed: decides the order of sorted batches.
      share: (number, count): which of how many equal parts of each batch is held here.
    """

    rows: Rows
    layout: Layout
    seed: int
    share: tuple[int, int]

    def __call__(self, number: int) -> list[Held]:
        """Returns the rows of each batch of a window."""
        begin = number * self.layout.rows
        if self.layout.lanes is None:
            return self._in_order(begin)
        batches = self._sorted(begin)
        # Long batches among short ones.
        shuffled = np.random.SeedSequence([self.seed % 2**32, number])
        return [batches[i] for i in np.argsort(shuffled.generate_state(len(batches)))]

    def _in_order(self, begin: int) -> list[Held]:
        sizes = self.layout.sizes
        whose, numbers = self.rows.order(begin, self.layout.rows)
        starts = np.cumsum([0, *sizes[:-1]]).tolist()
        held = [
            range(start + rows.start, start + rows.stop)
            for start, rows in zip(starts, map(self._held, sizes), strict=True)
        ]
        chosen = np.concatenate(held).astype(int)
        whose = whose[chosen]
        read = self.rows.at(whose, numbers[chosen])
        ends = np.cumsum(list(map(len, held))).tolist()
        parts = zip([0, *ends], ends, sizes, strict=False)
        return [self._filled(whose[a:b], read[a:b], size) for a, b, size in parts]

    def _sorted(self, begin: int) -> list[Held]:
        sizes, lanes = self.layout.sizes, self.layout.lanes
        held = list(map(self._held, sizes))
        # Only lanes of which rows are held here.
        pairs = list(zip(held, sizes, strict=True))
        first = min(rows.start * lanes // size for rows, size in pairs)
        last = max(-(-rows.stop * lanes // size) for rows, size in pairs)
        batches: list = [[] for _ in sizes]
        length = self.layout.rows // lanes
        for lane in range(first, last):
            whose, numbers = self.rows.order(begin + lane * length, length)
            rows = list(zip(whose, self.rows.at(whose, numbers), strict=True))
            rows.sort(key=lambda row: rank(row[1], self.layout.bounds), reverse=True)
            dealt = iter(rows)
            for batch, size in zip(batches, sizes, strict=True):
                batch += [next(dealt) for _ in range(size // lanes)]
        found = []
        for batch, (rows, size) in zip(batches, pairs, strict=True):
            before = first * size // lanes
            mine = batch[rows.start - before : rows.stop - before]
            whose = np.array([task for task, _ in mine], int)
            found.append(self._filled(whose, [tokens for _, tokens in mine], size))
        return found

    def _held(self, size: int) -> range:
        """Returns the rows of a batch that are held here."""
        number, each = self.share[0], self._each(size)
        return range(min(number * each, size), min((number + 1) * each, size))

    def _each(self, size: int) -> int:
        return -(-size // self.share[1])

    def _filled(self, whose: np.ndarray, rows: list, size: int) -> Held:
        """Adds empty rows, so that every process has as many."""
        if missing := self._each(size) - len(rows):
            return Held(np.pad(whose, (0, missing)), rows + [None] * missing)
        return Held(whose, rows)


def rank(row: Tokens, bounds: Sequence[Bucket]) -> tuple[int, int]:
    """Returns by what rows are sorted: the first bound that holds one, and its length."""
    inputs, targets = len(row.inputs), len(row.targets)
    return first_holding((inputs, targets), bounds), inputs + targets


def first_holding(need: Sequence[int], bounds: Sequence[Bucket]) -> int:
    """Returns the number of the first of the bounds that holds `need`; where none does, the last.

    Args:
      need: T and U.
      bounds: shortest first, and the whole lengths at the end.
    """
    fitting = (n for n, (t, u) in enumerate(bounds) if t >= need[0] and u >= need[1])
    return next(fitting, len(bounds) - 1)


def by_tokens(
    sample: Sequence[Sequence[int]],
    bounds: Sequence[Bucket],
    tokens: int,
    multiple: int,
    batches: int,
) -> Layout:
    """Returns the layout of windows whose batches have about as many tokens each.

    Long rows have some more places than the sample has of them, so that a window of slightly longer
    rows still has no batch that is longer than it was meant to be.

    Args:
      sample: T and U of each of some rows of the stream.
      bounds: lengths of batches, and the whole lengths at the end.
      tokens: of a batch, padding included.
      multiple: the rows of a batch are a multiple of this.
      batches: of a window, about.
    """
    sizes = [max(tokens // sum(bound) // multiple, 1) * multiple for bound in bounds]
    counts = np.bincount([first_holding(row, bounds) for row in sample], minlength=len(bounds))
    shares = counts / counts.sum()
    rows = batches / (shares / sizes).sum()
    found: list[int] = []
    longer = 0.0
    for share, size in list(zip(shares, sizes, strict=True))[::-1]:
        if share == 0:
            continue
        longer += share
        # In each lane, and three standard deviations of how many rows of one are as long as this.
        mean = rows / multiple * longer
        needed = multiple * (mean + 3 * np.sqrt(mean * max(1 - longer, 0)))
        found += [size] * max(round_up((needed - sum(found)) / size), 0)
    return Layout(found, multiple, bounds)


def round_up(number: float) -> int:
    """Returns the next whole number."""
    return int(np.ceil(number - 1e-9))
