"""Draws the charts as PNG files, once for light and once for dark paper."""

import dataclasses
import pathlib
import statistics

from promot_jax.report import palette
from promot_jax.report.charts import Chart, Cloud, Curve
from promot_jax.report.palette import Paper, Style

_DPI = 200
_SIZE = (4.8, 3.1)
_SMALL_SIZE = (3.8, 2.5)
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
        for curve in chart.curves:
            _draw_curve(axes, curve, styles[curve.method], paper)
        for cloud in chart.clouds:
            _draw_points(axes, cloud, styles[cloud.method], paper)
            if chart.marks_means:
                _draw_mean(axes, cloud, styles[cloud.method], paper)
        _finish(axes, chart, paper)
        _legend(canvas, chart, styles, paper)
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


def _draw_curve(axes, curve: Curve, style: Style, paper: Paper) -> None:
    """Draws the mean with markers, the range as a band, single seeds as thin lines."""
    color = _ink(style, paper)
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
        markevery=max(1, len(steps) // 10),
        clip_on=False,
        zorder=3,
    )


def _columns(series: dict[int, float]) -> tuple[list[int], list[float]]:
    return list(series), list(series.values())


def _draw_points(axes, cloud: Cloud, style: Style, paper: Paper) -> None:
    axes.scatter(
        *zip(*cloud.points, strict=True),
        s=26,
        color=_ink(style, paper),
        marker=style.marker,
        alpha=0.55,
        linewidth=0,
        zorder=3,
    )


def _draw_mean(axes, cloud: Cloud, style: Style, paper: Paper) -> None:
    """Draws a large open mark at the mean of the points."""
    x, y = zip(*cloud.points, strict=True)
    axes.scatter(
        statistics.fmean(x),
        statistics.fmean(y),
        s=150,
        facecolor="none",
        edgecolor=_ink(style, paper),
        marker=style.marker,
        linewidth=1.6,
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


def _legend(canvas, chart: Chart, styles: dict[str, Style], paper: Paper) -> None:
    """Names the methods above the plot; a small figure's title names its only one."""
    from matplotlib.lines import Line2D

    if chart.small:
        return
    handles = []
    for series in chart.curves or chart.clouds:
        style = styles[series.method]
        dashes = (0, style.dashes) if style.dashes else "-"
        handles.append(
            Line2D(
                [],
                [],
                color=_ink(style, paper),
                marker=style.marker,
                markersize=6,
                linewidth=2,
                linestyle=dashes if chart.curves else "none",
                label=series.label,
            )
        )
    canvas.legend(
        handles=handles,
        loc="outside upper left",
        ncols=2 if len(handles) == 4 else min(len(handles), 3),
        handlelength=2.6 if chart.curves else 1.0,
        columnspacing=1.6,
        borderaxespad=0.2,
        labelcolor=paper.ink,
    )
