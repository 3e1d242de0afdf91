"""Files of rows: JSON, CSV, TSV, Parquet or Arrow; each record with the place to name it by.

Numbers of JSON are kept as they are written. Lines of JSON, Parquet and Arrow are never in memory
as a whole.
"""

import collections
import functools
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from promot_jax.base.errors import UserError, first_line
from promot_jax.tasks import row_arrow, row_tables, row_texts

# A place to name in a complaint, and the fields of a row.
Record = tuple[str, dict[str, object]]

_HINT = "write one JSON object a line"
_SPACE = re.compile(r"[ \t\r\n]*+")


def records(path: str) -> Iterator[Record]:
    """Yields the rows of a file, by its suffix.

    Raises:
      UserError: a suffix without reader, or a file or line that cannot be read.
    """
    stem, suffix = os.path.splitext(path.lower())
    packed = suffix == ".gz"
    if packed:
        suffix = os.path.splitext(stem)[1]
    if suffix not in READERS or (packed and suffix in (".parquet", ".arrow")):
        found = suffix or "no suffix"
        raise UserError(f"{path}: no reader for {found}; use {', '.join(READERS)}")
    try:
        yield from READERS[suffix](path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or first_line(error)}") from None


def _json_lines(path: str) -> Iterator[Record]:
    """Yields objects that stand in lines, over several lines, or in a list."""
    begin = next((block for block in row_texts.blocks(path) if block.strip()), "").lstrip()
    if begin.startswith("["):
        yield from _json_list(path, "".join(row_texts.blocks(path)))
        return
    if begin.startswith("{"):
        first = next(line for line in row_texts.lines(path) if line.strip()).strip()
        if not _is_json(first):
            text = "".join(row_texts.blocks(path))
            if _spans_lines(text, first):
                yield from _json_objects(path, text)
                return
            del text
    scan = _DECODER.scan_once
    for number, line in enumerate(row_texts.lines(path), 1):
        if line := line.strip("\ufeff \t\r"):
            where = f"{path}, line {number}"
            try:
                record, end = scan(line, 0)
                whole = end == len(line) and type(record) is dict
            except (ValueError, StopIteration, RecursionError):
                whole = False
            # Only what is wrong takes the way that says what.
            yield where, record if whole else _object(where, _DECODER.decode, line)


def _json(path: str) -> Iterator[Record]:
    """Yields objects as `_json_lines` does; of one object with one list of objects, these."""
    rows = _json_lines(path)
    first = list(itertools.islice(rows, 2))
    if len(first) == 1:
        ((where, whole),) = first
        lists = [name for name, value in whole.items() if _are_objects(value)]
        if len(lists) == 1:
            (name,) = lists
            yield from ((f"{path}, {name}[{i}]", row) for i, row in enumerate(whole[name]))
            return
        if _are_columns(list(whole.values())):
            raise UserError(f"{where}: columns, not rows; {_HINT} (pandas: orient='records')")
    yield from itertools.chain(first, rows)


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _are_columns(values: list) -> bool:
    if all(isinstance(value, list) for value in values):
        lengths = {len(value) for value in values}
        return len(lengths) == 1 and max(lengths) > 1
    return all(isinstance(value, dict) and "0" in value for value in values)


def _is_json(line: str) -> bool:
    try:
        _DECODER.decode(line)
    except (ValueError, RecursionError):
        return False
    return True


def _spans_lines(text: str, first: str) -> bool:
    """Returns whether the first object of a text goes on after its first line, which is cut off."""
    try:
        _, end = _DECODER.raw_decode(text, text.index("{"))
    except (ValueError, RecursionError):
        return False
    return len(text[:end].strip()) > len(first)


def _json_objects(path: str, text: str) -> Iterator[Record]:
    """Yields objects that follow each other."""
    place, at = _places(path, text), 0
    while (at := _SPACE.match(text, at).end()) < len(text):
        where = place(at)
        record, at = _object(where, _DECODER.raw_decode, text, at)
        yield where, record


def _json_list(path: str, text: str) -> Iterator[Record]:
    """Yields the objects of a list."""
    place, at = _places(path, text), text.index("[") + 1
    if text.startswith("]", _SPACE.match(text, at).end()):
        return
    while True:
        at = _SPACE.match(text, at).end()
        where = place(at)
        record, at = _object(where, _DECODER.raw_decode, text, at)
        yield where, record
        at = _SPACE.match(text, at).end()
        if not text.startswith(",", at):
            break
        at += 1
    end = _SPACE.match(text, at + 1).end()
    if text[at : at + 1] != "]" or end < len(text):
        where = place(at if text[at : at + 1] != "]" else end)
        raise UserError(f"{where}: the list of rows ends with one ], and commas divide its objects")


def _places(path: str, text: str) -> Callable[[int], str]:
    """Returns what names the place of a character, for characters that come one after the other."""
    line, counted = 1, 0
    end = "\n" if "\n" in text else "\r"

    def place(at: int) -> str:
        nonlocal line, counted
        line, counted = line + text.count(end, counted, at), at
        return f"{path}, line {line}"

    return place


def _object(where: str, decode: Callable[..., Any], *arguments) -> Any:
    """Returns what a decoder makes of its arguments: an object, or an object and where it ends.

    Raises:
      UserError: something else.
    """
    try:
        found = decode(*arguments)
    except RecursionError:
        raise UserError(f"{where}: nested too deeply; {_HINT}") from None
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({first_line(error)}); {_HINT}") from None
    if not isinstance(found[0] if isinstance(found, tuple) else found, dict):
        raise UserError(f"{where}: no JSON object; {_HINT}")
    return found


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((name, _), *_) = collections.Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{name!r} twice in an object")
    return found


class Number(str):
    """A number of JSON, as it is written."""

    __slots__ = ()


# Of numbers their texts are kept; NaN and the infinities, which JSON does not have, are floats.
_DECODER = json.JSONDecoder(
    parse_float=Number, parse_int=Number, parse_constant=float, object_pairs_hook=_once
)


def _table(path: str, read: Callable[[str, str], Iterator[Record]]) -> Iterator[Record]:
    return read(path, "".join(row_texts.blocks(path)))


READERS = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": functools.partial(_table, read=row_tables.comma_separated),
    ".tsv": functools.partial(_table, read=row_tables.tab_separated),
    ".parquet": row_arrow.parquet,
    ".arrow": row_arrow.stream,
}
