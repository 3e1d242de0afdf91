"""Rows that are read from installed packages as seqio tasks: splits, balance, exemplars.

The splits are fixed by a hash: every row belongs to a group, such as the page or the country that
it is about, and a group goes into one split as a whole. So the splits do not depend on the order of
files, and what a row is about is never seen in two of them. Rows stand in the order of their
digests, whatever their order in the files, and where targets are balanced these take turns: the
first rows of a split are like the rest.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import seqio
import tensorflow as tf

from promot_jax.base.errors import UserError
from promot_jax.tasks import few_shot, mini, templates

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Row:
    """An example.

    Attributes:
      inputs, targets: texts, the target without a leading space.
      group: what the row is about; rows of one group are in one split.
      answers: every accepted answer, for tasks that have several.
    """

    inputs: str
    targets: str
    group: str
    answers: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Collection:
    """Rows of a package, and how a model is asked and scored.

    Attributes:
      read: reads all rows; called when a split is first read.
      metric_fn, postprocess_fn: as seqio has them.
      validation, test: shares of the groups in these splits; train has the rest.
      balanced: each split keeps as many rows of every target as it has of its rarest.
      cut: articles are cut to the length of inputs.
    """

    read: Callable[[], Sequence[Row]]
    metric_fn: Callable[..., dict[str, float]]
    postprocess_fn: Callable[..., Any]
    validation: float = 0.2
    test: float = 0.6
    balanced: bool = False
    cut: bool = False

    def splits(self) -> dict[str, list[Row]]:
        """Returns the rows of each split.

        Raises:
          UserError: the package is not installed, or holds no such rows.
        """
        return _splits(self)

    def task(self, *, shots: int = 0, randomized: bool = False) -> dict[str, Any]:
        """Returns the arguments of `seqio.TaskRegistry.add` after the name.

        Targets begin with a space: to a decoder-only model input and target are one text.

        Args:
          shots: exemplars of the split train in front of each input. They depend on the text of the
            row alone, and none is the row itself, see `few_shot.choose_exemplars`.
          randomized: the targets of a split are shuffled among its rows (the paper's 3.3).
        """
        steps = []
        if shots:
            train = functools.partial(self._dataset, "train")
            steps.append(functools.partial(few_shot.choose_exemplars, train=train, shots=shots))
        if self.cut:
            steps.append(functools.partial(few_shot.cut_articles, span=False))
        steps.append(functools.partial(few_shot.join, span=False))
        return {
            "source": seqio.FunctionDataSource(
                self._randomized if randomized else self._dataset, splits=SPLITS
            ),
            "preprocessors": [*steps, _space, *mini.PREPROCESSORS],
            "output_features": mini.OUTPUT_FEATURES,
            "postprocess_fn": self.postprocess_fn,
            "metric_fns": [self.metric_fn],
        }

    def _dataset(
        self, split: str, shuffle_files: bool = False, seed: int | None = None
    ) -> tf.data.Dataset:
        del shuffle_files, seed
        return _as_dataset(self.splits()[split])

    def _randomized(
        self, split: str, shuffle_files: bool = False, seed: int | None = None
    ) -> tf.data.Dataset:
        del shuffle_files, seed
        rows = self.splits()[split]
        shuffled = sorted(rows, key=lambda row: digest(f"randomized {row.inputs}"))
        return _as_dataset(
            [
                dataclasses.replace(row, targets=other.targets)
                for row, other in zip(rows, shuffled, strict=True)
            ]
        )


def _as_dataset(rows: Sequence[Row]) -> tf.data.Dataset:
    features = {name: [getattr(row, name) for row in rows] for name in ("inputs", "targets")}
    if rows[0].answers:
        features["answers"] = tf.ragged.constant([row.answers for row in rows])
    return tf.data.Dataset.from_tensor_slices(features)


def postprocess_line(output: str, *, is_target: bool = False, **_unused: object) -> str:
    """The seqio postprocessor of free texts: `first_line` of predictions."""
    return output.strip() if is_target else templates.first_line(output)


def postprocess_answers(
    output: str, *, example: few_shot.Row, is_target: bool = False
) -> str | list[str]:
    """`postprocess_line` for several accepted answers: of a target, all of them."""
    if is_target:
        return [answer.decode() for answer in example["answers"]]
    return postprocess_line(output)


def digest(text: str) -> bytes:
    """Returns what orders and deals out texts: their SHA-256."""
    return hashlib.sha256(text.encode()).digest()


def _space(rows: tf.data.Dataset) -> tf.data.Dataset:
    return rows.map(lambda row: row | {"targets": tf.strings.join([" ", row["targets"]])})


@functools.cache
def _splits(collection: Collection) -> dict[str, list[Row]]:
    """Deals the groups out, drops rows of equal inputs but one, balances and orders the rest."""
    rows = {row.inputs: row for row in collection.read()}
    ordered = sorted(rows.values(), key=lambda row: digest(row.inputs))
    found: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for row in ordered:
        found[_split(row.group, collection)].append(row)
    for split, part in found.items():
        # An exemplar is another row than the one that it stands before.
        if len(part) < 2:
            raise UserError(
                f"the packages of this task hold too few rows: its split {split} has {len(part)}; "
                "install them again"
            )
    if collection.balanced:
        return {split: _balanced(rows) for split, rows in found.items()}
    return found


def _split(group: str, collection: Collection) -> str:
    # A number in 0..1 that looks random and is the same everywhere.
    place = int.from_bytes(digest(group)[:8], "big") / 2**64
    if place < collection.test:
        return "test"
    return "validation" if place < collection.test + collection.validation else "train"


def _balanced(rows: Sequence[Row]) -> list[Row]:
    """Keeps the first rows of each target, as many as the rarest has, in turns."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault(row.targets, []).append(row)
    return [row for turn in zip(*kinds.values(), strict=False) for row in turn]
