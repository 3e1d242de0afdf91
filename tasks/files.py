"""Rows of a person's own files as a seqio task: JSON lines, CSV, TSV or Parquet.

Templates turn the fields of a row into its input and its target: `"{premise} question: {claim}"`.
Everything is checked before anything starts, and every complaint names the file and the line.

Rows stand in an order of their own, that of their digests, whatever their order in the files, so
that no split, batch or first few rows hold one class alone. A task is named after the digest of all
its rows: other rows are another task, and a run that began with some rows does not go on with
others.
"""

import collections
import csv
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import string
from collections.abc import Callable, Iterator, Sequence

import seqio
import tensorflow as tf

from promot_jax import metrics
from promot_jax.errors import UserError, first_line
from promot_jax.tasks import mini, templates

METRICS = metrics.NAMES
SPLITS = ("train", "validation", "test")

# A place to name in a complaint, and the fields of a row.
Record = tuple[str, dict[str, object]]


@dataclasses.dataclass(frozen=True)
class Row:
    """An example: its input, its target, and every answer that counts as right."""

    inputs: str
    targets: str
    answers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Data:
    """What rows are made of.

    Attributes:
      train, evaluation: files.
      test: file, or None: `evaluation`'s rows are then dealt alternately to validation and test.
      template, target: texts with fields in braces.
      metric: a key of `METRICS`.
    """

    train: str
    evaluation: str
    template: str
    target: str
    metric: str
    test: str | None

    def splits(self) -> dict[str, list[Row]]:
        """Returns the rows of each split; files are read again only when they have changed.

        Raises:
          UserError: a file, a line or a template that cannot be used.
        """
        files = [file for file in (self.train, self.evaluation, self.test) if file is not None]
        return _splits(self, tuple(_stamp(file) for file in files))


class Source(seqio.FunctionDataSource):
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
            raise UserError(f"{self.data.train} has too few rows for {self.shots} exemplars")
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
      train: file of the rows to train on: .jsonl, .json (an object a line), .csv, .tsv, .parquet.
      evaluation: file of the rows of the splits validation and test, dealt alternately.
      template: the input, with fields in braces; `{{` is a brace.
      target: the answer, likewise. With `exact_match`, a list in its field holds several.
      metric: one of `METRICS`.
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
    if metric not in METRICS:
        raise UserError(f"METRIC (--metric) {metric!r} is unknown; use {', '.join(METRICS)}")
    data = Data(train, evaluation, template, target, metric, test)
    source = Source(data, checksum or _checksum(data.splits(), metric), shots)
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
        metric_fns=[metrics.named(metric)],
    )
    return full_name


def labels(task: str) -> tuple[str, ...]:
    """Returns the labels in the rows of a task of `task()`, sorted; none but for `accuracy`."""
    source = seqio.TaskRegistry.get(task).source
    if source.data.metric != "accuracy":
        return ()
    return tuple(sorted({row.answers[0] for rows in source.rows().values() for row in rows}))


def generative(metric: str) -> bool:
    """Returns whether answers that are scored by a metric are free text."""
    return metric != "accuracy"


class Postprocess:
    """seqio's postprocessor: what a prediction says; of a target, what is right.

    The rule is chosen once, by the rows of all splits.
    """

    def __init__(self, source: Source, write: Callable[[str], str] = str):
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
        return answers if self._source.data.metric == "exact_match" else answers[0]

    @functools.cached_property
    def _rule(self) -> Callable[[str], str]:
        rows = itertools.chain.from_iterable(self._source.rows().values())
        answers = {answer for row in rows for answer in row.answers}
        answers |= {self._write(answer).strip() for answer in answers}
        rules = [templates.first_label] * (self._source.data.metric == "accuracy")
        rules += [templates.first_line, templates.extract_answer, str.strip]
        return next(rule for rule in rules if all(rule(answer) == answer for answer in answers))


def _checksum(splits: dict[str, list[Row]], metric: str) -> str:
    digest = hashlib.sha256(metric.encode())
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
            raise UserError(f"{data.evaluation} needs 2 rows at least: for validation and for test")
        validation, test = evaluation[::2], evaluation[1::2]
    else:
        validation, test = evaluation, _rows(data, data.test)
    return {"train": _rows(data, data.train), "validation": validation, "test": test}


def _rows(data: Data, path: str) -> list[Row]:
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in READERS:
        raise UserError(f"{path}: no reader for {suffix or 'no suffix'}; use {', '.join(READERS)}")
    read = READERS[suffix]
    asked, wanted = fields(data.template, "TEMPLATE"), fields(data.target, "TARGET_TEMPLATE")
    try:
        rows = [_row(data, asked, wanted, *record) for record in read(path)]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or first_line(error)}") from None
    if not rows:
        raise UserError(f"{path} holds no row; give it at least one")
    return sorted(rows, key=_digest)


def fields(template: str, what: str) -> tuple[str, ...]:
    """Returns the names of a template's fields.

    Raises:
      UserError: none, or something else in braces than a plain name.
    """
    where = f"{what} {template!r}"
    found = []
    try:
        template.encode()
        for _, name, layout, conversion in string.Formatter().parse(template):
            if name is None:
                continue
            if not name.strip() or name.isdigit() or set(name) & set(".[]") or layout or conversion:
                written = (
                    name + (f"!{conversion}" if conversion else "") + (layout and f":{layout}")
                )
                raise UserError(
                    f"{where}: {{{written}}} is no field; write the plain name of one, such as "
                    "{label}, and {{ for a brace"
                )
            found.append(name)
    except UnicodeEncodeError:
        raise UserError(f"{what} {template!a} is not UTF-8; give it in that encoding") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}; write {{{{ and }}}} for braces") from None
    if not found:
        raise UserError(f"{where} has no field; name one in braces, such as {{label}}")
    return tuple(found)


def _row(data: Data, asked: Sequence[str], wanted: Sequence[str], where: str, record) -> Row:
    for name in (*asked, *wanted):
        if name not in record:
            raise UserError(f"{where}: no field {name!r}; it has {', '.join(map(str, record))}")
    inputs = {name: _text(record[name], where, name) for name in asked}
    if not any(text.strip() for text in inputs.values()):
        raise UserError(f"{where}: {', '.join(inputs)} empty; write a text or remove the row")
    lists = sorted({name for name in wanted if isinstance(record[name], list)})
    if lists and data.metric != "exact_match":
        raise UserError(
            f"{where}: field {lists[0]!r} is a list; only exact_match takes several answers"
        )
    if len(lists) > 1:
        raise UserError(f"{where}: {' and '.join(lists)} are lists; a target takes one of them")
    choices = record[lists[0]] if lists else [None]
    if not choices:
        raise UserError(f"{where}: field {lists[0]!r} is an empty list; give an answer")
    answers = []
    for choice in choices:
        values = record | ({lists[0]: choice} if lists else {})
        texts = {name: _text(values[name], where, name) for name in wanted}
        if not any(text.strip() for text in texts.values()):
            raise UserError(f"{where}: {', '.join(texts)} empty; write a target or remove the row")
        answers.append(data.target.format_map(texts))
    # Space around a target is the model's concern, not that of who compares answers.
    stripped = tuple(dict.fromkeys(answer.strip() for answer in answers))
    return Row(data.template.format_map(inputs), answers[0], stripped)


def _text(value: object, where: str, name: str) -> str:
    """Returns the value of a field as JSON writes it, texts without their quotes."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"{where}: field {name!r} holds half a character; mend it") from None
        return value
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    kind = {type(None): "null", list: "a list", dict: "an object", float: str(value)}
    found = kind.get(type(value), f"a {type(value).__name__}")
    raise UserError(f"{where}: field {name!r} is {found}; give a text or a number")


def _lines(path: str) -> Iterator[tuple[str, str]]:
    """Yields the place and text of each line."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            try:
                yield where, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{where}: byte {error.start + 1} is not UTF-8; save the file in that encoding"
                ) from None


def _json_lines(path: str) -> Iterator[Record]:
    blank = None
    for where, line in _lines(path):
        if not line.strip():
            blank = blank or where
            continue
        if blank:
            raise UserError(f"{blank}: empty; remove the line")
        hint = "write one JSON object a line"
        try:
            record = json.loads(line)
        except RecursionError:
            raise UserError(f"{where}: nested too deeply; {hint}") from None
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({first_line(error)}); {hint}") from None
        if not isinstance(record, dict):
            raise UserError(f"{where}: no JSON object; {hint}")
        yield where, record


def _table(path: str, delimiter: str) -> Iterator[Record]:
    reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    header: list[str] = []
    start = 1
    try:
        for cells in reader:
            where, start = f"{path}, line {start}", reader.line_num + 1
            if not header:
                header = cells
                twice = [name for name, count in collections.Counter(header).items() if count > 1]
                if not header or twice:
                    what = f"has {twice[0]!r} twice" if twice else "is empty"
                    raise UserError(f"{where}: {what}; the first line names the columns")
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{where}: {len(cells)} columns, the first line names {len(header)} "
                    f"({', '.join(header)}); quote texts that hold {delimiter!r}"
                )
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {start}: {error}; close every quote") from None


def _parquet(path: str) -> Iterator[Record]:
    try:
        # Only these files need it; it comes with tensorflow-datasets.
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path}: Parquet needs pyarrow; run `pip install pyarrow`") from None
    numbers = itertools.count(1)
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    yield f"{path}, row {next(numbers)}", record
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path} holds no Parquet rows ({first_line(error)}); save it again") from (
            None
        )


READERS = {
    ".jsonl": _json_lines,
    ".json": _json_lines,
    ".csv": functools.partial(_table, delimiter=","),
    ".tsv": functools.partial(_table, delimiter="\t"),
    ".parquet": _parquet,
}
