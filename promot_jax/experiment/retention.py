"""What a tuned model kept of its start: the share of its scores, and how sure that is.

Both models answer the same rows, so rows are drawn in pairs. Tasks weigh the same, whatever their
number of rows. Nothing here runs a model.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from promot_jax.base.errors import UserError
from promot_jax.data import tasks
from promot_jax.experiment.evaluation import EvalTask, Evaluation

# Draws of rows behind an interval; of metrics that are no mean over rows, which cost more.
DRAWS, COSTLY_DRAWS = 4000, 200
# Right answers of the start below which a share of them says nothing.
FEWEST_RIGHT = 20
# Rows that nobody has.
MOST_ROWS = 1_000_000
# Rows of a chunk of draws.
_CHUNK = 2**22

# (targets, answers) -> 0 to 100.
Score = Callable[[Sequence, Sequence], float]


class Given(NamedTuple):
    """What a model answers to the rows of a task, and what is right as its vocabulary writes it."""

    answers: Sequence[str]
    targets: Sequence

    def scored(self, score: Score, places: Sequence[int] | None = None) -> float:
        """Returns the score of these rows, or of those at some places."""
        if places is None:
            return score(self.targets, self.answers)
        return score(
            [self.targets[place] for place in places], [self.answers[place] for place in places]
        )


@dataclasses.dataclass(frozen=True)
class Pair:
    """The start and the model on the rows of a task.

    Attributes:
      score: the metric.
      start, model: what they answer to the same rows.
    """

    score: Score
    start: Given
    model: Given

    def __len__(self) -> int:
        return len(self.start.answers)

    @property
    def whole(self) -> tuple[float, float]:
        """The scores of the start and of the model."""
        return self._of(None)

    @property
    def agreement(self) -> float:
        """Per cent of the rows to which both say the same."""
        both = zip(self.start.answers, self.model.answers, strict=True)
        return 100 * sum(a.strip() == b.strip() for a, b in both) / len(self)

    def drawn(self, draws: int, rng: np.random.Generator) -> np.ndarray:
        """Returns both scores of rows that are drawn with replacement, float64 [draws, 2]."""
        rows = self._of_rows()
        if rows is None:
            places = rng.integers(len(self), size=(COSTLY_DRAWS, len(self)))
            found = np.array([self._of(place) for place in places])
            return found[rng.integers(COSTLY_DRAWS, size=draws)]
        found = [
            rows[rng.integers(len(self), size=(chunk, len(self)))].mean(1)
            for chunk in _chunks(draws, max(1, _CHUNK // len(self)))
        ]
        return np.concatenate(found)

    def _of_rows(self) -> np.ndarray | None:
        """Returns both scores of each row [rows, 2]; None where the metric is not their mean."""
        rows = np.array([self._of([place]) for place in range(len(self))])
        return rows if np.allclose(rows.mean(0), self.whole, atol=1e-6) else None

    def _of(self, places: Sequence[int] | None) -> tuple[float, float]:
        return self.start.scored(self.score, places), self.model.scored(self.score, places)


def pair(task: EvalTask, start: Evaluation, model: Evaluation) -> Pair:
    """Returns what two models answered to the same rows of a task, to be scored by its metric."""

    def score(targets: Sequence, answers: Sequence) -> float:
        found: dict[str, float] = {}
        for metric_fn in tasks.get(task.name).metric_fns:
            found |= metric_fn(targets, answers)
        return found[task.metric]

    given = (Given(found.answers, found.targets) for found in (start, model))
    return Pair(score, *given)


def _chunks(total: int, most: int) -> list[int]:
    return [min(most, total - start) for start in range(0, total, most)]


@dataclasses.dataclass(frozen=True)
class Kept:
    """The share of the start's scores that a model has, in per cent.

    Attributes:
      share: the mean score of the model over tasks, relative to that of the start.
      low: what it is at least, at the confidence; one row more counts as lost than was seen to be.
      high: what it is at most, likewise one-sided.
      rows: of all tasks.
    """

    share: float
    low: float
    high: float
    rows: int

    def verdict(self, promise: float) -> str:
        """Returns `kept`, `lost`, or `open` where the rows are too few to tell."""
        if self.low >= promise:
            return "kept"
        return "lost" if self.high < promise else "open"

    def rows_for(self, promise: float) -> int | None:
        """Returns about how many rows would tell, were the share to stay; None where none would."""
        room = self.share - promise
        if room <= 0:
            return None
        needed = self.rows * ((self.share - self.low) / room) ** 2
        return int(np.ceil(needed)) if needed < MOST_ROWS else None


def kept(pairs: Sequence[Pair], confidence: float = 95.0, seed: int = 0) -> Kept:
    """Returns what a model kept, with a bootstrap over the rows of each task (Efron 1979).

    A loss that no row shows may still be there: with 0 of r right answers lost, up to 3 / r are
    lost at 95 %. So each draw also loses as many rows as a Poisson number of mean 1 says.

    Args:
      pairs: of each task.
      confidence: of each bound, in per cent.
      seed: of the draws.

    Raises:
      UserError: the start answers next to nothing right.
    """
    scores = np.array([pair.whole for pair in pairs])
    counts = np.array([len(pair) for pair in pairs])
    right = float((scores[:, 0] * counts).sum() / 100)
    if right < FEWEST_RIGHT:
        raise UserError(
            f"the start answers {right:.0f} of {counts.sum()} rows right, too few to tell what a "
            "model kept; give rows that it can answer (--unseen)"
        )
    rng = np.random.default_rng(seed)
    drawn = np.sum([pair.drawn(DRAWS, rng) for pair in pairs], axis=0)
    row = 100 * len(pairs) / counts.sum()
    lost = row * rng.poisson(1.0, DRAWS)
    least, most = (drawn[:, 1] - lost) / drawn[:, 0], drawn[:, 1] / drawn[:, 0]
    start, model = scores.sum(0)
    return Kept(
        share=100 * float(model / start),
        low=max(0.0, 100 * float(np.percentile(least, 100 - confidence))),
        high=100 * float(np.percentile(most, confidence)),
        rows=int(counts.sum()),
    )
