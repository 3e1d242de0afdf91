"""Files of rows: JSON lines, CSV, TSV or Parquet; each record with the place to name it by."""

import collections
import csv
import functools
import itertools
import json
import os
from collections.abc import Iterator

from promot_jax.errors import UserError, first_line

# A place to name in a complaint, and the fields of a row.
Record = tuple[str, dict[str, object]]


def _lines(path: str) -> Iterator[tuple[str, str]]:
    """Yields the place and text of each line."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            try:
                yield where, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{where}: byte {error.start + 1} is not UTF-8; save the file in that encoding"
                ) from None


def _json_lines(path: str) -> Iterator[Record]:
    blank = None
    for where, line in _lines(path):
        if not line.strip():
            blank = blank or where
            continue
        if blank:
            raise UserError(f"{blank}: empty; remove the line")
        hint = "write one JSON object a line"
        try:
            record = json.loads(line)
        except RecursionError:
            raise UserError(f"{where}: nested too deeply; {hint}") from None
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({first_line(error)}); {hint}") from None
        if not isinstance(record, dict):
            raise UserError(f"{where}: no JSON object; {hint}")
        yield where, record


def _table(path: str, delimiter: str) -> Iterator[Record]:
    reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    header: list[str] = []
    start = 1
    try:
        for cells in reader:
            where, start = f"{path}, line {start}", reader.line_num + 1
            if not header:
                header = cells
                twice = [name for name, count in collections.Counter(header).items() if count > 1]
                if not header or twice:
                    what = f"has {twice[0]!r} twice" if twice else "is empty"
                    raise UserError(f"{where}: {what}; the first line names the columns")
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{where}: {len(cells)} columns, the first line names {len(header)} "
                    f"({', '.join(header)}); quote texts that hold {delimiter!r}"
                )
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {start}: {error}; close every quote") from None


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
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    yield f"{path}, row {next(numbers)}", record
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path} holds no Parquet rows ({first_line(error)}); save it again") from (
            None
        )


READERS = {
    ".jsonl": _json_lines,
    ".json": _json_lines,
    ".csv": functools.partial(_table, delimiter=","),
    ".tsv": functools.partial(_table, delimiter="\t"),
    ".parquet": _parquet,
}


def records(path: str) -> Iterator[Record]:
    """Yields the rows of a file, by its suffix.

    Raises:
      UserError: a suffix without reader, or a file or line that cannot be read.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in READERS:
        raise UserError(f"{path}: no reader for {suffix or 'no suffix'}; use {', '.join(READERS)}")
    try:
        yield from READERS[suffix](path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or first_line(error)}") from None
