"""Tasks whose training rows a model writes, before a stage trains on them.

It is the model that all starts from, with nothing attached, or the stage's teacher.

Such a task is registered as others are. Its source says what the model is asked and what becomes of
the answers; whoever has the model gets them and binds the rows, which cannot be read before. Their
number is known.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal, NoReturn, Protocol

from promot_jax.base import values
from promot_jax.base.errors import UserError
from promot_jax.data import metrics, row_store, scoring, tasks
from promot_jax.data.tasks import Row, Rows, Task
from promot_jax.data.vocabularies import ByteVocabulary, Vocabulary

# Who writes rows.
START, TEACHER = "the start model", "the teacher"
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

    def asked(self, row: Row, words: Vocabulary) -> Row:
        """Returns the row whose inputs the model reads; one of chat up to its last answer."""

    def rows(
        self, task: Task | None, rows: Sequence[Row], answers: Sequence[str], words: Vocabulary
    ) -> list[dict[str, Any]]:
        """Returns rows as they are trained on.

        Args:
          task: whose rows these are, None where the model was asked for nothing.
          rows: its rows.
          answers: the model's, to each of them.
          words: the model's vocabulary.

        Returns:
          The rows; in each, `kept` says whether it has the model's answer.
        """


@dataclasses.dataclass(frozen=True)
class Continuation:
    """The model goes on from inputs, or from a conversation; what it says is the target.

    Attributes:
      begin: tokens of the inputs that it reads; None takes all.
    """

    begin: values.Count | None = None

    def asked(self, row: Row, words: Vocabulary) -> Row:
        """See `Writing`.

        Raises:
          UserError: the beginning of a conversation is none.
        """
        if "messages" in row:
            if self.begin is not None:
                raise UserError("rows of chat are continued as a whole; leave REPLAY_BEGIN out")
            return {**row, "turns": "last"}
        text = row["inputs"]
        if self.begin is not None:
            text = words.decode([*words.encode(text)][: self.begin])
        return {"inputs": text, "targets": ""}

    def rows(
        self, task: Task | None, rows: Sequence[Row], answers: Sequence[str], words: Vocabulary
    ) -> list[dict[str, Any]]:
        """See `Writing`."""
        pairs = zip(rows, answers, strict=True)
        return [_answered(self.asked(row, words), answer) | {"kept": True} for row, answer in pairs]


@dataclasses.dataclass(frozen=True)
class Answering:
    """The model answers rows as they are, and the answer takes the place of a target if as right.

    By metrics of labels and of exact answers it is if it scores 100, by others also if it holds the
    target. Else the target stays. Of a conversation it is the last answer.
    """

    def asked(self, row: Row, words: Vocabulary) -> Row:
        """See `Writing`."""
        if "messages" in row:
            return {**row, "turns": "last"}
        return {"inputs": row["inputs"], "targets": ""}

    def rows(
        self, task: Task | None, rows: Sequence[Row], answers: Sequence[str], words: Vocabulary
    ) -> list[dict[str, Any]]:
        """See `Writing`."""
        found = []
        for row, answer in zip(rows, answers, strict=True):
            kept = _as_right(task, row, answer.strip(), words)
            # The model's own answer stands where the target stood: behind the same space.
            target = row["targets"]
            space = target[: len(target) - len(target.lstrip())]
            new = _answered(row, space + answer.strip()) if kept else {**row}
            found.append(new | {"kept": kept})
        return found


@dataclasses.dataclass(frozen=True)
class Rewriting(Answering):
    """The model says a target in its own words (self-distillation, Yang et al. 2024).

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

    def asked(self, row: Row, words: Vocabulary) -> Row:
        """See `Writing`."""
        if "messages" not in row:
            return {"inputs": self._filled(row["inputs"], row["targets"]), "targets": ""}
        *before, answer = row["messages"]
        pair = [message.get("content") for message in (*before[-1:], answer)]
        if len(pair) < 2 or not all(isinstance(text, str) for text in pair):
            return {**row, "turns": "last"}
        before[-1] = {**before[-1], "content": self._filled(*pair)}
        return {**row, "messages": [*before, answer], "turns": "last"}

    def _filled(self, given: str, target: str) -> str:
        # One after the other would fill in what stands in the input, too.
        texts = {"{input}": given.strip(), "{target}": target.strip()}
        return re.sub(r"\{(input|target)\}", lambda found: texts[found[0]], self.template)


def _answered(row: Row, answer: str) -> dict[str, Any]:
    """Returns a row with another target; of a conversation, with another last answer."""
    if "messages" not in row:
        return {**row, "targets": answer}
    *before, last = row["messages"]
    return {**row, "messages": [*before, {**last, "content": answer}], "targets": answer}


def _as_right(task: Task, row: Row, answer: str, words: Vocabulary) -> bool:
    # An answer that calls tools is no text.
    calls = "messages" in row and "tool_calls" in row["messages"][-1]
    if not answer or calls or ABOUT_ITSELF.search(answer):
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
      origin: see `tasks.Source`; the model that writes them, in words.
    """

    def __init__(
        self,
        writing: Writing,
        asking: Asking,
        original: str | None,
        count: int | None,
        origin: Literal["the start model", "the teacher"] = START,
    ):
        """Takes what it is asked and the number of rows; None takes all of the original."""
        self.writing, self.asking, self.original = writing, asking, original
        self.origin = origin
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
        """Returns what the model is asked by for some rows; empty ones without an original."""
        if self.original is None:
            return [{"inputs": "", "targets": ""} for _ in numbers]
        rows = tasks.task(self.original).rows("train")
        return [rows[number] for number in numbers]

    def bind(self, rows: Rows) -> None:
        """Takes the rows that the model wrote."""
        self._bound = rows

    def rows(self, split: str) -> Rows:
        """See `tasks.Source`."""
        if split != "train":
            return tasks.task(self.original).rows(split)
        return _Unwritten(len(self), self.origin) if self._bound is None else self._bound


@dataclasses.dataclass(frozen=True)
class _Unwritten:
    """Rows of which no more than their number is known."""

    count: int
    origin: str

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int, /) -> NoReturn:
        raise UserError(f"{self.origin} has not written these rows; a run has them written first")


def source(name: str) -> Generated | None:
    """Returns the source of a registered task if a model writes its rows, else None."""
    found = getattr(tasks.get(name), "source", None)
    return found if isinstance(found, Generated) else None


def original(name: str) -> str:
    """Returns the task whose targets a model's answers replace, given that with the answers.

    Of any other task or mixture it is the name itself.
    """
    found = source(name)
    return found.original if found and isinstance(found.writing, Answering) else name


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


def answered(original: str, asking: Asking | None = None) -> str:
    """Registers a task whose training targets are a teacher's answers, where these are right.

    It is sequence-level distillation (Kim & Rush 2016), or of a start model by itself the
    self-output of Wu et al. 2025.

    Args:
      original: the task.
      asking: how the teacher is asked; None takes the most probable of 64 tokens.

    Returns:
      The name of the task; its other splits are the original's.
    """
    asking = asking or Asking(temperature=None)
    return _registered(f"{original}_answered", Answering(), asking, original, None, TEACHER)


def digest(*about) -> str:
    """Returns 8 letters and digits by which names of tasks tell settings apart."""
    return row_store.fingerprint(*about)[:8]


def _registered(
    begins: str, writing, asking: Asking, original: str | None, count, origin=START
) -> str:
    about = [repr(writing), repr(asking), original, count]
    name = f"{begins}_{digest(*about)}"
    if name not in tasks.names():
        found = Generated(writing, asking, original, count, origin)
        if original is None:
            task = Task(name, found, tasks.as_it_is, (), ByteVocabulary)
        else:
            task = dataclasses.replace(tasks.task(original), name=name, source=found)
        tasks.add(task)
    return name
