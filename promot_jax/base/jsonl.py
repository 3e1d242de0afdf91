"""JSON objects, one a line: written whole, and read past what a dying process left cut off.

Lines end with a line feed alone: the texts in them may hold other separators, such as U+2028.
"""

import json
import os
import pathlib
from collections.abc import Sequence

from promot_jax.base import files


def read_lines(path: pathlib.Path) -> list[dict | None]:
    """Returns the object of each line, None for a line that holds no complete one.

    Empty lines at the end are no lines, and a file that is absent has none. Bytes that are no
    UTF-8, as a write that was cut in half leaves them, are replaced.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    while lines and not lines[-1].strip():
        lines.pop()
    return [_record(line) for line in lines]


def read_jsonl(path: pathlib.Path) -> list[dict]:
    """Returns the objects of a file, or none where it is absent; other lines are left out."""
    return [record for record in read_lines(path) if record is not None]


def append_jsonl(path: pathlib.Path, records: Sequence[dict]) -> None:
    """Appends objects to a file and waits until they are on disk.

    A last line that a dying process left incomplete is removed first; one that lacks only its end
    is completed.
    """
    begun = ""
    if path.exists() and (text := path.read_bytes()) and not text.endswith(b"\n"):
        start = text.rfind(b"\n") + 1
        if _record(text[start:]) is None:
            os.truncate(path, start)
        else:
            begun = "\n"
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    with path.open("a", encoding="utf-8") as file:
        file.write(begun + "".join(lines))
        file.flush()
        os.fsync(file.fileno())


def write_jsonl(path: pathlib.Path, records: Sequence[dict]) -> None:
    """Replaces a file by one with these objects, when all of them are on disk."""
    files.write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def _record(line: bytes) -> dict | None:
    """Returns the object of a line, None where it holds no complete one."""
    try:
        record = json.loads(line.decode("utf-8-sig", errors="replace"))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
