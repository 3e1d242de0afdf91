"""What is said of an experiment's tasks and their rows before training.

Inputs and targets that are longer than the feature lengths of their task are cut.
"""

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from promot_jax.base.errors import UserError, first_line
from promot_jax.data import batching, context, generated, metrics, oracle, registered, tasks
from promot_jax.data.chat import MARKS, Chat
from promot_jax.data.continuation import continuing
from promot_jax.data.oracle import MOST_TARGETS
from promot_jax.data.tasks import Row, Rows
from promot_jax.experiment import survey
from promot_jax.experiment.evaluation import EvalTask
from promot_jax.experiment.experiment import Experiment
from promot_jax.experiment.survey import Sizes, Survey
from promot_jax.training.replay import Replay

SPLITS = ("train", "validation", "test")
# Rows of a split that are looked at, for tasks that are not a person's own files.
LIMIT = 10_000
# Rows of a person's own files whose oracle is asked.
ORACLE_ROWS = 100_000
# Rows whose weights of targets are looked at.
WEIGHED_ROWS = 100
BRACKETS = " ".join(MARKS)


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
        self._seen = {
            task.name: self._look(task.name, SPLITS, None if _has_classes(task) else MOST_TARGETS)
            for task in experiment.targets
        }
        seen = [split for splits in self._seen.values() for split in splits.values()]
        talks = any(_chat(task.name) for task in experiment.targets)
        longest = survey.LONGEST_CHAT if talks else survey.LONGEST
        self._fitting_targets = survey.fitting([split.sizes for split in seen], longest)

    def lines(self) -> list[str]:
        """Returns the preview as lines of text."""
        targets = [line for task in self._experiment.targets for line in self._of_task(task)]
        own = [task for task in self._experiment.tasks if _source(task.name)]
        replays = [
            line for replay in _replays(self._experiment) for line in self._of_replay(replay)
        ]
        return [*targets, *replays, *(line for task in own for line in self._of_unseen(task))]

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
        trained_on = {
            generated.original(stage.mixture)
            for stage in stages
            if stage.task_feature_lengths is None
        }
        if variants := sorted(trained_on - {*self._seen}):
            chosen = {stage.mixture for method in experiment.selected for stage in method.stages}
            try:
                found["ONE_SHOT_TASK_FEATURE_LENGTHS"] = self._fitting(variants)
            except UserError:
                # Rows that are too few for exemplars do for methods without.
                if chosen & {*variants}:
                    raise
        if len(experiment.targets) == 1 and (source := _source(experiment.targets[0].name)):
            found |= _bound_to(source, experiment.labels)
        for replay in _replays(experiment):
            if replay.task_feature_lengths is None:
                found["REPLAY_FEATURE_LENGTHS"] = self._fitting_replay(replay)
            own = generated.source(replay.task)
            if source := _source((own and own.original) or replay.task):
                path = f"{source.data.absolute().train}:{replay.share}"
                found["REPLAY"] = f"self@{path}" if own else path
                found["REPLAY_CHECKSUM"] = source.checksum
        if own := [(t.metric, s) for t in experiment.tasks if (s := _source(t.name))]:
            found["UNSEEN_FILES"] = tuple(f"{m}={s.data.absolute().evaluation}" for m, s in own)
            found["UNSEEN_CHECKSUMS"] = tuple(source.checksum for _, source in own)
        return found

    def _look(self, name: str, splits: Sequence[str], most: int | None = None) -> dict[str, Survey]:
        """Returns what is known of the splits of a task: of all rows of a person's own files."""
        limit = None if _source(name) else LIMIT
        return {
            split: survey.survey(rows, self._vocabulary, limit, most, _chat(name))
            for split, rows in _rows(name, splits).items()
            if len(rows)
        }

    def _ask(
        self, task: EvalTask, rows: Sequence[Row], lengths: Mapping[str, int], further=()
    ) -> oracle.Oracle:
        words, decode = self._vocabulary, self._experiment.model.texts
        length = lengths["targets"]
        return oracle.ask(task.name, task.metric, rows, words, length, decode, further)

    def _fitting(self, names: Iterable[str], splits: Sequence[str] = SPLITS) -> dict[str, int]:
        seen = [split for name in names for split in self._look(name, splits, 0).values()]
        return survey.fitting([split.sizes for split in seen])

    def _of_task(self, task: EvalTask) -> list[str]:
        seen = self._seen[task.name]
        sizes = [split.sizes for split in seen.values()]
        counts = ", ".join(f"{len(rows)} {split}" for split, rows in seen.items())
        lines = [f"{task.label}: {counts} rows; {task.metric}"]
        if source := _source(task.name):
            lines += _dealt(source)
        else:
            lines += [f"  (no more than the first {LIMIT} rows of a split are looked at)"]
        lengths = task.task_feature_lengths or self._fitting_targets
        if (chat := _chat(task.name)) is not None:
            first = _rows(task.name, ("train",))["train"][0]
            lines += ["", f"  a row as the model reads it; it learns what stands in {BRACKETS}:"]
            lines += [f"  | {line}" for line in self._shown(chat, first, lengths)]
        for inputs, targets in seen["train"].first if chat is None else ():
            lines += ["", f"  input   {_short(inputs)}", f"  target  {_short(targets)}"]
        lines += self._weighted(task.name, lengths)
        if _has_classes(task):
            lines += ["", _classes(seen["train"])]
        lines += ["", *_length_table(sizes, lengths)]
        warnings = [*self._warnings(task, seen), *_unknown(sizes)]
        warnings += self._beyond_context(sizes, lengths)
        if rows := self._oracle_rows(task.name, SPLITS[1:]):
            found = self._ask(task, rows, lengths, [*seen["train"].targets])
            whole = sum(len(seen[split]) for split in seen if split != "train")
            lines += ["", _oracle(found, len(rows), whole)]
            warnings += _below(found, task.metric)
        return [*lines, *(f"warning: {text}" for text in warnings), ""]

    def _weighted(self, name: str, lengths: Mapping[str, int]) -> list[str]:
        """Says how much targets count, where a method that runs weighs them row by row."""
        found, lines = tasks.get(name), []
        stages = [stage for m in self._experiment.selected for stage in m.stages]
        for find in dict.fromkeys(stage.weights_in_rows.get(name) for stage in stages):
            if find is not None:
                train = _rows(name, ("train",))["train"]
                rows = [train[number] for number in range(min(len(train), WEIGHED_ROWS))]
                encoded = found.encode(rows, self._vocabulary, lengths)
                weights = np.concatenate(
                    [find(*pair, self._vocabulary) for pair in zip(rows, encoded, strict=True)]
                )
                what = f"{weights.min():g} to {weights.max():g}, mean {weights.mean():.2f}"
                lines += ["", f"  weights of targets in the first {len(rows)} rows: {what}"]
        return lines

    def _oracle_rows(self, name: str, splits: Sequence[str]) -> list[Row]:
        """Returns rows whose oracle is asked, the first of each split."""
        limit = ORACLE_ROWS if _source(name) else LIMIT
        found = _rows(name, splits).values()
        return [row for rows in found for part in survey.chunks(rows, limit) for row in part]

    @functools.cached_property
    def _fitting_unseen(self) -> dict[str, int]:
        names = [t.name for t in self._experiment.tasks if t.task_feature_lengths is None]
        # Nothing trains on these.
        lengths = self._fitting(names, ("validation", "test"))
        # Decoding stops at the length of targets, and an answer may run on beyond them.
        return lengths | {"targets": 2 * lengths["targets"]}

    def _of_unseen(self, task: EvalTask) -> list[str]:
        seen = self._look(task.name, ("test",), 0)["test"]
        sizes, (inputs, targets) = [seen.sizes], seen.first[0]
        lengths = task.task_feature_lengths or self._fitting_unseen
        lines = [f"{task.label}, unseen: {len(seen)} rows; {task.metric}"]
        lines += ["", f"  input   {_short(inputs)}", f"  target  {_short(targets)}"]
        rows = self._oracle_rows(task.name, ("test",))
        found = self._ask(task, rows, lengths)
        lines += ["", *_length_table(sizes, lengths), "", _oracle(found, len(rows), len(seen))]
        warnings = [*_unknown(sizes), *self._beyond_context(sizes, lengths)]
        warnings += _below(found, task.metric)
        return [*lines, *(f"warning: {text}" for text in warnings), ""]

    def _of_replay(self, replay: Replay) -> list[str]:
        if (own := generated.source(replay.task)) is not None:
            after = f" after inputs of {own.original}" if own.original else ""
            share = f"{100 * replay.share:g} % of the rows of a batch, read without a prompt"
            return [f"Replay: {len(own)} rows that the start model writes{after}, {share}", ""]
        seen = self._replayed(replay)
        sizes, lengths = [rows.sizes for rows in seen], self._fitting_replay(replay)
        share = f"{100 * replay.share:g} % of the rows of a batch, read without a prompt"
        lines = [f"Replay: {sum(map(len, seen))} rows of {replay.task}, {share}"]
        for inputs, targets in seen[0].first:
            lines += ["", f"  input   {_short(inputs)}", f"  target  {_short(targets)}"]
        lines += ["", *_length_table(sizes, lengths), "", self._learnt(replay, sizes, lengths)]
        warnings = [*_unknown(sizes), *self._beyond_context(sizes, lengths)]
        return [*lines, *(f"warning: {text}" for text in warnings), ""]

    def _learnt(self, replay: Replay, sizes: Sequence[Sizes], lengths: Mapping[str, int]) -> str:
        """Says what share of the loss, which is a mean over tokens, is that of the replay."""
        own = [splits["train"].sizes.lengths["targets"] for splits in self._seen.values()]
        wanted = [t.task_feature_lengths or self._fitting_targets for t in self._experiment.targets]
        target = (1 - replay.share) * _mean(own, [each["targets"] for each in wanted])
        other = [size.lengths["targets"] for size in sizes]
        replayed = replay.share * _mean(other, [lengths["targets"]] * len(other))
        part = 100 * replayed / (replayed + target)
        return f"  about {part:.0f} % of the tokens in targets are of these rows"

    def _fitting_replay(self, replay: Replay) -> Mapping[str, int]:
        if (own := generated.source(replay.task)) is not None:
            return self._fitting_written(own)
        longest = survey.LONGEST_CHAT if _chat(replay.tasks[0]) else survey.LONGEST
        sizes = [rows.sizes for rows in self._replayed(replay)]
        return replay.task_feature_lengths or survey.fitting(sizes, longest)

    def _fitting_written(self, own: generated.Generated) -> Mapping[str, int]:
        """Returns lengths that hold what the start model reads and writes."""
        answer, inputs = own.asking.tokens, (own.writing.begin or 0) + 1
        if own.original is not None and own.writing.begin is None:
            fitting = self._fitting([own.original], ("train",))
            # Of a conversation all is read that stands before the last answer.
            inputs = sum(fitting.values()) if _chat(own.original) else fitting["inputs"]
        return {
            feature: survey.MULTIPLE * -(-length // survey.MULTIPLE)
            for feature, length in (("inputs", inputs), ("targets", answer + 1))
        }

    def _replayed(self, replay: Replay) -> list[Survey]:
        return [self._look(name, ("train",), 0)["train"] for name in replay.tasks]

    def _beyond_context(self, sizes: Iterable[Sizes], lengths: Mapping[str, int]) -> list[str]:
        """Warns of rows that the model's context does not hold, as they are after cutting."""
        stages = [stage for method in self._experiment.methods for stage in method.stages]
        rows = [sum(np.minimum(s.lengths[f], lengths[f]) for f in survey.FEATURES) for s in sizes]
        return context.warnings(
            self._experiment.model.max_positions,
            np.concatenate(rows),
            max((stage.prompt_length for stage in stages), default=0),
        )

    def _warnings(self, task: EvalTask, seen: Mapping[str, Survey]) -> list[str]:
        found, train = [], seen["train"]
        for split in set(seen) - {"train"}:
            if twice := seen[split].known(train):
                found.append(f"{twice} of {len(seen[split])} {split} inputs are in train too")
            unknown = seen[split].targets.keys() - train.targets.keys()
            if _has_classes(task) and unknown:
                names = ", ".join(_short(label, 40) for label in sorted(unknown)[:5])
                found.append(f"{split} has labels that train has not: {names}")
        if (chat := _chat(task.name)) is not None:
            return sorted([*found, *self._of_chat(task, chat, train)])
        inputs, targets = train.first[0]
        joined = not inputs[-1:].isspace() and not targets[:1].isspace()
        if (
            self._experiment.model.family == "decoder"
            and joined
            and not self._spaced(*train.first[0])
        ):
            found.append(
                "to this decoder-only model input and target are one text, without a space "
                "between them; let the target begin with one, as in --target ' {label}'"
            )
        return sorted(found)

    def _shown(self, chat: Chat, row: Row, lengths: Mapping[str, int]) -> list[str]:
        return chat.preview(row, self._vocabulary, lengths).splitlines()

    def _of_chat(self, task: EvalTask, chat: Chat, train: Survey) -> list[str]:
        """Warns of conversations whose answers are cut away, or that are asked otherwise."""
        lengths, found = task.task_feature_lengths or self._fitting_targets, []
        before = train.sizes.lengths["inputs"]
        if lost := int((before >= lengths["inputs"] + lengths["targets"]).sum()):
            found.append(
                f"{lost} of {len(train)} train rows are so long that no answer is left of them; "
                "nothing is learnt from these"
            )
        if chat.asks_otherwise(_rows(task.name, ("train",))["train"][0]):
            found.append(
                "the chat template writes what stands before an answer otherwise once there is one "
                "(the system's text, for instance): the model is asked otherwise than it was tuned"
            )
        return found

    def _spaced(self, inputs: str, targets: str) -> bool:
        """Says whether the tokenizer itself puts a space between inputs and targets."""
        encode, go_on = self._vocabulary.encode, continuing(self._vocabulary).encode
        return encode(inputs) + go_on(targets) == encode(f"{inputs} {targets}")


def needed(experiment: Experiment) -> bool:
    """Returns whether an experiment reads a person's own files or leaves lengths to its data.

    Raises:
      UserError: a target task that is not registered.
    """
    evaluated = [*experiment.targets, *experiment.tasks]
    replays = _replays(experiment)
    open_lengths = any(task.task_feature_lengths is None for task in [*evaluated, *replays])
    names = [*(task.name for task in evaluated), *(replay.task for replay in replays)]
    return open_lengths or any(map(_source, names))


def _replays(experiment: Experiment) -> list[Replay]:
    """Returns what the stages of an experiment replay, each once."""
    found: list[Replay] = []
    for stage in (stage for method in experiment.methods for stage in method.stages):
        if stage.replay is not None and stage.replay not in found:
            found.append(stage.replay)
    return found


def _source(task: str) -> Any | None:
    """Returns the source of a task whose rows are a person's own files, else None."""
    found = tasks.get(task)
    return found.source if hasattr(getattr(found, "source", None), "checksum") else None


def _chat(name: str) -> Chat | None:
    """Returns how the conversations of a task are written, None where it has other rows."""
    encode = getattr(tasks.get(name), "encode", None)
    return encode if isinstance(encode, Chat) else None


def _rows(name: str, splits: Sequence[str]) -> dict[str, Rows]:
    """Returns the rows of those of the splits that a task has."""
    task = tasks.task(name)
    return {split: task.rows(split) for split in splits if split in task.splits}


def _bound_to(source, labels: Sequence[str]) -> dict[str, Any]:
    data = source.data.absolute()
    found = {"TRAIN_FILE": data.train, "EVAL_FILE": data.evaluation, "TEST_FILE": data.test}
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


def _classes(rows: Survey) -> str:
    counts = sorted(rows.targets.items(), key=lambda item: -item[1])
    shown = [f"{_short(label, 40)} {100 * count / len(rows):.1f} %" for label, count in counts[:10]]
    rest = f", and {len(counts) - 10} more" if len(counts) > 10 else ""
    return f"  classes in train: {', '.join(shown)}{rest}"


def _oracle(found: oracle.Oracle, asked: int, whole: int) -> str:
    first = f" (of {asked} of {whole} rows)" if asked < whole else ""
    return f"  oracle {found.score:.1f}{first}"


def _length_table(sizes: Iterable[Sizes], lengths: Mapping[str, int]) -> list[str]:
    lines = [f"  {'tokens':<8}{'p50':>7}{'p95':>7}{'max':>7}{'length':>8}{'rows cut':>10}"]
    for feature in survey.FEATURES:
        counts, longest = np.concatenate([s.lengths[feature] for s in sizes]), lengths[feature]
        middle, most = np.percentile(counts, [50, 95], method="inverted_cdf")
        cells = f"{middle:>7.0f}{most:>7.0f}{counts.max():>7}{longest:>8}"
        lines.append(f"  {feature:<8}{cells}{(counts > longest).sum():>10}")
    return lines


def _mean(lengths: Sequence[np.ndarray], longest: Sequence[int]) -> float:
    """Returns the mean length of rows of several groups, each cut to its longest."""
    cut = [np.minimum(*pair) for pair in zip(lengths, longest, strict=True)]
    return float(np.concatenate(cut).mean())


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
