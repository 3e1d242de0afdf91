"""What is said of an experiment's tasks and their rows before training.

A row's length counts the end-of-sequence token that closes it. Inputs and targets that are longer
than the feature lengths of their task are cut.
"""

import collections
import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from promot_jax.base.errors import UserError, first_line
from promot_jax.data import batching, context, metrics, oracle, registered, tasks
from promot_jax.data.continuation import continuing
from promot_jax.data.tasks import Row
from promot_jax.data.vocabularies import Vocabulary
from promot_jax.experiment.evaluation import EvalTask
from promot_jax.experiment.experiment import Experiment

FEATURES = ("inputs", "targets")
SPLITS = ("train", "validation", "test")
# Rows of a split that are looked at, for tasks that are not a person's own files.
LIMIT = 10_000
# Lengths that are chosen from the data are multiples of this, and at most `LONGEST`.
MULTIPLE = 8
LONGEST = {"inputs": 1024, "targets": 256}

# Input and target.
Texts = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Tokens of rows: int64 [rows] for each feature, and how many tokens are unknown."""

    lengths: Mapping[str, np.ndarray]
    unknown: int

    @property
    def tokens(self) -> int:
        """All tokens but those that end a sequence."""
        return sum(int((lengths - 1).sum()) for lengths in self.lengths.values())


def _examples(task: str, split: str) -> list[Row]:
    """Returns the rows of a split: all of a person's own files, else the first `LIMIT`."""
    return batching.examples(task, split, None if _source(task) else LIMIT)


def measure(texts: Iterable[Texts], vocabulary: Vocabulary) -> Sizes:
    """Returns the lengths of texts in tokens of a vocabulary."""
    words = dict(zip(FEATURES, (vocabulary, continuing(vocabulary)), strict=True))
    unknown, lengths = 0, {}
    for feature, column in zip(FEATURES, zip(*texts, strict=True), strict=True):
        ids = words[feature].encode_batch(column)
        lengths[feature] = np.array([len(row) + 1 for row in ids], np.int64)
        if vocabulary.unk_id is not None:
            unknown += sum(row.count(vocabulary.unk_id) for row in ids)
    return Sizes(lengths, unknown)


def fitting(sizes: Sequence[Sizes]) -> dict[str, int]:
    """Returns the feature lengths that hold every row, as far as `LONGEST` allows."""
    return {
        feature: min(
            LONGEST[feature],
            MULTIPLE * math.ceil(max(s.lengths[feature].max() for s in sizes) / MULTIPLE),
        )
        for feature in FEATURES
    }


class Preview:
    """The target tasks of an experiment, read and measured."""

    def __init__(self, experiment: Experiment):
        """Reads the rows.

        Raises:
          UserError: rows that cannot be read, or a model without vocabulary.
        """
        self._experiment, self._vocabulary = experiment, experiment.model.vocabulary
        if self._vocabulary is None:
            raise UserError("the model has no vocabulary; name its file as VOCABULARY")
        self._texts = {task.name: self._read(task.name) for task in experiment.targets}
        self._sizes = {
            name: {split: measure(rows, self._vocabulary) for split, rows in splits.items()}
            for name, splits in self._texts.items()
        }
        measured = [sizes for splits in self._sizes.values() for sizes in splits.values()]
        self._fitting_targets = fitting(measured)

    def lines(self) -> list[str]:
        """Returns the preview as lines of text."""
        targets = [line for task in self._experiment.targets for line in self._of_task(task)]
        own = [task for task in self._experiment.tasks if _source(task.name)]
        return [*targets, *(line for task in own for line in self._of_unseen(task))]

    def bundled(self) -> list[str]:
        """Returns a line for each unseen task that is no file of a person's own: its oracle."""
        lines = []
        for task in self._experiment.tasks:
            if _source(task.name):
                continue
            try:
                rows = batching.examples(task.name, task.split, registered.ORACLE_ROWS)
                found = self._ask(task, rows, task.task_feature_lengths or self._fitting_unseen)
            except UserError as error:
                lines.append(f"{task.label}, unseen: not read ({first_line(error)})")
                continue
            lines.append(f"{task.label}, unseen: {task.metric}, oracle {found.score:.1f}")
            lines += [f"warning: {text}" for text in _below(found, task.metric)]
        return lines

    def settled(self) -> dict[str, Any]:
        """Returns the values of macros that the experiment leaves to its data.

        They are feature lengths, and what binds a run to the rows of a person's own files. With
        them a run opens again without the files.

        Raises:
          UserError: rows of other tasks that cannot be read.
        """
        experiment, found = self._experiment, {}
        if any(task.task_feature_lengths is None for task in experiment.targets):
            found["TASK_FEATURE_LENGTHS"] = self._fitting_targets
        if any(task.task_feature_lengths is None for task in experiment.tasks):
            found["UNSEEN_FEATURE_LENGTHS"] = self._fitting_unseen
        stages = [stage for method in experiment.methods for stage in method.stages]
        trained_on = {stage.mixture for stage in stages if stage.task_feature_lengths is None}
        if variants := sorted(trained_on - {*self._texts}):
            chosen = {stage.mixture for method in experiment.selected for stage in method.stages}
            try:
                found["ONE_SHOT_TASK_FEATURE_LENGTHS"] = self._fitting(variants)
            except UserError:
                # Rows that are too few for exemplars do for methods without.
                if chosen & {*variants}:
                    raise
        if len(experiment.targets) == 1 and (source := _source(experiment.targets[0].name)):
            found |= _bound_to(source, experiment.labels)
        if own := [(t.metric, s) for t in experiment.tasks if (s := _source(t.name))]:
            found["UNSEEN_FILES"] = tuple(f"{m}={os.path.abspath(s.data.test)}" for m, s in own)
            found["UNSEEN_CHECKSUMS"] = tuple(source.checksum for _, source in own)
        return found

    def _read(self, task: str, splits: Sequence[str] = SPLITS) -> dict[str, list[Texts]]:
        found = self._read_rows(task, splits)
        return {split: _texts(rows) for split, rows in found.items()}

    def _read_rows(self, task: str, splits: Sequence[str]) -> dict[str, list[Row]]:
        known = tasks.task(task).splits
        return {split: _examples(task, split) for split in splits if split in known}

    def _ask(
        self, task: EvalTask, rows: Sequence[Row], lengths: Mapping[str, int], further=()
    ) -> oracle.Oracle:
        words, decode = self._vocabulary, self._experiment.model.texts
        length = lengths["targets"]
        return oracle.ask(task.name, task.metric, rows, words, length, decode, further)

    def _fitting(self, names: Iterable[str], splits: Sequence[str] = SPLITS) -> dict[str, int]:
        rows = [texts for task in names for texts in self._read(task, splits).values()]
        return fitting([measure(texts, self._vocabulary) for texts in rows if texts])

    def _of_task(self, task: EvalTask) -> list[str]:
        texts, sizes = self._texts[task.name], self._sizes[task.name]
        counts = ", ".join(f"{len(rows)} {split}" for split, rows in texts.items())
        lines = [f"{task.label}: {counts} rows; {task.metric}"]
        if source := _source(task.name):
            lines += _dealt(source)
        else:
            lines += [f"  (no more than the first {LIMIT} rows of a split are looked at)"]
        for inputs, targets in texts["train"][:3]:
            lines += ["", f"  input   {_short(inputs)}", f"  target  {_short(targets)}"]
        if _has_classes(task):
            lines += ["", _classes(texts["train"])]
        lengths = task.task_feature_lengths or self._fitting_targets
        lines += ["", *_length_table(sizes.values(), lengths)]
        warnings = [*self._warnings(task, texts), *_unknown(sizes.values())]
        warnings += self._beyond_context(sizes.values(), lengths)
        splits = self._read_rows(task.name, SPLITS[1:]).values()
        if rows := list(itertools.chain.from_iterable(splits)):
            found = self._ask(task, rows, lengths, [target for _, target in texts["train"]])
            lines += ["", f"  oracle {found.score:.1f}"]
            warnings += _below(found, task.metric)
        return [*lines, *(f"warning: {text}" for text in warnings), ""]

    @functools.cached_property
    def _fitting_unseen(self) -> dict[str, int]:
        names = [t.name for t in self._experiment.tasks if t.task_feature_lengths is None]
        # Nothing trains on these.
        lengths = self._fitting(names, ("validation", "test"))
        # Decoding stops at the length of targets, and an answer may run on beyond them.
        return lengths | {"targets": 2 * lengths["targets"]}

    def _of_unseen(self, task: EvalTask) -> list[str]:
        rows = self._read_rows(task.name, ("test",))["test"]
        texts = _texts(rows)
        sizes = [measure(texts, self._vocabulary)]
        lengths = task.task_feature_lengths or self._fitting_unseen
        lines = [f"{task.label}, unseen: {len(texts)} rows; {task.metric}"]
        lines += ["", f"  input   {_short(texts[0][0])}", f"  target  {_short(texts[0][1])}"]
        found = self._ask(task, rows, lengths)
        lines += ["", *_length_table(sizes, lengths), "", f"  oracle {found.score:.1f}"]
        warnings = [*_unknown(sizes), *self._beyond_context(sizes, lengths)]
        warnings += _below(found, task.metric)
        return [*lines, *(f"warning: {text}" for text in warnings), ""]

    def _beyond_context(self, sizes: Iterable[Sizes], lengths: Mapping[str, int]) -> list[str]:
        """Warns of rows that the model's context does not hold, as they are after cutting."""
        stages = [stage for method in self._experiment.methods for stage in method.stages]
        rows = [sum(np.minimum(s.lengths[f], lengths[f]) for f in FEATURES) for s in sizes]
        return context.warnings(
            self._experiment.model.max_positions,
            np.concatenate(rows),
            max((stage.prompt_length for stage in stages), default=0),
        )

    def _warnings(self, task: EvalTask, texts: Mapping[str, list[Texts]]) -> list[str]:
        found = []
        trained = {inputs for inputs, _ in texts["train"]}
        for split in set(texts) - {"train"}:
            if twice := sum(inputs in trained for inputs, _ in texts[split]):
                found.append(f"{twice} of {len(texts[split])} {split} inputs are in train too")
            unknown = {t.strip() for _, t in texts[split]} - {t.strip() for _, t in texts["train"]}
            if _has_classes(task) and unknown:
                names = ", ".join(_short(label, 40) for label in sorted(unknown)[:5])
                found.append(f"{split} has labels that train has not: {names}")
        inputs, targets = texts["train"][0]
        joined = not inputs[-1:].isspace() and not targets[:1].isspace()
        if self._experiment.model.family == "decoder" and joined and not self._spaced(texts):
            found.append(
                "to this decoder-only model input and target are one text, without a space "
                "between them; let the target begin with one, as in --target ' {label}'"
            )
        return sorted(found)

    def _spaced(self, texts: Mapping[str, list[Texts]]) -> bool:
        """Says whether the tokenizer itself puts a space between inputs and targets."""
        inputs, targets = texts["train"][0]
        encode, go_on = self._vocabulary.encode, continuing(self._vocabulary).encode
        return encode(inputs) + go_on(targets) == encode(f"{inputs} {targets}")


def needed(experiment: Experiment) -> bool:
    """Returns whether an experiment reads a person's own files or leaves lengths to its data.

    Raises:
      UserError: a target task that is not registered.
    """
    evaluated = [*experiment.targets, *experiment.tasks]
    open_lengths = any(task.task_feature_lengths is None for task in evaluated)
    return open_lengths or any(_source(task.name) for task in evaluated)


def _source(task: str) -> Any | None:
    """Returns the source of a task whose rows are a person's own files, else None."""
    found = tasks.get(task)
    return found.source if hasattr(getattr(found, "source", None), "checksum") else None


def _texts(rows: Iterable[Row]) -> list[Texts]:
    return [tuple(row[feature] for feature in FEATURES) for row in rows]


def _bound_to(source, labels: Sequence[str]) -> dict[str, Any]:
    files = {"TRAIN_FILE": source.data.train, "EVAL_FILE": source.data.evaluation}
    files["TEST_FILE"] = source.data.test
    found = {k: path if path is None else os.path.abspath(path) for k, path in files.items()}
    return found | {"DATA_CHECKSUM": source.checksum, "LABELS": tuple(labels)}


def _dealt(source) -> list[str]:
    if source.data.test is not None:
        return [f"  test is {source.data.test}, read once, at the end"]
    name = os.path.basename(source.data.evaluation)
    return [
        f"  {name} is dealt to validation, which chooses the checkpoint, and to test, which is",
        "  read once, at the end; --test FILE leaves it to validation as a whole",
    ]


def _has_classes(task: EvalTask) -> bool:
    return task.metric in metrics.METRICS and metrics.METRICS[task.metric].classes


def _classes(rows: Sequence[Texts]) -> str:
    counts = collections.Counter(target.strip() for _, target in rows).most_common()
    shown = [f"{_short(label, 40)} {100 * count / len(rows):.1f} %" for label, count in counts[:10]]
    rest = f", and {len(counts) - 10} more" if len(counts) > 10 else ""
    return f"  classes in train: {', '.join(shown)}{rest}"


def _length_table(sizes: Iterable[Sizes], lengths: Mapping[str, int]) -> list[str]:
    lines = [f"  {'tokens':<8}{'p50':>7}{'p95':>7}{'max':>7}{'length':>8}{'rows cut':>10}"]
    for feature in FEATURES:
        counts, longest = np.concatenate([s.lengths[feature] for s in sizes]), lengths[feature]
        middle, most = np.percentile(counts, [50, 95], method="inverted_cdf")
        cells = f"{middle:>7.0f}{most:>7.0f}{counts.max():>7}{longest:>8}"
        lines.append(f"  {feature:<8}{cells}{(counts > longest).sum():>10}")
    return lines


def _unknown(sizes: Iterable[Sizes]) -> list[str]:
    sizes = list(sizes)
    unknown, tokens = sum(s.unknown for s in sizes), sum(s.tokens for s in sizes)
    if not unknown:
        return []
    return [f"{100 * unknown / tokens:.1f} % of the tokens are unknown to the model's vocabulary"]


def _below(found: oracle.Oracle, metric: str) -> list[str]:
    """Returns warnings of a task that no answers, however right, score 100 on."""
    if found.score >= oracle.PERFECT:
        return found.reasons
    said = f"oracle {found.score:.1f}: perfect answers to all rows would score no more ({metric})"
    return [said, *found.reasons]


def _short(text: str, width: int = 160) -> str:
    """Returns a text on one line, shortened in the middle."""
    text = text.replace("\n", "\\n")
    half = width // 2
    return text if len(text) <= width else f"{text[:half]} … {text[-half:]}"
