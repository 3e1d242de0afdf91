"""How many steps some passes over the rows of a stage are."""

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

from promot_jax.base.errors import UserError
from promot_jax.data import batching, registered
from promot_jax.training.stages import Stage


class Passes(NamedTuple):
    """A stage that is as long as some passes over its rows.

    Attributes:
      stage: the stage, whose steps are not settled yet.
      given: what a person set, such as `EPOCHS = 3`.
      steps, period: by what its steps, and those between two evaluations, are set.
    """

    stage: Stage
    given: str
    steps: str
    period: str


class Settled(NamedTuple):
    """Passes in steps.

    Attributes:
      values: of what sets steps and the steps between two evaluations.
      lines: the same in words.
    """

    values: dict[str, int]
    lines: list[str]


def settle(passes: Iterable[Passes]) -> Settled:
    """Returns the steps of passes, the last batch filled up; a stage is evaluated once in each.

    More frequent evaluations stay as they are.

    Raises:
      UserError: batches of no fixed number of rows, rows that cannot be read, or stages of
        different length whose steps are set by the same name.
    """
    lengths: dict[str, tuple[int, Stage, int]] = {}
    periods: dict[str, int] = {}
    lines = []
    for stage, given, steps, period in passes:
        size = getattr(stage.batches, "size", None)
        if size is None:
            raise UserError(
                f"{given}: stage {stage.name!r} has batches of no fixed number of rows; give "
                f"{steps}"
            )
        rows = train_rows(stage.mixture)
        length = math.ceil(rows * stage.epochs / size)
        known, other, others = lengths.setdefault(steps, (length, stage, rows))
        if known != length:
            raise UserError(
                f"{given}: stage {other.name!r} has {others} rows, {stage.name!r} {rows}, but "
                f"{steps} is one number for both; give that"
            )
        if other is stage:
            lines.append(f"{given}: {rows} rows in batches of {size} are {length} steps")
        once = min(stage.eval_period, math.ceil(rows / size), length)
        periods[period] = min(once, periods.get(period, once))
    return Settled({name: length for name, (length, *_) in lengths.items()} | periods, lines)


@functools.cache
def train_rows(mixture: str) -> int:
    """Returns the number of training rows of a task, or of all tasks of a mixture.

    Raises:
      UserError: they cannot be read.
    """
    return sum(map(_rows_of_task, batching.task_names(mixture)))


def _rows_of_task(name: str) -> int:
    task = batching.with_vocabulary(name, None)
    if "train" not in task.splits:
        raise UserError(f"task {name!r} has no split 'train'; it has {', '.join(task.splits)}")
    known = task.num_input_examples("train")
    return known or len(registered.examples(name, "train", -1))
