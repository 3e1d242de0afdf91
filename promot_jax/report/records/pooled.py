"""Runs that differ in their seeds alone, such as those of several machines, as one."""

import dataclasses
import re
from collections.abc import Sequence

from promot_jax.report.records.records import MethodRecord, Records, number

# What may differ: lines of config.gin, with those that go on from them.
_OWN = re.compile(r"^(SEEDS|MODEL_DIR|REUSE) =.*\n(?:[ \t)].*\n)*", re.MULTILINE)


def pooled(runs: Sequence[Records]) -> list[Records]:
    """Returns the runs, of which those of one configuration and of different seeds are one."""
    groups: list[list[Records]] = []
    for run in runs:
        group = next((group for group in groups if _fits(run, group)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return [group[0] if len(group) == 1 else _one(group) for group in groups]


def _fits(run: Records, group: Sequence[Records]) -> bool:
    first, taken = group[0], {seed for one in group for seed in one.seeds}
    return (
        bool(run.configuration)
        and _OWN.sub("", run.configuration) == _OWN.sub("", first.configuration)
        and _of(run.methods, "") == _of(first.methods, "")
        and (run.targets, run.tasks) == (first.targets, first.tasks)
        and not taken & {*run.seeds}
    )


def _of(methods: Sequence[MethodRecord], run: str) -> tuple[MethodRecord, ...]:
    return tuple(dataclasses.replace(method, run=run) for method in methods)


def _one(group: Sequence[Records]) -> Records:
    first = group[0]
    results: dict = {}
    for run in group:
        for key, found in run.results.items():
            # Without training there is one result, which all runs have.
            results[key] = found | results.get(key, {})
    seconds = [number(run.about.get("seconds")) for run in group]
    ends = [run.about.get("finished") for run in group]
    name = ", ".join(dict.fromkeys(run.about.get("experiment") or run.folder.name for run in group))
    about = first.about | {
        "experiment": name,
        "command": f"{first.about.get('command')}, and so for each seed",
        "seconds": None if None in seconds else sum(seconds),
        "finished": max(map(str, ends)) if all(ends) else None,
    }
    return dataclasses.replace(
        first,
        about=about,
        methods=_of(first.methods, name),
        seeds=tuple(sorted(seed for run in group for seed in run.seeds)),
        results=results,
        samples=tuple(sample for run in group for sample in run.samples),
        stages=tuple(stage for run in group for stage in run.stages),
        points=tuple(point for run in group for point in run.points),
        notes=tuple(dict.fromkeys(note for run in group for note in run.notes)),
    )
