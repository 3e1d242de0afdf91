"""Rows that the start model writes: asked for part by part, and kept on disk for the next run.

A part is kept as soon as it is whole, under what its rows depend on: the model bit for bit, what it
is asked and how. A run that is killed has lost no more than the part that it was at.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from promot_jax.base import distributed, partitioning
from promot_jax.base.progress import Progress, say
from promot_jax.base.trees import Tree
from promot_jax.data import batching, generated, row_store, tasks
from promot_jax.data.generated import Generated
from promot_jax.data.row_store import Stored
from promot_jax.models import Model, decoding
from promot_jax.models.attached import BARE

# Of what is kept; another number is written anew.
VERSION = 1
# Rows that are kept together, and rows that are asked for together.
PART, BATCH = 512, 64
# Inputs are padded to a multiple of so many tokens: few shapes are compiled.
MULTIPLE = 32


class Author:
    """A bare model that writes the rows of tasks."""

    def __init__(self, model: Model, mesh: jax.sharding.Mesh):
        self._model, self._mesh = model, mesh

        def predict(params, batch, rng, decoder, max_length):
            return model.predict_batch(params, batch, decoder, max_length, rng)

        self._predict = jax.jit(
            predict,
            static_argnames=("decoder", "max_length"),
            out_shardings=partitioning.replicated(mesh),
        )

    def write(self, name: str, params: Tree, lineage: str) -> None:
        """Writes the training rows of a task that has none yet, or reads them, and binds them.

        Args:
          name: registered task; one whose rows no model writes is left alone.
          params: of the start model; what is attached to it is not used.
          lineage: of the start model, see `lineage.of_model`.

        Raises:
          UserError: rows that cannot be read, or a disk that cannot be written.
        """
        source = generated.source(name)
        if source is None:
            return
        params = BARE.params(self._model, params)
        starts = range(0, len(source), PART)
        with Progress(f"start model writes {name}", len(starts)) as progress:
            parts = []
            for start in starts:
                numbers = range(start, min(start + PART, len(source)))
                parts.append(self._part(source, numbers, params, lineage))
                progress.advance()
        rows = Parts(parts)
        source.bind(rows)
        if isinstance(source.writing, generated.Rewriting):
            kept = sum(part.facts["kept"] for part in parts)
            share = 100 * kept / len(rows)
            say(f"{name}: {kept} of {len(rows)} targets ({share:.1f} %) are the model's own words")

    def _part(self, source: Generated, numbers: range, params: Tree, lineage: str) -> Stored:
        rows, words = source.read(numbers), self._model.vocabulary
        asked = [source.writing.asked(row, words) for row in rows]
        known = [[row.get(name) for name in ("inputs", "targets", "answers")] for row in rows]
        about = [lineage, dataclasses.asdict(source.asking), repr(source.writing)]
        key = row_store.fingerprint("start", VERSION, *about, source.original, numbers[0], known)
        # All processes compute together, or none does.
        if all(distributed.gathered(row_store.holds(key))):
            return row_store.cached(key, lambda writer: {})
        found = [*self._answers(source.asking, asked, numbers[0], params)]
        original = tasks.task(source.original, words) if source.original else None
        made = source.writing.rows(original, rows, found, words)

        def write(writer: row_store.Writer) -> dict[str, Any]:
            for row in made:
                writer.add(row)
            return {"kept": sum(row["kept"] for row in made)}

        return row_store.cached(key, write)

    def _answers(self, asking, texts: Sequence[str], first: int, params: Tree) -> Iterator[str]:
        """Yields the answer to each text; it depends on its number, not on who asks else."""
        greedy = asking.temperature is None
        decoder = decoding.Greedy() if greedy else decoding.Sample(asking.temperature)
        key, words = jax.random.key(asking.seed), self._model.vocabulary
        for place in range(0, len(texts), BATCH):
            some = texts[place : place + BATCH]
            rows = [{"inputs": text, "targets": ""} for text in some]
            longest = {"inputs": np.iinfo(np.int32).max, "targets": 1}
            encoded = tasks.encode_texts(rows, words, longest)
            width = max(len(row.inputs) for row in encoded)
            shape = -(-width // MULTIPLE) * MULTIPLE, 1
            count = partitioning.divisible(self._mesh, BATCH)
            empty = [None] * (count - len(encoded))
            batch = {
                field: array
                for field, array in batching.fields([*encoded, *empty], shape).items()
                if field.startswith("encoder_")
            }
            rng = jax.random.fold_in(key, first + place)
            with partitioning.activate(self._mesh):
                placed = partitioning.shard_batch(self._mesh, batch)
                ids = self._predict(params, placed, rng, decoder, asking.tokens)
            yield from self._model.texts(np.asarray(ids)[: len(some)])


class Parts:
    """Rows that lie in several folders, in their order."""

    def __init__(self, parts: Sequence[Stored]):
        """Takes the folders."""
        self._parts = parts
        self._ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int, /) -> dict[str, Any]:
        part = bisect.bisect_right(self._ends, number)
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        return self._parts[part][number - self._ends[part]]
