"""Plain text as a task: the second half of each piece of a file is told from the first."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Sequence
from typing import ClassVar

from promot_jax.base.errors import UserError
from promot_jax.data import metrics, tasks
from promot_jax.tasks import mini


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The pieces of a text file, in its order; nothing trains on them, so each split has all.

    Attributes:
      file: UTF-8 text.
      words: words of a piece; what is left at the end of the file is left out.
    """

    file: str
    words: int

    splits: ClassVar[tuple[str, ...]] = ("validation", "test")
    origin: ClassVar[str] = "a text file"

    def rows(self, split: str) -> list[tasks.Row]:
        """Returns the rows of a split.

        Raises:
          UserError: the file cannot be read, or is shorter than one piece.
        """
        del split
        return _rows(self.file, self.words)


def task(file: str | None, words: int = 128) -> str:
    """Registers the pieces of a text file as a task; returns its name.

    Args:
      file: UTF-8 text, such as some articles.
      words: words of a piece, at least 2, told apart by white space.

    Raises:
      UserError: no file, too few words, or what `Pieces.rows` raises.
    """
    if not file:
        raise UserError("NEUTRAL_FILE is not set; name a file of plain text")
    if words < 2:
        raise UserError(f"neutral.task.words = {words}; a piece needs 2 words at least")
    source = Pieces(str(pathlib.Path(file).absolute()), words)
    text = "\n".join(row["inputs"] + row["targets"] for row in source.rows("validation"))
    name = f"neutral_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    scored = (metrics.exact_match,)
    tasks.add(tasks.Task(name, source, tasks.as_it_is, scored, mini.vocabulary))
    return name


@functools.lru_cache(maxsize=8)
def _rows(file: str, words: int) -> Sequence[tasks.Row]:
    try:
        text = pathlib.Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"NEUTRAL_FILE {file} cannot be read as UTF-8 text ({error}); name a file of plain text"
        ) from None
    found = text.split()
    pieces = [found[i : i + words] for i in range(0, len(found) - words + 1, words)]
    if not pieces:
        raise UserError(
            f"NEUTRAL_FILE {file} has {len(found)} words, fewer than a piece of {words}; name a "
            "longer file, or lower neutral.task.words"
        )
    half = words // 2
    return [
        {"inputs": " ".join(piece[:half]), "targets": " ".join(piece[half:])} for piece in pieces
    ]
