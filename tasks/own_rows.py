"""One file of a person's rows, filled into templates: read and checked once, then kept on disk.

Rows stand in the order of their digests. What is asked of all rows at once is found on the way and
kept with them: labels, and the rule by which outputs are cut.
"""

import functools
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

import numpy as np

from promot_jax.base import collector
from promot_jax.base.errors import UserError
from promot_jax.data import row_store
from promot_jax.data.metrics import Metric
from promot_jax.data.row_store import Stored
from promot_jax.tasks import chat_files, row_sets, row_templates, row_weights, templates
from promot_jax.tasks.row_files import Record

# Of what is kept; another number is written anew.
VERSION = 1
# How outputs are cut, the strictest first: what one leaves as it is, those behind it do, too.
RULES = (templates.first_label, templates.first_line, templates.extract_answer, str.strip)
# Bytes of a digest, and of its part that decides the order.
DIGEST, KEY = 32, 8

# Rows that are looked at together, and bytes of digests that are written together.
_CHUNK = 4096
# Seconds in which a file may change without another time of change.
_COARSE = 2


class OwnRows:
    """The rows of a file in their order; `rows[i]` has `inputs`, `targets` and `answers`.

    One of chat has `messages` too, and `tools` if there are any; others may have a column more.
    """

    def __init__(self, stored: Stored, first: int = 0, step: int = 1):
        """Takes what `read` keeps: every `step`-th row from `first` on."""
        self._stored, self._first, self._step = stored, first, step
        self._length = len(range(first, len(stored), step))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int, /) -> dict[str, Any]:
        return _row(*self._stored[self._place(number)])

    def many(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Returns the rows of some numbers that follow each other, sooner than one by one."""
        places = self._order[self._first :: self._step][start:stop]
        return _rows(self._stored.many(places))

    def at(self, numbers: np.ndarray) -> list[dict[str, Any]]:
        """Returns rows by their numbers, int64 [n], each at least 0, sooner than one by one."""
        return _rows(self._stored.many(self._order[self._first :: self._step][numbers]))

    def key(self, number: int) -> int:
        """Returns the beginning of a row's digest as a number."""
        start = DIGEST * self._place(number)
        return int.from_bytes(self._digests[start : start + KEY].tobytes(), "big")

    def keys(self, start: int, stop: int) -> np.ndarray:
        """Returns `key` of rows that follow each other: uint64 [rows]."""
        places = self._order[self._first :: self._step][start:stop]
        return _keys(self._digests.reshape(-1, DIGEST)[places])

    def digests(self) -> Iterator[bytes]:
        """Yields the digests of all rows, many at a time."""
        digests, places = self._digests.reshape(-1, DIGEST), self._order[self._first :: self._step]
        for start in range(0, len(places), _CHUNK):
            yield digests[places[start : start + _CHUNK]].tobytes()

    def every(self, step: int, first: int) -> "OwnRows":
        """Returns every `step`-th of all rows from `first` on."""
        return OwnRows(self._stored, first, step)

    def answers(self) -> Iterator[list[str]]:
        """Yields the right answers of all rows of the file, many at a time, each once."""
        if (labels := self.labels) is not None:
            yield list(labels)
            return
        for start in range(0, len(self._stored), _CHUNK):
            chunk = np.arange(start, min(start + _CHUNK, len(self._stored)))
            found = self._stored.many(chunk)
            yield list(dict.fromkeys(answer for _, _, answers, *_ in found for answer in answers))

    @property
    def labels(self) -> list[str] | None:
        """The labels of all rows of the file, where they are those of classes."""
        return self._stored.facts["labels"]

    @property
    def rule(self) -> int:
        """The first of `RULES` that leaves all answers of the file as they are."""
        return self._stored.facts["rule"]

    def _place(self, number: int) -> int:
        length = self._length
        if not -length <= number < length:
            raise IndexError(f"row {number} of {length}")
        return int(self._order[self._first + self._step * (number % length)])

    # They are opened when they are needed, and do not travel to other processes.
    @functools.cached_property
    def _order(self) -> np.ndarray:
        return self._stored.array("order")

    @functools.cached_property
    def _digests(self) -> np.ndarray:
        return self._stored.bytes_of("digests")

    def __getstate__(self) -> dict[str, Any]:
        lazy = {"_order", "_digests"}
        return {name: value for name, value in self.__dict__.items() if name not in lazy}


def _row(
    inputs: str, targets: str, answers: list[str], more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    return {"inputs": inputs, "targets": targets, "answers": answers, **(more or {})}


def _rows(stored: Sequence[list[Any]]) -> list[dict[str, Any]]:
    """Returns what `_row` does of each of a file's rows: all have more, or none has."""
    if stored and len(stored[0]) > 3:
        return [_row(*found) for found in stored]
    return [{"inputs": i, "targets": t, "answers": answers} for i, t, answers in stored]


def read(
    path: str,
    template: str,
    target: str,
    metric: Metric,
    chat: chat_files.Filled | None = None,
    weights: str | None = None,
) -> OwnRows:
    """Returns the rows of a file, or of one split of a data set.

    Args:
      path: of the file, or split.
      template, target: texts with fields in braces.
      metric: by which answers are scored.
      chat: makes rows of chat, in place of the two texts.
      weights: column of weights that rows keep if they have it, see `row_weights`.

    Raises:
      UserError: a file, a line or a template that cannot be used, or a file without rows.
    """
    filled = chat or row_templates.Templates(template, target, metric.several_answers)
    about = [template, target, metric.several_answers, metric.classes]
    about += chat.about if chat else []
    if weights and not chat:
        filled = row_weights.Weighted(filled, weights)
        about.append(weights)

    def write(writer: row_store.Writer) -> Mapping[str, Any]:
        rows = map(filled.rows, _chunks(row_sets.records(path)))
        return _write(path, rows, metric.classes, writer)

    key = row_store.fingerprint("files", VERSION, *about, _settled_stamp(path))
    return OwnRows(row_store.cached(key, write))


def strictest(answers: Iterable[str], rule: int = 0) -> int:
    """Returns the first of `RULES`, from one of them on, that leaves all answers as they are."""
    for answer in answers:
        while RULES[rule](answer) != answer:
            rule += 1
    return rule


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yields records many at a time, those before one that cannot be read before its error."""
    chunk = []
    try:
        for record in records:
            chunk.append(record)
            if len(chunk) == _CHUNK:
                yield chunk
                chunk = []
    except UserError:
        yield chunk
        raise
    yield chunk


@collector.paused()
def _write(
    path: str, chunks: Iterable[Sequence[Any]], classes: bool, writer: row_store.Writer
) -> Mapping[str, Any]:
    """Writes rows, their digests and their order; returns facts about their answers."""
    labels: set[str] = set()
    rule, count = 0 if classes else 1, 0
    for chunk in chunks:
        lines = [_line(*row) for row in chunk]
        writer.add_json(lines)
        writer.append("digests", b"".join([hashlib.sha256(line).digest() for line in lines]))
        count += len(chunk)
        if classes:
            new = {row.answers[0] for row in chunk} - labels
            labels |= new
            rule = strictest(new, rule)
        else:
            rule = strictest((answer for row in chunk for answer in row.answers), rule)
    if not count:
        raise UserError(f"{path} holds no row; give it at least one")
    writer.save("order", in_order(writer.appended("digests").reshape(-1, DIGEST)))
    return {"labels": sorted(labels) if classes else None, "rule": rule}


def _line(inputs: str, targets: str, answers: Sequence[str], *more: Any) -> bytes:
    """Returns a row as json.dumps writes it: the digests of earlier versions are of these texts."""
    target = quoted(targets)
    # Mostly the answer is the target.
    right = target if answers == (targets,) else ", ".join(map(quoted, answers))
    line = f"[{quoted(inputs)}, {target}, [{right}]"
    for value in more:
        line += f", {json.dumps(value)}"
    return f"{line}]".encode()


def in_order(digests: np.ndarray) -> np.ndarray:
    """Returns the numbers of digests, uint8 [rows, bytes], in ascending order: int64 [rows]."""
    keys = _keys(digests)
    order = np.argsort(keys, kind="stable")
    (equal,) = np.nonzero(keys[order[1:]] == keys[order[:-1]])
    one, other = order[equal], order[equal + 1]
    if (digests[one] != digests[other]).any():
        # What so many bytes do not tell apart, the others do; it has never been seen.
        return np.array(sorted(range(len(digests)), key=lambda i: digests[i].tobytes()), np.int64)
    return order


def _keys(digests: np.ndarray) -> np.ndarray:
    return np.frombuffer(np.ascontiguousarray(digests[:, :KEY]), ">u8").astype(np.uint64)


def _settled_stamp(path: str) -> list[Any]:
    """Returns what tells the content of a file from another one.

    One that has changed a moment ago may change again within the same tick of its clock.
    """
    stamp = row_sets.stamp(path)
    if row_sets.changed(path) < time.time() - _COARSE:
        return [stamp]
    return [stamp, row_sets.digest(path)]
