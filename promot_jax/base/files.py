"""New folders and files, which appear under their name only when they are complete."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from promot_jax.base.errors import UserError

# Bytes of the paths of files in a run folder, beyond its own.
ROOM = 400


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


def home(path: str) -> str:
    """Returns a path with the home folder for a `~` in front; `METRIC=~/FILE` is one, too.

    Raises:
      UserError: `~NAME` of no user, or what cannot be a path.
    """
    if "\0" in path:
        raise UserError(f"{path!r} cannot be the name of a folder or file; choose another")
    before, path = re.fullmatch(r"([\w.-]+=(?=~))?(.*)", path, re.DOTALL).groups()
    if (full := os.path.expanduser(path)).startswith("~"):
        raise UserError(f"{path}: there is no home folder {path.split('/')[0]}; write ./{path}")
    return (before or "") + full


def check_writable(folder: pathlib.Path, name: str) -> None:
    """Checks that a folder, with all that is missing above it, can be made and written into.

    Args:
      folder: need not exist; nothing stays that was not there before.
      name: what a person calls it, such as a flag.

    Raises:
      UserError: it lies in a bucket, has an impossible name, or cannot be written.
    """
    check_local(folder, name)
    try:
        there = next(f for f in (folder.absolute(), *folder.absolute().parents) if f.exists())
        # What lies in it has names of its own.
        longest = os.pathconf(there, "PC_NAME_MAX") - len(".partial")
        if len(os.fsencode(folder.absolute())) > os.pathconf(there, "PC_PATH_MAX") - ROOM:
            raise UserError(f"{name} {_short(folder)}: the path is too long; choose a shorter one")
        if any(len(os.fsencode(part)) > longest for part in folder.parts):
            raise UserError(f"{name} {_short(folder)}: a name in it is too long; choose another")
        if not there.is_dir():
            raise UserError(f"{name} {folder}: {there} is a file, not a folder; choose another")
        os.rmdir(tempfile.mkdtemp(prefix=".promot-", dir=there))
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"{name} {_short(folder)} cannot be written ({why}); choose another folder"
        ) from None


def check_local(path: pathlib.Path, name: str) -> None:
    """Raises UserError for a path in a bucket, or for one that no file can have."""
    text = str(path)
    if re.match(r"\w+:/", text):
        # pathlib has taken one of the slashes.
        raise UserError(
            f"{name} {_short(path).replace(':/', '://', 1)}: write to a local folder, then copy it "
            "into the bucket, or mount the bucket and give its folder"
        )
    if not text.isprintable():
        raise UserError(f"{name} {text!r} cannot be the name of a folder; choose another")


def _short(path: pathlib.Path) -> str:
    text = str(path)
    return text if len(text) <= 100 else f"{text[:60]} … {text[-20:]}"


def check_new(final: pathlib.Path) -> None:
    """Raises UserError for a folder that `new_folder` would refuse before it writes."""
    check_local(final, "folder")
    with contextlib.suppress(OSError):
        if final.exists():
            raise UserError(f"{final} exists already; choose another folder or remove it")
    check_writable(final, "folder")


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
