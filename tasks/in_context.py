"""A registered task asked in another way: exemplars or words in front, an instruction behind.

Nothing trains for it. With exemplars a model is told a task in its input alone; a fixed preamble in
front of them stands in for tuning (Lin et al. 2023, "The Unlocking Spell on Base LLMs").
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from promot_jax.base.errors import UserError
from promot_jax.data import tasks
from promot_jax.tasks import few_shot, templates

PREAMBLE = (
    "Below are tasks, each with its answer behind it. The last one has none yet: answer it in the "
    "form of those before it, and say nothing else."
)


@dataclasses.dataclass(frozen=True)
class Wording:
    """What stands around an input.

    Attributes:
      pool: training rows, as input and target; exemplars are drawn from them row by row.
      shots: how many exemplars.
      preamble: words in front of all; a blank line follows them.
      instruction: words behind the input.
    """

    pool: Sequence[few_shot.Pair] = ()
    shots: int = 0
    preamble: str = ""
    instruction: str = ""

    def around(self, inputs: str) -> str:
        """Returns an input as it is asked."""
        text = templates.few_shot(few_shot.choose(inputs, self.pool, self.shots), inputs)
        parts = [self.preamble, text] if self.preamble else [text]
        text = templates.BLANK_LINE.join(parts)
        return f"{text} {self.instruction}" if self.instruction else text


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Rows of a split, each asked in another way when it is read."""

    own: tasks.Rows
    wording: Wording

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, number: int, /) -> dict[str, Any]:
        row = self.own[number]
        return {**row, "inputs": self.wording.around(row["inputs"])}


@dataclasses.dataclass(frozen=True)
class _Source:
    """The rows of a task, asked in another way; training rows are read on use."""

    own: tasks.Source
    shots: int
    preamble: str
    instruction: str

    @property
    def splits(self) -> Sequence[str]:
        """Names of the splits."""
        return self.own.splits

    @property
    def origin(self) -> str:
        """Where the rows are from."""
        return self.own.origin

    def rows(self, split: str) -> _Rows:
        """Returns the rows of a split."""
        pool = self._pool() if self.shots else ()
        wording = Wording(pool, self.shots, self.preamble, self.instruction)
        return _Rows(self.own.rows(split), wording)

    def _pool(self) -> list[few_shot.Pair]:
        train = self.own.rows("train")
        rows = (train[number] for number in range(min(len(train), few_shot.POOL_SIZE)))
        return [(row["inputs"], row["targets"].strip()) for row in rows]


def task(task: str, shots: int = 0, preamble: str = "", instruction: str = "") -> str:
    """Registers a task that asks the rows of another one in another way; returns its name.

    Answers are cleaned up and scored as those of the other. A row's exemplars are the same for
    every model and run, see `few_shot.choose`.

    Args:
      task: registered task.
      shots: rows of its split train that stand, answered, before each input.
      preamble: words in front of all.
      instruction: words behind each input, such as "Answer in one word."

    Raises:
      UserError: no such task, its rows are no plain texts, or nothing would be different.
    """
    found = tasks.task(task)
    if found.encode is not tasks.encode_texts:
        raise UserError(
            f"task {task!r} says itself how its rows become tokens, as rows of chat do; only rows "
            "of plain texts can be asked with exemplars, a preamble or an instruction"
        )
    if not (shots or preamble or instruction):
        raise UserError(
            f"task {task!r} would be asked as it is; give shots, a preamble or an instruction"
        )
    name = f"{task}_asked_{shots}shot"
    if words := preamble + instruction:
        name += f"_{hashlib.sha256(words.encode()).hexdigest()[:4]}"
    source = _Source(found.source, shots, preamble, instruction)
    tasks.add(dataclasses.replace(found, name=name, source=source))
    return name


def lengths(
    task_feature_lengths: tasks.Lengths | None,
    shots: int = 0,
    preamble: str = "",
    instruction: str = "",
) -> tasks.Lengths | None:
    """Returns lengths that hold the rows of `task`, given those that hold the rows it asks.

    Words take at most as many tokens as bytes. None, which stands for lengths that are not known
    yet, stays None.
    """
    if task_feature_lengths is None:
        return None
    inputs, targets = task_feature_lengths["inputs"], task_feature_lengths["targets"]
    words = len(f"{preamble}{instruction}".encode())
    return {"inputs": inputs + shots * (inputs + targets) + words, "targets": targets}
