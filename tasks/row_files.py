"""Files of rows: JSON, CSV, TSV or Parquet; each record with the place to name it by.

Numbers of JSON are kept as they are written. Texts are UTF-8, or have the byte order mark of
another Unicode encoding, and may be compressed by gzip.
"""

import codecs
import collections
import functools
import gzip
import itertools
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from promot_jax.base.errors import UserError, first_line
from promot_jax.tasks import row_tables

# A place to name in a complaint, and the fields of a row.
Record = tuple[str, dict[str, object]]

_HINT = "write one JSON object a line"
_SPACE = re.compile(r"[ \t\r\n]*+")
# The mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32-LE"),
    (codecs.BOM_UTF32_BE, "UTF-32-BE"),
    (codecs.BOM_UTF16_LE, "UTF-16-LE"),
    (codecs.BOM_UTF16_BE, "UTF-16-BE"),
    (b"", "UTF-8"),
)


def records(path: str) -> Iterator[Record]:
    """Yields the rows of a file, by its suffix.

    Raises:
      UserError: a suffix without reader, or a file or line that cannot be read.
    """
    stem, suffix = os.path.splitext(path.lower())
    packed = suffix == ".gz"
    if packed:
        suffix = os.path.splitext(stem)[1]
    if suffix not in READERS or (packed and suffix == ".parquet"):
        found = suffix or "no suffix"
        raise UserError(f"{path}: no reader for {found}; use {', '.join(READERS)}")
    try:
        yield from READERS[suffix](path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or first_line(error)}") from None


def _text(path: str) -> str:
    """Returns the text of a file.

    Raises:
      UserError: what is not in its encoding, or no text.
    """
    with open(path, "rb") as file:
        found = file.read()
    if path.lower().endswith(".gz"):
        try:
            found = gzip.decompress(found)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(
                f"{path} is not whole gzip data ({first_line(error)}); compress it again"
            ) from None
    mark, encoding = next(pair for pair in _MARKS if found.startswith(pair[0]))
    try:
        text = found[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        lines = row_tables.text_lines(error.object[: error.start].decode(encoding))
        at = len(lines[-1].encode(encoding)) + 1
        raise UserError(
            f"{path}, line {len(lines)}: byte {at} is not {encoding}; save the file in "
            f"{'that encoding' if encoding == 'UTF-8' else 'UTF-8'}"
        ) from None
    if "\0" in text:
        number = len(row_tables.text_lines(text[: text.index("\0")]))
        raise UserError(f"{path}, line {number}: holds a NUL; save the file as UTF-8 text")
    return text


def _json_lines(path: str) -> Iterator[Record]:
    """Yields objects that stand in lines, over several lines, or in a list."""
    text = _text(path)
    lines = row_tables.text_lines(text)
    first = next((line for line in lines if line.strip()), "").strip()
    if first.startswith("["):
        yield from _json_list(path, text)
    elif first.startswith("{") and _spans_lines(text, first):
        yield from _json_objects(path, text)
    else:
        for number, line in enumerate(lines, 1):
            if line := line.strip("\ufeff \t\r"):
                where = f"{path}, line {number}"
                yield where, _object(where, _DECODER.decode, line)


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


def _spans_lines(text: str, first: str) -> bool:
    """Returns whether the first object of a text goes on after its first line."""
    try:
        _DECODER.decode(first)
    except (ValueError, RecursionError):
        try:
            _, end = _DECODER.raw_decode(text, text.index("{"))
        except (ValueError, RecursionError):
            return False
        return len(text[:end].strip()) > len(first)
    return False


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


# Of numbers their texts are kept; NaN and the infinities, which JSON does not have, are floats.
_DECODER = json.JSONDecoder(
    parse_float=str, parse_int=str, parse_constant=float, object_pairs_hook=_once
)


def _table(path: str, read: Callable[[str, str], Iterator[Record]]) -> Iterator[Record]:
    return read(path, _text(path))


def _parquet(path: str) -> Iterator[Record]:
    try:
        # Only these files need it; it comes with tensorflow-datasets.
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path}: Parquet needs pyarrow; run `pip install pyarrow`") from None
    numbers = itertools.count(1)
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if twice := [name for name, n in collections.Counter(names).items() if n > 1]:
                raise UserError(f"{path} has the column {twice[0]!r} twice; rename one")
            for batch in file.iter_batches():
                columns = [_column(column) for column in batch.columns]
                for values in zip(*columns, strict=True):
                    where = f"{path}, row {next(numbers)}"
                    yield where, dict(zip(names, values, strict=True))
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path} holds no Parquet rows ({first_line(error)}); save it again") from (
            None
        )


def _column(column) -> list:
    """Returns the values of a column of Parquet."""
    try:
        values = column.to_pylist()
    except ValueError:
        # Times in nanoseconds, for which Python has no type.
        return column.cast("string").to_pylist()
    short = _shortest(column.type)
    return values if short is None else [short(value) for value in values]


def _shortest(kind) -> Callable[[Any], Any] | None:
    """Returns what gives short floats of an arrow type the value of their shortest decimal.

    0.1 in 32 bits is 0.10000000149011612 in 64, but was 0.1 when it was written. None for a type
    that holds no such numbers.
    """
    from pyarrow import types

    if types.is_float32(kind) or types.is_float16(kind):
        number = np.float32 if types.is_float32(kind) else np.float16
        return lambda value: None if value is None else float(str(number(value)))
    if types.is_struct(kind):
        inner = {field.name: short for field in kind if (short := _shortest(field.type))}
        if inner:
            return lambda value: value and value | {k: f(value[k]) for k, f in inner.items()}
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if is_list and (short := _shortest(kind.value_type)):
        return lambda value: value and [short(v) for v in value]
    return None


READERS = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": functools.partial(_table, read=row_tables.comma_separated),
    ".tsv": functools.partial(_table, read=row_tables.tab_separated),
    ".parquet": _parquet,
}
