"""Points of curves: what is made of a method's start and end, evaluated as the end is."""

import dataclasses
import re
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax

from promot_jax.base import distributed, partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.base.progress import say
from promot_jax.base.trees import Tree
from promot_jax.experiment import attachments
from promot_jax.experiment.evaluation import EvalTask, Evaluation
from promot_jax.experiment.experiment import Experiment
from promot_jax.experiment.measurements import Measurements
from promot_jax.experiment.run_folder import RunFolder
from promot_jax.experiment.start import Start
from promot_jax.models.attached import Attached
from promot_jax.training.afterwards import ADAPTERS, AdapterScale, Interpolation, Transform
from promot_jax.training.stages import Method

# The coefficients of every method's curve, none for no curves, or as many of the usual ones as take
# a tenth of the time that training took; none where no unseen task tells what they kept, or where
# the start is random.
Curve = Literal["auto"] | Sequence[float]
SHARE = 0.1
# Of a line that says what the end itself took.
END = "end"

# What is scored: the target's name or the unseen task's, what is read, what is attached to it.
Asked = tuple[str, EvalTask, Attached]


@dataclasses.dataclass(frozen=True)
class Point:
    """A transform at one of its coefficients."""

    transform: Transform
    at: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """Points to evaluate, and what is to be said of those that are left out."""

    points: Sequence[Point]
    remark: str | None


class Points:
    """The points that a run evaluates."""

    def __init__(
        self, experiment: Experiment, folder: RunFolder, start: Start, measurements: Measurements
    ):
        self._experiment, self._folder = experiment, folder
        self._start, self._measurements = start, measurements

    def check(self, method: Method) -> None:
        """Checks that the stages of a method train what its transforms change.

        Raises:
          UserError: they do not.
        """
        for transform in method.after:
            if not self._trains(method, transform):
                raise UserError(
                    f"method {method.name!r}: {transform.name} changes {transform.of}, which none "
                    "of its stages trains; leave it out of `after`"
                )
            if getattr(transform, "lora", method.adapters) != method.adapters:
                raise UserError(
                    f"method {method.name!r}: {transform.name} is for other adapters than those "
                    "that its stages train; give it the same"
                )

    def usual(self, method: Method) -> Transform | None:
        """Returns the transform of a method's curve, None where it trains nothing of the model.

        That is the interpolation with the start; of adapters that are in use for every task, their
        share, which is the same of the model that they are merged into.
        """
        found = AdapterScale() if method.unseen.adapters else Interpolation()
        return found if self._trains(method, found) else None

    def _trains(self, method: Method, transform: Transform) -> bool:
        if transform.of == ADAPTERS:
            return method.adapters is not None
        patterns = [pattern for stage in method.stages for pattern in stage.trainable]
        paths = trees.flatten(self._experiment.model.shapes_and_axes()[0])
        return any(re.fullmatch(pattern, path) for pattern in patterns for path in paths)

    def made(self, method: Method, seed: int, params: Tree, at: float) -> Tree:
        """Returns what the transform of a method's curve makes of the end `params`, and its start.

        Raises:
          UserError: the method trains nothing of the model.
        """
        transform = self.usual(method)
        if transform is None:
            raise UserError(
                f"--at {at:g}: method {method.name!r} trains nothing of the model; leave it out"
            )
        return self._apply(Point(transform, at), seed, *self._start.apart(seed, params))

    def note(self, method: Method, seed: int, task: str, seconds: float) -> None:
        """Writes down what the evaluation of the end on a task took, if the method has a curve."""
        if self.usual(method) is not None:
            line = {"method": method.name, "seed": seed, "transform": END, "task": task}
            line["seconds"] = round(seconds, 2)
            distributed.by_main(self._folder.record_point, line)

    def plan(self, method: Method, seed: int, asked: Sequence[Asked], curve: Curve) -> Plan:
        """Returns the points of a method of which some score is not written down.

        It depends on what is in the run folder alone, so that a later call continues.
        """
        found = [Point(one, at) for one in method.after for at in one.points]
        own = {(type(point.transform), point.at) for point in found}
        usual, remark = self.usual(method), None
        if usual is not None and curve == "auto":
            curve = ()
            told = self._experiment.tasks and self._experiment.initial_checkpoint is not None
            if told and not any(isinstance(one, type(usual)) for one in method.after):
                curve, remark = self._fitting(method, seed, len(asked), usual)
        if usual is not None:
            found += [Point(usual, at) for at in curve if (type(usual), at) not in own]
        known = self._known(method, seed)
        missing = [
            point
            for point in found
            if any((point.transform.name, point.at, name) not in known for name, *_ in asked)
        ]
        return Plan(missing, remark)

    def evaluate(
        self,
        method: Method,
        seed: int,
        params: Tree,
        asked: Sequence[Asked],
        points: Sequence[Point],
        done: Callable[[], None],
    ) -> None:
        """Evaluates points and writes down each score.

        Args:
          method: whose end it is.
          seed: its seed.
          params: the end, whose trained leaves are moved off the devices.
          asked: what is scored.
          points: those of a plan.
          done: called after each score.
        """
        start, end = self._start.apart(seed, params)
        for point in points:
            self._evaluate(method, seed, point, start, end, asked, done)

    def _evaluate(self, method, seed, point, start, end, asked, done) -> None:
        """Evaluates one point, whose parameters are gone before those of the next are made."""
        known, scores = self._known(method, seed), []
        where = {"transform": point.transform.name, "at": point.at}
        wanted = [entry for entry in asked if (*where.values(), entry[0]) not in known]
        params = self._apply(point, seed, start, end)
        for name, task, attached in wanted:
            key = {"method": method.name, "seed": seed, **where, "task": name}
            found = self._score(params, task, attached, key)
            scores.append(f"{task.label} {found.score:.1f}")
            done()
        label = f"{method.label}, seed {seed}, {point.transform.label} at {point.at:g}"
        say(f"{label}: " + "  ".join(scores))

    def _score(
        self, params: Tree, task: EvalTask, attached: Attached, key: dict[str, Any]
    ) -> Evaluation:
        began, limit = time.monotonic(), self._experiment.eval_examples
        found = self._measurements.evaluate(params, task, attached, task.split, limit)
        seconds = {"seconds": round(time.monotonic() - began, 2)}
        line = key | self._measurements.result(task, attached, found) | seconds
        distributed.by_main(self._folder.record_point, line)
        return found

    def _apply(self, point: Point, seed: int, start: Tree, end: Tree) -> Tree:
        own_seed = attachments.seed_of(seed, point.transform.name)
        made = point.transform.apply(start, end, point.at, own_seed)
        # What a transform left as it was may lie on the host: a prompt that the start has too.
        return jax.tree.map(partitioning.on_device, made)

    def _known(self, method: Method, seed: int) -> set[tuple]:
        def read() -> list[list]:
            rows = self._folder.points(method.name, seed)
            return [[row.get(name) for name in ("transform", "at", "task")] for row in rows]

        return {tuple(entry) for entry in distributed.by_main(read)}

    def _fitting(
        self, method: Method, seed: int, tasks: int, usual: Transform
    ) -> tuple[Sequence[float], str | None]:
        """Returns the points that take a tenth of the training's time, and what is left out."""
        each, room = distributed.by_main(self._seconds, method, seed, tasks)
        if each is None:
            return (), None
        fitting = int(room / each) if each else len(usual.points)
        chosen, others = usual.points[:fitting], usual.points[fitting:]
        if not others:
            return chosen, None
        every = ",".join(f"{at:g}" for at in sorted(usual.points))
        return chosen, (
            f"{method.label}, seed {seed}: curve at {_listed(chosen) or 'no point'}, without "
            f"{_listed(others)}: a point takes {each:.1f} s, a tenth of the training was "
            f"{room:.1f} s; --curve {every} takes all"
        )

    def _seconds(self, method: Method, seed: int, tasks: int) -> tuple[float | None, float]:
        """Returns the seconds that a point takes, as the end did, and those that there are for all.

        Where nothing is written of the end the first is None.
        """
        lines = self._folder.points(method.name, seed)
        took = [line.get("seconds", 0.0) for line in lines if line.get("transform") == END]
        stages = [self._folder.stage(seed, name).finished() or {} for name in method.folders]
        training = sum(summary.get("seconds", 0.0) for summary in stages)
        return (statistics.fmean(took) * tasks if took else None), SHARE * training


def _listed(points: Sequence[float]) -> str:
    return ", ".join(f"{point:g}" for point in points)
