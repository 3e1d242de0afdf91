"""How many steps some passes over the rows of a stage are."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import NamedTuple

from promot_jax.base.errors import UserError
from promot_jax.data import tasks, windows
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
    lengths: dict[str, Length] = {}
    periods: dict[str, int] = {}
    unread: dict[str, UserError] = {}
    for stage, given, steps, period in passes:
        try:
            found = _length(stage, given, steps)
        except UserError as error:
            # Rows that are too few for exemplars do for stages without.
            unread[steps] = error
            continue
        known = lengths.setdefault(steps, found)
        if known.steps != found.steps:
            raise UserError(
                f"{given}: stage {known.stage!r} has {known.rows} rows, {stage.name!r} "
                f"{found.rows}, but {steps} is one number for both; give that"
            )
        once = min(stage.eval_period, found.once)
        periods[period] = min(once, periods.get(period, once))
    for steps, error in unread.items():
        if steps not in lengths:
            raise error
    found = {name: length.steps for name, length in lengths.items()}
    return Settled(found | periods, [length.line for length in lengths.values()])


class Length(NamedTuple):
    """A stage's rows, its steps, those of one pass, and that in words."""

    stage: str
    rows: int
    steps: int
    once: int
    line: str


def _length(stage: Stage, given: str, steps: str) -> Length:
    size = getattr(stage.batches, "size", None)
    if size is None:
        raise UserError(
            f"{given}: stage {stage.name!r} has batches of no fixed number of rows; give {steps}"
        )
    rows = train_rows(stage.mixture)
    # An epoch passes the rows of the target; what is replayed stands between them.
    own = size if stage.replay is None else size * (1 - stage.replay.share)
    length, once = (windows.round_up(rows * passes / own) for passes in (stage.epochs, 1))
    # Now its warm-up can be checked.
    dataclasses.replace(stage, steps=length, epochs=None)
    among = "" if own == size else f", {100 * stage.replay.share:g} % of them replay,"
    line = f"{given}: {rows} rows in batches of {size}{among} are {length} steps"
    return Length(stage.name, rows, length, min(once, length), line)


@functools.cache
def train_rows(mixture: str) -> int:
    """Returns the number of training rows of a task, or of all tasks of a mixture.

    Raises:
      UserError: they cannot be read.
    """
    return sum(len(tasks.task(name).rows("train")) for name in tasks.rates(mixture))
