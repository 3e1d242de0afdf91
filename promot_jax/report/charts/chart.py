"""A figure as plain data: curves or clouds of points in panels, and its words."""

import dataclasses
import statistics

from promot_jax.report.numbers import scores

# More points than this are thinned in the alternative text, ends included.
_POINTS_IN_TEXT = 8
_POINTS_IN_TEXT_OF_PANELS = 4


@dataclasses.dataclass(frozen=True)
class Name:
    """Whose a curve or cloud is: its label in print and the method that it is drawn as.

    A method has `is_open` marks for a stage that only passes on to its last one.
    """

    label: str
    method: str
    is_open: bool = False


@dataclasses.dataclass(frozen=True)
class Curve:
    """A scalar over the steps of one stage: seed → (step → value)."""

    name: Name
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

    name: Name
    points: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Path:
    """Points (x, y) of one method in the order of a coefficient: seed → (coefficient → point).

    `made_by` says what the coefficient is of.
    """

    name: Name
    made_by: str
    seeds: dict[int | None, dict[float, tuple[float, float]]]

    def mean(self) -> dict[float, tuple[float, float]]:
        """Returns the mean point at each coefficient that all seeds have."""
        shared = set.intersection(*(set(points) for points in self.seeds.values()))
        found = {}
        for at in sorted(shared):
            x, y = zip(*(points[at] for points in self.seeds.values()), strict=True)
            found[at] = statistics.fmean(x), statistics.fmean(y)
        return found


@dataclasses.dataclass(frozen=True)
class Panel:
    """A pair of axes: what stands above it, and its curves, or clouds with paths that lead there.

    `label` says what the vertical axis measures. `from_zero` starts it at 0; `line` is a height
    that is marked.
    """

    label: str
    curves: tuple[Curve, ...] = ()
    clouds: tuple[Cloud, ...] = ()
    paths: tuple[Path, ...] = ()
    from_zero: bool = False
    line: float | None = None


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure: panels over one kind of horizontal axis, and its words.

    `columns` panels stand beside each other; `marks_means` adds each cloud's mean; `small` figures
    stand side by side.
    """

    name: str
    title: str
    caption: str
    x_label: str
    panels: tuple[Panel, ...]
    columns: int = 1
    marks_means: bool = False
    small: bool = False

    @property
    def is_lines(self) -> bool:
        """Whether the figure shows curves, not points."""
        return any(panel.curves for panel in self.panels)

    @property
    def names(self) -> tuple[Name, ...]:
        """The names of everything drawn, each once, in order of appearance."""
        series = [s for panel in self.panels for s in (*panel.curves, *panel.clouds, *panel.paths)]
        return tuple(dict.fromkeys(one.name for one in series))

    @property
    def several_seeds(self) -> bool:
        """Whether a curve is a mean over seeds."""
        return any(len(curve.seeds) > 1 for panel in self.panels for curve in panel.curves)

    @property
    def alt(self) -> str:
        """The figure in words, with its numbers."""
        kind = "Line chart" if self.is_lines else "Scatter chart"
        most = _POINTS_IN_TEXT if len(self.panels) == 1 else _POINTS_IN_TEXT_OF_PANELS
        texts = []
        for panel in self.panels:
            series = [_curve_text(curve, most) for curve in panel.curves]
            series += [_cloud_text(cloud, most) for cloud in panel.clouds]
            series += map(_path_text, panel.paths)
            texts.append(f"{panel.label} against {self.x_label}. {' '.join(series)}")
        if len(texts) == 1:
            return f"{kind}: {texts[0]}"
        return f"{kind} with {len(texts)} panels. " + " ".join(
            f"{place}: {text}" for place, text in enumerate(texts, start=1)
        )


def _figure_text(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _curve_text(curve: Curve, most: int) -> str:
    """Returns the curve's mean at some steps and the range of its seeds at the last one."""
    steps = curve.steps()
    if not steps:
        return f"{curve.name.label}: no step that all seeds have reached."
    chosen = steps
    if len(steps) > most:
        stride = (len(steps) - 1) / (most - 1)
        chosen = [steps[round(place * stride)] for place in range(most)]
    points = ", ".join(
        f"{_figure_text(statistics.fmean(curve.values(step)))} at step {step}" for step in chosen
    )
    if len(curve.seeds) == 1:
        return f"{curve.name.label}: {points}."
    last = curve.values(steps[-1])
    return (
        f"{curve.name.label}, mean of {len(curve.seeds)} seeds: {points} "
        f"(seeds from {_figure_text(min(last))} to {_figure_text(max(last))})."
    )


def _cloud_text(cloud: Cloud, most: int) -> str:
    if len(cloud.points) > most:
        x, y = (scores.Spread(values) for values in zip(*cloud.points, strict=True))
        return f"{cloud.name.label}, {len(cloud.points)} points: mean ({x}; {y})."
    points = ", ".join(f"({scores.decimal(x)}; {scores.decimal(y)})" for x, y in cloud.points)
    return f"{cloud.name.label}: {points}."


def _path_text(path: Path) -> str:
    points = ", ".join(
        f"at {at:g} ({scores.decimal(x)}; {scores.decimal(y)})"
        for at, (x, y) in path.mean().items()
    )
    return f"{path.name.label}, {path.made_by}: {points or 'no point that all seeds have'}."
