"""What the stages measured of the unseen tasks while they trained."""

import dataclasses
from collections.abc import Sequence

from promot_jax.report.numbers.tables import metric_name, shots_name
from promot_jax.report.records.records import Records, StageRecord, TaskRecord

SCORE = "unseen/score"
LABEL_SHARE = "unseen/label_share"
_TARGET = "validation/score"
# Figures 1 and 2 of the paper follow question answering.
_QUESTIONS = "Closed-book QA"


@dataclasses.dataclass(frozen=True)
class Followed:
    """A quantity along training: its name in print and the scalars whose mean it is.

    `family` is that of its tasks, empty for a mean over all of them.
    """

    label: str
    keys: tuple[str, ...]
    family: str = ""

    def series(self, run: StageRecord) -> dict[int, float]:
        """Returns step → value in one stage of one seed."""
        return run.mean_series(self.keys)


def targets(records: Records, chosen: Sequence[TaskRecord]) -> list[Followed]:
    """Returns the validation score of each of some targets.

    Runs without series of single targets have their mean alone.
    """
    if len(records.targets) == 1:
        return [_target(target, _TARGET) for target in chosen]
    single = {
        target: one
        for target in records.targets
        if _measured(records, *(one := _target(target, f"{_TARGET}/{target.name}")).keys)
    }
    if single:
        return [single[target] for target in chosen if target in single]
    labels = " and ".join(target.label for target in records.targets)
    return [Followed(f"mean of {labels}, validation", (_TARGET,))]


def _target(target: TaskRecord, key: str) -> Followed:
    return Followed(f"{target.label} {metric_name(target.metric)}, validation", (key,))


def families(records: Records, kind: str) -> list[Followed]:
    """Returns the mean over all followed tasks, then over each family, of `SCORE` or `LABEL_SHARE`.

    Of tasks with several numbers of shots only those with the fewest are followed, as in the
    paper's figures. Runs without series of single tasks have their mean alone.
    """
    tasks = _followed_tasks(records, kind)
    if not tasks:
        generative = Followed("mean of the generative tasks", (kind,))
        return [generative] if _measured(records, kind) else []
    found = [_mean(records, f"mean of {len(tasks)} tasks", kind, tasks)]
    for family in dict.fromkeys(task.family for task in tasks):
        members = [task for task in tasks if task.family == family]
        metrics = " and ".join(dict.fromkeys(metric_name(task.metric) for task in members))
        unit = f", {metrics}" if kind == SCORE else ""
        found.append(_mean(records, f"{family}{unit}", kind, members, family))
    return found if len(found) > 2 else found[1:]


def questions(records: Records, kind: str) -> Followed | None:
    """Returns closed-book question answering where it was followed, else the mean of all."""
    found = families(records, kind)
    wanted = [one for one in found if one.family == _QUESTIONS]
    return next(iter([*wanted, *found]), None)


def _followed_tasks(records: Records, kind: str) -> list[TaskRecord]:
    found = [task for task in records.tasks if _measured(records, f"{kind}/{task.name}")]
    if kind == LABEL_SHARE:
        found = [task for task in found if task.generative]
    fewest = min((task.shots for task in found), default=0)
    return [task for task in found if task.shots == fewest]


def _mean(
    records: Records, label: str, kind: str, tasks: Sequence[TaskRecord], family: str = ""
) -> Followed:
    shots = f" ({shots_name(tasks[0].shots)})" if len(records.shots) > 1 else ""
    return Followed(label + shots, tuple(f"{kind}/{task.name}" for task in tasks), family)


def _measured(records: Records, *keys: str) -> bool:
    return any(run.mean_series(keys) for run in records.stages)
