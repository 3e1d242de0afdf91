"""Texts of files, read a block at a time: encodings, compression, lines.

A file is UTF-8, or has the byte order mark of another Unicode encoding, and may be compressed by
gzip. Only in a text without line feeds do carriage returns end lines.
"""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from promot_jax.base.errors import UserError, first_line

# Bytes that are read together.
BLOCK = 1 << 20
# The mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32-LE"),
    (codecs.BOM_UTF32_BE, "UTF-32-BE"),
    (codecs.BOM_UTF16_LE, "UTF-16-LE"),
    (codecs.BOM_UTF16_BE, "UTF-16-BE"),
    (b"", "UTF-8"),
)


def lines(path: str) -> Iterator[str]:
    """Yields the lines of a file without their ends; raises as `blocks` does."""
    fed, parts = False, []
    for block in blocks(path):
        parts.append(block)
        if "\n" in block:
            fed = True
            *whole, rest = "".join(parts).split("\n")
            yield from whole
            parts = [rest]
    yield from "".join(parts).split("\n" if fed else "\r")


def lines_of(text: str) -> Iterator[str]:
    """Yields the lines of a text without their ends; they are never all in memory."""
    end, at = "\n" if "\n" in text else "\r", 0
    while (found := text.find(end, at)) >= 0:
        yield text[at:found]
        at = found + 1
    yield text[at:]


def blocks(path: str) -> Iterator[str]:
    """Yields the text of a file in parts.

    Raises:
      UserError: what is not in its encoding, is no text, or is damaged.
      OSError: the file cannot be read.
    """
    packed = path.lower().endswith(".gz")
    with gzip.open(path) if packed else open(path, "rb") as file:
        begin = _read(path, file)
        mark, encoding = next(pair for pair in _MARKS if begin.startswith(pair[0]))
        decoder = codecs.getincrementaldecoder(encoding)()
        place, block = _Place(path), begin[len(mark) :]
        while True:
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                place.pass_by(error.object[: error.start].decode(encoding))
                where, begun = place.reached()
                raise UserError(
                    f"{where}: byte {len(begun.encode(encoding)) + 1} is not {encoding}; "
                    f"save the file in {'that encoding' if encoding == 'UTF-8' else 'UTF-8'}"
                ) from None
            if (at := text.find("\0")) >= 0:
                place.pass_by(text[:at])
                where, _ = place.reached()
                raise UserError(f"{where}: holds a NUL; save the file as UTF-8 text")
            place.pass_by(text)
            yield text
            if not block:
                return
            block = _read(path, file)


class _Place:
    """Counts the lines of a text that goes by in parts."""

    def __init__(self, path: str):
        self._path, self._fed = path, 0
        # What there is of the last line.
        self._begun: list[str] = []

    def pass_by(self, text: str) -> None:
        """Counts the lines of the next part."""
        _, feed, rest = text.rpartition("\n")
        if feed:
            self._fed += text.count("\n")
            self._begun = []
        self._begun.append(rest)

    def reached(self) -> tuple[str, str]:
        """Returns the line reached, as it is named, and what there is of it."""
        lines = "".join(self._begun).split("\r" if not self._fed else "\n")
        return f"{self._path}, line {self._fed + len(lines)}", lines[-1]


def _read(path: str, file: BinaryIO) -> bytes:
    try:
        return file.read(BLOCK)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is not whole gzip data ({first_line(error)}); compress it again"
        ) from None
