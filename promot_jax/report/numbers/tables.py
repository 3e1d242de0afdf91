"""The table of results: rows as in the paper's tables, without a form yet."""

import dataclasses
import itertools

from promot_jax.data.metrics import METRICS
from promot_jax.report.numbers import scores
from promot_jax.report.numbers.scores import Spread
from promot_jax.report.records.records import MethodRecord, Records, TaskRecord

# More labels than this, or longer ones together, are not named one by one.
_LABELS, _LETTERS = 4, 24


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
    """One line of the table; `cells` follow the order of `Records.methods`.

    `task` is what is scored, None for an average or a share over several tasks.
    """

    label: str
    unit: str
    cells: tuple[Cell, ...]
    task: TaskRecord | None = None


@dataclasses.dataclass(frozen=True)
class Block:
    """The rows of the unseen tasks with one number of shots: average, families, label share.

    `title` is empty where there is one block only; without labels there is no share.
    """

    shots: int
    title: str
    average: Row
    families: tuple[tuple[str, tuple[Row, ...]], ...]
    share: Row | None

    @property
    def rows(self) -> list[Row]:
        """All rows, from top to bottom."""
        tasks = [row for _, rows in self.families for row in rows]
        return [row for row in (self.average, *tasks, self.share) if row]


@dataclasses.dataclass(frozen=True)
class ScoreTable:
    """The rows of the results: one a target, then the blocks of unseen tasks, if there are any."""

    targets: tuple[Row, ...]
    blocks: tuple[Block, ...]

    @property
    def rows(self) -> list[Row]:
        """All rows, from top to bottom."""
        return [*self.targets, *(row for block in self.blocks for row in block.rows)]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as it is printed: what it says, the headings, rows of values with their method."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[MethodRecord, list[str]], ...]


def share_name(records: Records) -> str:
    """Returns the heading of a column with shares of label answers."""
    return f"{labels_name(records)} share, %" if records.labels else "Label share, %"


def metric_name(metric: str) -> str:
    """Returns a metric's name as it is printed; a person's own has no other."""
    known = METRICS.get(metric)
    return known.printed if known else metric.replace("_", " ")


def labels_name(records: Records) -> str:
    """Returns the targets' label set as it is printed, such as "True/False", the first of many."""
    shown = list(records.labels[:_LABELS])
    while len(shown) > 1 and len("/".join(shown)) > _LETTERS:
        shown.pop()
    return "/".join([*shown, "…"] if len(shown) < len(records.labels) else shown)


def shots_name(shots: int) -> str:
    """Returns a number of shots as it is printed, such as "1-shot"."""
    return f"{shots}-shot"


def with_shots(records: Records, task: TaskRecord) -> str:
    """Returns a task's label, with its number of shots where the run has several."""
    several = len(records.shots) > 1 and task not in records.targets
    return f"{task.label} ({shots_name(task.shots)})" if several else task.label


def score_table(records: Records) -> ScoreTable:
    """Returns the table of results; scores are 0 to 100, shares per cent of outputs.

    Families stand in the order in which the tasks first name them.
    """
    return ScoreTable(
        targets=tuple(_task_row(records, target) for target in records.targets),
        blocks=tuple(_block(records, shots) for shots in records.shots),
    )


def by_method(records: Records, *, whole: bool) -> Table:
    """Returns the results with a method a line.

    Args:
      records: the run.
      whole: with the single unseen tasks, not just their average and the share of labels.
    """
    found = score_table(records)
    rows = list(found.targets)
    for block in found.blocks:
        leading = [row for row in (block.average, block.share) if row]
        rows += leading + [row for row in block.rows if row not in leading and whole]
    shares = [block.share for block in found.blocks if block.share]
    names = {id(row): share_name(records) for row in shares}
    heads = tuple(names.get(id(row), row.label) for row in rows)
    lines = (
        (method, [_printed(row.cells[place]) for row in rows])
        for place, method in enumerate(records.methods)
    )
    return Table("", heads, tuple(lines))


def _printed(cell: Cell) -> str:
    if cell.spread is None:
        return "–"
    change = "" if cell.difference is None else f" ({scores.signed(cell.difference)})"
    return f"{cell.spread}{change}"


def _block(records: Records, shots: int) -> Block:
    tasks = records.unseen(shots)
    order = {task.family: place for place, task in reversed(list(enumerate(tasks)))}
    families = itertools.groupby(
        sorted(tasks, key=lambda task: order[task.family]), key=lambda task: task.family
    )
    counted = f"mean of {len(tasks)} task{'s' * (len(tasks) > 1)}"
    share = None
    if records.labels and records.unseen(shots, generative=True):
        label = f"{labels_name(records)} share, unseen generative tasks"
        cells = (Cell(scores.label_share(records, method, shots)) for method in records.methods)
        share = Row(label, "%", tuple(cells))
    return Block(
        shots=shots,
        title=shots_name(shots) if len(records.shots) > 1 else "",
        average=Row(
            "Norm. Avg.",
            f"{counted}, {shots_name(shots)}" if shots or len(records.shots) > 1 else counted,
            tuple(_average(records, method, shots) for method in records.methods),
        ),
        families=tuple(
            (family, tuple(_task_row(records, task) for task in members))
            for family, members in families
        ),
        share=share,
    )


def _average(records: Records, method: MethodRecord, shots: int) -> Cell:
    base = records.base(method)
    spread = scores.normalized_average(records, method, shots)
    before = scores.normalized_average(records, base, shots) if base else None
    return Cell(spread, scores.difference(spread, before))


def _task_row(records: Records, task: TaskRecord) -> Row:
    cells = [Cell(scores.task_score(records, method, task)) for method in records.methods]
    return Row(task.label, metric_name(task.metric), tuple(cells), task)
