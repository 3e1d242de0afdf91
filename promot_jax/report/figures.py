"""Draws the charts as PNG files, once for light and once for dark paper."""

import dataclasses
import pathlib
import statistics

from promot_jax.report import palette
from promot_jax.report.charts import Chart, Cloud, Curve
from promot_jax.report.palette import Paper, Style

_DPI = 200
_SIZE = (5.8, 3.5)
_SMALL_SIZE = (4.2, 2.7)
# The first of these that is installed; DejaVu Sans comes with matplotlib.
_FONTS = ("Inter", "Source Sans 3", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans")


@dataclasses.dataclass(frozen=True)
class Figure:
    """A chart and the files that show it, relative to the report."""

    chart: Chart
    light: str
    dark: str


def draw(charts: list[Chart], styles: dict[str, Style], folder: pathlib.Path) -> list[Figure]:
    """Writes `figures/NAME.png` and `figures/NAME-dark.png` in `folder` for every chart."""
    (folder / "figures").mkdir(exist_ok=True)
    drawn = []
    for chart in charts:
        figure = Figure(chart, f"figures/{chart.name}.png", f"figures/{chart.name}-dark.png")
        _save(chart, styles, palette.LIGHT, folder / figure.light)
        _save(chart, styles, palette.DARK, folder / figure.dark)
        drawn.append(figure)
    return drawn


def _save(chart: Chart, styles: dict[str, Style], paper: Paper, path: pathlib.Path) -> None:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(_settings(paper)):
        size = _SMALL_SIZE if chart.small else _SIZE
        canvas = Canvas(figsize=size, layout="constrained", facecolor=paper.background)
        FigureCanvasAgg(canvas)
        axes = canvas.add_subplot()
        for place, curve in enumerate(chart.curves):
            _draw_curve(axes, curve, styles[curve.method], _ink(styles[curve.method], paper), place)
        for cloud in chart.clouds:
            _draw_cloud(axes, cloud, styles[cloud.method], _ink(styles[cloud.method], paper), paper)
        _finish(axes, chart, paper)
        # No software version or date inside, so that equal records give equal files.
        canvas.savefig(path, dpi=_DPI, metadata={"Software": None})


def _settings(paper: Paper) -> dict:
    """Returns matplotlib's settings for a quiet figure: one grid, no box, small type."""
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return {
        "font.family": [name for name in _FONTS if name in installed][:1] or ["sans-serif"],
        "font.size": 9.5,
        "axes.facecolor": paper.background,
        "axes.edgecolor": paper.rule,
        "axes.labelcolor": paper.muted,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.labelpad": 6,
        "grid.color": paper.rule,
        "grid.linewidth": 0.8,
        "text.color": paper.ink,
        "xtick.color": paper.rule,
        "ytick.color": paper.rule,
        "xtick.labelcolor": paper.muted,
        "ytick.labelcolor": paper.muted,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "legend.fontsize": 9.5,
        "lines.solid_capstyle": "round",
        "lines.dash_capstyle": "round",
    }


def _ink(style: Style, paper: Paper) -> str:
    return style.dark if paper is palette.DARK else style.light


def _draw_curve(axes, curve: Curve, style: Style, color: str, place: int) -> None:
    """Draws the mean with markers, the range as a band, single seeds as thin lines."""
    several = len(curve.seeds) > 1
    for series in curve.seeds.values():
        if several:
            axes.plot(*_columns(series), color=color, linewidth=0.7, alpha=0.45)
    steps = curve.steps()
    values = [curve.values(step) for step in steps]
    if several:
        axes.fill_between(
            steps, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.14, lw=0
        )
    axes.plot(
        steps,
        [statistics.fmean(v) for v in values],
        color=color,
        linewidth=2,
        linestyle=(0, style.dashes) if style.dashes else "-",
        marker=style.marker,
        markersize=5,
        # Few markers, out of step with the other curves', keep dense curves legible.
        markevery=(place % 2, 1) if len(steps) <= 12 else (place * 2, max(1, len(steps) // 8)),
        label=curve.label,
        clip_on=False,
        zorder=3,
    )


def _columns(series: dict[int, float]) -> tuple[list[int], list[float]]:
    return list(series), list(series.values())


def _draw_cloud(axes, cloud: Cloud, style: Style, color: str, paper: Paper) -> None:
    """Draws the points, and a ringed larger one at their mean."""
    x, y = zip(*cloud.points, strict=True)
    alone = len(cloud.points) == 1
    label = cloud.label if alone else None
    size, alpha = (80, 1.0) if alone else (24, 0.5)
    axes.scatter(
        x, y, s=size, color=color, marker=style.marker, alpha=alpha, label=label, lw=0, zorder=3
    )
    if not alone:
        axes.scatter(
            statistics.fmean(x),
            statistics.fmean(y),
            s=90,
            color=color,
            marker=style.marker,
            edgecolor=paper.background,
            linewidth=1.2,
            label=f"{cloud.label} (large: mean)",
            zorder=4,
        )


def _finish(axes, chart: Chart, paper: Paper) -> None:
    """Sets labels, limits and the legend above the plot."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(chart.x_label)
    axes.set_title(chart.y_label, loc="left", fontsize=9.5, color=paper.muted, pad=10)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=bool(chart.curves)))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.02 if chart.curves else 0.08, y=0.08)
    if chart.from_zero:
        top = max(5.0, axes.get_ylim()[1])
        axes.set_ylim(-0.02 * top, top)
    handles, labels = axes.get_legend_handles_labels()
    if handles and not (chart.small and len(handles) == 1):
        axes.figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=min(len(handles), 3),
            handlelength=2.4,
            columnspacing=1.6,
            borderaxespad=0.2,
            labelcolor=paper.ink,
        )
