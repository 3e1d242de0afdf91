"""Rows of a batch one behind the other, so that a decoder-only model computes little padding.

Rows differ in length, and of many batches more than half is padding. Packed (Raffel et al. 2020,
section 3.1.2), several rows share a line in which none sees another: each has a segment, positions
and a prompt of its own. The sum of the losses stays what it was. Every shape compiles once, so a
stage has a few shapes of lines, chosen by what its first batches would cost. Of several processes,
each packs the rows that it has into lines that its devices hold; all choose the same shape.

A packed batch of R lines with S slots and up to U targets each has the fields

    decoder_tokens [R, S]         inputs and targets
    decoder_segment_ids [R, S]    the number of the row in its line, from 1 on; 0 is padding
    decoder_positions [R, S]      in the row, its prompt counted
    decoder_prefix [R, S]         1 for a prompt and for inputs
    decoder_prompts [R, S]        n * P + p where a slot holds row p of prompt n, else -1
    decoder_target_slots [R, U]   the slot from which each target is predicted
    decoder_target_tokens [R, U]
    decoder_loss_weights [R, U]   1 for a target
    decoder_loss_scales [R, U]    float32, where rows have them
    decoder_adapted [R, S]        1 for a row in which adapters act; where rows differ in it

U counts the targets that have a weight; others are read, and nothing is predicted for them. Labels
of exemplars that a prompt is made of are targets too.

all others of them int32.
"""

import heapq
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from promot_jax.data.shares import WHOLE, Share, agreed

Batch = dict[str, np.ndarray]
# (row of the prompt, token id) of each label in prompts.
Labels = Sequence[tuple[int, int]]

SCALES = "decoder_loss_scales"
# Shapes of a stage at most; one that saves less than this share of the work is not worth compiling.
MOST = 4
LEAST_GAIN = 0.02
# The cost of a target beside that of its slot, and the length from which on attention is half of
# the work: roughly those of a model with a hundred million parameters. They choose shapes only.
TARGET = 0.25
ATTENTION = 4096
# Sizes are multiples of this.
STEP = 8
# Lines are at most twice as long as the longest row, or as this.
LINE = 256


class Row(NamedTuple):
    """A row of a batch.

    Attributes:
      inputs: its input ids, at least one.
      targets: its target ids, at least one.
      learnt: numbers of the targets that count, the last one among them.
      prompt: what `decoder_prompts` says of the slots in front, of which there may be none.
      adapted: what `decoder_adapted` says of all its slots; None where it says nothing.
      scales: what the losses of the targets that count are multiplied by, None for nothing.
      labels: what is to be learnt in these.
    """

    inputs: np.ndarray
    targets: np.ndarray
    learnt: np.ndarray
    prompt: np.ndarray
    adapted: int | None = None
    scales: np.ndarray | None = None
    labels: Labels = ()

    @property
    def size(self) -> int:
        """The slots that it takes; nothing is predicted from its last target."""
        return len(self.prompt) + len(self.inputs) + len(self.targets) - 1

    @property
    def count(self) -> int:
        """The targets that count."""
        return len(self.labels) + len(self.learnt)


class Extent(NamedTuple):
    """What a row takes of its line, as other processes hear of it: slots and targets."""

    size: int
    count: int


class Shape(NamedTuple):
    """R, S and U of a batch."""

    lines: int
    slots: int
    targets: int

    @property
    def cost(self) -> float:
        """The work of a step, in slots."""
        return self.lines * (self.slots * (1 + self.slots / ATTENTION) + self.targets * TARGET)


class Packer:
    """Packs batches of `data.py` into a few shapes; those that do not gain stay as they are."""

    def __init__(
        self,
        sample: Sequence[Batch],
        start_id: int | None,
        eos_id: int | None,
        prompt_length: int,
        multiple: int,
        share: Share = WHOLE,
        labels: Labels = (),
    ):
        """Chooses the shapes.

        Args:
          sample: batches as they are to be expected.
          start_id: the token before inputs, or None.
          eos_id: the token that is dropped where it ends inputs, or None.
          prompt_length: P.
          multiple: R is a multiple of this, for the devices and microbatches that divide a batch.
          share: which part of each batch this process has. All make their packers at once, and
            call them with their parts of the same batches.
          labels: what is to be learnt in the prompt of each row that has one; with any, batches are
            packed that do not gain by it, too.
        """
        self._start = [] if start_id is None else [start_id]
        self._eos_id = eos_id
        self._prompt_length = prompt_length
        self._multiple = multiple
        self._share = share
        self._labels = labels
        here = [[Extent(row.size, row.count) for row in self._rows(batch)] for batch in sample]
        parts = [[[Extent(*row) for row in rows] for rows in part] for part in agreed(here, share)]
        padded = [self._padded(batch) for batch in sample]
        self.shapes = choose(list(zip(*parts, strict=True)), padded, multiple)

    def __call__(self, batch: Batch) -> Batch:
        """Returns a batch packed into the cheapest shape that holds it, or the batch itself."""
        rows, padded = self._rows(batch), self._padded(batch)
        # What cannot be divided is refused in its first step, not in the first that is not packed.
        shapes, most = [*self.shapes], padded.cost
        if self._labels:
            # A line for each row holds any batch.
            targets = -(-(padded.targets + len(self._labels)) // STEP) * STEP
            slots = -(-padded.slots // STEP) * STEP
            shapes, most = [*shapes, Shape(padded.lines, slots, targets)], float("inf")
        for shape in shapes if padded.lines % self._multiple == 0 else ():
            if shape.cost < most:
                own = shape._replace(lines=shape.lines // self._share[1])
                lines = divide(rows, own)
                if all(agreed(lines is not None, self._share)):
                    return pack(lines, own, {SCALES, "adapted"} & batch.keys())
        return batch

    def _rows(self, batch: Batch) -> list[Row]:
        """Returns the rows that have targets, as `models.DecoderOnlyModel` reads them."""
        lengths = (batch["encoder_segment_ids"] > 0).sum(axis=1)
        counts = target_lengths(batch["decoder_loss_weights"])
        prompts = batch.get("prompt_ids", np.full(len(lengths), -1))
        adapted = batch.get("adapted", [None] * len(lengths))
        rows = []
        for number in np.flatnonzero(counts):
            ids = batch["encoder_input_tokens"][number]
            inputs = [*self._start, *ids[: max(lengths[number], 1 - len(self._start))]]
            if len(inputs) > 1 and inputs[-1] == self._eos_id:
                inputs.pop()
            if self._start and inputs[1:2] == self._start:
                del inputs[0]
            targets = batch["decoder_target_tokens"][number, : counts[number]]
            learnt = np.flatnonzero(batch["decoder_loss_weights"][number])
            places = np.arange(self._prompt_length * (prompts[number] >= 0))
            prompt = prompts[number] * self._prompt_length + places
            scales = batch[SCALES][number, learnt] if SCALES in batch else None
            labels = self._labels if len(prompt) else ()
            own = prompt, adapted[number], scales, labels
            rows.append(Row(np.array(inputs), targets, learnt, *own))
        return rows

    def _padded(self, batch: Batch) -> Shape:
        rows, targets = batch["decoder_target_tokens"].shape
        front = self._prompt_length * ("prompt_ids" in batch) + len(self._start)
        slots = front + batch["encoder_input_tokens"].shape[1] + targets - 1
        return Shape(rows * self._share[1], slots, targets)


def choose(
    sample: Sequence[Sequence[Sequence[Extent]]], padded: Sequence[Shape], multiple: int = 1
) -> list[Shape]:
    """Returns the shapes that make the batches of a sample cheap, the cheapest first.

    Args:
      sample: the rows of each batch, those of each process apart: these never share a line.
      padded: the shape of each batch as it is, which it keeps where that is cheaper.
      multiple: R is a multiple of this.
    """
    limit = max([LINE, *(2 * row.size for batch in sample for rows in batch for row in rows)])
    most = max((sum(map(len, batch)) for batch in sample), default=0)
    numbers = _numbers(most // multiple)
    candidates, needs = set(), {}
    for lines in (number * multiple for number in numbers):
        # [batches, 2]: slots and targets of the longest line.
        needs[lines] = np.array([_needed(batch, lines) for batch in sample])
        sizes = -(-needs[lines] // STEP) * STEP
        candidates |= {Shape(lines, *map(int, size)) for size in sizes if 0 < size[0] <= limit}
    costs = {
        shape: np.where((needs[shape.lines] <= shape[1:]).all(axis=1), shape.cost, np.inf)
        for shape in candidates
    }
    now = np.array([shape.cost for shape in padded])
    least, chosen = LEAST_GAIN * now.sum(), []
    while len(chosen) < MOST and costs:
        best = min(costs, key=lambda shape: (np.minimum(now, costs[shape]).sum(), shape))
        then = np.minimum(now, costs.pop(best))
        if now.sum() - then.sum() < least:
            break
        chosen.append(best)
        now = then
    return sorted(chosen, key=lambda shape: (shape.cost, shape))


def _numbers(most: int) -> list[int]:
    """Returns about four numbers of each doubling, up to `most`."""
    halvings = 4 * max(most, 1).bit_length()
    return sorted({-int(-most // 2 ** (k / 4)) for k in range(halvings)} - {0})


def divide(rows: Sequence[Row], shape: Shape) -> list[list[Row]] | None:
    """Returns the rows of each line, or None where they do not fit into a shape."""
    lines = _divide(rows, shape.lines)
    slots, targets = _longest(lines)
    return lines if slots <= shape.slots and targets <= shape.targets else None


def pack(lines: Sequence[Sequence[Row]], shape: Shape, marks: Container[str] = ()) -> Batch:
    """Returns lines of rows as a packed batch, see the module.

    Args:
      lines: what `divide` returns.
      shape: of the batch.
      marks: `adapted` where rows say if adapters act in them, `SCALES` where they have scales.
    """
    names = ("tokens", "segment_ids", "positions", "prefix", "prompts")
    found = {f"decoder_{name}": np.zeros(shape[:2], np.int32) for name in names}
    found["decoder_prompts"] -= 1
    if "adapted" in marks:
        found["decoder_adapted"] = np.zeros(shape[:2], np.int32)
    for name in ("target_slots", "target_tokens", "loss_weights"):
        found[f"decoder_{name}"] = np.zeros((shape.lines, shape.targets), np.int32)
    if SCALES in marks:
        found[SCALES] = np.ones((shape.lines, shape.targets), np.float32)
    for number, line in enumerate(lines):
        fields = {name: array[number] for name, array in found.items()}
        slot = target = 0
        for segment, row in enumerate(line, start=1):
            _place(row, segment, slot, target, fields)
            slot += row.size
            target += row.count
    return found


def _place(row, segment, slot, target, fields) -> None:
    """Writes a row into the fields of its line, from a slot and a target on."""
    begin = slot + len(row.prompt)
    known, end = begin + len(row.inputs), slot + row.size
    fields["decoder_tokens"][begin:known] = row.inputs
    fields["decoder_tokens"][known:end] = row.targets[:-1]
    fields["decoder_segment_ids"][slot:end] = segment
    fields["decoder_positions"][slot:end] = np.arange(row.size)
    fields["decoder_prefix"][slot:known] = 1
    fields["decoder_prompts"][slot:begin] = row.prompt
    if row.adapted is not None:
        fields["decoder_adapted"][slot:end] = row.adapted
    for place, token in row.labels:
        fields["decoder_target_slots"][target] = slot + place - 1
        fields["decoder_target_tokens"][target] = token
        fields["decoder_loss_weights"][target] = 1
        target += 1
    targets = slice(target, target + len(row.learnt))
    fields["decoder_target_slots"][targets] = known - 1 + row.learnt
    fields["decoder_target_tokens"][targets] = row.targets[row.learnt]
    fields["decoder_loss_weights"][targets] = 1
    if row.scales is not None:
        fields[SCALES][targets] = row.scales


def _divide(rows: Sequence[Row | Extent], lines: int) -> list[list[Any]]:
    """Gives each row, the longest first, to the line that is shortest so far."""
    divided: list[list[Row]] = [[] for _ in range(lines)]
    filled = [(0, number) for number in range(lines)]
    for row in sorted(rows, key=lambda row: -row.size):
        length, number = filled[0]
        divided[number].append(row)
        heapq.heapreplace(filled, (length + row.size, number))
    return divided


def _needed(batch: Sequence[Sequence[Extent]], lines: int) -> tuple[int, ...]:
    """Returns the slots and the targets of the longest of so many lines."""
    parts = [_longest(_divide(rows, lines // len(batch))) for rows in batch]
    return tuple(map(max, zip(*parts, strict=True)))


def _longest(lines: Sequence[Sequence[Row | Extent]]) -> tuple[int, int]:
    """Returns the slots and the targets of the lines that have the most."""
    return (
        max(sum(row.size for row in line) for line in lines),
        max(sum(row.count for row in line) for line in lines),
    )


def target_lengths(weights: np.ndarray) -> np.ndarray:
    """Returns the targets of each row, up to the last that counts: int64 [B] of weights [B, U]."""
    behind = np.flip(weights > 0, axis=1).cumsum(axis=1) > 0
    return behind.sum(axis=1)


def network_inputs(batch: Mapping[str, Any], prefix_lm: bool) -> dict[str, Any]:
    """Returns a packed batch as the arguments of `networks.decoder.Transformer`."""
    return {
        "decoder_input_tokens": batch["decoder_tokens"],
        "decoder_segment_ids": batch["decoder_segment_ids"],
        "decoder_positions": batch["decoder_positions"],
        "decoder_causal_attention": batch["decoder_prefix"] if prefix_lm else None,
        "prompt_slots": batch["decoder_prompts"],
        "input_slots": batch["decoder_prefix"],
        "target_slots": batch["decoder_target_slots"],
    }
