"""What probes measured of each method's model, at the best checkpoint of its last stage."""

import dataclasses

from promot_jax.report.numbers.scores import Spread
from promot_jax.report.records.records import MethodRecord, Records

CAPTION = (
    "Probes of each method’s model at the best checkpoint of its last stage, on validation rows. "
    "Target rows are read with nothing attached, and, where it says so, with the method’s own "
    "prompt or adapters; unseen tasks and neutral text as they are scored. The start has nothing "
    "attached. Mean ± sample standard deviation over seeds."
)


@dataclasses.dataclass(frozen=True)
class Figure:
    """One scalar of a probe: its key, its name and unit in print, and decimals."""

    key: str
    label: str
    unit: str
    decimals: int = 1

    def told(self, spread: Spread | None) -> str:
        """Returns a value over seeds as it is printed."""
        if spread is None:
            return "–"
        parts = [spread.mean] if spread.deviation is None else [spread.mean, spread.deviation]
        texts = [f"{part:.{self.decimals}f}".replace("-", "−") for part in parts]
        zero = f"{0:.{self.decimals}f}"
        return " ± ".join(zero if text == f"−{zero}" else text for text in texts)


FIGURES = (
    Figure("kl/start_tuned/bare", "KL(start‖tuned) on target rows", "nats a token", 3),
    Figure("kl/tuned_start/bare", "KL(tuned‖start) on target rows", "nats a token", 3),
    Figure("kl/start_tuned/attached", "KL(start‖tuned), attached", "nats a token", 3),
    Figure("kl/tuned_start/attached", "KL(tuned‖start), attached", "nats a token", 3),
    Figure("neutral/loss", "Loss on neutral text", "nats a token", 3),
    Figure("neutral/loss_of_start", "Loss on neutral text, start", "nats a token", 3),
    Figure("tuco/target/bare", "TuCo on target rows", "%"),
    Figure("tuco/target/attached", "TuCo on target rows, attached", "%"),
    Figure("tuco/unseen", "TuCo on unseen tasks", "%"),
    Figure("rank/unshifted", "Answered tokens of rank 1 for the start", "%"),
    Figure("rank/marginal", "Answered tokens of rank 2 or 3", "%"),
    Figure("rank/shifted", "Answered tokens beyond rank 3", "%"),
    Figure("otherwise/lost", "Lost on unseen tasks with variants", "points"),
    Figure("otherwise/still_lost", "… asked in another way", "points"),
    Figure("otherwise/recovered", "… recovered so", "%"),
    Figure("form/target_likeness", "Likeness of answers to training targets", "points more"),
    Figure("form/other_script", "Answers in another script than the start’s", "%"),
    Figure("form/json", "Answers that are JSON", "points more"),
    Figure("form/length", "Length of answers, by the start’s", "ratio", 2),
)
# Those that are drawn along training.
DRAWN = ("kl/start_tuned/bare", "neutral/loss", "rank/shifted", "tuco/unseen")
# What is shown of each unseen task, too.
_OF_TASKS = "rank/shifted"


@dataclasses.dataclass(frozen=True)
class Row:
    """A figure and its values, in the order of `Records.methods`."""

    figure: Figure
    cells: tuple[str, ...]


def rows(records: Records) -> list[Row]:
    """Returns the figures that were measured of any method; none without probes."""
    found = []
    for figure in FIGURES:
        found.append(_row(records, figure))
        if figure.key == _OF_TASKS:
            parts = {f"{figure.key}/{task.name}": f"… of {task.label}" for task in records.tasks}
            found += [_row(records, Figure(key, label, "%")) for key, label in parts.items()]
    return [row for row in found if set(row.cells) != {"–"}]


def _row(records: Records, figure: Figure) -> Row:
    values = [_at_best(records, method, figure.key) for method in records.methods]
    return Row(figure, tuple(map(figure.told, values)))


def _at_best(records: Records, method: MethodRecord, key: str) -> Spread | None:
    """Returns a scalar at the best step of a method's last stage, over the seeds that have it."""
    runs = [run for run in records.stages if run.name in method.stages[-1:]]
    values = [run.series(key).get(run.summary.get("best_step")) for run in runs]
    known = tuple(value for value in values if value is not None)
    return Spread(known) if known else None
