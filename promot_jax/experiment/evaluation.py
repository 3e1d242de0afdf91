"""Predictions and scores of a task, with a soft prompt attached or without one."""

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from promot_jax.base import partitioning
from promot_jax.base.trees import Tree
from promot_jax.base.values import Lengths, Text, Whole
from promot_jax.data import batching, scoring, written
from promot_jax.models import Model, decoding
from promot_jax.models.attached import BARE, Attached


@dataclasses.dataclass(frozen=True)
class EvalTask:
    """A task that a model is evaluated on.

    Attributes:
      name: registered task.
      label: its name in tables.
      family: group of tasks in tables.
      metric: key of the task's metrics that is its score, in 0..100.
      task_feature_lengths: longest inputs and targets in tokens; decoding stops at the latter.
      generative: its answers are free text, not labels.
      split: what its final evaluation reads.
      shots: exemplars in its inputs; tables keep tasks of different numbers apart.
      variants: other names of the same task, for instance with an exemplar in its inputs, that a
        stage may train on; a method that did is evaluated on that variant.
    """

    name: Text
    label: Text
    metric: Text
    task_feature_lengths: Lengths | None
    family: str = ""
    generative: bool = True
    split: Text = "test"
    shots: Whole = 0
    variants: Sequence[Text] = ()

    @property
    def rows_key(self) -> tuple:
        """What, with a split and a number, decides which rows are read and how they are scored."""
        return self.name, self.metric, *sorted(self.task_feature_lengths.items())


def unseen_tasks(
    named: Iterable[tuple[str, str, str, bool]], task_feature_lengths: Lengths | None
) -> list[EvalTask]:
    """Returns tasks of (name, label, metric, generative) whose inputs are asked as they are."""
    return [
        EvalTask(name, label, metric, task_feature_lengths, generative=generative)
        for name, label, metric, generative in named
    ]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model answered to the rows of a task, and what that is worth.

    `predictions` are the texts as decoded, `answers` what the task's post-processing makes of them,
    `targets` what these are compared with, `tokens` the ids of the predictions, int32 [L] each.
    """

    score: float
    metrics: dict[str, float]
    inputs: list[str]
    targets: list[str | list[str]]
    predictions: list[str]
    answers: list[str]
    tokens: Sequence[np.ndarray] = ()


class Evaluator:
    """Evaluates parameter trees; keeps tokenised rows and compiled programs between calls."""

    def __init__(
        self,
        model: Model,
        mesh: jax.sharding.Mesh,
        decoder: decoding.Decoder,
        batch_size: int,
        buckets: Sequence[batching.Bucket] = (),
    ):
        """Prepares an evaluator.

        Args:
          model: bare model; prompts are found in the parameters.
          mesh: devices.
          decoder: greedy, sampling or beam search; one that draws has a `seed`, and each batch
            draws with a key of its own.
          batch_size: rows of each evaluation batch; a few more where the devices that divide them
            want a multiple of their number.
          buckets: lengths that a batch may be padded to.
        """
        self._model, self._mesh = model, mesh
        self._batch_size, self._buckets = partitioning.divisible(mesh, batch_size), buckets
        self._loaded: dict[tuple, tuple[batching.EvalBatches, scoring.Judge]] = {}
        self._write = str if model.vocabulary is None else written.Writer(model.vocabulary)

        def predict(params, batch, number, attached, max_length):
            complete = attached.model(model, params)
            rng = jax.random.fold_in(jax.random.key(getattr(decoder, "seed", 0)), number)
            return complete.predict_batch(params, batch, decoder, max_length, rng)

        def loss(params, batch, attached):
            total = attached.model(model, params).loss_fn(params, batch, None)
            return total.total, total.weight

        self._predict = jax.jit(
            predict,
            static_argnames=("attached", "max_length"),
            out_shardings=partitioning.replicated(mesh),
        )
        self._loss = jax.jit(
            loss, static_argnames=("attached",), out_shardings=partitioning.replicated(mesh)
        )

    def evaluate(
        self,
        params: Tree,
        task: EvalTask,
        *,
        split: str,
        limit: int | None = None,
        attached: Attached = BARE,
    ) -> Evaluation:
        """Decodes the first `limit` rows of a split and scores them by the task's own metrics.

        Args:
          params: parameters, with or without prompts.
          task: what to evaluate.
          split: its split.
          limit: rows; None takes all.
          attached: what to attach; every other prompt and adapter in `params` is left out.
        """
        batches, judge = self._rows(task, split, limit)
        params = attached.params(self._model, params)
        max_length = task.task_feature_lengths["targets"]
        with partitioning.activate(self._mesh):
            # All batches are dispatched before the first answer is read back.
            tokens = [
                self._predict(params, self._place(batch, attached), number, attached, max_length)
                for number, (batch, _) in enumerate(batches)
            ]
        decoded: dict[int, np.ndarray] = {}
        for numbers, ids in zip(batches.numbers, tokens, strict=True):
            decoded.update(zip(numbers.tolist(), np.asarray(ids), strict=True))
        rows = [decoded[i] for i in range(len(judge.inputs))]
        predictions = self._model.texts(rows)
        answers = judge.answers(predictions)
        metrics = judge.metrics(answers)
        return Evaluation(
            metrics[task.metric],
            metrics,
            judge.inputs,
            judge.targets,
            predictions,
            [str(answer) for answer in answers],
            rows,
        )

    def loss(
        self,
        params: Tree,
        task: EvalTask,
        *,
        split: str,
        limit: int | None = None,
        attached: Attached = BARE,
    ) -> float:
        """Returns the mean cross-entropy per target token of a split, in nats."""
        batches, _ = self._rows(task, split, limit)
        params = attached.params(self._model, params)
        with partitioning.activate(self._mesh):
            sums = [self._loss(params, self._place(b, attached), attached) for b, _ in batches]
        totals, weights = np.asarray(jax.device_get(sums)).T
        return float(totals.sum() / weights.sum())

    def answer(
        self, params: Tree, texts: Sequence[str], max_length: int, attached: Attached = BARE
    ) -> list[str]:
        """Returns the model's answer of at most `max_length` tokens to each text."""
        ids = [self._model.input_ids(text) for text in texts]
        longest = max([1, *map(len, ids)])
        count = partitioning.divisible(self._mesh, len(ids))
        tokens, segments = np.zeros((2, count, longest), np.int32)
        for row, values in enumerate(ids):
            tokens[row, : len(values)] = values
            segments[row, : len(values)] = 1
        batch = {"encoder_input_tokens": tokens, "encoder_segment_ids": segments}
        batch = batching.trim(batch, self._buckets)
        params = attached.params(self._model, params)
        with partitioning.activate(self._mesh):
            found = self._predict(params, self._place(batch, attached), 0, attached, max_length)
        return self._model.texts(np.asarray(found)[: len(ids)])

    def written(self, texts: Sequence[str]) -> list[str]:
        """Returns texts as the model's vocabulary writes them, see `written`."""
        return [self._write(text) for text in texts]

    def _rows(self, task, split, limit):
        key = (*task.rows_key, split, limit)
        if key not in self._loaded:
            # Fewer rows than a batch holds are a batch of their own, without empty rows.
            rows = self._batch_size
            if limit is not None:
                rows = min(rows, partitioning.divisible(self._mesh, limit))
            batches = batching.eval_batches(
                task.name,
                task.task_feature_lengths,
                split,
                batch_size=rows,
                buckets=self._buckets,
                limit=limit,
                vocabulary=self._model.vocabulary,
            )
            examples = batching.examples(task.name, split, batches.count)
            judge = scoring.Judge(task.name, examples, self._model.vocabulary)
            self._loaded[key] = batches, judge
        return self._loaded[key]

    def _place(self, batch, attached):
        return partitioning.shard_batch(self._mesh, attached.batch(batch))
