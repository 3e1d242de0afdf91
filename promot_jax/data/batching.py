"""seqio task or mixture → host batches: reproducible order, length buckets, exact resume.

Batches are dicts of int32 numpy arrays, the same for every family of models: the fields of seqio's
encoder-decoder feature converter, which are `encoder_input_tokens` [B, T], `decoder_input_tokens`,
`decoder_target_tokens` and `decoder_loss_weights` [B, U], and `encoder_segment_ids` [B, T], 1 for a
token and 0 for padding. Padding has the id 0, but an id 0 need not be padding: some vocabularies
have a real token there, so only segment ids and loss weights say where rows end.

The vocabulary is the model's: a registered task brings texts, and whoever reads it says how they
become tokens, so one registration serves every model.

A length bucket is a pair (T, U); a batch is padded to the first bucket that holds all its rows, so
the step compiles once for each bucket and computes little padding.
"""

import dataclasses
import difflib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np
import seqio
import tensorflow as tf

from promot_jax.base.errors import UserError
from promot_jax.base.values import Count
from promot_jax.data import packing, written
from promot_jax.data.continuation import continuing

Batch = dict[str, np.ndarray]
# Longest inputs T and targets U, in tokens.
Bucket = tuple[Count, Count]

# Rows that are taken out of tensorflow together.
_GROUP = 256

# The accelerator belongs to jax; tensorflow only reads and tokenises.
tf.config.set_visible_devices([], "GPU")


class Batches(Protocol):
    """How the rows of an endless tf.data stream become batches.

    Attributes:
      buckets: lengths that a batch may be padded to.
      unit: the number of rows of any batch is a multiple of this.
      setting: where a person sets that.
    """

    buckets: Sequence[Bucket]
    unit: int
    setting: str

    def group(self, rows: tf.data.Dataset, longest: Bucket) -> tf.data.Dataset:
        """Groups rows, padded to `longest`, into batches."""


@dataclasses.dataclass(frozen=True)
class FixedBatches:
    """Batches of `size` rows in the order of the stream.

    Attributes:
      size: rows of a batch.
      buckets: lengths that a batch may be padded to, besides the longest; shortest first.
    """

    size: Count
    buckets: Sequence[Bucket] = ()
    setting: ClassVar[str] = "BATCH_SIZE (batching.FixedBatches.size)"

    @property
    def unit(self) -> int:
        """The number of rows of any batch is a multiple of this."""
        return self.size

    def group(self, rows: tf.data.Dataset, longest: Bucket) -> tf.data.Dataset:
        """See `Batches`."""
        del longest
        return rows.batch(self.size, drop_remainder=True)


@dataclasses.dataclass(frozen=True)
class TokenBatches:
    """Batches of rows of similar length, about `tokens` input and target tokens each.

    For pretraining on rows of many lengths: fewer rows where they are long. The composition of a
    batch therefore depends on the buckets.

    Attributes:
      tokens: T + U, times rows, at most.
      buckets: as in `FixedBatches`; each row goes to the first that holds it.
      multiple: the number of rows is a multiple of this, for meshes of up to as many devices.
    """

    tokens: Count
    buckets: Sequence[Bucket]
    multiple: Count = 8
    setting: ClassVar[str] = "batching.TokenBatches.multiple"

    @property
    def unit(self) -> int:
        """The number of rows of any batch is a multiple of this."""
        return self.multiple

    def group(self, rows: tf.data.Dataset, longest: Bucket) -> tf.data.Dataset:
        """See `Batches`."""
        bounds = np.array([*self.buckets, longest])
        sizes = np.maximum(self.tokens // bounds.sum(axis=1) // self.multiple, 1) * self.multiple

        def first_bucket(row):
            lengths = tf.stack(
                [
                    tf.math.count_nonzero(row["encoder_segment_ids"]),
                    tf.math.count_nonzero(row["decoder_loss_weights"]),
                ]
            )
            return tf.argmax(tf.reduce_all(lengths <= bounds, axis=1))

        return rows.group_by_window(
            first_bucket,
            lambda _, window: window.batch(int(sizes.max())),
            window_size_func=lambda bucket: tf.gather(sizes, bucket),
        )


def train_batches(
    mixture: str,
    task_feature_lengths: Mapping[str, int],
    batches: Batches,
    *,
    seed: int,
    first_step: int = 0,
    vocabulary: seqio.Vocabulary | None = None,
    prompt_numbers: Mapping[str, int] | None = None,
) -> Iterator[Batch]:
    """Returns the endless, shuffled training batches from step `first_step` on.

    The order depends on the arguments alone, so a resumed stage sees what it would have seen.

    Args:
      mixture: registered task or mixture.
      task_feature_lengths: longest `inputs` and `targets`, in tokens; longer rows are cut.
      batches: how rows become batches.
      seed: decides the order.
      first_step: batches to skip.
      vocabulary: of the tokens; None takes each task's own.
      prompt_numbers: the number of its soft prompt for each task of the mixture, -1 for none;
        batches then have a field `prompt_ids` [B].

    Raises:
      UserError: an unknown mixture, or one without a training row.
    """
    longest = task_feature_lengths["inputs"], task_feature_lengths["targets"]
    options = {"shuffle": True, "num_epochs": None, "seed": seed, "vocabulary": vocabulary}
    parts = []
    for name in task_names(mixture):
        part = _rows(name, task_feature_lengths, "train", **options)
        if prompt_numbers is not None:
            number = tf.constant(prompt_numbers[name], tf.int32)
            part = part.map(lambda row, number=number: row | {"prompt_ids": number})
        parts.append(part)
    rows = parts[0]
    if len(parts) > 1:
        rows = tf.data.Dataset.sample_from_datasets(parts, _rates(mixture), seed=seed)
    stream = batches.group(rows, longest).skip(first_step).prefetch(4)
    found = False
    for batch in stream.as_numpy_iterator():
        found = True
        yield trim(batch, batches.buckets)
    if not found:
        raise UserError(f"task {mixture!r} has no training row")


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """The rows of a split as batches, each made when it is asked for.

    Attributes:
      rows: token ids of inputs and targets, int32, of each row; weights of the targets may follow.
      numbers: of the rows of each batch [B]; -1 for an empty row, which fills up the last one.
      shapes: T and U of each batch.
    """

    rows: Sequence[tuple[np.ndarray | None, ...]]
    numbers: Sequence[np.ndarray]
    shapes: Sequence[Bucket]

    @property
    def count(self) -> int:
        """How many rows there are, without the empty ones."""
        return len(self.rows)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[Batch, np.ndarray]]:
        for numbers, shape in zip(self.numbers, self.shapes, strict=True):
            yield self._batch(numbers, shape), numbers

    def _batch(self, numbers: np.ndarray, shape: Bucket) -> Batch:
        tokens, segments = np.zeros((2, len(numbers), shape[0]), np.int32)
        targets, before, weights = np.zeros((3, len(numbers), shape[1]), np.int32)
        for place, number in enumerate(numbers):
            if number < 0:
                continue
            ids, wanted, *learnt = self.rows[number]
            tokens[place, : len(ids)], segments[place, : len(ids)] = ids, 1
            targets[place, : len(wanted)] = wanted
            weights[place, : len(wanted)] = learnt[0] if learnt and learnt[0] is not None else 1
            # The decoder begins with 0 and sees each target one position later.
            seen = wanted[: shape[1] - 1]
            before[place, 1 : 1 + len(seen)] = seen
        return {
            "encoder_input_tokens": tokens,
            "encoder_segment_ids": segments,
            "decoder_input_tokens": before,
            "decoder_target_tokens": targets,
            "decoder_loss_weights": weights,
        }


def eval_batches(
    task: str,
    task_feature_lengths: Mapping[str, int],
    split: str,
    *,
    batch_size: int,
    buckets: Sequence[Bucket] = (),
    limit: int | None = None,
    vocabulary: seqio.Vocabulary | None = None,
) -> EvalBatches:
    """Returns the first `limit` rows of a split as (batch, row numbers [B]).

    Rows are sorted by length before they are grouped; the last batch is filled with empty rows,
    whose number is -1. Each batch has the first of the buckets that holds its rows, else the
    feature lengths.

    Raises:
      UserError: an unknown task or split, or a split without rows.
    """
    options = {"shuffle": False, "num_epochs": 1, "seed": None, "vocabulary": vocabulary}
    longest = task_feature_lengths["inputs"], task_feature_lengths["targets"]
    found = _tokenised(task, task_feature_lengths, split, **options)
    found = found.map(lambda row: (row["inputs"][: longest[0]], row["targets"][: longest[1]]))
    rows = [
        tuple(ids.astype(np.int32) for ids in row)
        for row in (found if limit is None else found.take(limit)).as_numpy_iterator()
    ]
    if not rows:
        raise UserError(f"task {task!r} has no row in its split {split!r}")
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    numbers, shapes = [], []
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        numbers.append(np.array([*chosen, *[-1] * (batch_size - len(chosen))]))
        need = [max(1, *(len(rows[i][side]) for i in chosen)) for side in (0, 1)]
        shapes.append(_bucket(need, longest, buckets))
    return EvalBatches(rows, numbers, shapes)


def _bucket(need: Sequence[int], whole: Bucket, buckets: Sequence[Bucket]) -> Bucket:
    return next((b for b in buckets if b[0] >= need[0] and b[1] >= need[1]), whole)


def trim(batch: Batch, buckets: Sequence[Bucket]) -> Batch:
    """Cuts padding down to the first bucket that holds every row.

    Args:
      batch: fields of [B, T], whose names begin with `encoder_`, with `encoder_segment_ids` among
        them, of [B, U], with `decoder_loss_weights`, and of [B]; all but the first may be absent.
      buckets: shortest first; a batch that fits into none stays as it is.
    """

    inputs, targets = batch["encoder_segment_ids"], batch.get("decoder_loss_weights")
    longest = [np.count_nonzero(inputs, axis=1).max(initial=1), 0]
    if targets is not None:
        longest[1] = packing.target_lengths(targets).max(initial=1)
    need = tuple(map(int, longest))
    whole = inputs.shape[1], 0 if targets is None else targets.shape[1]
    cut = _bucket(need, whole, buckets)

    def shortened(name, array):
        length = cut[0] if name.startswith("encoder_") else cut[1]
        # A copy: a view would keep all of the padding.
        return array[:, :length].copy() if array.ndim > 1 and length < array.shape[1] else array

    return {name: shortened(name, array) for name, array in batch.items()}


def examples(
    task: str, split: str, limit: int, vocabulary: seqio.Vocabulary | None = None
) -> list[dict]:
    """Returns the first rows of a split as seqio tasks give them to their metrics.

    Each holds `inputs_pretokenized` and `targets_pretokenized` texts, or ids where there are none.
    """
    rows = with_vocabulary(task, vocabulary).get_dataset(
        None, split, shuffle=False, try_in_mem_cache=False
    )
    found = []
    # In groups: a call of the iterator costs more than the row that it returns.
    for group in rows.take(limit).ragged_batch(_GROUP).as_numpy_iterator():
        found += [dict(zip(group, row, strict=True)) for row in zip(*group.values(), strict=True)]
    return found


def task_names(mixture: str) -> list[str]:
    """Returns the names of the tasks of a mixture; of a task, its own.

    Raises:
      UserError: nothing of that name is registered.
    """
    found = _registered(mixture)
    return [task.name for task in found.tasks] if isinstance(found, seqio.Mixture) else [mixture]


def with_vocabulary(task: str, vocabulary: seqio.Vocabulary | None) -> seqio.Task:
    """Returns a registered task that tokenises by a vocabulary; None leaves it its own.

    Post-processing that has a method `written_by` is told how the vocabulary writes texts.

    Raises:
      UserError: nothing of that name is registered.
    """
    found = _registered(task)
    if vocabulary is None or isinstance(found, seqio.Mixture):
        return found
    features = {
        name: dataclasses.replace(
            feature, vocabulary=continuing(vocabulary) if name == "targets" else vocabulary
        )
        for name, feature in found.output_features.items()
    }
    postprocess = found.postprocessor
    if hasattr(postprocess, "written_by"):
        postprocess = postprocess.written_by(written.Writer(vocabulary))
    return found.replace(output_features=features, postprocess_fn=postprocess)


def _rates(mixture: str) -> list[float]:
    found = _registered(mixture)
    rates = [found.get_rate(task) for task in found.tasks]
    return [rate / sum(rates) for rate in rates]


def _registered(name: str) -> seqio.Task | seqio.Mixture:
    known = seqio.TaskRegistry.names() | seqio.MixtureRegistry.names()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"no task or mixture is registered as {name!r}{hint}")
    return seqio.get_mixture_or_task(name)


def _rows(name: str, task_feature_lengths: Mapping[str, int], split: str, **options):
    """Returns the rows of a split as padded fields of a batch."""
    rows = _tokenised(name, task_feature_lengths, split, **options)
    longest = task_feature_lengths["inputs"], task_feature_lengths["targets"]
    return rows.map(functools.partial(_fields, longest), num_parallel_calls=tf.data.AUTOTUNE)


def _tokenised(
    name, task_feature_lengths, split, *, shuffle, num_epochs, seed, vocabulary
) -> tf.data.Dataset:
    """Returns the tokenised rows of a split."""
    task = with_vocabulary(name, vocabulary)
    if split not in (splits := task.splits):
        raise UserError(f"task {name!r} has no split {split!r}; it has {', '.join(splits)}")
    for feature in task.output_features.values():
        # Opens its file: a bad one is one line here, many from inside the pipeline.
        _ = feature.vocabulary.vocab_size
    # What `seqio.get_dataset` does, without its memory cache: that complains of partial reads.
    rows = task.get_dataset(
        dict(task_feature_lengths),
        split,
        shuffle=shuffle,
        num_epochs=num_epochs,
        seed=seed,
        try_in_mem_cache=False,
    )
    if missing := {"inputs", "targets"} - rows.element_spec.keys():
        raise UserError(f"task {name!r} has no feature {min(missing)!r}; a task needs both")
    return rows


def _fields(longest: Bucket, row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Converts the `inputs` and `targets` of a row to the fields of a batch."""

    def padded(values, length):
        values = tf.cast(values[:length], tf.int32)
        values = tf.pad(values, [[0, length - tf.size(values)]])
        return tf.ensure_shape(values, [length])

    inputs, targets = row["inputs"], row["targets"]
    return {
        "encoder_input_tokens": padded(inputs, longest[0]),
        "encoder_segment_ids": padded(tf.ones_like(inputs), longest[0]),
        # The decoder begins with 0 and sees each target one position later.
        "decoder_input_tokens": padded(tf.concat([[0], targets], 0), longest[1]),
        "decoder_target_tokens": padded(targets, longest[1]),
        "decoder_loss_weights": padded(tf.ones_like(targets), longest[1]),
    }
