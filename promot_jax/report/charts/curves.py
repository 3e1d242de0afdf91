"""The figures with steps along the horizontal axis."""

import dataclasses
import re
from collections.abc import Callable, Sequence

from promot_jax.report.charts.chart import Chart, Curve, Name, Panel
from promot_jax.report.numbers import following
from promot_jax.report.numbers import probes as probed
from promot_jax.report.numbers.following import Followed
from promot_jax.report.numbers.tables import labels_name
from promot_jax.report.records.records import Records, StageRecord, TaskRecord

_STEPS = "step of the stage"
_SEEDS = (
    " Line: mean over seeds; band: from the lowest to the highest seed; thin lines: single seeds."
)
# Parts of the last decoder layer whose gradients the probe compares (paper, 3.3).
_GROUPS = {
    "mlp": "MLP kernel",
    "query": "attention query",
    "key": "attention key",
    "value": "attention value",
}


def name_of(records: Records, stage: str) -> Name:
    """Returns whose a stage is: the method that it completes, else the first that it leads to."""
    for method in records.methods:
        if method.stages and method.stages[-1] == stage:
            return Name(method.label, method.name)
    method = next(method for method in records.methods if stage in method.stages)
    label = f"{method.label}, stage {stage.rpartition('/')[2]}"
    return Name(label, method.name, is_open=True)


def label_share(records: Records) -> Chart | None:
    """Returns the paper's Figure 2: target accuracy above, share of label answers below."""
    followed = following.questions(records, following.LABEL_SHARE)
    if followed is None or not records.labels:
        return None
    stages = _stages_with(records, followed)
    labels = labels_name(records)
    labelled = [target for target in records.targets if target.labels]
    share = Panel(
        f"{labels} share of outputs, %: {followed.label}",
        _curves(records, followed.series, stages),
        from_zero=True,
    )
    chart = Chart(
        name="label_share",
        title=f"{labels} as the answer to unseen tasks",
        caption="Above, what the model learns; below, the share of outputs on unseen tasks that "
        f"are {labels}, while it trains (the paper’s Figure 2).",
        x_label=_STEPS,
        panels=(*_targets(records, labelled, stages), share),
    )
    return _told(chart)


def target_score(records: Records) -> Chart | None:
    """Returns the targets' scores over the steps of every stage."""
    panels = tuple(_targets(records, records.targets))
    if not panels:
        return None
    return Chart(
        name="target_score",
        title=f"Learning {' and '.join(target.label for target in records.targets)}",
        caption="Score on validation examples over the steps of each stage; a later stage starts "
        "where the one before it was best.",
        x_label=_STEPS,
        panels=panels,
    )


def unseen_score(records: Records) -> Chart | None:
    """Returns the paper's Figure 1: the targets' scores and those of unseen tasks by family."""
    followed = following.families(records, following.SCORE)
    if not followed:
        return None
    stages = _stages_with(records, followed[0])
    panels = [Panel(one.label, _curves(records, one.series, stages)) for one in followed]
    chart = Chart(
        name="unseen_score",
        title="Scores on unseen tasks while training",
        caption="What the model learns, and its scores on a validation sample of the unseen tasks, "
        "evaluated without a prompt (the paper’s Figure 1).",
        x_label=_STEPS,
        panels=(*_targets(records, records.targets, stages), *panels),
        columns=1 if len(panels) == 1 else 2,
    )
    return _told(chart)


def gradient_cosine(records: Records) -> Chart | None:
    """Returns the paper's Figures 3 and 7: alignment of the full with the format gradient."""
    panels = []
    for group, label in _GROUPS.items():
        key = f"cosine/{group}"
        if curves := _curves(records, lambda run, key=key: run.series(key)):
            panels.append(Panel(label, curves))
    if not panels:
        return None
    chart = Chart(
        name="gradient_cosine",
        title="Format is learned first",
        caption="Cosine similarity of the full gradient and of the gradient of the format alone "
        "(labels drawn at random), in the last decoder layer: near 1, what is learned is the "
        "format (the paper’s Figures 1, 3 and 7).",
        x_label=_STEPS,
        panels=tuple(panels),
        columns=min(2, len(panels)),
    )
    return _told(chart)


def probes(records: Records) -> Chart | None:
    """Returns how far models moved from their start, by the probes that are drawn."""
    panels = []
    for figure in probed.FIGURES:
        curves = _curves(records, lambda run, key=figure.key: run.series(key))
        if figure.key in probed.DRAWN and curves:
            panels.append(Panel(f"{figure.label}, {figure.unit}", curves))
    if not panels:
        return None
    chart = Chart(
        name="probes",
        title="Moving away from the start",
        caption="What probes measured over the steps of each stage, with nothing attached to "
        "target rows.",
        x_label=_STEPS,
        panels=tuple(panels),
        columns=min(2, len(panels)),
    )
    return _told(chart)


def training_losses(records: Records) -> list[Chart]:
    """Returns a small figure a stage with its training loss."""
    charts = []
    for name in dict.fromkeys(run.name for run in records.stages):
        if curves := _curves(records, lambda run: run.series("train/loss"), {name}):
            file_name = re.sub(r"[^A-Za-z0-9._-]", "_", name)
            charts.append(
                Chart(
                    name=f"training_loss-{file_name}",
                    title=f"Training loss, stage {name}",
                    caption="",
                    x_label=_STEPS,
                    panels=(Panel("training loss", curves),),
                    small=True,
                )
            )
    return charts


def _told(chart: Chart) -> Chart:
    """Adds what band and thin lines are, where there are several seeds."""
    if not chart.several_seeds:
        return chart
    return dataclasses.replace(chart, caption=chart.caption + _SEEDS)


def _targets(
    records: Records, targets: Sequence[TaskRecord], stages: set[str] | None = None
) -> list[Panel]:
    """Returns a panel for each of some targets."""
    found = following.targets(records, targets)
    return [
        Panel(one.label, curves)
        for one in found
        if (curves := _curves(records, one.series, stages))
    ]


def _stages_with(records: Records, followed: Followed) -> set[str]:
    return {run.name for run in records.stages if followed.series(run)}


def _curves(
    records: Records,
    series: Callable[[StageRecord], dict[int, float]],
    stages: set[str] | None = None,
) -> tuple[Curve, ...]:
    """Returns one curve a stage that has measured the series; `stages` restricts them."""
    curves = []
    for name in dict.fromkeys(run.name for run in records.stages):
        if stages is not None and name not in stages:
            continue
        runs = {run.seed: series(run) for run in records.stages if run.name == name}
        seeds = {seed: values for seed, values in runs.items() if values}
        if seeds:
            curves.append(Curve(name_of(records, name), seeds))
    return tuple(curves)
