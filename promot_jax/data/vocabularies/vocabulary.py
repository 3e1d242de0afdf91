"""What every vocabulary can do, and how its file is read."""

import abc
import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

from etils import epath

from promot_jax.base.errors import UserError


class Vocabulary(abc.ABC):
    """Texts as token ids. Id 0 is padding; 1 ends a sequence in T5's.

    Attributes:
      extra_ids: tokens that are added behind those of the file.
    """

    pad_id = 0

    def __init__(self, extra_ids: int = 0):
        self._extra_ids = extra_ids or 0

    @property
    def extra_ids(self) -> int:
        """See the class."""
        return self._extra_ids

    @property
    def bos_id(self) -> int | None:
        """Id of the token that begins a text; None where there is none."""
        return None

    @property
    @abc.abstractmethod
    def eos_id(self) -> int | None:
        """Id of the token that ends a sequence."""

    @property
    @abc.abstractmethod
    def unk_id(self) -> int | None:
        """Id of what is unknown; None where nothing is, or where it is a token like others."""

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """The number of ids, `extra_ids` included."""

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without an end of sequence."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text; many are divided over the cores."""
        return [self.encode(text) for text in texts]

    @abc.abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of the ids up to the first end of sequence."""

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """Returns plain data that is equal where texts become the same ids, wherever files lie.

        Raises:
          UserError: the vocabulary's file cannot be read.
        """


def plain_ids(ids: Iterable[int]) -> list[int]:
    """Returns ids, such as those of an array, as a list of Python's integers."""
    return ids.tolist() if hasattr(ids, "tolist") else [int(i) for i in ids]


def read(path: str) -> bytes:
    """Returns the content of a vocabulary's file, local or remote.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    file = epath.Path(path)
    try:
        return file.read_bytes()
    except Exception as error:  # of local and remote file systems
        reason = "is unreadable" if _exists(file) else "does not exist"
        raise UserError(f"vocabulary {path} {reason}; check its path") from error


def _exists(file: epath.Path) -> bool:
    try:
        return file.exists()
    except Exception:  # of remote file systems
        return True


def write(folder: str | os.PathLike, name: str, content: bytes) -> None:
    """Writes a vocabulary's file into a folder, local or remote, which need not exist."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def digest(content: bytes) -> str:
    """Returns what tells contents of files apart."""
    return hashlib.sha256(content).hexdigest()
