"""Scores over seeds: means, spreads, the normalized average, the share of label answers."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable

from promot_jax.report.records.records import MethodRecord, Records, Result, TaskRecord

# Two means that print the same with one decimal are called equal.
PRINTED_STEP = 0.05


@dataclasses.dataclass(frozen=True)
class Spread:
    """Values of one quantity, one per seed; at least one."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The plain mean."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation (divisor n − 1), None for a single value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the mean (Student's t), None for a single value."""
        if self.deviation is None:
            return None
        from scipy.special import stdtrit

        count = len(self.values)
        reach = float(stdtrit(count - 1, 0.975)) * self.deviation / count**0.5
        return self.mean - reach, self.mean + reach

    @property
    def with_interval(self) -> str:
        """Mean and interval with one decimal, or the mean alone for a single value."""
        mean, interval = decimal(self.mean), self.interval
        if interval is None:
            return mean
        low, high = map(decimal, interval)
        return f"{mean} ({low} to {high})"

    def __str__(self):
        """Mean ± deviation with one decimal, or the mean alone for a single value."""
        if self.deviation is None:
            return decimal(self.mean)
        return f"{decimal(self.mean)} ± {decimal(self.deviation)}"


def decimal(value: float) -> str:
    """Returns a number with one decimal and a typographic minus; never "−0.0"."""
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def signed(value: float) -> str:
    """Returns a number with one decimal and its sign; ±0.0 where it rounds to nothing."""
    text = decimal(abs(value))
    if text == "0.0":
        return "±0.0"
    return f"{'+' if value > 0 else '−'}{text}"


def level(a: Spread, b: Spread) -> bool:
    """Says whether mean ± deviation of two quantities overlap (a single value has no width)."""
    reach = (a.deviation or 0.0) + (b.deviation or 0.0)
    return abs(a.mean - b.mean) <= max(reach, PRINTED_STEP)


def task_score(records: Records, method: MethodRecord, task: TaskRecord) -> Spread | None:
    """Returns a method's scores on a task over seeds, None where there is none."""
    return _mean_over_tasks(records, method, (task,), lambda result: result.score)


def normalized_average(
    records: Records, method: MethodRecord, shots: int | None = None
) -> Spread | None:
    """Returns "Norm. Avg." over seeds: the plain mean of the unseen tasks (paper, 5.1).

    A seed counts only where every task is scored, else means over different tasks would mix.

    Args:
      records: the run.
      method: one of its methods.
      shots: only the tasks with as many solved examples in their inputs; None takes all.
    """
    return _mean_over_tasks(records, method, records.unseen(shots), lambda result: result.score)


def label_share(records: Records, method: MethodRecord, shots: int | None = None) -> Spread | None:
    """Returns the per cent of outputs in the targets' label set, mean over generative tasks.

    `shots` chooses tasks as in `normalized_average`.
    """
    tasks = records.unseen(shots, generative=True)
    return _mean_over_tasks(records, method, tasks, lambda result: result.label_share)


def difference(spread: Spread | None, base: Spread | None) -> float | None:
    """Returns the distance of two means, None where one is not known."""
    return None if spread is None or base is None else spread.mean - base.mean


def _mean_over_tasks(
    records: Records,
    method: MethodRecord,
    tasks: Iterable[TaskRecord],
    value: Callable[[Result], float | None],
) -> Spread | None:
    by_task = [
        {
            seed: value(result)
            for seed, result in records.results.get((method.name, task.name), {}).items()
            if value(result) is not None
        }
        for task in tasks
    ]
    if not by_task:
        return None
    complete = [seed for seed in by_task[0] if all(seed in scores for scores in by_task)]
    if not complete:
        return None
    return Spread(
        tuple(
            statistics.fmean(scores[seed] for scores in by_task)
            for seed in sorted(complete, key=lambda seed: (seed is not None, seed or 0))
        )
    )
