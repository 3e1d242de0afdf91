"""Rows on disk: written once, then any of them is read at once, without the others.

A folder holds

| file | content |
|---|---|
| `rows.jsonl` | one JSON value a line |
| `ends.bin` | int64 [rows]: the byte behind each line |
| `NAME.bin`, `NAME.npy` | bytes and arrays beside them |
| `about.json` | fingerprint, number of rows, sizes of the files, facts |

and appears under its name only when all of it is on disk. Folders of `cached` lie in one place, by
their fingerprints; those that nobody opened for long are removed.
"""

import contextlib
import errno
import hashlib
import json
import mmap
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from promot_jax.base.errors import UserError

# Of what is written here; another number is another store.
FORMAT = 1
# Where `cached` keeps rows.
VARIABLE = "PROMOT_CACHE"
DEFAULT = "~/.cache/promot_jax/rows"

_ROWS, _ENDS, _ABOUT = "rows.jsonl", "ends.bin", "about.json"
# Bytes that are written together.
_BUFFER = 1 << 20
_DAY = 24 * 3600
# Folders of `fingerprint`, whole and in the making.
_NAME = re.compile(r"[0-9a-f]{32}(\.\w+\.partial)?")
# Days after which a folder that nobody opens, or that an interrupted process left, is removed.
_UNUSED, _LEFT = 30, 1


class Stored:
    """Rows that a folder holds, in their order; `stored[i]` reads one.

    Nothing is open before the first row is read. It can be sent to other processes, and be read by
    several threads.

    Attributes:
      folder: where they lie.
      facts: what was written beside them.
    """

    def __init__(self, folder: str | os.PathLike):
        """Opens what `cached` or `Writer` wrote.

        Raises:
          UserError: the folder does not hold whole rows.
        """
        self.folder = pathlib.Path(folder)
        about = _about(self.folder)
        if about is None:
            raise UserError(f"{self.folder} holds no whole rows; remove it, and run again")
        self.facts: Mapping[str, Any] = about["facts"]
        self._length: int = about["rows"]
        self._text: mmap.mmap | bytes | None = None
        self._ends: np.ndarray | None = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int, /) -> Any:
        """Returns a row.

        Raises:
          IndexError: there are fewer.
          UserError: the folder is gone or damaged.
        """
        if not -self._length <= number < self._length:
            raise IndexError(f"row {number} of {self._length}")
        if self._text is None:
            self._open()
        number = int(number) % self._length
        start = int(self._ends[number - 1]) if number else 0
        try:
            # A text is parsed sooner than bytes, whose encoding is guessed.
            return json.loads(self._text[start : int(self._ends[number])].decode())
        except ValueError:
            raise self._damaged() from None

    def many(self, numbers: np.ndarray) -> list[Any]:
        """Returns rows by their numbers, int64 [n], each at least 0; raises as `stored[i]` does."""
        if self._text is None:
            self._open()
        stops = self._ends[numbers].tolist()
        starts = np.where(numbers > 0, self._ends[numbers - 1], 0).tolist()
        lines = [self._text[start:stop] for start, stop in zip(starts, stops, strict=True)]
        try:
            return json.loads(f"[{b','.join(lines).decode()}]")
        except ValueError:
            raise self._damaged() from None

    def array(self, name: str) -> np.ndarray:
        """Returns an array that was written beside the rows, mapped into memory."""
        try:
            return np.load(self.folder / f"{name}.npy", mmap_mode="r")
        except (OSError, ValueError):
            raise self._damaged() from None

    def bytes_of(self, name: str) -> np.ndarray:
        """Returns bytes that were written beside the rows, mapped into memory: uint8 [bytes]."""
        try:
            return _mapped(self.folder / f"{name}.bin", np.uint8)
        except (OSError, ValueError):
            raise self._damaged() from None

    def _open(self) -> None:
        try:
            self._ends = _mapped(self.folder / _ENDS, np.int64)
            with (self.folder / _ROWS).open("rb") as file:
                # It comes last: it says that all is open.
                text = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if self._length else b""
        except (OSError, ValueError):
            raise self._damaged() from None
        self._text = text

    def _damaged(self) -> UserError:
        return UserError(f"{self.folder} is damaged; remove it, and the rows are read again")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_text": None, "_ends": None}


class Writer:
    """Writes rows into a folder, one after the other; only a few are in memory."""

    def __init__(self, folder: pathlib.Path):
        """Takes an empty folder."""
        self.folder = folder
        self._rows = self._size = self._written = 0
        self._lines: list[bytes] = []
        self._ends: list[np.ndarray] = []
        self._files: dict[str, Any] = {}
        for name in (_ROWS, _ENDS):
            self._append(name, b"")

    def add(self, row: Any) -> None:
        """Adds a row: anything that JSON can hold.

        Raises:
          UserError: the disk is full, or cannot be written.
        """
        self.add_json([json.dumps(row).encode()])

    def add_json(self, lines: Sequence[bytes]) -> None:
        """Adds rows that are JSON already, a line each; raises as `add` does."""
        sizes = np.fromiter(map(len, lines), np.int64, len(lines)) + 1
        self._ends.append(self._size + np.cumsum(sizes))
        self._lines += lines
        self._size += int(sizes.sum())
        if self._size - self._written > _BUFFER:
            self._flush()

    def append(self, name: str, content: bytes) -> None:
        """Appends to bytes beside the rows; raises as `add` does."""
        self._append(f"{name}.bin", content)

    def appended(self, name: str) -> np.ndarray:
        """Returns all that was appended under a name, mapped into memory: uint8 [bytes]."""
        return _mapped(self.folder / f"{name}.bin", np.uint8)

    def save(self, name: str, values: np.ndarray) -> None:
        """Writes an array beside the rows; raises as `add` does."""
        with _disk(self.folder), (self.folder / f"{name}.npy").open("wb") as file:
            np.save(file, values, allow_pickle=False)
            _sync(file)

    def finish(self, fingerprint: str, facts: Mapping[str, Any]) -> None:
        """Writes the rest, and what the folder holds; raises as `add` does."""
        self._flush()
        with _disk(self.folder):
            for file in self._files.values():
                _sync(file)
            self.close()
            about = {"format": FORMAT, "fingerprint": fingerprint, "rows": self._rows}
            about["files"] = {file.name: file.stat().st_size for file in self.folder.iterdir()}
            with (self.folder / _ABOUT).open("w") as file:
                json.dump(about | {"facts": dict(facts)}, file)
                _sync(file)

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()

    def _append(self, name: str, content: bytes) -> None:
        with _disk(self.folder):
            if name not in self._files:
                self._files[name] = (self.folder / name).open("wb", buffering=0)
            _write(self._files[name], content)

    def _flush(self) -> None:
        self._append(_ROWS, b"\n".join([*self._lines, b""]))
        self._append(_ENDS, b"".join(ends.tobytes() for ends in self._ends))
        self._rows += len(self._lines)
        self._lines, self._ends, self._written = [], [], self._size


def fingerprint(*parts: Any) -> str:
    """Returns what stands for values of JSON: 32 letters and digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def place() -> pathlib.Path:
    """Returns the folder in which `cached` keeps rows."""
    return pathlib.Path(os.environ.get(VARIABLE) or DEFAULT).expanduser()


def holds(fingerprint: str) -> bool:
    """Says whether the rows of a fingerprint lie here."""
    return _about(place() / fingerprint, fingerprint) is not None


def cached(fingerprint: str, write: Callable[[Writer], Mapping[str, Any]]) -> Stored:
    """Returns the rows of a fingerprint, which are written unless they lie here already.

    Processes that write the same at the same time do each other no harm. What is not whole is
    written again.

    Args:
      fingerprint: of all that the rows depend on.
      write: adds the rows to a writer and returns facts about them, as JSON can hold them.

    Raises:
      UserError: the disk is full or cannot be written, or what `write` raises.
    """
    final = place() / fingerprint
    if _about(final, fingerprint) is None:
        with _disk(final.parent):
            final.parent.mkdir(parents=True, exist_ok=True)
            _tidy(final.parent)
            partial = pathlib.Path(
                tempfile.mkdtemp(".partial", f"{fingerprint}.", dir=final.parent)
            )
        try:
            writer = Writer(partial)
            with contextlib.closing(writer):
                writer.finish(fingerprint, write(writer))
            _move(partial, final, fingerprint)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    with contextlib.suppress(OSError):
        # When it was used last, see `_tidy`.
        os.utime(final / _ABOUT)
    return Stored(final)


def _move(partial: pathlib.Path, final: pathlib.Path, fingerprint: str) -> None:
    """Gives a whole folder its name, unless another process was faster."""
    with _disk(final.parent):
        for _ in range(3):
            try:
                partial.rename(final)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            if _about(final, fingerprint) is not None:
                return
            # Of several processes that find it damaged, one moves it away.
            aside = tempfile.mkdtemp(".partial", f"{fingerprint}.", dir=final.parent)
            with contextlib.suppress(FileNotFoundError):
                final.rename(pathlib.Path(aside) / "damaged")
            shutil.rmtree(aside, ignore_errors=True)
        raise OSError(errno.EEXIST, "another process goes on damaging it")


def _about(folder: pathlib.Path, fingerprint: str | None = None) -> dict[str, Any] | None:
    """Returns what a folder says of itself, None where it is not whole or of something else."""
    try:
        about = json.loads((folder / _ABOUT).read_text())
        sizes = {name: (folder / name).stat().st_size for name in about["files"]}
        whole = sizes == about["files"] and sizes[_ENDS] == 8 * about["rows"]
        same = fingerprint is None or about["fingerprint"] == fingerprint
        return about if whole and same and about["format"] == FORMAT else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _tidy(folder: pathlib.Path) -> None:
    """Removes what interrupted processes left, and what nobody has opened for long."""
    for found in folder.iterdir():
        # Whatever else a person keeps here stays.
        if not (name := _NAME.fullmatch(found.name)):
            continue
        left = name[1] is not None
        with contextlib.suppress(OSError):
            changed = [file.stat().st_mtime for file in (found, *found.iterdir())]
            if max(changed) < time.time() - _DAY * (_LEFT if left else _UNUSED):
                shutil.rmtree(found, ignore_errors=True)


@contextlib.contextmanager
def _disk(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # A person knows the place, not the folder in the making.
        folder = folder.parent if folder.suffix == ".partial" else folder
        what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
        raise UserError(
            f"{folder} cannot be written ({what or error.strerror or error}); make room there, or "
            f"set {VARIABLE} to another folder"
        ) from None


def _mapped(file: pathlib.Path, kind: type) -> np.ndarray:
    # Nothing can be mapped of an empty file.
    return np.memmap(file, kind, "r") if file.stat().st_size else np.zeros(0, kind)


def _write(file, content: bytes) -> None:
    # A file without buffer may take a part only.
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


def _sync(file) -> None:
    file.flush()
    os.fsync(file.fileno())
