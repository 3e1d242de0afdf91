"""The search for the best model that keeps what was promised.

Each candidate is a method and a point of its curve, from its end (1) back towards the start (0).
What one keeps is measured on rows that steer the search; the chosen one is measured once more, on
others, which nothing was chosen by. The start itself keeps everything, and is the last resort.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence

from promot_jax.base import jsonl
from promot_jax.base.progress import say
from promot_jax.experiment import attachments, comparison, loaded
from promot_jax.experiment.comparison import Comparison, Rows
from promot_jax.experiment.evaluation import Evaluation
from promot_jax.experiment.loaded import LoadedModel
from promot_jax.experiment.runner import Runner
from promot_jax.training.stages import Method

# What steers the search, and what certifies its result.
STEERING, CERTIFYING = "validation", "test"
# How often the way between the nearest kept and lost points of a curve is halved.
HALVINGS = 3
# How many times surer of its bound the search is than the certificate.
DOUBTS = 10


@dataclasses.dataclass(frozen=True)
class Trial:
    """A candidate and what was measured of it on the steering rows.

    Attributes:
      method, label: of the method.
      at: the point of its curve, 1 for its end.
      target: its mean score on the targets' validation rows.
      share, low: what it keeps, and what it keeps at least, in per cent of the start's scores; of
        the latter the search is surer than the certificate will be.
      leak: how often it says its most frequent answer to a task, at most, in per cent.
      seconds: that it took, training included.
    """

    method: str
    label: str
    at: float
    target: float
    share: float
    low: float
    leak: float
    seconds: float

    def keeps(self, promise: float) -> bool:
        """Says whether it surely keeps what was promised."""
        return self.low >= promise


class Search:
    """Trains and measures candidates; a search that was cut off goes on where it was."""

    def __init__(self, runner: Runner, rows: Rows, promise: float, confidence: float):
        """Prepares a search in the folder of a run.

        Args:
          runner: of the experiment, whose methods are the candidates, with its first seed.
          rows: of the unseen tasks.
          promise: what is to be kept, in per cent.
          confidence: of the certificate's bounds, in per cent.
        """
        self._runner, self._promise, self._confidence = runner, promise, confidence
        # A tenth of the doubt: what is chosen by such a bound keeps it on other rows, mostly.
        self._steering = 100 - (100 - confidence) / DOUBTS
        self._seed = runner.experiment.seeds[0]
        self._rows = rows
        self._file = runner.folder.path / "trials.jsonl"
        self._answers: dict[str, Sequence[Evaluation]] = {}
        self.trials = [Trial(**line) for line in jsonl.read_jsonl(self._file)]

    def run(self, seconds: float | None = None) -> None:
        """Measures candidates, method by method, until all are, or until the time is over.

        Args:
          seconds: after which no further candidate is begun; None for no limit.
        """
        began = time.monotonic()
        for method in self._runner.experiment.selected:
            for at in self._points(method):
                if seconds is not None and time.monotonic() - began > seconds:
                    say("the time is over; what was measured until now counts")
                    return
                self._measure(method, at)

    def best(self) -> Trial | None:
        """Returns the candidate with the best target of those that keep the promise, if any."""
        kept = [trial for trial in self.trials if trial.keeps(self._promise)]
        return max(kept, key=lambda trial: (trial.target, trial.low), default=None)

    def nearest(self) -> Trial:
        """Returns the candidate that keeps most, of equal ones the one with the best target."""
        return max(self.trials, key=lambda trial: (trial.low, trial.target))

    def model(self, trial: Trial) -> LoadedModel:
        """Returns the model of a candidate, as unseen tasks are read with it."""
        method = self._runner.experiment.method(trial.method)
        return self._loaded(method, trial.at)

    def certified(self, trial: Trial, rows: Rows) -> tuple[Comparison, float]:
        """Returns what a candidate keeps on rows that chose nothing, and its target's test score.

        Args:
          trial: the chosen one.
          rows: of the split `CERTIFYING`.
        """
        model = self.model(trial)
        own = self._asked(model, rows, "certifying")
        target = self._target(self._runner.experiment.method(trial.method), model, CERTIFYING)
        start = self._asked(self.start(), rows, "certifying, start")
        return comparison.compared(rows, start, own, self._confidence), target

    def _points(self, method: Method) -> Iterator[float]:
        """Yields the points to measure, each chosen by what was measured of those before.

        The end, and where it does not keep the promise halfway between what does and what does not.
        """
        yield 1.0
        if self._known(method, 1.0).keeps(self._promise):
            return
        if self._runner.points.usual(method) is None:
            return
        kept, lost = 0.0, 1.0
        for _ in range(HALVINGS):
            at = (kept + lost) / 2
            yield at
            if self._known(method, at).keeps(self._promise):
                kept = at
            else:
                lost = at

    def _known(self, method: Method, at: float) -> Trial | None:
        found = (trial for trial in self.trials if (trial.method, trial.at) == (method.name, at))
        return next(found, None)

    def _measure(self, method: Method, at: float) -> None:
        if self._known(method, at) is not None:
            return
        began = time.monotonic()
        model = self._loaded(method, at)
        label = f"{method.label} at {at:g}"
        target = self._target(method, model, STEERING)
        own = self._asked(model, self._rows, label)
        if STEERING not in self._answers:
            self._answers[STEERING] = self._asked(self.start(), self._rows, "start")
        found = comparison.compared(self._rows, self._answers[STEERING], own, self._steering)
        trial = Trial(
            method=method.name,
            label=method.label,
            at=at,
            target=round(target, 4),
            share=round(found.kept.share, 4),
            low=round(found.kept.low, 4),
            leak=round(max((one.said[1] for one in found.of_tasks if one.repeats), default=0), 4),
            seconds=round(time.monotonic() - began, 1),
        )
        jsonl.append_jsonl(self._file, [dataclasses.asdict(trial)])
        self.trials.append(trial)
        verdict = "kept" if trial.keeps(self._promise) else "not kept"
        say(
            f"{label}: target {trial.target:.1f}, kept {trial.share:.1f} %, at least "
            f"{trial.low:.1f} %: {verdict}"
        )

    def _asked(self, model: LoadedModel, rows: Rows, label: str) -> Sequence[Evaluation]:
        return comparison.answers(model, rows, label, self._runner.mesh)

    def _loaded(self, method: Method, at: float) -> LoadedModel:
        point = None if at == 1 else at
        model = loaded.of_run(self._runner, method, self._seed, point)
        return model.with_lora() if method.unseen.adapters else model

    def start(self) -> LoadedModel:
        """Returns the model that all candidates start from."""
        params = self._runner.start.params(self._seed)
        return LoadedModel(self._runner.experiment.model, params)

    def _target(self, method: Method, model: LoadedModel, split: str) -> float:
        """Returns the mean score of the targets, each as the method reads it."""
        scores = []
        for target in self._runner.experiment.targets:
            task, attached = attachments.of_target(method, target)
            limit = self._runner.experiment.validation_examples if split == STEERING else None
            found = self._runner.measurements.evaluate(model.params, task, attached, split, limit)
            scores.append(found.score)
        return sum(scores) / len(scores)
