"""Draws the charts as PNG files, once for light and once for dark paper."""

import dataclasses
import functools
import pathlib
import statistics
import textwrap

from promot_jax.experiment.run_folder import FIGURES
from promot_jax.report.charts import palette
from promot_jax.report.charts.chart import Chart, Cloud, Curve, Name, Panel, Path
from promot_jax.report.charts.palette import Paper, Style

_DPI = 200
# Sizes of type in points: everywhere, and above panels that stand beside each other.
_TYPE, _SMALL_TYPE = 9.5, 8.5
_WIDTH, _SMALL_WIDTH = 4.8, 3.8
# Heights in inches: of a panel alone, of one in a column, of one beside another; of the legend.
_ALONE, _STACKED, _BESIDE, _SMALL_HEIGHT = 2.6, 1.75, 1.65, 2.5
_LEGEND_LINE = 0.2
# Inches of a legend entry beside its text: mark and gaps, of lines and of points.
_LINE_MARK, _POINT_MARK = 0.66, 0.45
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
    (folder / FIGURES).mkdir(exist_ok=True)
    drawn = []
    for chart in charts:
        figure = Figure(chart, f"{FIGURES}/{chart.name}.png", f"{FIGURES}/{chart.name}-dark.png")
        _save(chart, styles, palette.LIGHT, folder / figure.light)
        _save(chart, styles, palette.DARK, folder / figure.dark)
        drawn.append(figure)
    return drawn


def _save(chart: Chart, styles: dict[str, Style], paper: Paper, path: pathlib.Path) -> None:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(_settings(paper)):
        canvas = Canvas(figsize=_size(chart), layout="constrained", facecolor=paper.background)
        FigureCanvasAgg(canvas)
        rows = -(-len(chart.panels) // chart.columns)
        grid = canvas.subplots(rows, chart.columns, sharex=True, squeeze=False)
        places = list(grid.flat)
        for axes, panel in zip(places, chart.panels, strict=False):
            _draw_panel(axes, chart, panel, styles, paper)
        for axes in places[len(chart.panels) :]:
            axes.remove()
        _name_steps(places, chart)
        _legend(canvas, chart, styles, paper)
        # No software version or date inside, so that equal records give equal files.
        partial = path.with_name(f"partial-{path.name}")
        canvas.savefig(partial, dpi=_DPI, metadata={"Software": None})
        partial.replace(path)


def _size(chart: Chart) -> tuple[float, float]:
    """Returns width and height in inches, with room for the legend's lines."""
    if chart.small:
        return _SMALL_WIDTH, _SMALL_HEIGHT
    rows = -(-len(chart.panels) // chart.columns)
    height = _ALONE if len(chart.panels) == 1 else _STACKED if chart.columns == 1 else _BESIDE
    lines = -(-len(chart.names) // _legend_columns(chart))
    return _WIDTH, rows * height + lines * _LEGEND_LINE + 0.3


def _legend_columns(chart: Chart) -> int:
    """Returns how many labels fit beside each other."""
    return _fitting(tuple(name.label for name in chart.names), chart.is_lines)


# Measuring a text takes milliseconds, and each figure of each paper asks twice.
@functools.cache
def _fitting(labels: tuple[str, ...], is_lines: bool) -> int:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    # 72 points make an inch.
    widths = [
        TextPath((0, 0), label, prop=FontProperties(size=_TYPE)).get_extents().width / 72
        for label in labels
    ]
    mark = _LINE_MARK if is_lines else _POINT_MARK
    # The last column has no gap behind it.
    fitting = max(1, int((_WIDTH + 0.1) / (max(widths) + mark)))
    return 2 if len(labels) == 4 and fitting >= 2 else min(fitting, len(labels))


def _draw_panel(axes, chart: Chart, panel: Panel, styles: dict[str, Style], paper: Paper) -> None:
    for curve in panel.curves:
        _draw_curve(axes, curve, styles[curve.name.method], paper, chart.columns)
    if panel.line is not None:
        axes.axhline(panel.line, color=paper.muted, linewidth=1.2, linestyle=(0, (4, 3)), zorder=2)
    for path in panel.paths:
        _draw_path(axes, path, styles[path.name.method], paper, chart.columns)
    for cloud in panel.clouds:
        _draw_points(axes, cloud, styles[cloud.name.method], paper, chart.columns)
        if chart.marks_means:
            _draw_mean(axes, cloud, styles[cloud.name.method], paper, chart.columns)
    _finish(axes, chart, panel, paper)


def _settings(paper: Paper) -> dict:
    """Returns matplotlib's settings for a quiet figure: one grid, no box, small type."""
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return {
        "font.family": [name for name in _FONTS if name in installed][:1] or ["sans-serif"],
        "font.size": _TYPE,
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
        "legend.fontsize": _TYPE,
        "lines.solid_capstyle": "round",
        "lines.dash_capstyle": "round",
    }


def _ink(style: Style, paper: Paper) -> str:
    return style.dark if paper is palette.DARK else style.light


def _filling(name: Name, style: Style, paper: Paper) -> str:
    return paper.background if name.is_open else _ink(style, paper)


def _draw_curve(axes, curve: Curve, style: Style, paper: Paper, columns: int) -> None:
    """Draws the mean with markers, the range as a band, single seeds as thin lines.

    Where panels stand in `columns` side by side, marks are smaller.
    """
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
        linewidth=2 if columns == 1 else 1.6,
        linestyle=(0, style.dashes) if style.dashes else "-",
        marker=style.marker,
        markersize=5 if columns == 1 else 3.5,
        markerfacecolor=_filling(curve.name, style, paper),
        markevery=max(1, len(steps) // 10),
        clip_on=False,
        zorder=3,
    )


def _columns(series: dict[int, float]) -> tuple[list[int], list[float]]:
    return list(series), list(series.values())


def _draw_path(axes, path: Path, style: Style, paper: Paper, columns: int) -> None:
    """Draws the mean as a line with small marks, single seeds as thin lines."""
    color = _ink(style, paper)
    for points in path.seeds.values():
        if len(path.seeds) > 1:
            ordered = [points[at] for at in sorted(points)]
            axes.plot(*zip(*ordered, strict=True), color=color, linewidth=0.7, alpha=0.35)
    if mean := path.mean():
        axes.plot(
            *zip(*mean.values(), strict=True),
            color=color,
            linewidth=1.6 if columns == 1 else 1.2,
            linestyle=(0, style.dashes) if style.dashes else "-",
            marker=style.marker,
            markersize=4 if columns == 1 else 3,
            zorder=2.5,
        )


def _draw_points(axes, cloud: Cloud, style: Style, paper: Paper, columns: int) -> None:
    axes.scatter(
        *zip(*cloud.points, strict=True),
        s=26 if columns == 1 else 16,
        facecolor="none" if cloud.name.is_open else _ink(style, paper),
        edgecolor=_ink(style, paper),
        marker=style.marker,
        alpha=0.55,
        linewidth=0.8 if cloud.name.is_open else 0,
        zorder=3,
    )


def _draw_mean(axes, cloud: Cloud, style: Style, paper: Paper, columns: int) -> None:
    """Draws a large open mark at the mean of the points."""
    x, y = zip(*cloud.points, strict=True)
    axes.scatter(
        statistics.fmean(x),
        statistics.fmean(y),
        s=150 if columns == 1 else 80,
        facecolor="none",
        edgecolor=_ink(style, paper),
        marker=style.marker,
        linewidth=1.6,
        zorder=4,
    )


def _finish(axes, chart: Chart, panel: Panel, paper: Paper) -> None:
    """Sets title, limits and ticks of one panel."""
    from matplotlib.ticker import MaxNLocator

    room = 62 if chart.columns == 1 else 31
    title = "\n".join(textwrap.wrap(panel.label, room))
    axes.set_title(
        title,
        loc="left",
        fontsize=_TYPE if chart.columns == 1 else _SMALL_TYPE,
        pad=7,
        color=paper.muted,
    )
    beside = chart.columns > 1
    axes.xaxis.set_major_locator(MaxNLocator(4 if beside else 6, integer=bool(panel.curves)))
    axes.yaxis.set_major_locator(MaxNLocator(4 if len(chart.panels) > 1 else 5))
    # Large marks of means need room.
    space = 0.16 if chart.marks_means else 0.08
    axes.margins(x=0.02 if panel.curves else space, y=space)
    if panel.from_zero:
        top = max(5.0, axes.get_ylim()[1])
        axes.set_ylim(-0.02 * top, top)


def _name_steps(places: list, chart: Chart) -> None:
    """Names the horizontal axis below the lowest panel of each column."""
    count = len(chart.panels)
    for place, axes in enumerate(places[:count]):
        if place + chart.columns >= count:
            axes.set_xlabel(chart.x_label)
            axes.tick_params(labelbottom=True)


def _legend(canvas, chart: Chart, styles: dict[str, Style], paper: Paper) -> None:
    """Names the methods above the panels; a small figure's title names its only one."""
    from matplotlib.lines import Line2D

    if chart.small:
        return
    handles = []
    for name in chart.names:
        style = styles[name.method]
        dashes = (0, style.dashes) if style.dashes else "-"
        handles.append(
            Line2D(
                [],
                [],
                color=_ink(style, paper),
                marker=style.marker,
                markersize=6,
                linewidth=2,
                linestyle=dashes if chart.is_lines else "none",
                markerfacecolor=_filling(name, style, paper),
                label=name.label,
            )
        )
    canvas.legend(
        handles=handles,
        loc="outside upper left",
        ncols=_legend_columns(chart),
        handlelength=2.6 if chart.is_lines else 1.0,
        columnspacing=1.6,
        borderaxespad=0.2,
        labelcolor=paper.ink,
    )
