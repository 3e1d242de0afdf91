"""Tasks whose training rows a model writes: the one that a stage starts from, before it trains.

Such a task is registered as others are. Its source says what the model is asked and what becomes of
the answers; whoever has the model gets them and binds the rows, which cannot be read before. Their
number is known.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from promot_jax.base import values
from promot_jax.base.errors import UserError
from promot_jax.data import metrics, row_store, scoring, tasks
from promot_jax.data.tasks import Row, Rows
from promot_jax.data.vocabularies import Vocabulary

# An answer that speaks of what it was asked instead of answering.
ABOUT_ITSELF = re.compile(r"reference answer|\b(my|your)( own)? (response|turn)\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Asking:
    """How a model is asked.

    Attributes:
      tokens: the longest answer, in tokens.
      temperature: of sampling; None takes the most probable token each time.
      seed: of sampling.
    """

    tokens: values.Count = 64
    temperature: values.Positive | None = 1.0
    seed: values.Seed = 0

    def __post_init__(self):
        values.check_fields(self)


class Writing(Protocol):
    """What a model is asked for a row, and what its answer makes of that."""

    def asked(self, row: Row, vocabulary: Vocabulary) -> str:
        """Returns the text that the model reads."""

    def rows(
        self, task: tasks.Task, rows: Sequence[Row], answers: Sequence[str], words: Vocabulary
    ) -> list[dict[str, Any]]:
        """Returns rows as they are trained on; `kept` says whether the model's answer is in one."""


@dataclasses.dataclass(frozen=True)
class Continuation:
    """The model goes on from inputs; what it says is the target.

    Attributes:
      begin: tokens of the inputs that it reads; None takes all.
    """

    begin: values.Count | None = None

    def asked(self, row: Row, vocabulary: Vocabulary) -> str:
        """See `Writing`."""
        if self.begin is None:
            return row["inputs"]
        return vocabulary.decode([*vocabulary.encode(row["inputs"])][: self.begin])

    def rows(
        self, task: tasks.Task, rows: Sequence[Row], answers: Sequence[str], words: Vocabulary
    ) -> list[dict[str, Any]]:
        """See `Writing`."""
        asked = [self.asked(row, words) for row in rows]
        pairs = zip(asked, answers, strict=True)
        return [{"inputs": text, "targets": answer, "kept": True} for text, answer in pairs]


@dataclasses.dataclass(frozen=True)
class Rewriting:
    """The model says a target in its own words (self-distillation, Yang et al. 2024).

    An answer takes the place of the target if it is as right: by metrics of labels and of exact
    answers if it scores 100, by others also if it holds the target. Else the target stays.

    Attributes:
      template: what the model is asked; `{input}` and `{target}` stand for those of the row.
    """

    template: values.Text = (
        "Here is a task and a reference answer to it. Answer the task in your own words, and keep "
        "to the reference answer.\n\nTask: {input}\n\nReference answer: {target}\n\nAnswer:"
    )

    def __post_init__(self):
        values.check_fields(self)
        if missing := [name for name in ("{input}", "{target}") if name not in self.template]:
            raise UserError(f"the template of a rewriting has no {missing[0]}; put it in")

    def asked(self, row: Row, vocabulary: Vocabulary) -> str:
        """See `Writing`."""
        # One after the other would fill in what stands in the input, too.
        texts = {"{input}": row["inputs"].strip(), "{target}": row["targets"].strip()}
        return re.sub(r"\{(input|target)\}", lambda found: texts[found[0]], self.template)

    def rows(
        self, task: tasks.Task, rows: Sequence[Row], answers: Sequence[str], words: Vocabulary
    ) -> list[dict[str, Any]]:
        """See `Writing`."""
        found = []
        for row, answer in zip(rows, answers, strict=True):
            # The model's own answer stands where the target stood: behind the same space.
            target = row["targets"]
            space = target[: len(target) - len(target.lstrip())]
            kept = _as_right(task, row, answer.strip(), words)
            target = space + answer.strip() if kept else target
            found.append({**row, "targets": target, "kept": kept})
        return found


def _as_right(task: tasks.Task, row: Row, answer: str, words: Vocabulary) -> bool:
    if not answer or ABOUT_ITSELF.search(answer):
        return False
    judge = scoring.Judge(task.name, [row], words)
    scores = judge.metrics(judge.answers([answer])).values()
    if all(score >= 100 for score in scores):
        return True
    known = [metrics.of_function(score) for score in task.metric_fns]
    if all(metric and (metric.classes or metric.name == "exact_match") for metric in known):
        return False
    return metrics.normalize_answer(row["targets"]) in metrics.normalize_answer(answer)


class Generated:
    """The source of a task whose training rows a model writes; other splits are the original's.

    Attributes:
      writing, asking: what it is asked, and how.
      original: the task whose training rows it reads; None for none.
      origin: see `tasks.Source`.
    """

    origin = "the start model"

    def __init__(self, writing: Writing, asking: Asking, original: str | None, count: int | None):
        """Takes what it is asked and the number of rows; None takes all of the original."""
        self.writing, self.asking, self.original = writing, asking, original
        self._count = count
        self._bound: Rows | None = None

    @property
    def splits(self) -> Sequence[str]:
        """See `tasks.Source`."""
        return ("train",) if self.original is None else tasks.task(self.original).splits

    def __len__(self) -> int:
        """Returns the number of training rows."""
        if self.original is None:
            return self._count
        whole = len(tasks.task(self.original).rows("train"))
        return whole if self._count is None else min(whole, self._count)

    def read(self, numbers: range) -> list[Row]:
        """Returns what the model reads some of the rows from; empty ones without an original."""
        if self.original is None:
            return [{"inputs": "", "targets": ""} for _ in numbers]
        found = tasks.task(self.original)
        if found.encode is not tasks.encode_texts:
            raise UserError(
                f"task {self.original!r} has rows of chat, which a start model cannot be asked for "
                "here; name rows with an input and a target"
            )
        rows = found.rows("train")
        return [rows[number] for number in numbers]

    def bind(self, rows: Rows) -> None:
        """Takes the rows that the model wrote."""
        self._bound = rows

    def rows(self, split: str) -> Rows:
        """See `tasks.Source`."""
        if split != "train":
            return tasks.task(self.original).rows(split)
        return _Unwritten(len(self)) if self._bound is None else self._bound


@dataclasses.dataclass(frozen=True)
class _Unwritten:
    """Rows of which no more than their number is known."""

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int, /) -> NoReturn:
        raise UserError("the start model has not written these rows; a run has them written first")


def source(name: str) -> Generated | None:
    """Returns the source of a registered task if a model writes its rows, else None."""
    found = getattr(tasks.get(name), "source", None)
    return found if isinstance(found, Generated) else None


def original(name: str) -> str:
    """Returns the task whose targets a model rewrites, given that of the rewritten ones.

    Of any other task or mixture it is the name itself.
    """
    found = source(name)
    return found.original if found and isinstance(found.writing, Rewriting) else name


def continued(
    original: str | None, count: int, begin: int | None = None, asking: Asking | None = None
) -> str:
    """Registers a task of what a model says by itself, or from inputs of a task on.

    Args:
      original: the task, whose targets are not read; None for nothing before the model's words.
      count: rows, at most those of the task.
      begin: tokens of the inputs that the model reads; None takes all.
      asking: how the model is asked; None samples 64 tokens.

    Returns:
      The name of the task.
    """
    return _registered("self", Continuation(begin), asking or Asking(), original, count)


def rewritten(
    original: str, rewriting: Rewriting | None = None, asking: Asking | None = None
) -> str:
    """Registers a task whose training targets are the model's own words, where these are right.

    Args:
      original: the task.
      rewriting: what the model is asked; None asks the usual.
      asking: how; None takes the most probable of 64 tokens.

    Returns:
      The name of the task; its other splits are the original's.
    """
    asking = asking or Asking(temperature=None)
    return _registered(f"{original}_rewritten", rewriting or Rewriting(), asking, original, None)


def digest(*about) -> str:
    """Returns 8 letters and digits by which names of tasks tell settings apart."""
    return row_store.fingerprint(*about)[:8]


def _registered(begins: str, writing, asking: Asking, original: str | None, count) -> str:
    about = [repr(writing), repr(asking), original, count]
    name = f"{begins}_{digest(*about)}"
    if name not in tasks.names():
        found = Generated(writing, asking, original, count)
        if original is None:
            task = tasks.Task(name, found, tasks.as_it_is, (), _no_vocabulary)
        else:
            task = dataclasses.replace(tasks.task(original), name=name, source=found)
        tasks.add(task)
    return name


def _no_vocabulary() -> NoReturn:
    raise UserError("rows that a model writes from nothing have no vocabulary but the model's")
