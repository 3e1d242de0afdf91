"""Tasks and mixtures by name: where rows are, how they become tokens, how answers are scored.

A task is defined once, in plain Python. Everything here reads it as it is; `seqio_tasks` shows the
same task to seqio, for T5X. A name that only seqio knows is read through `foreign`.
"""

import dataclasses
import difflib
import functools
import importlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from promot_jax.base.errors import UserError
from promot_jax.data import after_import
from promot_jax.data.continuation import continuing
from promot_jax.data.vocabularies import Vocabulary

# What a row has at least: the texts `inputs` and `targets`. `answers` are several right ones.
Row = Mapping[str, Any]
# Longest `inputs` and `targets`, in tokens.
Lengths = Mapping[str, int]


class Rows(Protocol):
    """Rows in a fixed order, any of which can be read at once; a list is such."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Row: ...


class Source(Protocol):
    """Where the rows of a task come from.

    Attributes:
      splits: their names.
      origin: where the rows are from, in a few words.
    """

    splits: Sequence[str]
    origin: str

    def rows(self, split: str) -> Rows:
        """Returns the rows of one of the splits; nothing is read before."""


class Tokens(NamedTuple):
    """A row as a model reads it.

    Attributes:
      inputs: int32 [T], with the end of sequence that closes them.
      targets: int32 [U], likewise.
      weights: int32 [U], 1 for a target that counts in the loss; None where all do.
      scales: float32 [U], what its loss is multiplied by; None is 1, see `token_weights`.
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray | None = None
    scales: np.ndarray | None = None


def encode_texts(rows: Sequence[Row], vocabulary: Vocabulary, lengths: Lengths) -> list[Tokens]:
    """Encodes texts in one go; each ends with the end of sequence, after it is cut to its length.

    Targets go on from inputs, see `continuing`.
    """
    encoded = []
    for feature, words in (("inputs", vocabulary), ("targets", continuing(vocabulary))):
        most, end = lengths[feature] - 1, words.eos_id
        texts = words.encode_batch([row[feature] for row in rows])
        cut = [[*ids[:most], end] for ids in texts]
        ends = [0, *itertools.accumulate(map(len, cut))]
        # One array and views of it cost less than an array a row.
        ids = np.fromiter(itertools.chain.from_iterable(cut), np.int32, ends[-1])
        encoded.append([ids[start:stop] for start, stop in itertools.pairwise(ends)])
    return list(map(Tokens, *encoded))


# (rows, vocabulary, lengths) -> tokens of each row, none longer than `lengths`.
Encode = Callable[[Sequence[Row], Vocabulary, Lengths], list[Tokens]]
# (output, *, example, is_target) -> what the output answers; of a target, what is right.
Postprocess = Callable[..., Any]


def as_it_is(output: str, **_unused: object) -> str:
    """Returns an output or a target unchanged."""
    return output


@dataclasses.dataclass(frozen=True)
class FromFunction:
    """Rows that a function returns; it is called once for each split, when that is first read.

    Attributes:
      read: returns the rows of a split.
      splits, origin: see `Source`.
    """

    read: Callable[[str], Sequence[Row]]
    splits: Sequence[str] = ("train", "validation", "test")
    origin: str = "a function"

    def rows(self, split: str) -> Rows:
        """See `Source`."""
        return _called(self.read, split)


@functools.cache
def _called(read: Callable[[str], Sequence[Row]], split: str) -> Sequence[Row]:
    return read(split)


@dataclasses.dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
      name: by which experiments name it.
      source: its rows.
      postprocess: of outputs and targets, called with the row as `example`. One with a method
        `written_by` is told how a model's vocabulary writes texts.
      metric_fns: each takes targets and predictions and returns {name: score}.
      vocabulary: returns its own, by which it is shown where no model brings one.
      encode: how rows become tokens.
    """

    name: str
    source: Source
    postprocess: Postprocess
    metric_fns: tuple[Callable[..., dict[str, float]], ...]
    vocabulary: Callable[[], Vocabulary]
    encode: Encode = encode_texts

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.source.splits)

    def rows(self, split: str) -> Rows:
        """Returns the rows of a split.

        Raises:
          UserError: there is no such split, or its rows cannot be read.
        """
        if split not in self.splits:
            known = ", ".join(self.splits)
            raise UserError(f"task {self.name!r} has no split {split!r}; it has {known}")
        return self.source.rows(split)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Tasks whose rows are mixed.

    Attributes:
      name: by which experiments name it.
      rates: {task: how often its rows are drawn, beside the others'}.
    """

    name: str
    rates: Mapping[str, float]


class Elsewhere(Protocol):
    """A place that has tasks and mixtures of its own."""

    def names(self) -> Iterable[str]:
        """Returns their names."""

    def get(self, name: str, /) -> Task | Mixture | None:
        """Returns one, None where there is none of this name."""


_registered: dict[str, Task | Mixture] = {}
# Where else tasks are, see `foreign`.
_elsewhere: list[Elsewhere] = []
# Called with each task and mixture that is added from now on, see `seqio_tasks`.
_watchers: list[Callable[[Task | Mixture], None]] = []


def add(found: Task | Mixture) -> None:
    """Registers a task or mixture; one of the same name is replaced."""
    _registered[found.name] = found
    for watcher in _watchers:
        watcher(found)


def watch(watcher: Callable[[Task | Mixture], None]) -> None:
    """Calls a function with everything that is registered, now and later."""
    _watchers.append(watcher)
    for found in list(_registered.values()):
        watcher(found)


def names() -> list[str]:
    """Returns all registered names of ours, sorted."""
    return sorted(_registered)


def known() -> list[str]:
    """Returns all names that `get` finds, sorted."""
    return sorted({*_registered, *(name for place in _elsewhere for name in place.names())})


def look_also(place: Elsewhere) -> None:
    """Lets names that are not registered here be looked up in another place, too."""
    _elsewhere.append(place)


def get(name: str) -> Task | Mixture:
    """Returns what is registered under a name, by ourselves or by seqio.

    Raises:
      UserError: nothing is.
    """
    if name in _registered:
        return _registered[name]
    for place in _elsewhere:
        if (found := place.get(name)) is not None:
            return found
    near = difflib.get_close_matches(name, known(), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"no task or mixture is registered as {name!r}{hint}")


def task(name: str, vocabulary: Vocabulary | None = None) -> Task:
    """Returns a task, its post-processing told how a model's vocabulary writes texts.

    Raises:
      UserError: nothing of that name is registered, or it is a mixture.
    """
    found = get(name)
    if isinstance(found, Mixture):
        raise UserError(f"{name} is a mixture; name one of its tasks: {', '.join(found.rates)}")
    if vocabulary is None or not hasattr(found.postprocess, "written_by"):
        return found
    from promot_jax.data import written

    written_by = found.postprocess.written_by(written.Writer(vocabulary))
    return dataclasses.replace(found, postprocess=written_by)


def rates(mixture: str | Mapping[str, float]) -> dict[str, float]:
    """Returns the share of each task in a mixture; of a task, itself alone.

    Args:
      mixture: a registered name, or tasks and how often the rows of each are drawn.

    Raises:
      UserError: nothing of that name is registered.
    """
    if isinstance(mixture, str):
        found = get(mixture)
        given = dict(found.rates) if isinstance(found, Mixture) else {mixture: 1.0}
    else:
        given = dict(mixture)
    return {part: rate / sum(given.values()) for part, rate in given.items()}


def _meet_seqio() -> None:
    # Whoever uses seqio, such as T5X, finds there what is registered here, and the other way round.
    for name in ("seqio_tasks", "foreign"):
        importlib.import_module(f"promot_jax.data.{name}")


after_import.call("seqio", _meet_seqio)
