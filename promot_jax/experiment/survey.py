"""One pass over the rows of a split: what is counted of them, and no more is kept.

A row's length counts the end-of-sequence token that closes it.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from promot_jax.base import collector
from promot_jax.data.continuation import continuing
from promot_jax.data.tasks import Encode, Row, Rows
from promot_jax.data.vocabularies import Vocabulary

FEATURES = ("inputs", "targets")
# Lengths that are chosen from the data are multiples of this, and at most `LONGEST`.
MULTIPLE = 8
LONGEST = {"inputs": 1024, "targets": 256}
# Of conversations, whose targets hold what is said between answers too.
LONGEST_CHAT = {"inputs": 1024, "targets": 1024}
# Rows that are in memory together.
_CHUNK = 4096
# Rows that are kept to be shown.
_SHOWN = 3

# Input and target.
Texts = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Tokens of rows: int32 [rows] for each feature, and how many tokens are unknown."""

    lengths: Mapping[str, np.ndarray]
    unknown: int

    @property
    def tokens(self) -> int:
        """All tokens but those that end a sequence."""
        return sum(int(lengths.sum()) - len(lengths) for lengths in self.lengths.values())


@dataclasses.dataclass(frozen=True)
class Survey:
    """What is known of the rows of a split.

    Attributes:
      sizes: their lengths.
      first: the texts of the first few.
      inputs: a hash of each input, int64 [rows], for this process alone.
      targets: how many rows have a target, of the distinct ones that were asked for; without space
        around them.
    """

    sizes: Sizes
    first: Sequence[Texts]
    inputs: np.ndarray
    targets: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.inputs)

    def known(self, other: "Survey") -> int:
        """Returns how many inputs are among those of another split."""
        # Sooner than np.isin, which hashes the hashes.
        known = np.sort(other.inputs)
        places = np.searchsorted(known, self.inputs)
        return int((known.take(places, mode="clip") == self.inputs).sum())


def measure(texts: Sequence[Texts], vocabulary: Vocabulary) -> Sizes:
    """Returns the lengths of texts in tokens of a vocabulary."""
    words = dict(zip(FEATURES, (vocabulary, continuing(vocabulary)), strict=True))
    unknown, lengths = 0, {}
    for feature, column in zip(FEATURES, zip(*texts, strict=True), strict=True):
        # Labels are few.
        places = {text: place for place, text in enumerate(dict.fromkeys(column))}
        where = np.fromiter(map(places.__getitem__, column), np.int64, len(column))
        ids = words[feature].encode_batch(list(places))
        lengths[feature] = np.fromiter(map(len, ids), np.int32, len(ids))[where] + 1
        if (unk := vocabulary.unk_id) is not None:
            counts = np.fromiter((row.count(unk) for row in ids), np.int64, len(ids))
            unknown += int(counts[where].sum())
    return Sizes(lengths, unknown)


def encoded(rows: Sequence[Row], vocabulary: Vocabulary, encode: Encode) -> Sizes:
    """Returns the lengths of rows as they are encoded."""
    found = encode(rows, vocabulary, dict.fromkeys(FEATURES, np.iinfo(np.int32).max))
    unknown = 0
    if vocabulary.unk_id is not None:
        unknown = sum(int((ids == vocabulary.unk_id).sum()) for row in found for ids in row[:2])
    lengths = {name: [len(getattr(row, name)) for row in found] for name in FEATURES}
    return Sizes({name: np.array(found, np.int32) for name, found in lengths.items()}, unknown)


@collector.paused()
def survey(
    rows: Rows,
    vocabulary: Vocabulary,
    limit: int | None = None,
    most: int | None = None,
    encode: Encode | None = None,
) -> Survey:
    """Looks at the rows of a split.

    Args:
      rows: one at least.
      vocabulary: of the tokens.
      limit: how many rows; None takes all.
      most: distinct targets that are counted, the first; None counts all.
      encode: of rows whose lengths are not those of their texts.
    """
    parts, hashes, first = [], [], []
    targets: collections.Counter[str] = collections.Counter()

    def look(chunk: list[Row]) -> tuple[Sizes, list[Texts]]:
        texts = [(row["inputs"], row["targets"]) for row in chunk]
        sizes = measure(texts, vocabulary) if encode is None else encoded(chunk, vocabulary, encode)
        return sizes, texts

    for sizes, texts in _meanwhile(look, chunks(rows, limit)):
        first = first or texts[:_SHOWN]
        parts.append(sizes)
        hashes.append(np.fromiter((hash(inputs) for inputs, _ in texts), np.int64, len(texts)))
        for target, count in collections.Counter(target.strip() for _, target in texts).items():
            if target in targets or most is None or len(targets) < most:
                targets[target] += count
    return Survey(joined(parts), first, np.concatenate(hashes), targets)


def _meanwhile(make: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yields `make(item)` of each item, made by a thread while the next item is read."""
    with futures.ThreadPoolExecutor(1) as thread:
        last = None
        for item in items:
            last, made = thread.submit(make, item), last
            if made is not None:
                yield made.result()
        if last is not None:
            yield last.result()


def chunks(rows: Rows, limit: int | None = None) -> Iterator[list[Row]]:
    """Yields rows in their order, a few thousand at a time; `limit` as in `survey`."""
    count = len(rows) if limit is None else min(limit, len(rows))
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        if hasattr(rows, "many"):
            yield rows.many(start, stop)
        else:
            yield [rows[number] for number in range(start, stop)]


def joined(sizes: Sequence[Sizes]) -> Sizes:
    """Returns the sizes of all rows of several groups, one at least."""
    lengths = {f: np.concatenate([part.lengths[f] for part in sizes]) for f in FEATURES}
    return Sizes(lengths, sum(part.unknown for part in sizes))


def fitting(sizes: Sequence[Sizes], longest: Mapping[str, int] = LONGEST) -> dict[str, int]:
    """Returns the feature lengths that hold every row, as far as `longest` allows."""
    return {
        feature: min(
            longest[feature],
            MULTIPLE * math.ceil(max(s.lengths[feature].max() for s in sizes) / MULTIPLE),
        )
        for feature in FEATURES
    }
