"""Our scores beside the paper's: cells of a table, and whether the orderings agree."""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Sequence

from promot_jax.base.errors import UserError
from promot_jax.experiment.run_folder import RunFolder
from promot_jax.paper import catalog, numbers
from promot_jax.paper.catalog import Item
from promot_jax.paper.numbers import Column
from promot_jax.report.numbers import scores
from promot_jax.report.numbers.scores import Spread
from promot_jax.report.records import records as run_records
from promot_jax.report.records.records import Records

AVERAGE = "average"
# What the miniature's tasks stand for, where the names differ.
_MINI = {"wmt_enfr": "wmt14_enfr", "wmt_ende": "wmt16_ende", "wmt_enro": "wmt16_enro"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One score of a table.

    Attributes:
      run, method: whose it is.
      task: the paper's task, or `AVERAGE` for the mean of the unseen ones.
      shots: exemplars in the input; 0 for a target.
      ours: over seeds; None where it was not measured.
      paper: None where the paper has a dash.
      change, paper_change: of an average, the difference to the pretrained model's.
    """

    run: str
    method: str
    task: str
    shots: int
    ours: Spread | None
    paper: float | None
    change: float | None = None
    paper_change: float | None = None


@dataclasses.dataclass(frozen=True)
class Ordering:
    """One method above another in the paper, and the same difference in ours.

    Attributes:
      run, task, shots: what is compared.
      above, below: methods, in the paper's order of their scores.
      paper: their difference there, positive.
      ours: their difference here; None where one was not measured.
      beyond: whether mean ± deviation over seeds of the two do not overlap; None where a method
        that trains has one seed only.
    """

    run: str
    task: str
    shots: int
    above: str
    below: str
    paper: float
    ours: float | None
    beyond: bool | None

    @property
    def agrees(self) -> bool | None:
        """Whether the difference has the paper's sign; None where it was not measured."""
        return None if self.ours is None else self.ours > 0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A table with our scores.

    `notes` says what is missing; `folders` are the runs that were read, by name.
    """

    item: Item
    model: str
    cells: tuple[Cell, ...]
    orderings: tuple[Ordering, ...]
    folders: dict[str, pathlib.Path]
    notes: tuple[str, ...]


def compare(item: Item, model: str, runs_folder: pathlib.Path) -> Comparison:
    """Reads the runs of a table, finished or not, and puts their scores beside the paper's.

    Args:
      item: a table with numbers.
      model: folder of experiments.
      runs_folder: the runs lie in its MODEL/RUN.

    Raises:
      UserError: the model has none of the table's runs, or none has been run.
    """
    cells: list[Cell] = []
    folders: dict[str, pathlib.Path] = {}
    had = catalog.runs_of(item, model)
    notes = [
        f"{catalog.model_label(model)} has no experiment on {catalog.RUNS[run]}."
        for run in item.runs
        if run not in had
    ]
    for run in had:
        folder = runs_folder / model / run
        columns = [column for column in item.columns if column.run == run]
        records = None
        if RunFolder(folder).about.is_file():
            records = run_records.read(folder)
            folders[run] = folder
        else:
            notes.append(f"{folder} has not been run.")
        found, unmeasured = _cells(columns, records)
        cells += found
        notes += unmeasured
    if not folders:
        raise UserError(
            f"{runs_folder / model} has no run of {item.id}; "
            f"`promot paper {item.id} --model {model}` makes it"
        )
    return Comparison(item, model, tuple(cells), tuple(orderings(cells)), folders, tuple(notes))


def orderings(cells: Sequence[Cell]) -> list[Ordering]:
    """Returns every pair of methods that the paper orders, on the targets and on average."""
    found = []
    compared = [cell for cell in cells if cell.shots == 0 or cell.task == AVERAGE]
    places = dict.fromkeys((cell.run, cell.task, cell.shots) for cell in compared)
    for run, task, shots in places:
        here = [c for c in compared if (c.run, c.task, c.shots) == (run, task, shots)]
        for one, other in itertools.combinations(here, 2):
            if one.paper is None or other.paper is None or one.paper == other.paper:
                continue
            above, below = (one, other) if one.paper > other.paper else (other, one)
            found.append(
                Ordering(
                    run=run,
                    task=task,
                    shots=shots,
                    above=above.method,
                    below=below.method,
                    paper=above.paper - below.paper,
                    ours=scores.difference(above.ours, below.ours),
                    beyond=_beyond(above, below),
                )
            )
    return found


def paper_task(name: str) -> str:
    """Returns the paper's task behind one of ours: mini_wmt_ende_1shot is wmt16_ende."""
    bare = re.fullmatch(r"(?:mini_)?(.+?)(?:_span)?(?:_\d+shot)?", name)[1]
    return _MINI.get(bare, bare)


def _beyond(one: Cell, other: Cell) -> bool | None:
    if one.ours is None or other.ours is None:
        return None
    trained = [cell.ours for cell in (one, other) if cell.method != "pretrained"]
    if any(spread.deviation is None for spread in trained):
        return None
    return not scores.level(one.ours, other.ours)


def _cells(columns: Sequence[Column], records: Records | None) -> tuple[list[Cell], list[str]]:
    """Returns the cells of one run's columns, and notes on what it does not measure at all."""
    shots = sorted({number for column in columns for number in column.unseen})
    notes = []
    if records is not None:
        for number in [number for number in shots if number not in records.shots]:
            notes.append(f"{records.folder} has no unseen tasks with {number} exemplars.")
            shots.remove(number)
    cells = []
    for column in columns:
        cells += [
            Cell(column.run, column.method, task, 0, _score(records, column.method, task, 0), paper)
            for task, paper in column.targets.items()
        ]
        for number in shots:
            cells.append(_average(records, column, number))
            cells += [
                Cell(
                    column.run,
                    column.method,
                    task,
                    number,
                    _score(records, column.method, task, number),
                    paper,
                )
                for task, paper in zip(numbers.UNSEEN, column.unseen[number], strict=True)
            ]
    return cells, notes


def _average(records: Records | None, column: Column, shots: int) -> Cell:
    ours = _mean(records, column.method, shots)
    change = None
    if column.method != "pretrained":
        change = scores.difference(ours, _mean(records, "pretrained", shots))
    return Cell(
        run=column.run,
        method=column.method,
        task=AVERAGE,
        shots=shots,
        ours=ours,
        paper=numbers.average(column, shots),
        change=change,
        paper_change=column.changes.get(shots),
    )


def _mean(records: Records | None, method: str, shots: int) -> Spread | None:
    """Returns the normalized average; None unless just the paper's eight tasks are measured."""
    found = _method(records, method)
    if found is None:
        return None
    names = sorted(paper_task(task.name) for task in records.unseen(shots))
    if names != sorted(numbers.UNSEEN):
        return None
    return scores.normalized_average(records, found, shots)


def _score(records: Records | None, method: str, task: str, shots: int) -> Spread | None:
    found = _method(records, method)
    if found is None:
        return None
    tasks = records.unseen(shots) if shots else records.targets
    ours = next((each for each in tasks if paper_task(each.name) == task), None)
    return None if ours is None else scores.task_score(records, found, ours)


def _method(records: Records | None, name: str):
    methods = () if records is None else records.methods
    return next((method for method in methods if method.name == name), None)
