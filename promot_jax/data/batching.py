"""Rows of a task or mixture → host batches: reproducible order, length buckets, resume at once.

Batches are dicts of int32 numpy arrays, the same for every family of models: the fields of seqio's
encoder-decoder feature converter, which are `encoder_input_tokens` [B, T], `decoder_input_tokens`,
`decoder_target_tokens` and `decoder_loss_weights` [B, U], and `encoder_segment_ids` [B, T], 1 for a
token and 0 for padding. Padding has the id 0, but an id 0 need not be padding: some vocabularies
have a real token there, so only segment ids and loss weights say where rows end.

The vocabulary is the model's: a registered task brings texts, and whoever reads it says how they
become tokens, so one registration serves every model.

A length bucket is a pair (T, U); a batch is padded to the first bucket that holds all its rows, so
the step compiles once for each bucket and computes little padding. Of several processes, each reads
its own rows, and they tell each other how long these are, see `shares`.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from promot_jax.base.errors import UserError
from promot_jax.base.values import Count
from promot_jax.data import packing, prefetch, tasks, windows
from promot_jax.data.order import Order
from promot_jax.data.shares import WHOLE, Share, agreed
from promot_jax.data.tasks import Lengths, Row, Tokens
from promot_jax.data.token_weights import TokenWeights
from promot_jax.data.vocabularies import Vocabulary
from promot_jax.data.windows import Bucket, Layout

Batch = dict[str, np.ndarray]

# Rows that are tokenised together.
GROUP = 256
# Rows by whose lengths batches are laid out.
SAMPLE = 2048
# Rows of an evaluation that are tokenised together; only so many are in memory as texts.
TEXTS = 4096
# Batches among which rows are sorted by length.
SORTED = 32


# Returns T and U of each of the first rows of the stream.
Sample = Callable[[], list[tuple[int, int]]]


class Batches(Protocol):
    """How endless rows become batches.

    Attributes:
      buckets: lengths that a batch may be padded to.
    """

    buckets: Sequence[Bucket]

    def layout(self, bounds: Sequence[Bucket], sample: Sample) -> Layout:
        """Returns the batches of a window, see `windows`.

        Args:
          bounds: the buckets, and the longest rows at the end.
          sample: see `Sample`; not called where no layout depends on it.
        """


@dataclasses.dataclass(frozen=True)
class FixedBatches:
    """Batches of `size` rows in the order of the stream.

    Attributes:
      size: rows of a batch.
      buckets: lengths that a batch may be padded to, besides the longest; shortest first.
    """

    size: Count
    buckets: Sequence[Bucket] = ()

    def layout(self, bounds: Sequence[Bucket], sample: Sample) -> Layout:
        """See `Batches`."""
        return Layout([self.size] * -(-GROUP // self.size))


@dataclasses.dataclass(frozen=True)
class SortedBatches:
    """Batches of `size` rows of similar length, long and short batches in any order.

    For an encoder-decoder whose rows differ in length. Its rows cannot share a line as `packing`
    has it: the encoder has one prompt, in front of its line, and by T5's relative positions the
    second row would stand further from it than the first. Sorted, they need less padding instead:
    of inputs around 90 tokens (log-normal, sigma 0.7) in batches of 32, a third of what is computed
    and not three quarters. Every row of the stream is in one batch, at most `SORTED` batches away
    from where `FixedBatches` has it.

    Attributes:
      size: rows of a batch.
      buckets: lengths that a batch may be padded to, besides the longest; shortest first.
    """

    size: Count
    buckets: Sequence[Bucket]

    def layout(self, bounds: Sequence[Bucket], sample: Sample) -> Layout:
        """See `Batches`."""
        # Few lanes: the more rows each has, the more alike are their rows of one batch.
        lanes = next(count for count in (8, 4, 2, 1) if self.size % count == 0)
        return Layout([self.size] * SORTED, lanes, bounds)


@dataclasses.dataclass(frozen=True)
class TokenBatches:
    """Batches of rows of similar length, about `tokens` input and target tokens each.

    For pretraining on rows of many lengths: fewer rows where they are long. The composition of a
    batch therefore depends on the buckets, and on the lengths of the first rows of the stream: the
    next rows are taken to be as long. Where many of them are longer, some batches have more tokens.

    Attributes:
      tokens: T + U, times rows.
      buckets: as in `FixedBatches`; each row goes to the first that holds it.
      multiple: the number of rows is a multiple of this, for meshes of up to as many devices.
    """

    tokens: Count
    buckets: Sequence[Bucket]
    multiple: Count = 8

    def layout(self, bounds: Sequence[Bucket], sample: Sample) -> Layout:
        """See `Batches`."""
        return windows.by_tokens(sample(), bounds, self.tokens, self.multiple, SORTED)


def train_batches(
    mixture: str | Mapping[str, float],
    task_feature_lengths: Mapping[str, int],
    batches: Batches,
    *,
    seed: int,
    first_step: int = 0,
    lengths_of: Mapping[str, Lengths] | None = None,
    vocabulary: Vocabulary | None = None,
    marks: Mapping[str, Mapping[str, int]] | None = None,
    weights: Mapping[str, TokenWeights] | None = None,
    share: Share = WHOLE,
    workers: int = 0,
) -> Iterator[Batch]:
    """Returns the endless, shuffled training batches from step `first_step` on.

    The order depends on the arguments alone, so a resumed stage sees what it would have seen; no
    step costs more to begin at than another. Close the iterator where it is not read to its end:
    it reads ahead.

    Args:
      mixture: registered task or mixture, or tasks and how often the rows of each are drawn.
      task_feature_lengths: longest `inputs` and `targets`, in tokens; longer rows are cut.
      batches: how rows become batches.
      seed: decides the order.
      first_step: batches to skip.
      lengths_of: the same for single tasks of the mixture, whose rows have lengths of their own.
      vocabulary: of the tokens; None takes each task's own.
      marks: fields `[B]` that batches have beside, and what each says of the rows of each task:
        `prompt_ids` the number of their soft prompt, -1 for none; `adapted` 0 where adapters do not
        act, else 1.
      weights: what finds, for rows of a task, what the losses of targets are multiplied by;
        batches then have a field `decoder_loss_scales`, float32 [B, U].
      share: which part of each batch this process holds, see `partitioning.share`: B is then the
        number of its rows, equal for all processes; the last ones may have empty rows. All must
        read the same batches in the same order.
      workers: processes that read and tokenise; with 0 a thread of this one does.

    Raises:
      UserError: an unknown mixture, or one without a training row.
    """
    rates = tasks.rates(mixture)
    lengths = [(lengths_of or {}).get(name, task_feature_lengths) for name in rates]
    longest = tuple(max(each[feature] for each in lengths) for feature in ("inputs", "targets"))
    parts = [tasks.task(name, vocabulary) for name in rates]
    rows = [part.rows("train") for part in parts]
    counts = list(map(len, rows))
    if not all(counts):
        empty = next(name for name, count in zip(rates, counts, strict=True) if not count)
        raise UserError(f"task {empty!r} has no training row")
    order = Order(counts, list(rates.values()), seed)
    stream = windows.Rows(parts, rows, order, lengths, vocabulary, weights or {})
    bounds = [*(tuple(map(min, bucket, longest)) for bucket in batches.buckets), longest]
    layout = batches.layout(bounds, lambda: _sample(stream, share))
    first, skipped = divmod(first_step, len(layout.sizes))
    said = {
        field: np.array([of[part.name] for part in parts], np.int32)
        for field, of in (marks or {}).items()
    }
    made = _Made(windows.Windows(stream, layout, seed, share), bounds, said, bool(weights))
    read = prefetch.ahead(made, first, workers)
    with contextlib.closing(read):
        for need, batch in itertools.islice(itertools.chain.from_iterable(read), skipped, None):
            if len(bounds) > 1 and share != WHOLE:
                # As long as the rows of other processes need it, too.
                need = np.max(agreed(need, share), axis=0)
                batch = _resized(batch, bounds[windows.first_holding(need, bounds)])
            yield batch


@dataclasses.dataclass(frozen=True)
class _Made:
    """Windows as batches, each as long as its own rows; made by whoever reads ahead.

    Attributes:
      windows: of rows.
      bounds: see `windows.first_holding`.
      said: fields of batches, with what each says of the rows of each task.
      scaled: whether rows have scales.
    """

    windows: windows.Windows
    bounds: Sequence[Bucket]
    said: Mapping[str, np.ndarray]
    scaled: bool

    def __call__(self, number: int) -> list[tuple[Bucket, Batch]]:
        """Returns the longest inputs and targets of each batch, and the batch."""
        return list(map(self._batch, self.windows(number)))

    def _batch(self, held: windows.Held) -> tuple[Bucket, Batch]:
        found = [row for row in held.rows if row is not None]
        need = tuple(max((len(row[side]) for row in found), default=0) for side in (0, 1))
        shape = self.bounds[windows.first_holding(need, self.bounds)]
        batch = fields(held.rows, shape)
        if self.scaled:
            batch[packing.SCALES] = _scales(held.rows, shape)
        return need, batch | {field: of[held.whose] for field, of in self.said.items()}


def _resized(batch: Batch, shape: Bucket) -> Batch:
    """Returns a batch whose padding is cut or longer, so that it has T and U."""

    def resized(name, array):
        length = shape[0] if name.startswith("encoder_") else shape[1]
        if array.ndim == 1 or array.shape[1] == length:
            return array
        # Scales of padding are 1.
        longer = max(length - array.shape[1], 0)
        padding = 1 if name == packing.SCALES else 0
        return np.pad(array, ((0, 0), (0, longer)), constant_values=padding)[:, :length]

    return {name: resized(name, array) for name, array in batch.items()}


def _sample(stream: windows.Rows, share: Share) -> list[tuple[int, int]]:
    """Returns T and U of each of the first rows, of which every process reads its part."""
    number, count = share
    begin, end = number * SAMPLE // count, (number + 1) * SAMPLE // count
    read = stream.read(begin, end - begin)
    lengths = agreed([(len(row.inputs), len(row.targets)) for row in read], share)
    return [row for part in lengths for row in part]


def fields(rows: Sequence[Tokens | None], shape: Bucket) -> Batch:
    """Returns rows as a batch, padded to a shape; None is an empty row."""
    filled = [place for place, row in enumerate(rows) if row is not None]
    found = [rows[place] for place in filled]
    tokens = np.zeros((len(rows), shape[0]), np.int32)
    targets, before = np.zeros((2, len(rows), shape[1]), np.int32)
    lengths = np.zeros((2, len(rows), 1), int)
    lengths[:, filled, 0] = [[len(row[side]) for row in found] for side in (0, 1)]
    # All rows in one go: one by one they cost more than to be tokenised.
    inputs, wanted = (np.arange(most) < each for most, each in zip(shape, lengths, strict=True))
    segments, weights = inputs.astype(np.int32), wanted.astype(np.int32)
    if found:
        tokens[inputs] = np.concatenate([row.inputs for row in found])
        targets[wanted] = np.concatenate([row.targets for row in found])
        for place, row in zip(filled, found, strict=True):
            if row.weights is not None:
                weights[place, : len(row.weights)] = row.weights
    # The decoder begins with 0 and sees each target one position later.
    before[:, 1:] = targets[:, :-1]
    return {
        "encoder_input_tokens": tokens,
        "encoder_segment_ids": segments,
        "decoder_input_tokens": before,
        "decoder_target_tokens": targets,
        "decoder_loss_weights": weights,
    }


def _scales(rows: Sequence[Tokens | None], shape: Bucket) -> np.ndarray:
    """Returns what the losses of rows are multiplied by, float32 [B, U]; 1 for padding."""
    found = np.ones((len(rows), shape[1]), np.float32)
    for place, row in enumerate(rows):
        if row is not None and row.scales is not None:
            found[place, : len(row.scales)] = row.scales
    return found


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """The rows of a split as batches, each made when it is asked for.

    Attributes:
      rows: as a model reads them.
      numbers: of the rows of each batch [B]; -1 for an empty row, which fills up the last one.
      shapes: T and U of each batch.
    """

    rows: Sequence[Tokens]
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
            chosen = [None if number < 0 else self.rows[number] for number in numbers]
            yield fields(chosen, shape), numbers


def eval_batches(
    task: str,
    task_feature_lengths: Mapping[str, int],
    split: str,
    *,
    batch_size: int,
    buckets: Sequence[Bucket] = (),
    limit: int | None = None,
    vocabulary: Vocabulary | None = None,
) -> EvalBatches:
    """Returns the first `limit` rows of a split as (batch, row numbers [B]).

    Rows are sorted by length before they are grouped; the last batch is filled with empty rows,
    whose number is -1. Each batch has the first of the buckets that holds its rows, else the
    feature lengths.

    Raises:
      UserError: an unknown task or split, or a split without rows.
    """
    longest = task_feature_lengths["inputs"], task_feature_lengths["targets"]
    found = tasks.task(task, vocabulary)
    texts = found.rows(split)
    count = len(texts) if limit is None else min(limit, len(texts))
    words, rows = vocabulary or found.vocabulary(), []
    for start in range(0, count, TEXTS):
        part = [texts[number] for number in range(start, min(start + TEXTS, count))]
        rows += found.encode(part, words, task_feature_lengths)
    if not rows:
        raise UserError(f"task {task!r} has no row in its split {split!r}")
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].inputs))
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
    need = [int(np.count_nonzero(inputs, axis=1).max(initial=1)), 0]
    if targets is not None:
        need[1] = int(packing.target_lengths(targets).max(initial=1))
    whole = inputs.shape[1], 0 if targets is None else targets.shape[1]
    cut = _bucket(need, whole, buckets)

    def shortened(name, array):
        length = cut[0] if name.startswith("encoder_") else cut[1]
        # A copy: a view would keep all of the padding.
        return array[:, :length].copy() if array.ndim > 1 and length < array.shape[1] else array

    return {name: shortened(name, array) for name, array in batch.items()}


def first_rows(rows: tasks.Rows, limit: int | None) -> list[Row]:
    """Returns the first rows; None takes all."""
    count = len(rows) if limit is None else min(limit, len(rows))
    return [rows[number] for number in range(count)]


def examples(task: str, split: str, limit: int | None = None) -> list[Row]:
    """Returns the first rows of a split as texts; None takes all."""
    return first_rows(tasks.task(task).rows(split), limit)


def task_names(mixture: str) -> list[str]:
    """Returns the names of the tasks of a mixture; of a task, its own.

    Raises:
      UserError: nothing of that name is registered.
    """
    return list(tasks.rates(mixture))
