"""The figures that set what was learned against what was kept."""

import dataclasses
import statistics

from promot_jax.report.charts import palette
from promot_jax.report.charts.chart import Chart, Cloud, Name, Panel, Path
from promot_jax.report.charts.curves import name_of
from promot_jax.report.numbers import following, frontier, points
from promot_jax.report.numbers.following import Followed
from promot_jax.report.numbers.tables import metric_name, shots_name
from promot_jax.report.records.records import MethodRecord, Records, TaskRecord

_MEANS = " The large open mark is the mean over seeds."
_PATHS = (
    " Lines lead to the end over what is made of it and the method’s start without training; the "
    "table of these points has their coefficients."
)


Drawn = tuple[tuple[Cloud, ...], tuple[Path, ...]]


def finals(records: Records) -> list[Chart]:
    """Returns one figure a target: its score against Norm. Avg., one point a seed."""
    charts = []
    for target in records.targets:
        panels = []
        for shots in records.shots:
            which = f", {shots_name(shots)}" if len(records.shots) > 1 else " of the other tasks"
            clouds, paths = (_of_many if frontier.many(records) else _of_all)(
                records, target, shots
            )
            if clouds:
                panels.append(Panel(f"Norm. Avg.{which}", clouds=clouds, paths=paths))
        if panels:
            draw = _final_of_many if frontier.many(records) else _final
            charts.append(draw(records, target, panels))
    return charts


def _of_all(records: Records, target: TaskRecord, shots: int) -> Drawn:
    """Returns every seed of every method, and all paths."""
    clouds = tuple(
        Cloud(Name(method.label, method.name), found)
        for method in records.methods
        if (found := _final_points(records, method, target, shots))
    )
    return clouds, tuple(map(_path, points.curves(records, target, shots)))


def _of_many(records: Records, target: TaskRecord, shots: int) -> Drawn:
    """Returns the mean points of all methods that train; what does not stand out looks alike."""
    chosen = {method.name for method in frontier.standing_out(records)}
    found: dict[Name, list[tuple[float, float]]] = {}
    for one in frontier.scored(records, target, shots):
        own = Name(one.method.label, one.method.name)
        name = own if own.method in chosen else Name("Other methods", palette.MUTED)
        found.setdefault(name, []).append((one.target, one.kept))
    muted = sorted(found.items(), key=lambda item: item[0].method != palette.MUTED)
    paths = [
        dataclasses.replace(path, seeds={None: path.mean()})
        for path in map(_path, points.curves(records, target, shots))
        if path.name.method in chosen
    ]
    return tuple(Cloud(name, tuple(each)) for name, each in muted), tuple(paths)


def _path(curve: points.Curve) -> Path:
    """Returns a curve as it is drawn."""
    seeds: dict[int | None, dict[float, tuple[float, float]]] = {}
    for at, values in curve.points.items():
        for seed, one in values.items():
            seeds.setdefault(seed, {})[at] = one.target, one.kept
    return Path(Name(curve.method.label, curve.method.name), curve.label, seeds)


def _final(records: Records, target: TaskRecord, panels: list[Panel]) -> Chart:
    drawn = any(panel.paths for panel in panels)
    several = any(len(cloud.points) > 1 for panel in panels for cloud in panel.clouds)
    return Chart(
        name=_file_name("trade_off", records, target),
        title=f"{_learned(records, target)} against what was kept",
        caption=f"Each point is one seed of one method: its {target.label} score and its mean over "
        f"the other tasks.{_MEANS if several else ''}{_PATHS if drawn else ''} Up and to the right "
        "is better.",
        x_label=f"{target.label} {metric_name(target.metric)}",
        panels=tuple(panels),
        columns=min(2, len(panels)),
        marks_means=True,
    )


def _final_of_many(records: Records, target: TaskRecord, panels: list[Panel]) -> Chart:
    return Chart(
        name=_file_name("frontier", records, target),
        title=f"{_learned(records, target)} against what was kept: the frontier",
        caption=f"Each point is the mean over seeds of a method's end, or of one between its start "
        f"and its end: its {target.label} score and its mean over the other tasks. In colour: "
        "methods of which a point is on the frontier, the first one and ProMoT. Up and to the "
        "right is better.",
        x_label=f"{target.label} {metric_name(target.metric)}",
        panels=tuple(panels),
        columns=min(2, len(panels)),
    )


def _final_points(
    records: Records, method: MethodRecord, target: TaskRecord, shots: int
) -> tuple[tuple[float, float], ...]:
    """Returns (target, mean of the others) of every seed that has all scores."""
    learned = records.results.get((method.name, target.name), {})
    kept = [records.results.get((method.name, t.name), {}) for t in records.unseen(shots)]
    return tuple(
        (learned[seed].score, statistics.fmean(task[seed].score for task in kept))
        for seed in learned
        if all(seed in task for task in kept)
    )


def along_training(records: Records) -> list[Chart]:
    """Returns the paper's Figures 5 and 6: one figure a target, one point an evaluated step."""
    charts = []
    for target, followed in _axes(records):
        panels = []
        for kept in following.families(records, following.SCORE):
            if clouds := _step_clouds(records, followed, kept):
                panels.append(Panel(kept.label, clouds=clouds))
        if panels:
            charts.append(
                Chart(
                    name=_file_name("trade_off_checkpoints", records, target),
                    title=f"{_learned(records, target)} against what was kept, over checkpoints",
                    caption="Each point is one evaluated step of one seed, both axes on validation "
                    "examples, measured while the model trains (the paper’s Figures 5 and 6).",
                    x_label=followed.label,
                    panels=tuple(panels),
                    columns=1 if len(panels) == 1 else 2,
                )
            )
    return charts


def _axes(records: Records) -> list[tuple[TaskRecord | None, Followed]]:
    """Returns each target with what was measured of it; None where only their mean was."""
    found = [(target, following.targets(records, [target])) for target in records.targets]
    single = [(target, followed[0]) for target, followed in found if len(followed) == 1]
    keys = {followed.keys for _, followed in single}
    return single if len(keys) == len(single) else [(None, single[0][1])]


def _step_clouds(records: Records, learned: Followed, kept: Followed) -> tuple[Cloud, ...]:
    found: dict[Name, list[tuple[float, float]]] = {}
    for run in records.stages:
        x, y = learned.series(run), kept.series(run)
        for step in x.keys() & y.keys():
            found.setdefault(name_of(records, run.name), []).append((x[step], y[step]))
    return tuple(Cloud(name, tuple(sorted(points))) for name, points in found.items())


def _learned(records: Records, target: TaskRecord | None) -> str:
    return f"Learned {target.label}" if target and len(records.targets) > 1 else "What was learned"


def _file_name(name: str, records: Records, target: TaskRecord | None) -> str:
    """Returns the name of a target's figure; there is one only for most runs."""
    several = target is not None and len(records.targets) > 1
    return f"{name}-{target.name}" if several else name
