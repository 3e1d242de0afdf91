"""Rows of a person's own files as a task: JSON lines, CSV, TSV, Parquet, or a data set's splits.

Templates turn the fields of a row into its input and its target: `"{premise} question: {claim}"`.
Everything is checked before anything starts, and every complaint names the file and the line.

Rows stand in an order of their own, that of their digests, whatever their order in the files, so
that no split, batch or first few rows hold one class alone. A task is named after the digest of all
its rows: other rows are another task, and a run that began with some rows does not go on with
others.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from promot_jax.base.errors import UserError
from promot_jax.data import metrics, tasks
from promot_jax.data.metrics import Metric
from promot_jax.data.written import Writer
from promot_jax.tasks import chat_files, mini, own_rows, row_sets, templates
from promot_jax.tasks.own_rows import OwnRows

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Data:
    """What rows are made of.

    Attributes:
      train, evaluation: files, or splits of data sets as `row_sets` names them.
      test: file, or None: `evaluation`'s rows are then dealt alternately to validation and test.
      template, target: texts with fields in braces.
      metric: by which the answers are scored.
      chat: makes rows of chat, in place of the two texts.
      weights: column of weights that rows keep if they have it.
    """

    train: str
    evaluation: str
    template: str
    target: str
    metric: Metric
    test: str | None
    chat: chat_files.Filled | None = None
    weights: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The files, each once."""
        named = (self.train, self.evaluation, self.test)
        return tuple(dict.fromkeys(file for file in named if file is not None))

    def absolute(self) -> "Data":
        """Returns the same with paths that hold in any working folder."""
        named = {"train": self.train, "evaluation": self.evaluation, "test": self.test}
        return dataclasses.replace(
            self, **{name: path and row_sets.absolute(path) for name, path in named.items()}
        )

    def splits(self) -> Mapping[str, OwnRows]:
        """Returns the rows of each split; files are read again only when they have changed.

        Raises:
          UserError: a file, a line or a template that cannot be used.
        """
        return self._read().splits

    def checksum(self) -> str:
        """Returns the digest of all rows; raises as `splits` does."""
        return self._read().checksum

    def _read(self) -> "_Read":
        return _read(self, json.dumps([row_sets.stamp(file) for file in self.files]))


@dataclasses.dataclass(frozen=True)
class _Read:
    splits: Mapping[str, OwnRows]
    checksum: str


class RowSource:
    """The rows of a task.

    Attributes:
      data: what they are made of.
      checksum: of the rows that the task was registered for.
      shots: rows of the split train that stand, answered, before each input.
    """

    splits: ClassVar[tuple[str, ...]] = SPLITS
    origin: ClassVar[str] = "files"

    def __init__(self, data: Data, checksum: str, shots: int = 0):
        self.data, self.checksum, self.shots = data, checksum, shots

    def rows(self, split: str) -> tasks.Rows:
        """Returns the rows of a split.

        Raises:
          UserError: a file has changed, or can no longer be read.
        """
        splits = self.checked()
        if self.data.chat is not None:
            if self.shots:
                raise UserError(
                    f"{self.data.train}: rows of chat take no exemplars; leave out the methods "
                    "that train with them (1-shot)"
                )
            return splits[split] if split == "train" else chat_files.Asked(splits[split])
        if not self.shots:
            return splits[split]
        return Shots(splits[split], splits["train"], self.shots, self.data.train)

    def checked(self) -> Mapping[str, OwnRows]:
        """Returns the rows of each split, without exemplars; raises as `rows` does."""
        if (found := self.data.checksum()) != self.checksum:
            raise UserError(
                f"the rows of {self.data.train} or {self.data.evaluation} have changed since the "
                f"run began (checksum {found}, the run has {self.checksum}); put the old ones back "
                "or choose a new MODEL_DIR"
            )
        return self.data.splits()

    def parts(self) -> list[OwnRows]:
        """Returns splits that together have the rows of all files; raises as `rows` does."""
        # Validation has the file of test, where there is none of its own.
        names = SPLITS if self.data.test is not None else SPLITS[:2]
        return [self.checked()[name] for name in names]


@dataclasses.dataclass(frozen=True)
class Shots:
    """Rows behind exemplars, which each row's digest chooses.

    Attributes:
      own: the rows.
      train: those that stand before them.
      count: how many before each.
      file: of `train`.
    """

    own: OwnRows
    train: OwnRows
    count: int
    file: str

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, number: int, /) -> dict[str, Any]:
        row, first = self.own[number], self.own.key(number)
        circle = (self.train[(first + i) % len(self.train)] for i in range(len(self.train)))
        found = list(itertools.islice((o for o in circle if o != row), self.count))
        if len(found) < self.count:
            raise UserError(
                f"{self.file} has too few rows to put {self.count} other before each as an "
                "exemplar; add rows, or leave out the methods that train with exemplars (1-shot)"
            )
        return _behind(found, row)

    def many(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Returns the rows of some numbers that follow each other; raises as one by one."""
        own, whole = self.own.many(start, stop), len(self.train)
        first = (self.own.keys(start, stop) % whole).astype(np.int64)
        others = [self.train.at((first + i) % whole) for i in range(self.count)]
        return [
            # A row that meets itself goes on along the circle.
            self[start + i] if row in found or self.count > whole else _behind(found, row)
            for i, (row, *found) in enumerate(zip(own, *others, strict=True))
        ]


def _behind(exemplars: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row behind others, answered."""
    answered = [(o["inputs"], o["targets"].strip()) for o in exemplars]
    return {**row, "inputs": templates.few_shot(answered, row["inputs"])}


def task(
    train: str | None,
    evaluation: str | None,
    template: str | None,
    target: str | None,
    metric: str = "accuracy",
    test: str | None = None,
    name: str = "your_data",
    checksum: str | None = None,
    shots: int = 0,
    chat_template: chat_files.ReadTemplate | None = None,
    turns: str = "all",
    system: str | None = None,
    weights: str | None = None,
) -> str:
    """Registers a task of files; equal arguments and rows give the same task again.

    An output is cut down by the strictest rule that leaves every target as it is, in the file and
    as the vocabulary writes it: to its first word (`accuracy` alone), to the first line of its
    answer, to its answer by the paper's A.2.2, or not at all.

    Args:
      train: rows to train on: a file with the suffix .jsonl, .json, .csv, .tsv (also .gz), .parquet
        or .arrow, or a data set, see `row_sets`.
      evaluation: those of the splits validation and test, dealt alternately.
      template: the input, with fields in braces, see `row_templates`; `{{` is a brace.
      target: the answer, likewise. A list in its field holds several, where the metric takes them.
      metric: a name of `metrics.METRICS`.
      test: those of the split test; `evaluation` is then the split validation as a whole.
      name: how the name of the task begins.
      checksum: of the rows that are expected; they are then read when they are first needed.
      shots: exemplars from `train` before each input.
      chat_template: of the model, for rows of chat, which need no other template.
      turns, system: of rows of chat, see `chat_files.chat`.
      weights: column that rows may have, of pairs of a text of the target and how much it counts.

    Returns:
      The name of the task.

    Raises:
      UserError: something is missing, or a file, line or template cannot be used.
    """
    given = {"TRAIN_FILE (--train)": train, "EVAL_FILE (--eval)": evaluation}
    chat = None
    plain = template or target
    if train and evaluation and not plain and (checksum or _is_chat(train)):
        chat = chat_files.Filled(chat_files.chat(chat_template, turns, system))
    else:
        given |= {"TEMPLATE (--template)": template, "TARGET_TEMPLATE (--target)": target}
    if missing := [flag for flag, value in given.items() if not value]:
        raise UserError(f"{missing[0]} is not set; rows of your own need {', '.join(given)}")
    train = row_sets.chosen(train, row_sets.TRAIN)
    evaluation = row_sets.chosen(evaluation, row_sets.EVALUATION)
    test = test and row_sets.chosen(test, row_sets.TEST)
    texts = template or "", target or ""
    data = Data(train, evaluation, *texts, _named(metric), test, chat, weights)
    source = RowSource(data, checksum or data.checksum(), shots)
    full_name = f"{name}_{source.checksum[:8]}" + (f"_{shots}shot" if shots else "")
    # What is known of the rows that are registered already stays known.
    if full_name not in tasks.names() or tasks.get(full_name).source.data != data:
        scored = (data.metric.score,)
        found = tasks.Task(full_name, source, Postprocess(source), scored, mini.vocabulary)
        tasks.add(found if chat is None else dataclasses.replace(found, encode=chat.chat))
    return full_name


def _is_chat(train: str) -> bool:
    return chat_files.is_chat(row_sets.chosen(train, row_sets.TRAIN))


def labels(task: str) -> tuple[str, ...]:
    """Returns the labels in the rows of a task of `task()`, sorted; none of free texts."""
    source = tasks.get(task).source
    if not source.data.metric.classes:
        return ()
    return tuple(sorted({label for part in source.parts() for label in part.labels}))


def generative(metric: str) -> bool:
    """Returns whether answers that are scored by a metric are free text.

    Raises:
      UserError: an unknown metric.
    """
    return not _named(metric).classes


def _named(metric: str) -> Metric:
    if metric not in metrics.METRICS:
        known = ", ".join(metrics.METRICS)
        raise UserError(f"METRIC (--metric) {metric!r} is unknown; use {known}")
    return metrics.METRICS[metric]


class Postprocess:
    """What a prediction says; of a target, what is right.

    The rule is chosen once for each vocabulary, by the rows of all splits.
    """

    def __init__(self, source: RowSource, write: Writer | None = None):
        """Takes the rows, and what writes a text as the model's vocabulary does."""
        self._source, self._write = source, write
        self._others: list[Postprocess] = []

    def written_by(self, write: Writer) -> "Postprocess":
        """Returns the postprocessor for outputs in the words of a vocabulary, see `written`."""
        for known in self._others:
            if known._write.vocabulary == write.vocabulary:
                return known
        self._others.append(Postprocess(self._source, write))
        return self._others[-1]

    def __call__(self, output, *, is_target: bool = False, example=None, **_unused):
        """Returns the answer of an output; of a target, one answer or all that are right."""
        if not is_target:
            chat = self._source.data.chat
            return self._rule(output if chat is None else chat.chat.said(output))
        answers = example["answers"]
        return answers if self._source.data.metric.several_answers else answers[0]

    @functools.cached_property
    def _rule(self) -> Callable[[str], str]:
        parts = self._source.parts()
        rule = max(part.rule for part in parts)
        if self._write is not None:
            for answers in itertools.chain.from_iterable(part.answers() for part in parts):
                # The last of the rules leaves all as it is.
                if rule == len(own_rows.RULES) - 1:
                    break
                rule = own_rows.strictest(
                    (text.strip() for text in self._write.many(answers)), rule
                )
        return own_rows.RULES[rule]


@functools.lru_cache(maxsize=64)
def _read(data: Data, stamps: str) -> _Read:
    del stamps
    files = {
        file: own_rows.read(file, data.template, data.target, data.metric, data.chat, data.weights)
        for file in data.files
    }
    evaluation = files[data.evaluation]
    if data.test is None and len(evaluation) < 2:
        raise UserError(
            f"{data.evaluation} needs 2 rows at least: for validation and for test; add one, "
            "or name a file of test rows by --test (TEST_FILE)"
        )
    apart = {"validation": evaluation.every(2, 0), "test": evaluation.every(2, 1)}
    if data.test is not None:
        apart = {"validation": evaluation, "test": files[data.test]}
    splits = {"train": files[data.train]} | apart
    digest = hashlib.sha256(data.metric.name.encode())
    if data.chat is not None:
        digest.update(json.dumps(data.chat.about).encode())
    for split, rows in splits.items():
        digest.update(split.encode())
        for digests in rows.digests():
            digest.update(digests)
    return _Read(splits, digest.hexdigest()[:16])
