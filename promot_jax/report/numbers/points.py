"""Scores of what was made of a method's start and end without training: points of curves."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from promot_jax.report.numbers.scores import Spread
from promot_jax.report.numbers.tables import Table, share_name, shots_name
from promot_jax.report.records.records import (
    TO_THE_END,
    MethodRecord,
    Records,
    Result,
    TaskRecord,
)

TITLE = "Between start and end"

Found = Mapping[str, Mapping[int | None, Result]]


@dataclasses.dataclass(frozen=True)
class Values:
    """What a seed has at a point: target, Norm. Avg. and the per cent of label answers."""

    target: float
    kept: float
    share: float | None


@dataclasses.dataclass(frozen=True)
class Curve:
    """The points of a method by one transform: coefficient → seed → values, in ascending order."""

    method: MethodRecord
    transform: str
    points: dict[float, dict[int | None, Values]]

    @property
    def label(self) -> str:
        """The transform's name as it is printed."""
        return self.transform.replace("_", " ")


def curves(records: Records, target: TaskRecord, shots: int) -> list[Curve]:
    """Returns the curves of all methods that have some, with the ends that they lead to.

    A seed counts at a point where the target and all unseen tasks are scored. A curve to an end
    that several methods share is that of the first.

    Args:
      records: the run.
      target: one of its targets.
      shots: of the unseen tasks that count.
    """
    scored: dict[tuple[str, str], dict[float, dict[str, dict[int | None, Result]]]] = {}
    for point in records.points:
        at = scored.setdefault((point.method, point.transform), {}).setdefault(point.at, {})
        at.setdefault(point.task, {})[point.seed] = point.result
    found: list[Curve] = []
    for method in records.methods:
        for (name, transform), points in scored.items():
            if name != method.name:
                continue
            values = {at: values_of(records, tasks, target, shots) for at, tasks in points.items()}
            values = {at: seeds for at, seeds in values.items() if seeds}
            if values and transform in TO_THE_END and (end := ends(records, method, target, shots)):
                values[1.0] = end
            curve = Curve(method, transform, dict(sorted(values.items())))
            if values and not any(_same(curve, other) for other in found):
                found.append(curve)
    return found


def _same(curve: Curve, other: Curve) -> bool:
    """Whether two methods with the same stages have the same points; the ends may be scored apart.

    With the same stages they may still be asked otherwise.
    """
    if (curve.method.stages, curve.transform) != (other.method.stages, other.transform):
        return False
    one, two = ({**each.points, 1.0: None} for each in (curve, other))
    return curve.transform in TO_THE_END and one == two


def ends(
    records: Records, method: MethodRecord, target: TaskRecord, shots: int
) -> dict[int | None, Values]:
    """Returns seed → values of what a method's last stage handed on."""
    tasks = (target, *records.unseen(shots))
    found = {task.name: records.results.get((method.name, task.name), {}) for task in tasks}
    return values_of(records, found, target, shots)


def values_of(
    records: Records, found: Found, target: TaskRecord, shots: int
) -> dict[int | None, Values]:
    """Returns seed → values of scores by task and seed; only seeds that have them all."""
    unseen = records.unseen(shots)
    generative = [task.name for task in records.unseen(shots, generative=True)]
    values = {}
    for seed, learned in found.get(target.name, {}).items():
        kept = {task.name: found.get(task.name, {}).get(seed) for task in unseen}
        if not kept or None in kept.values():
            continue
        shares = [kept[name].label_share for name in generative]
        share = statistics.fmean(shares) if shares and None not in shares else None
        mean = statistics.fmean(result.score for result in kept.values())
        values[seed] = Values(learned.score, mean, share)
    return values


def table(records: Records) -> Table | None:
    """Returns the points of all methods; None where there are none.

    Of several numbers of shots it is the fewest.
    """
    shots = min(records.shots, default=0)
    rows = []
    for target in records.targets:
        label = [target.label] if len(records.targets) > 1 else []
        for curve in curves(records, target, shots):
            rows += [
                (curve.method, [*label, curve.label, _place(curve, at), *_cells([*seeds.values()])])
                for at, seeds in curve.points.items()
            ]
    if not rows:
        return None
    average = f"Norm. Avg., {shots_name(shots)}" if len(records.shots) > 1 else "Norm. Avg."
    heads = ["Target"] if len(records.targets) > 1 else []
    heads += ["Made by", "At", "Seeds", "Target score", average, share_name(records)]
    return Table(
        "What is made of a method's start and its end without training, each leaf on its own, "
        "scored as the end is. Of an interpolation 0 is the start and 1 the end; above 1 it goes "
        "on. Mean ± sample standard deviation over seeds.",
        tuple(heads),
        tuple(rows),
    )


def _place(curve: Curve, at: float) -> str:
    return "1 (the end)" if at == 1 and curve.transform in TO_THE_END else f"{at:g}"


def _cells(values: Sequence[Values]) -> list[str]:
    """Returns number of seeds, target, average and share as they are printed."""
    shares = [one.share for one in values]
    return [
        str(len(values)),
        str(Spread(tuple(one.target for one in values))),
        str(Spread(tuple(one.kept for one in values))),
        "–" if None in shares else str(Spread(tuple(shares))),
    ]
