"""What each figure shows, as plain data with an alternative text; nothing is drawn here."""

import dataclasses
import re
import statistics

from promot_jax.report import scores
from promot_jax.report.records import Records
from promot_jax.report.tables import labels_name, metric_name

# More points than this are thinned in the alternative text, ends included.
_POINTS_IN_TEXT = 8

_SEEDS = (
    " Line: mean over seeds; band: from the lowest to the highest seed; thin lines: single seeds."
)
_MEANS = " The large open mark is the mean over seeds."


@dataclasses.dataclass(frozen=True)
class Curve:
    """A scalar over the steps of one stage: seed → (step → value), drawn as `method`."""

    label: str
    method: str
    seeds: dict[int, dict[int, float]]

    def steps(self) -> list[int]:
        """Returns the steps that all seeds have reached, where a mean over seeds is fair."""
        return sorted(set.intersection(*(set(series) for series in self.seeds.values())))

    def values(self, step: int) -> list[float]:
        """Returns the values of all seeds at a step of `steps()`."""
        return [series[step] for series in self.seeds.values()]


@dataclasses.dataclass(frozen=True)
class Cloud:
    """Points (x, y) of one method, one per seed or per checkpoint."""

    label: str
    method: str
    points: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure: curves or clouds, its axes, and its words.

    `from_zero` starts the vertical axis at 0, `marks_means` adds each cloud's mean, and `small`
    figures stand side by side.
    """

    name: str
    title: str
    caption: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...] = ()
    clouds: tuple[Cloud, ...] = ()
    from_zero: bool = False
    marks_means: bool = False
    small: bool = False

    @property
    def alt(self) -> str:
        """The figure in words, with its numbers."""
        kind = "Line chart" if self.curves else "Scatter chart"
        series = [_curve_text(curve) for curve in self.curves]
        series += [_cloud_text(cloud) for cloud in self.clouds]
        return f"{kind}: {self.y_label} against {self.x_label}. {' '.join(series)}"


def charts(records: Records) -> list[Chart]:
    """Returns the charts that the records have data for, in the order of the report."""
    found = [
        _label_share(records),
        _target_score(records),
        _unseen_score(records),
        _trade_off(records),
        _trade_off_checkpoints(records),
        *_training_losses(records),
    ]
    return [chart for chart in found if chart is not None]


def _curves(records: Records, key: str, stage: str | None = None) -> tuple[Curve, ...]:
    """Returns one curve a stage that recorded the scalar `key`."""
    names = dict.fromkeys(run.name for run in records.stages if stage in (None, run.name))
    curves = []
    for name in names:
        runs = {run.seed: run.series(key) for run in records.stages if run.name == name}
        seeds = {seed: series for seed, series in runs.items() if series}
        if seeds:
            method, label = _owner(records, name)
            curves.append(Curve(label, method, seeds))
    return tuple(curves)


def _owner(records: Records, stage: str) -> tuple[str, str]:
    """Returns the method that a stage is drawn as and the stage's label.

    That is the method which the stage completes, else the first method that passes through it.
    """
    for method in records.methods:
        if method.stages and method.stages[-1] == stage:
            return method.name, method.label
    method = next(method for method in records.methods if stage in method.stages)
    return method.name, f"{method.label}, stage {stage}"


def _label_share(records: Records) -> Chart | None:
    curves = _curves(records, "unseen/label_share")
    if not curves or not records.target.labels:
        return None
    labels = labels_name(records.target)
    several = any(len(curve.seeds) > 1 for curve in curves)
    return Chart(
        name="label_share",
        title=f"{labels} as the answer to unseen tasks",
        caption=f"Share of outputs on unseen generative tasks that are {labels}, while the model "
        f"trains (the paper’s Figure 2).{_SEEDS if several else ''}",
        x_label="step of the stage",
        y_label=f"{labels} share of outputs, %",
        curves=curves,
        from_zero=True,
    )


def _target_score(records: Records) -> Chart | None:
    curves = _curves(records, "validation/score")
    if not curves:
        return None
    metric = metric_name(records.target.metric)
    return Chart(
        name="target_score",
        title=f"Learning {records.target.label}",
        caption=f"{records.target.label} {metric} on validation examples over the steps of each "
        "stage; a later stage starts where the one before it was best.",
        x_label="step of the stage",
        y_label=f"{records.target.label} {metric}, validation",
        curves=curves,
    )


def _unseen_score(records: Records) -> Chart | None:
    curves = _curves(records, "unseen/score")
    if not curves:
        return None
    return Chart(
        name="unseen_score",
        title="Scores on unseen tasks while training",
        caption="Mean score on a validation sample of the unseen generative tasks, evaluated "
        "without a prompt.",
        x_label="step of the stage",
        y_label="mean score on unseen generative tasks",
        curves=curves,
    )


def _trade_off(records: Records) -> Chart | None:
    clouds = []
    for method in records.methods:
        target = records.results.get((method.name, records.target.name), {})
        tasks = [records.results.get((method.name, task.name), {}) for task in records.tasks]
        complete = [seed for seed in target if tasks and all(seed in task for task in tasks)]
        points = tuple(
            (target[seed].score, statistics.fmean(task[seed].score for task in tasks))
            for seed in complete
        )
        if points:
            clouds.append(Cloud(method.label, method.name, points))
    if not clouds:
        return None
    label = records.target.label
    several = any(len(cloud.points) > 1 for cloud in clouds)
    return Chart(
        name="trade_off",
        title="What was learned against what was kept",
        caption=f"Each point is one seed of one method: its {label} score and its mean over the "
        f"other tasks.{_MEANS if several else ''} Up and to the right is better.",
        x_label=f"{label} {metric_name(records.target.metric)}",
        y_label="Norm. Avg. of the other tasks",
        clouds=tuple(clouds),
        marks_means=True,
    )


def _trade_off_checkpoints(records: Records) -> Chart | None:
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for run in records.stages:
        unseen, target = run.series("unseen/score"), run.series("validation/score")
        for step in unseen.keys() & target.keys():
            found.setdefault(_owner(records, run.name), []).append((target[step], unseen[step]))
    if not found:
        return None
    label = records.target.label
    return Chart(
        name="trade_off_checkpoints",
        title="The same trade-off over checkpoints",
        caption=f"Each point is one evaluated step of one seed: {label} on validation examples "
        "against the mean score on unseen generative tasks, measured while the model trains.",
        x_label=f"{label} {metric_name(records.target.metric)}, validation",
        y_label="mean score on unseen generative tasks",
        clouds=tuple(
            Cloud(name, method, tuple(sorted(points))) for (method, name), points in found.items()
        ),
    )


def _training_losses(records: Records) -> list[Chart]:
    charts = []
    for name in dict.fromkeys(run.name for run in records.stages):
        curves = _curves(records, "train/loss", name)
        if curves:
            file_name = re.sub(r"[^A-Za-z0-9._-]", "_", name)
            charts.append(
                Chart(
                    name=f"training_loss-{file_name}",
                    title=f"Training loss, stage {name}",
                    caption="",
                    x_label="step of the stage",
                    y_label="training loss",
                    curves=curves,
                    small=True,
                )
            )
    return charts


def _figure_text(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _curve_text(curve: Curve) -> str:
    """Returns the curve's mean at some steps and the range of its seeds at the last one."""
    steps = curve.steps()
    if not steps:
        return f"{curve.label}: no step that all seeds have reached."
    chosen = steps
    if len(steps) > _POINTS_IN_TEXT:
        stride = (len(steps) - 1) / (_POINTS_IN_TEXT - 1)
        chosen = [steps[round(place * stride)] for place in range(_POINTS_IN_TEXT)]
    points = ", ".join(
        f"{_figure_text(statistics.fmean(curve.values(step)))} at step {step}" for step in chosen
    )
    if len(curve.seeds) == 1:
        return f"{curve.label}: {points}."
    last = curve.values(steps[-1])
    return (
        f"{curve.label}, mean of {len(curve.seeds)} seeds: {points} "
        f"(seeds from {_figure_text(min(last))} to {_figure_text(max(last))})."
    )


def _cloud_text(cloud: Cloud) -> str:
    if len(cloud.points) > _POINTS_IN_TEXT:
        x, y = (scores.Spread(values) for values in zip(*cloud.points, strict=True))
        return f"{cloud.label}, {len(cloud.points)} points: mean ({x}; {y})."
    points = ", ".join(f"({scores.decimal(x)}; {scores.decimal(y)})" for x, y in cloud.points)
    return f"{cloud.label}: {points}."
