"""What a run folder holds, finished or not, as plain objects.

Only its `run.json` must be there (see `experiment.run_folder`); what else is absent or damaged
becomes a sentence in `Records.notes`.
"""

import dataclasses
import math
import pathlib
import statistics
from collections.abc import Sequence

from promot_jax.base import jsonl
from promot_jax.base.errors import UserError
from promot_jax.experiment.run_folder import RunFolder
from promot_jax.experiment.stage_folder import StageFolder

# Transforms that make the end itself at 1.
TO_THE_END = ("interpolation", "adapter_scale")


@dataclasses.dataclass(frozen=True)
class TaskRecord:
    """A task that scores are measured on; scores are 0 to 100.

    `shots` counts the solved examples in each input; `labels` are the answers a target knows.
    """

    name: str
    label: str
    metric: str
    family: str = ""
    generative: bool = False
    labels: tuple[str, ...] = ()
    shots: int = 0


@dataclasses.dataclass(frozen=True)
class MethodRecord:
    """A column of the results: stage folders in order, none for the pretrained model.

    `name` is unique in its `Records`; `kind` is the name that its own run gives it, and `run` that
    run's name. They differ where several runs are merged. `pretrained` names the method that it
    is compared with. `in_context` says whether it asks a target in a form of its own in place of
    training on it.
    """

    name: str
    label: str
    stages: tuple[str, ...]
    kind: str = ""
    run: str = ""
    pretrained: str | None = None
    in_context: bool = False

    @property
    def untouched(self) -> bool:
        """Whether it is the pretrained model, asked as it is."""
        return not self.stages and not self.in_context


@dataclasses.dataclass(frozen=True)
class Result:
    """The score of one method and seed on one task; `label_share` is in per cent of outputs.

    `evaluated_as` is the registered task behind the score where that is a variant of the task.
    """

    score: float
    label_share: float | None
    count: int | None
    evaluated_as: str | None = None


@dataclasses.dataclass(frozen=True)
class PointRecord:
    """A score of what a transform made of a method's start and end, at one of its coefficients."""

    method: str
    seed: int
    transform: str
    at: float
    task: str
    result: Result


@dataclasses.dataclass(frozen=True)
class Sample:
    """One evaluation example, its accepted answers, and what a method answered."""

    method: str
    seed: int | None
    task: str
    index: int
    input: str
    targets: tuple[str, ...]
    prediction: str

    @property
    def matches(self) -> bool:
        """Whether the answer is an accepted one, letter case and outer spaces aside."""
        given = self.prediction.strip().casefold()
        return any(given == target.strip().casefold() for target in self.targets)


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """One stage of one seed: its summary (empty while it runs) and its scalars over steps."""

    seed: int
    name: str
    summary: dict
    metrics: tuple[dict, ...]

    def series(self, key: str) -> dict[int, float]:
        """Returns step → value of a scalar, in order of steps; the last line of a step wins."""
        found = {}
        for line in self.metrics:
            step, value = line.get("step"), number(line.get(key))
            if isinstance(step, int) and value is not None:
                found[step] = value
        return dict(sorted(found.items()))

    def mean_series(self, keys: Sequence[str]) -> dict[int, float]:
        """Returns step → plain mean of several scalars, at the steps that have them all."""
        found = [self.series(key) for key in keys]
        steps = sorted(set.intersection(*map(set, found))) if found else []
        return {step: statistics.fmean(series[step] for series in found) for step in steps}


@dataclasses.dataclass(frozen=True)
class Records:
    """All that a run folder holds.

    `results` maps (method, task) to seed → Result; the seed is None for a method without training.
    `about` is `run.json` as it stands, for facts that are only printed. `runs` are the single runs
    that were merged, none for the records of one run. `points` were scored without training.
    """

    folder: pathlib.Path
    about: dict
    targets: tuple[TaskRecord, ...]
    tasks: tuple[TaskRecord, ...]
    methods: tuple[MethodRecord, ...]
    seeds: tuple[int, ...]
    results: dict[tuple[str, str], dict[int | None, Result]]
    samples: tuple[Sample, ...]
    stages: tuple[StageRecord, ...]
    configuration: str
    notes: tuple[str, ...]
    runs: tuple["Records", ...] = ()
    points: tuple[PointRecord, ...] = ()

    @property
    def parts(self) -> tuple["Records", ...]:
        """The single runs: those that were merged, or these records themselves."""
        return self.runs or (self,)

    @property
    def labels(self) -> tuple[str, ...]:
        """The answers that the targets know, each once."""
        return tuple(dict.fromkeys(label for task in self.targets for label in task.labels))

    @property
    def shots(self) -> tuple[int, ...]:
        """The numbers of shots among the unseen tasks, in ascending order."""
        return tuple(sorted({task.shots for task in self.tasks}))

    @property
    def pretrained(self) -> MethodRecord | None:
        """The start as it is; the first of them where runs with different ones meet."""
        return next((method for method in self.methods if method.untouched), None)

    def base(self, method: MethodRecord) -> MethodRecord | None:
        """Returns the pretrained model that a method is compared with, None for itself."""
        names = {other.name: other for other in self.methods}
        return names.get(method.pretrained) if method.pretrained != method.name else None

    def unseen(
        self, shots: int | None = None, *, generative: bool = False
    ) -> tuple[TaskRecord, ...]:
        """Returns the unseen tasks with a number of shots (None: all), or those of free text."""
        return tuple(
            task
            for task in self.tasks
            if shots in (None, task.shots) and (task.generative or not generative)
        )


def number(value: object) -> float | None:
    """Returns a finite number as a float, anything else as None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def read(run_dir: str | pathlib.Path) -> Records:
    """Reads a run folder.

    Raises:
      UserError: the folder is no run folder, or its `run.json` cannot be understood.
    """
    folder = RunFolder(pathlib.Path(run_dir))
    about = folder.read_about()
    notes: list[str] = []
    try:
        # Runs of before there could be several have one "target".
        targets = tuple(map(_task, about.get("targets") or [about["target"]]))
        methods = _methods(
            about["methods"], str(about.get("experiment") or folder.path.resolve().name)
        )
        aims = {target.name for target in targets}
        tasks = tuple(_task(task) for task in about["tasks"] if task["task"] not in aims)
        seeds = tuple(int(seed) for seed in about.get("seeds") or ())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder.about}: targets, tasks, methods or seeds are not as `promot run` "
            f"writes them ({type(error).__name__}: {error}); restore the file or run again"
        ) from error
    results = _read_results(folder, {m.name for m in methods}, {*targets, *tasks}, notes)
    points = _read_points(folder, {m.name for m in methods}, {*targets, *tasks}, notes)
    samples = _read_samples(folder, notes)
    stages = _read_stages(folder, methods, notes)
    results |= _made_of_others(methods, points, results)
    return Records(
        folder=folder.path,
        about=about,
        targets=targets,
        tasks=tasks,
        methods=methods,
        seeds=seeds,
        results=results,
        samples=samples,
        stages=stages,
        configuration=folder.read_config(),
        notes=tuple(notes),
        points=points,
    )


def _methods(entries: list[dict], run: str) -> tuple[MethodRecord, ...]:
    """Returns the columns; all are compared with the first that is the pretrained model."""
    found = [
        MethodRecord(
            name=entry["name"],
            label=entry.get("label", entry["name"]),
            stages=tuple(entry.get("stages") or ()),
            kind=entry["name"],
            run=run,
            in_context=bool(entry.get("asked")),
        )
        for entry in entries
    ]
    pretrained = next((method.name for method in found if method.untouched), None)
    return tuple(dataclasses.replace(method, pretrained=pretrained) for method in found)


def _task(entry: dict) -> TaskRecord:
    return TaskRecord(
        name=entry["task"],
        label=entry.get("label", entry["task"]),
        metric=entry.get("metric", ""),
        family=entry.get("family") or "Other",
        generative=bool(entry.get("generative")),
        labels=tuple(entry.get("labels") or ()),
        shots=int(entry.get("shots") or 0),
    )


def _read_jsonl(path: pathlib.Path, shown: str, notes: list[str]) -> list[dict]:
    """Returns the objects of a JSONL file; lines that are none are left out with a note."""
    found = jsonl.read_lines(path)
    for place, line in enumerate(found, start=1):
        if line is None and place == len(found):
            notes.append(f"The last line of {shown} is incomplete and was left out.")
        elif line is None:
            notes.append(f"Line {place} of {shown} is not a JSON object and was left out.")
    return [line for line in found if line is not None]


def _read_results(folder, methods: set[str], tasks: set[TaskRecord], notes: list[str]) -> dict:
    path = folder.results
    if not path.is_file():
        notes.append(f"There is no {path.name}: nothing has been evaluated yet.")
        return {}
    names = {task.name for task in tasks}
    results: dict = {}
    unknown = 0
    for row in _read_jsonl(path, path.name, notes):
        method, task, score = row.get("method"), row.get("task"), number(row.get("score"))
        if method not in methods or task not in names or score is None:
            unknown += 1
            continue
        results.setdefault((method, task), {})[row.get("seed")] = _result(row, task, score)
    if unknown:
        notes.append(
            f"{unknown} line{'s' * (unknown > 1)} of {path.name} without a score, or with a "
            f"method or task that {folder.about.name} does not name, left out."
        )
    return results


def _result(row: dict, task: str, score: float) -> Result:
    count, variant = number(row.get("count")), row.get("evaluated_as")
    return Result(
        score=score,
        label_share=number(row.get("label_share")),
        count=None if count is None else int(count),
        evaluated_as=variant if isinstance(variant, str) and variant != task else None,
    )


def _read_points(
    folder: RunFolder, methods: set[str], tasks: set[TaskRecord], notes: list[str]
) -> tuple[PointRecord, ...]:
    """Returns the scores of points; lines of times have none, and runs without points no file."""
    names, found = {task.name for task in tasks}, {}
    for row in _read_jsonl(folder.curves, folder.curves.name, notes):
        method, seed, transform, task = (
            row.get(name) for name in ("method", "seed", "transform", "task")
        )
        at, score = number(row.get("at")), number(row.get("score"))
        if method in methods and task in names and None not in (at, score):
            key = (method, seed, str(transform), at, task)
            found[key] = PointRecord(*key, _result(row, task, score))
    return tuple(found.values())


def _made_of_others(
    methods: Sequence[MethodRecord], points: Sequence[PointRecord], results: dict
) -> dict:
    """Returns the results of methods that train nothing of their own, but make of another's end.

    Theirs are those of the first point that they make.
    """
    found, told = {}, set()
    for method in methods:
        own = [p for p in points if p.method == method.name and p.transform not in TO_THE_END]
        for point in own if method.stages in told else ():
            if (point.transform, point.at) == (own[0].transform, own[0].at):
                key = method.name, point.task
                found.setdefault(key, dict(results.get(key, {})))[point.seed] = point.result
        told.add(method.stages)
    return found


def _read_samples(folder: RunFolder, notes: list[str]) -> tuple[Sample, ...]:
    path = folder.samples
    if not path.is_file():
        notes.append(f"There is no {path.name}: no outputs to show.")
        return ()
    return tuple(
        Sample(
            method=str(row.get("method", "")),
            seed=row.get("seed"),
            task=str(row.get("task", "")),
            index=int(number(row.get("index")) or 0),
            input=_sample_text(row.get("input")),
            targets=_sample_targets(row.get("target")),
            prediction=_sample_text(row.get("prediction")),
        )
        for row in _read_jsonl(path, path.name, notes)
    )


def _sample_text(value: object) -> str:
    return "" if value is None else str(value)


def _sample_targets(value: object) -> tuple[str, ...]:
    """Returns the accepted answers: one text, or a list of them for question answering."""
    return tuple(map(str, value)) if isinstance(value, list) else (_sample_text(value),)


def _read_stages(
    folder: RunFolder, methods: tuple[MethodRecord, ...], notes: list[str]
) -> tuple[StageRecord, ...]:
    order = list(dict.fromkeys(stage for method in methods for stage in method.stages))
    read = (
        _read_stage(folder.stage(seed, name), seed, name, notes)
        for name in order
        for seed in folder.seeds
    )
    return tuple(stage for stage in read if stage is not None)


def _read_stage(folder: StageFolder, seed: int, name: str, notes: list[str]) -> StageRecord | None:
    metrics, shown = folder.metrics, folder.path.relative_to(folder.path.parent.parent)
    if not metrics.is_file() and not folder.summary.is_file():
        return None
    lines = _read_jsonl(metrics, str(shown / metrics.name), notes)
    try:
        summary = folder.read_summary()
    except UserError:
        notes.append(f"{shown / folder.summary.name} is not a JSON object and was left out.")
        summary = None
    return StageRecord(seed, name, summary or {}, tuple(lines))
