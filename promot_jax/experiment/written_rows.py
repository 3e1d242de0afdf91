"""Rows that a model writes: asked for part by part, and kept on disk for the next run.

A part is kept as soon as it is whole, under what its rows depend on: the model bit for bit, what it
is asked and how. A run that is killed has lost no more than the part that it was at.
"""

import bisect
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from promot_jax.base import distributed, partitioning
from promot_jax.base.progress import Progress, say
from promot_jax.base.trees import Tree
from promot_jax.data import batching, generated, row_store, tasks
from promot_jax.data.generated import Asking
from promot_jax.data.row_store import Stored
from promot_jax.data.tasks import Tokens
from promot_jax.models import Model, decoding
from promot_jax.models.attached import BARE, Attached

# Of what is kept; another number is written anew.
VERSION = 1
# Rows that are kept together, and rows that are asked for together.
PART, BATCH = 512, 64
# Inputs are padded to a multiple of so many tokens: few shapes are compiled.
MULTIPLE = 32
# The longest rows that are asked, in tokens, and what a row depends on.
UNCUT = {"inputs": 1 << 30, "targets": 1 << 30}
READ = ("inputs", "targets", "answers", "messages", "tools")


class Author:
    """A model that writes the rows of tasks."""

    def __init__(self, model: Model, mesh: jax.sharding.Mesh):
        self._model, self._mesh = model, mesh

        def predict(params, batch, rng, decoder, max_length, attached):
            own = attached.model(model, params)
            return own.predict_batch(params, batch, decoder, max_length, rng)

        self._predict = jax.jit(
            predict,
            static_argnames=("decoder", "max_length", "attached"),
            out_shardings=partitioning.replicated(mesh),
        )

    def write(self, name: str, params: Tree, lineage: str, attached: Attached = BARE) -> None:
        """Writes the training rows of a task that has none yet, or reads them, and binds them.

        Args:
          name: registered task; one whose rows no model writes is left alone.
          params: of the model.
          lineage: of the model, see `lineage`.
          attached: what it reads rows with; the rest of what it has is not used.

        Raises:
          UserError: rows that cannot be read, or a disk that cannot be written.
        """
        source = generated.source(name)
        if source is None:
            return
        params = attached.params(self._model, params)
        parts = []
        with Progress(f"{source.origin} writes {name}", -(-len(source) // BATCH)) as progress:
            for start in range(0, len(source), PART):
                numbers = range(start, min(start + PART, len(source)))
                parts.append(self._part(source, numbers, params, lineage, attached, progress))
        rows = Parts(parts)
        source.bind(rows)
        if isinstance(source.writing, generated.Answering):
            kept = sum(part.facts["kept"] for part in parts)
            share = 100 * kept / len(rows)
            say(f"{name}: {kept} of {len(rows)} targets ({share:.1f} %) are the model's own words")

    def _part(
        self, source, numbers: range, params: Tree, lineage: str, attached: Attached, progress
    ) -> Stored:
        rows, words = source.read(numbers), self._model.vocabulary
        known = [[row.get(name) for name in READ] for row in rows]
        about = [lineage, *([] if attached == BARE else [repr(attached)])]
        about += [repr(source.asking), repr(source.writing), source.original]
        key = row_store.fingerprint("start", VERSION, *about, numbers[0], known)
        # All processes compute together, or none does.
        if all(distributed.gathered(row_store.holds(key))):
            progress.skip(-(-len(rows) // BATCH))
            return row_store.cached(key, lambda writer: {})
        task = tasks.task(source.original, words) if source.original else None
        encode = task.encode if task else tasks.encode_texts
        answers = []
        for place in range(0, len(rows), BATCH):
            asked = [source.writing.asked(row, words) for row in rows[place : place + BATCH]]
            encoded = encode(asked, words, UNCUT)
            found = self._answers(source.asking, encoded, numbers[place], params, attached)
            answers += found
            progress.advance()
        # Of conversations, an answer ends where the template ends it.
        answers = [*map(getattr(encode, "said", str), answers)]
        made = source.writing.rows(task, rows, answers, words)

        def write(writer: row_store.Writer) -> dict[str, Any]:
            for row in made:
                writer.add(row)
            return {"kept": sum(row["kept"] for row in made)}

        return row_store.cached(key, write)

    def _answers(
        self,
        asking: Asking,
        rows: Sequence[Tokens],
        number: int,
        params: Tree,
        attached: Attached,
    ) -> list[str]:
        """Returns the answer to each row; it depends on its number, not on what else is asked."""
        sample = asking.temperature and decoding.Sample(asking.temperature)
        decoder = sample or decoding.Greedy()
        width = max(len(row.inputs) for row in rows)
        count = partitioning.divisible(self._mesh, BATCH)
        rows = [Tokens(row.inputs, row.targets[:0]) for row in rows]
        found = batching.fields(
            [*rows, *[None] * (count - len(rows))], (-(-width // MULTIPLE) * MULTIPLE, 1)
        )
        batch = {name: found[name] for name in ("encoder_input_tokens", "encoder_segment_ids")}
        batch = attached.batch(batch)
        rng = jax.random.fold_in(jax.random.key(asking.seed), number)
        with partitioning.activate(self._mesh):
            placed = partitioning.shard_batch(self._mesh, batch)
            ids = self._predict(params, placed, rng, decoder, asking.tokens, attached)
        return self._model.texts(np.asarray(ids)[: len(rows)])


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
