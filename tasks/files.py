"""Rows of a person's own files as a seqio task: JSON lines, CSV, TSV or Parquet.

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
import os
from collections.abc import Callable, Sequence

import seqio
import tensorflow as tf

from promot_jax.base.errors import UserError
from promot_jax.data import metrics
from promot_jax.data.metrics import Metric
from promot_jax.tasks import mini, row_files, row_templates, templates
from promot_jax.tasks.row_templates import Row

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Data:
    """What rows are made of.

    Attributes:
      train, evaluation: files.
      test: file, or None: `evaluation`'s rows are then dealt alternately to validation and test.
      template, target: texts with fields in braces.
      metric: by which the answers are scored.
    """

    train: str
    evaluation: str
    template: str
    target: str
    metric: Metric
    test: str | None

    def splits(self) -> dict[str, list[Row]]:
        """Returns the rows of each split; files are read again only when they have changed.

        Raises:
          UserError: a file, a line or a template that cannot be used.
        """
        files = [file for file in (self.train, self.evaluation, self.test) if file is not None]
        return _splits(self, tuple(_stamp(file) for file in files))


class RowSource(seqio.FunctionDataSource):
    """The rows as seqio reads them.

    Attributes:
      data: what they are made of.
      checksum: of the rows that the task was registered for.
      shots: rows of the split train that stand, answered, before each input.
    """

    def __init__(self, data: Data, checksum: str, shots: int = 0):
        super().__init__(self._dataset, splits=SPLITS)
        self.data, self.checksum, self.shots = data, checksum, shots

    def rows(self) -> dict[str, list[Row]]:
        """Returns the rows of each split.

        Raises:
          UserError: a file has changed, or can no longer be read.
        """
        splits = self.data.splits()
        if (found := _checksum(splits, self.data.metric)) != self.checksum:
            raise UserError(
                f"the rows of {self.data.train} or {self.data.evaluation} have changed since the "
                f"run began (checksum {found}, the run has {self.checksum}); put the old ones back "
                "or choose a new MODEL_DIR"
            )
        return splits

    def _dataset(
        self, split: str, shuffle_files: bool = False, seed: int | None = None
    ) -> tf.data.Dataset:
        del shuffle_files, seed
        splits = self.rows()
        rows = splits[split]
        return tf.data.Dataset.from_tensor_slices(
            {
                "inputs": [self._before(row, splits["train"]) for row in rows],
                "targets": [row.targets for row in rows],
                "answers": [json.dumps(row.answers) for row in rows],
            }
        )

    def _before(self, row: Row, train: Sequence[Row]) -> str:
        """Returns the input of a row behind exemplars, which its digest chooses."""
        first = int.from_bytes(_digest(row)[:8], "big")
        circle = (train[(first + i) % len(train)] for i in range(len(train)))
        chosen = list(itertools.islice((o for o in circle if o != row), self.shots))
        if len(chosen) < self.shots:
            raise UserError(
                f"{self.data.train} has too few rows to put {self.shots} other before each as an "
                "exemplar; add rows, or leave out the methods that train with exemplars (1-shot)"
            )
        return templates.few_shot([(o.inputs, o.targets.strip()) for o in chosen], row.inputs)


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
) -> str:
    """Registers a seqio task of files; equal arguments and rows give the same task again.

    An output is cut down by the strictest rule that leaves every target as it is, in the file and
    as the vocabulary writes it: to its first word (`accuracy` alone), to the first line of its
    answer, to its answer by the paper's A.2.2, or not at all.

    Args:
      train: file of the rows to train on: .jsonl, .json, .csv, .tsv (also .gz) or .parquet.
      evaluation: file of the rows of the splits validation and test, dealt alternately.
      template: the input, with fields in braces, see `row_templates`; `{{` is a brace.
      target: the answer, likewise. A list in its field holds several, where the metric takes them.
      metric: a name of `metrics.METRICS`.
      test: file of the split test; `evaluation` is then the split validation as a whole.
      name: how the name of the task begins.
      checksum: of the rows that are expected; they are then read when they are first needed.
      shots: exemplars from `train` before each input.

    Returns:
      The name of the task.

    Raises:
      UserError: something is missing, or a file, line or template cannot be used.
    """
    given = {"TRAIN_FILE (--train)": train, "EVAL_FILE (--eval)": evaluation}
    given |= {"TEMPLATE (--template)": template, "TARGET_TEMPLATE (--target)": target}
    if missing := [flag for flag, value in given.items() if not value]:
        raise UserError(f"{missing[0]} is not set; rows of your own need {', '.join(given)}")
    data = Data(train, evaluation, template, target, _named(metric), test)
    source = RowSource(data, checksum or _checksum(data.splits(), data.metric), shots)
    full_name = f"{name}_{source.checksum[:8]}" + (f"_{shots}shot" if shots else "")
    if full_name in seqio.TaskRegistry.names():
        if seqio.TaskRegistry.get(full_name).source.data == data:
            return full_name
        seqio.TaskRegistry.remove(full_name)
    seqio.TaskRegistry.add(
        full_name,
        source=source,
        preprocessors=mini.PREPROCESSORS,
        output_features=mini.OUTPUT_FEATURES,
        postprocess_fn=Postprocess(source),
        metric_fns=[data.metric.score],
    )
    return full_name


def labels(task: str) -> tuple[str, ...]:
    """Returns the labels in the rows of a task of `task()`, sorted; none of free texts."""
    source = seqio.TaskRegistry.get(task).source
    if not source.data.metric.classes:
        return ()
    return tuple(sorted({row.answers[0] for rows in source.rows().values() for row in rows}))


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
    """seqio's postprocessor: what a prediction says; of a target, what is right.

    The rule is chosen once, by the rows of all splits.
    """

    def __init__(self, source: RowSource, write: Callable[[str], str] = str):
        """Takes the rows, and what writes a text as the model's vocabulary does."""
        self._source, self._write = source, write
        self._others: list[Postprocess] = []

    def written_by(self, write: Callable[[str], str]) -> "Postprocess":
        """Returns the postprocessor for outputs in the words of a vocabulary, see `written`."""
        vocabulary = getattr(write, "vocabulary", write)
        for known in self._others:
            if getattr(known._write, "vocabulary", known._write) is vocabulary:
                return known
        self._others.append(Postprocess(self._source, write))
        return self._others[-1]

    def __call__(self, output, *, is_target: bool = False, example=None, **_unused):
        """Returns the answer of an output; of a target, one answer or all that are right."""
        if not is_target:
            return self._rule(output)
        answers = json.loads(example["answers"])
        return answers if self._source.data.metric.several_answers else answers[0]

    @functools.cached_property
    def _rule(self) -> Callable[[str], str]:
        rows = itertools.chain.from_iterable(self._source.rows().values())
        answers = {answer for row in rows for answer in row.answers}
        answers |= {self._write(answer).strip() for answer in answers}
        rules = [templates.first_label] * self._source.data.metric.classes
        rules += [templates.first_line, templates.extract_answer, str.strip]
        return next(rule for rule in rules if all(rule(answer) == answer for answer in answers))


def _checksum(splits: dict[str, list[Row]], metric: Metric) -> str:
    digest = hashlib.sha256(metric.name.encode())
    for split, rows in splits.items():
        digest.update(split.encode() + b"".join(map(_digest, rows)))
    return digest.hexdigest()[:16]


def _digest(row: Row) -> bytes:
    return hashlib.sha256(json.dumps([row.inputs, row.targets, row.answers]).encode()).digest()


def _stamp(path: str) -> tuple[str, int, int, int, int]:
    if not os.path.exists(path):
        raise UserError(f"{path}: there is no such file; check the path")
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; name one file of rows")
    about = os.stat(path)
    # A copy may keep the time of change and the size; then another file lies here.
    return path, about.st_mtime_ns, about.st_size, about.st_ctime_ns, about.st_ino


@functools.lru_cache(maxsize=64)
def _splits(data: Data, stamps: tuple) -> dict[str, list[Row]]:
    del stamps
    evaluation = _rows(data, data.evaluation)
    if data.test is None:
        if len(evaluation) < 2:
            raise UserError(
                f"{data.evaluation} needs 2 rows at least: for validation and for test; add one, "
                "or name a file of test rows by --test (TEST_FILE)"
            )
        validation, test = evaluation[::2], evaluation[1::2]
    else:
        validation, test = evaluation, _rows(data, data.test)
    return {"train": _rows(data, data.train), "validation": validation, "test": test}


def _rows(data: Data, path: str) -> list[Row]:
    filled = row_templates.Templates(data.template, data.target, data.metric.several_answers)
    rows = [filled.row(*record) for record in row_files.records(path)]
    if not rows:
        raise UserError(f"{path} holds no row; give it at least one")
    return sorted(rows, key=_digest)
