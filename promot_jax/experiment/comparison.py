"""A model beside the one that it was tuned from, on rows that nothing was tuned on."""

import collections
import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from promot_jax.base import partitioning
from promot_jax.base.errors import UserError
from promot_jax.base.progress import Progress
from promot_jax.data import tasks
from promot_jax.data.chat import Chat
from promot_jax.data.windows import Bucket
from promot_jax.experiment import retention, survey
from promot_jax.experiment.evaluation import EvalTask, Evaluation, Evaluator
from promot_jax.experiment.loaded import LoadedModel
from promot_jax.experiment.retention import Kept, Pair
from promot_jax.experiment.survey import Sizes
from promot_jax.models import decoding

# Shares of the rows that a bucket of lengths holds.
HELD = (25, 50, 75, 90, 100)


@dataclasses.dataclass(frozen=True)
class Rows:
    """What both models are asked.

    Attributes:
      tasks: registered; their lengths are measured with the vocabulary of each model.
      split: of each.
      limit: rows of each, the first; None takes all.
      batch_size: rows that are answered together.
    """

    tasks: Sequence[EvalTask]
    split: str = "test"
    limit: int | None = None
    batch_size: int = 32


@dataclasses.dataclass(frozen=True)
class OfTask:
    """Both models on a task.

    Attributes:
      task: the task.
      pair: their scores.
      kept: what the model kept of it alone; None where the start answers next to nothing.
      most_said: the most frequent answer of the model.
      said: how often each says it, the start and the model, in per cent.
    """

    task: EvalTask
    pair: Pair
    kept: Kept | None
    most_said: str
    said: tuple[float, float]

    @property
    def repeats(self) -> bool:
        """Whether the model says one thing to many rows, and far more often than its start did."""
        before, now = self.said
        return now >= 20 and now >= 3 * before


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Both models on all tasks."""

    of_tasks: Sequence[OfTask]
    kept: Kept

    @property
    def agreement(self) -> float:
        """Per cent of the rows to which both say the same, a mean over tasks."""
        return float(np.mean([found.pair.agreement for found in self.of_tasks]))


def answers(
    model: LoadedModel, rows: Rows, label: str, mesh: jax.sharding.Mesh | None = None
) -> list[Evaluation]:
    """Returns what a model answers to the rows of each task, the most probable tokens.

    Args:
      model: with what is attached to it.
      rows: what it is asked.
      label: of the progress that is shown.
      mesh: devices; None is all of them.

    Raises:
      UserError: rows that cannot be read, or a task without any.
    """
    sizes = [_sizes(task, rows, model) for task in rows.tasks]
    mesh = partitioning.make_mesh() if mesh is None else mesh
    buckets = _buckets(sizes)
    evaluator = Evaluator(model.model, mesh, decoding.Greedy(), rows.batch_size, buckets)
    found = []
    with Progress(label, len(rows.tasks)) as progress:
        for task, own in zip(rows.tasks, sizes, strict=True):
            fitted = dataclasses.replace(task, task_feature_lengths=_lengths(own))
            options = {"split": rows.split, "limit": rows.limit, "attached": model.attached}
            found.append(evaluator.evaluate(model.params, fitted, **options))
            progress.advance()
            progress.note(f"{task.label} {found[-1].score:.1f}")
    return found


def _sizes(task: EvalTask, rows: Rows, model: LoadedModel) -> Sizes:
    """Returns the lengths of the rows of a task."""
    given = tasks.get(task.name).rows(rows.split)
    if not len(given):
        raise UserError(f"{task.label} has no rows in its split {rows.split!r}; leave it out")
    encode = getattr(tasks.get(task.name), "encode", None)
    chat = encode if isinstance(encode, Chat) else None
    return survey.survey(given, model.model.vocabulary, rows.limit, 0, chat).sizes


def _lengths(sizes: Sizes) -> dict[str, int]:
    """Returns the lengths that hold the rows of a task; of targets few, for each is compiled."""
    lengths = survey.fitting([sizes])
    targets = survey.MULTIPLE
    while targets < lengths["targets"]:
        targets *= 2
    return lengths | {"targets": targets}


def _buckets(sizes: Sequence[Sizes]) -> list[Bucket]:
    """Returns lengths of inputs that hold most of the rows of all tasks, and such as hold all."""
    inputs = np.concatenate([own.lengths["inputs"] for own in sizes])
    most = {feature: max(_lengths(own)[feature] for own in sizes) for feature in survey.FEATURES}
    widths = survey.MULTIPLE * np.ceil(np.percentile(inputs, HELD) / survey.MULTIPLE)
    chosen = {min(int(width), most["inputs"]) for width in widths}
    return [(width, most["targets"]) for width in sorted(chosen)]


def compared(
    rows: Rows, start: Sequence[Evaluation], model: Sequence[Evaluation], confidence: float
) -> Comparison:
    """Returns both models beside each other.

    Args:
      rows: what they were asked.
      start, model: their answers to each task.
      confidence: of the bounds, in per cent.

    Raises:
      UserError: the start answers next to nothing right.
    """
    pairs = list(map(retention.pair, rows.tasks, start, model))
    whole = retention.kept(pairs, confidence)
    found = []
    for task, pair in zip(rows.tasks, pairs, strict=True):
        try:
            own = retention.kept([pair], confidence)
        except UserError:
            own = None
        spoken = [collections.Counter(map(str.strip, g.answers)) for g in (pair.start, pair.model)]
        text, _ = spoken[1].most_common(1)[0]
        said = tuple(100 * counter[text] / len(pair) for counter in spoken)
        found.append(OfTask(task, pair, own, text, said))
    return Comparison(found, whole)
