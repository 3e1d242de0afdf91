"""New folders and files, which appear under their name only when they are complete."""

import contextlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

from promot_jax.errors import UserError


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives an empty folder to write into, which becomes `path` when the block ends well.

    What an interrupted block leaves is `PATH.partial`; the next attempt removes it.

    Raises:
      UserError: `path` exists, lies in a bucket, or cannot be written.
    """
    final = pathlib.Path(path)
    check_new(final)
    partial = final.with_name(final.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(final)
    except OSError as error:
        raise UserError(f"{final} cannot be written: {error.strerror or error}") from error


def check_new(final: pathlib.Path) -> None:
    """Raises UserError for a folder that `new_folder` would refuse before it writes."""
    if re.match(r"\w+:/", str(final)):
        raise UserError(f"{final}: write to a local folder, then copy it into the bucket")
    if "\0" in str(final):
        raise UserError(f"{str(final)!r} cannot be the name of a folder; choose another")
    if final.exists():
        raise UserError(f"{final} exists already; choose another folder or remove it")


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      UserError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {error}; download it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no JSON object; download it again")
    return content


def write_json(file: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a JSON object as `write_text` does."""
    write_text(file, json.dumps(content, indent=1) + "\n")


def write_text(file: pathlib.Path, text: str) -> None:
    """Writes a UTF-8 text; the file appears, or is replaced, when all of it is on disk."""
    partial = file.with_name(file.name + ".partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)
