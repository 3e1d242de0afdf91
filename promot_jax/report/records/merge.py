"""Several runs as one: their methods beside each other, on the tasks that they share."""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Sequence

from promot_jax.base.errors import UserError
from promot_jax.report.records.pooled import pooled
from promot_jax.report.records.records import MethodRecord, Records, Result, TaskRecord


def merge(runs: Sequence[Records], folder: pathlib.Path) -> Records:
    """Returns the records of all runs as those of one run in `folder`.

    Methods and stages are renamed to `RUN/NAME`, so that nothing of two runs is confused; labels
    name the run only where two methods would print the same. A pretrained model that has the same
    scores in several runs is one method. Rows that only some runs have remain, with a note. Runs
    that differ in their seeds alone are one before that.

    Raises:
      UserError: a run is given twice, two have no target in common, or score a task differently.
    """
    runs = pooled(runs)
    if len(runs) == 1:
        return dataclasses.replace(runs[0], folder=folder)
    names = _names(runs)
    targets, tasks = _targets(runs), _tasks(runs)
    labels = tuple(dict.fromkeys(label for task in targets for label in task.labels))
    parts = [_renamed(run, name, labels) for run, name in zip(runs, names, strict=True)]
    methods, results, kept = _methods(parts)
    return Records(
        folder=folder,
        about={
            "experiment": " and ".join(names),
            "finished": all(run.about.get("finished") for run in runs),
        },
        targets=targets,
        tasks=tasks,
        methods=methods,
        seeds=tuple(sorted({seed for run in runs for seed in run.seeds})),
        results=results,
        samples=tuple(
            dataclasses.replace(sample, method=kept.get(sample.method, sample.method))
            for part in parts
            for sample in part.samples
        ),
        stages=tuple(stage for part in parts for stage in part.stages),
        configuration="",
        notes=tuple(_gaps(runs, names, targets, tasks)),
        runs=tuple(
            dataclasses.replace(run, about=run.about | {"experiment": name})
            for run, name in zip(runs, names, strict=True)
        ),
        points=tuple(point for part in parts for point in part.points),
    )


def _names(runs: Sequence[Records]) -> list[str]:
    """Returns the folder's name of each run, with as many parents as tell them apart."""
    paths = [run.folder.resolve() for run in runs]
    for path, count in Counter(paths).items():
        if count > 1:
            raise UserError(f"{path} is given {count} times; name each run once")
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _targets(runs: Sequence[Records]) -> tuple[TaskRecord, ...]:
    """Returns the targets of all runs; each run shares one with the first."""
    first = runs[0]
    for run in runs[1:]:
        if not {task.name for task in run.targets} & {task.name for task in first.targets}:
            raise UserError(
                f"{run.folder} was fine-tuned on {_listed(run.targets)}, {first.folder} on "
                f"{_listed(first.targets)}: nothing to compare; report them apart"
            )
    return _united([run.targets for run in runs], runs)


def _tasks(runs: Sequence[Records]) -> tuple[TaskRecord, ...]:
    aims = {task.name for run in runs for task in run.targets}
    return tuple(
        task for task in _united([run.tasks for run in runs], runs) if task.name not in aims
    )


def _united(
    several: Sequence[Sequence[TaskRecord]], runs: Sequence[Records]
) -> tuple[TaskRecord, ...]:
    """Returns each task once, in the order of the runs."""
    found: dict[str, TaskRecord] = {}
    for tasks, run in zip(several, runs, strict=True):
        for task in tasks:
            kept = found.setdefault(task.name, task)
            if kept.metric != task.metric:
                raise UserError(
                    f"{run.folder} scores {task.name} with {task.metric}, {runs[0].folder} with "
                    f"{kept.metric}; report them apart"
                )
    return tuple(found.values())


def _listed(tasks: Sequence[TaskRecord]) -> str:
    return ", ".join(task.name for task in tasks)


def _renamed(run: Records, name: str, labels: tuple[str, ...]) -> Records:
    """Returns a run with methods and stages called `NAME/…`.

    Shares of other answers than `labels` are no longer there, as they cannot be compared.
    """
    methods = tuple(
        dataclasses.replace(
            method,
            name=f"{name}/{method.name}",
            stages=tuple(f"{name}/{stage}" for stage in method.stages),
            run=name,
            pretrained=method.pretrained and f"{name}/{method.pretrained}",
        )
        for method in run.methods
    )
    comparable = set(run.labels) == set(labels)

    def told(result: Result) -> Result:
        return result if comparable else dataclasses.replace(result, label_share=None)

    results = {
        (f"{name}/{method}", task): {seed: told(result) for seed, result in found.items()}
        for (method, task), found in run.results.items()
    }
    points = tuple(
        dataclasses.replace(p, method=f"{name}/{p.method}", result=told(p.result))
        for p in run.points
    )
    return dataclasses.replace(
        run,
        methods=methods,
        results=results,
        samples=tuple(dataclasses.replace(s, method=f"{name}/{s.method}") for s in run.samples),
        stages=tuple(dataclasses.replace(s, name=f"{name}/{s.name}") for s in run.stages),
        points=points,
    )


def _methods(parts: Sequence[Records]) -> tuple[tuple[MethodRecord, ...], dict, dict[str, str]]:
    """Returns the methods of all runs and their results, equal pretrained models once.

    The third is the name of each pretrained model that went into another → the other's name.
    """
    results = {key: value for part in parts for key, value in part.results.items()}
    kept: dict[str, str] = {}
    bases: list[tuple[MethodRecord, dict]] = []
    for part in parts:
        if part.pretrained is None:
            continue
        own = _own(results, part.pretrained)
        equal = next((base for base in bases if _equal(base[1], own)), None)
        if equal is None:
            bases.append((part.pretrained, own))
        else:
            equal[1].update({task: found for task, found in own.items() if task not in equal[1]})
            kept[part.pretrained.name] = equal[0].name
    results = {key: value for key, value in results.items() if key[0] not in kept}
    results |= {(base.name, task): found for base, own in bases for task, found in own.items()}
    methods = [base for base, _ in bases]
    methods += [
        dataclasses.replace(method, pretrained=kept.get(method.pretrained, method.pretrained))
        for part in parts
        for method in part.methods
        if method != part.pretrained
    ]
    return _labelled(methods), results, kept


def _own(results: dict, method: MethodRecord) -> dict:
    return {task: found for (name, task), found in results.items() if name == method.name}


def _equal(a: dict, b: dict) -> bool:
    """Whether two pretrained models have the same results wherever both have been scored."""
    shared = a.keys() & b.keys()
    return bool(shared) and all(_scored(a[task]) == _scored(b[task]) for task in shared)


def _scored(found: dict[int | None, Result]) -> dict:
    return {seed: (result.score, result.count) for seed, result in found.items()}


def _labelled(methods: Sequence[MethodRecord]) -> tuple[MethodRecord, ...]:
    """Names the run in the labels that two methods have."""
    counts = Counter(method.label for method in methods)
    return tuple(
        dataclasses.replace(method, label=f"{method.label} · {method.run}")
        if counts[method.label] > 1
        else method
        for method in methods
    )


def _gaps(
    runs: Sequence[Records],
    names: list[str],
    targets: Sequence[TaskRecord],
    tasks: Sequence[TaskRecord],
) -> list[str]:
    """Names the rows that a run does not have, and rows over different numbers of examples."""
    notes = []
    for run, name in zip(runs, names, strict=True):
        own = {task.name for task in (*run.targets, *run.tasks)}
        absent = [task.label for task in (*targets, *tasks) if task.name not in own]
        if absent:
            average = "" if all(task.name in own for task in tasks) else ", hence no average"
            notes.append(f"{name} does not have {', '.join(absent)}: no score there{average}.")
        if set(run.labels) != {label for task in targets for label in task.labels}:
            notes.append(f"{name} counts other answers as labels: no share of labels there.")
    uneven = [task.label for task in (*targets, *tasks) if len(_counts(runs, task)) > 1]
    if uneven:
        notes.append(
            "The number of examples behind a score depends on run or method for "
            f"{', '.join(dict.fromkeys(uneven))}."
        )
    return notes


def _counts(runs: Sequence[Records], task: TaskRecord) -> set[int]:
    """Returns the numbers of examples that a task's scores rest on."""
    return {
        result.count
        for run in runs
        for (_, scored), results in run.results.items()
        for result in results.values()
        if scored == task.name and result.count
    }
