"""Replay: general rows among those of a target, by which a model goes on doing what it could do."""

import dataclasses
from typing import Annotated

from promot_jax.base import values
from promot_jax.data import tasks

PART = values.Range("a number above 0 and below 1", lambda share: 0 < share < 1)


@dataclasses.dataclass(frozen=True)
class Replay:
    """Rows that a stage reads beside those of its mixture, without a soft prompt.

    Attributes:
      task: registered task or mixture; its training rows are read.
      share: of the rows of a batch. Rows of long targets have a larger share of the loss, which is
        a mean over tokens.
      task_feature_lengths: longest `inputs` and `targets` of these rows, in tokens; None takes
        those of the stage.
    """

    task: values.Text
    share: Annotated[float, PART] = 0.1
    task_feature_lengths: values.Lengths | None = None

    def __post_init__(self):
        values.check_fields(self)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks whose rows these are."""
        return list(tasks.rates(self.task))

    def among(self, rates: dict[str, float]) -> dict[str, float]:
        """Returns the share of each task, given the shares of a stage's own.

        Raises:
          UserError: nothing is registered under the name of the task.
        """
        found = {task: (1 - self.share) * rate for task, rate in rates.items()}
        # Last, so that the stage's own rows come in the order that they have without these.
        return found | {task: self.share * rate for task, rate in tasks.rates(self.task).items()}


def of(
    named: tuple[str, float],
    task_feature_lengths: values.Lengths | None = None,
) -> Replay:
    """Returns a task and its share as what a stage replays, see `tasks/replay_rows.py`."""
    return Replay(*named, task_feature_lengths)
