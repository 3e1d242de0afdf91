"""Rows of Parquet and of Arrow, a few thousand at a time; their files are mapped into memory."""

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from promot_jax.base.errors import UserError, first_line

# Rows that become objects of Python together.
_BATCH = 4096


def parquet(path: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Yields the place and the fields of each row of a Parquet file.

    Raises:
      UserError: no such rows, or a column that there is twice.
    """
    with _read(path, "Parquet"):
        from pyarrow import parquet

        with parquet.ParquetFile(path, memory_map=True) as file:
            names = file.schema_arrow.names
            yield from rows(path, names, file.iter_batches(_BATCH))


def stream(path: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Yields the place and the fields of each row of an Arrow file, streamed or with a footer.

    Raises:
      UserError: as `parquet` does.
    """
    with _read(path, "Arrow"):
        import pyarrow

        with pyarrow.memory_map(path) as file:
            try:
                opened = pyarrow.ipc.open_stream(file)
            except pyarrow.ArrowInvalid:
                whole = pyarrow.ipc.open_file(file)
                batches = map(whole.get_batch, range(whole.num_record_batches))
                yield from rows(path, whole.schema.names, batches)
            else:
                yield from rows(path, opened.schema.names, opened)


def rows(
    path: str, names: Sequence[str], batches: Iterable[Any]
) -> Iterator[tuple[str, dict[str, object]]]:
    """Yields the place and the fields of each row of batches of Arrow columns."""
    if twice := [name for name, n in collections.Counter(names).items() if n > 1]:
        raise UserError(f"{path} has the column {twice[0]!r} twice; rename one")
    numbers = itertools.count(1)
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH):
            columns = [_values(column) for column in batch.slice(start, _BATCH).columns]
            for values in zip(*columns, strict=True):
                yield f"{path}, row {next(numbers)}", dict(zip(names, values, strict=True))


@contextlib.contextmanager
def _read(path: str, kind: str) -> Iterator[None]:
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"{path}: {kind} needs pyarrow; run `pip install pyarrow`") from None
    try:
        yield
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if getattr(error, "errno", None) is not None:
            # Of the system, not of the file's content.
            raise
        raise UserError(
            f"{path} holds no {kind} rows ({first_line(error)}); save it again"
        ) from None


def _values(column) -> list:
    """Returns the values of a column."""
    if str(column.type).startswith(("timestamp[ns", "time64[ns", "duration[ns")):
        # Python itself has no type for them.
        column = column.cast("string")
    values = column.to_pylist()
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
