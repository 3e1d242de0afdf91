"""The table of results: rows as in the paper's tables, and their plain-text form."""

import dataclasses
import itertools
import textwrap

from promot_jax.report import scores
from promot_jax.report.records import Records, Task
from promot_jax.report.scores import Spread

WIDTH = 110
_COLUMN = 13
_GAP = 2

_METRICS = {
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "bleu": "BLEU",
    "rouge2": "ROUGE-2",
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A value of one method; `difference` is its distance to the pretrained model's value."""

    spread: Spread | None
    difference: float | None = None

    @property
    def has_deviation(self) -> bool:
        """Whether there are several seeds."""
        return self.spread is not None and self.spread.deviation is not None


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table; `cells` follow the order of `Records.methods`."""

    label: str
    unit: str
    cells: tuple[Cell, ...]


@dataclasses.dataclass(frozen=True)
class ScoreTable:
    """The rows of the results: target, average, tasks by family, and the share of labels.

    Without other tasks there is no average.
    """

    target: Row
    average: Row | None
    families: tuple[tuple[str, tuple[Row, ...]], ...]
    share: Row | None

    @property
    def rows(self) -> list[Row]:
        """All rows, from top to bottom."""
        tasks = [row for _, rows in self.families for row in rows]
        return [row for row in (self.target, self.average, *tasks, self.share) if row]


def metric_name(metric: str) -> str:
    """Returns a metric's name as it is printed."""
    return _METRICS.get(metric, metric.replace("_", " "))


def labels_name(target: Task) -> str:
    """Returns the target's label set as it is printed, such as "True/False"."""
    return "/".join(target.labels)


def score_table(records: Records) -> ScoreTable:
    """Returns the table of results; scores are 0 to 100, shares per cent of outputs.

    Families stand in the order in which the tasks first name them.
    """
    pretrained = records.pretrained
    base = scores.normalized_average(records, pretrained) if pretrained else None
    average = []
    for method in records.methods:
        spread = scores.normalized_average(records, method)
        compared = spread is not None and base is not None and method is not pretrained
        average.append(Cell(spread, spread.mean - base.mean if compared else None))
    order = {task.family: place for place, task in reversed(list(enumerate(records.tasks)))}
    grouped = itertools.groupby(
        sorted(records.tasks, key=lambda task: order[task.family]), key=lambda task: task.family
    )
    mean = None
    if records.tasks:
        mean = Row("Norm. Avg.", f"mean of {len(records.tasks)} tasks", tuple(average))
    share = None
    if records.target.labels and records.generative:
        label = f"{labels_name(records.target)} share, unseen generative tasks"
        cells = [Cell(scores.label_share(records, method)) for method in records.methods]
        share = Row(label, "%", tuple(cells))
    return ScoreTable(
        target=_task_row(records, records.target),
        average=mean,
        families=tuple(
            (family, tuple(_task_row(records, task) for task in tasks)) for family, tasks in grouped
        ),
        share=share,
    )


def _task_row(records: Records, task: Task) -> Row:
    cells = [Cell(scores.task_score(records, method, task)) for method in records.methods]
    return Row(task.label, metric_name(task.metric), tuple(cells))


def terminal_table(records: Records) -> str:
    """Returns the table of results as aligned plain text, at most 110 columns wide.

    Methods that do not fit beside each other follow in further blocks.
    """
    lines = _lines(score_table(records))
    width = min(max(len(label) for label, _ in filter(None, lines)), WIDTH - _COLUMN - _GAP)
    fitting = (WIDTH - width) // (_COLUMN + _GAP)
    places = range(len(records.methods))
    blocks = [
        _block(records, lines, width, places[start : start + fitting])
        for start in range(0, len(places), fitting)
    ]
    return "\n\n".join(blocks) + "\n"


def _lines(table: ScoreTable) -> list[tuple[str, list[str]] | None]:
    """Returns the lines below the heading: a label and a text per method, None for a rule."""
    wide = any(cell.has_deviation for row in table.rows for cell in row.cells)
    average = table.average
    lines: list[tuple[str, list[str]] | None] = [
        None,
        (f"{table.target.label}  {table.target.unit} (fine-tuned)", _texts(table.target, wide)),
    ]
    if average:
        lines += [None, (f"{average.label}  {average.unit}", _texts(average, wide))]
        if any(cell.difference is not None for cell in average.cells):
            lines.append(("  against pretrained", _differences(average, wide)))
        lines.append(None)
    for family, rows in table.families:
        lines.append((family, [""] * len(average.cells)))
        lines += [(f"  {row.label}  {row.unit}", _texts(row, wide)) for row in rows]
    if table.share:
        lines += [None, (f"{table.share.label}  {table.share.unit}", _texts(table.share, wide))]
    return lines


def _block(records: Records, lines: list, width: int, places: range) -> str:
    """Returns the heading and the lines of some of the methods."""
    heads = [
        textwrap.wrap(records.methods[place].label, _COLUMN, break_on_hyphens=False) or [""]
        for place in places
    ]
    height = max(map(len, heads))
    padded = [[""] * (height - len(head)) + head for head in heads]
    text = [_line("", width, [head[i] for head in padded]) for i in range(height)]
    rule = "─" * (width + len(places) * (_COLUMN + _GAP))
    for line in lines:
        text.append(_line(line[0], width, [line[1][p] for p in places]) if line else rule)
    return "\n".join(text)


def _line(label: str, width: int, texts: list[str]) -> str:
    cells = "".join(" " * _GAP + text.rjust(_COLUMN) for text in texts)
    return (label[:width].ljust(width) + cells).rstrip()


def _texts(row: Row, wide: bool) -> list[str]:
    """Returns the row's values; in a wide table a mean without deviation leaves room for it."""
    return [_aligned(cell.spread, wide) for cell in row.cells]


def _aligned(spread: Spread | None, wide: bool) -> str:
    room = " " * 7 if wide else ""
    if spread is None:
        return "–" + room
    if spread.deviation is None:
        return scores.decimal(spread.mean) + room
    return f"{scores.decimal(spread.mean)} ± {scores.decimal(spread.deviation):>4}"


def _differences(row: Row, wide: bool) -> list[str]:
    # One less than the room of a deviation: the bracket stands behind the last digit.
    room = " " * 6 if wide else ""
    return [
        "" if cell.difference is None else f"({scores.signed(cell.difference)}){room}"
        for cell in row.cells
    ]
