"""Rows that are read from installed packages as tasks: splits, balance, exemplars.

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
from typing import Any, ClassVar

from promot_jax.base.errors import UserError
from promot_jax.data import tasks
from promot_jax.data.tasks import Task
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
      metric_fn, postprocess_fn: see `tasks.Task`.
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

    def task(self, name: str, *, shots: int = 0, randomized: bool = False) -> Task:
        """Returns a task of the rows.

        Targets begin with a space: to a decoder-only model input and target are one text.

        Args:
          name: of the task.
          shots: exemplars of the split train in front of each input, see `few_shot.choose`.
          randomized: the targets of a split are shuffled among its rows (the paper's 3.3).
        """
        return Task(
            name,
            PackageSource(self, shots, randomized),
            self.postprocess_fn,
            (self.metric_fn,),
            mini.vocabulary,
            few_shot.CutArticles() if self.cut else tasks.encode_texts,
        )


@dataclasses.dataclass(frozen=True)
class PackageSource:
    """The rows of a task.

    Attributes:
      collection: where they are from.
      shots, randomized: see `Collection.task`.
    """

    collection: Collection
    shots: int = 0
    randomized: bool = False
    splits: ClassVar[tuple[str, ...]] = SPLITS
    origin: ClassVar[str] = "a package"

    def rows(self, split: str) -> "Written":
        """Returns the rows of a split; raises as `Collection.splits` does."""
        splits = self.collection.splits()
        rows = splits[split]
        answered = _shuffled(rows) if self.randomized else rows
        train = splits["train"][: few_shot.POOL_SIZE]
        pool = [(row.inputs, row.targets) for row in train]
        return Written(rows, [row.targets for row in answered], pool, self)


@dataclasses.dataclass(frozen=True)
class Written:
    """The texts of rows.

    Attributes:
      own: the rows.
      targets: of each.
      pool: what exemplars are drawn from.
      source: says what is made of them.
    """

    own: Sequence[Row]
    targets: Sequence[str]
    pool: Sequence[few_shot.Pair]
    source: PackageSource

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, number: int, /) -> tasks.Row:
        row = self.own[number]
        texts = {"inputs": row.inputs, "targets": f" {self.targets[number]}"}
        if row.answers:
            texts["answers"] = list(row.answers)
        exemplars = few_shot.choose(row.inputs, self.pool, self.source.shots)
        write = few_shot.with_parts if self.source.collection.cut else few_shot.join
        return write(texts, exemplars, span=False)


def _shuffled(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: digest(f"randomized {row.inputs}"))


def postprocess_line(output: str, *, is_target: bool = False, **_unused: object) -> str:
    """The postprocessor of free texts: `first_line` of predictions."""
    return output.strip() if is_target else templates.first_line(output)


def postprocess_answers(
    output: str, *, example: tasks.Row, is_target: bool = False
) -> str | list[str]:
    """`postprocess_line` for several accepted answers: of a target, all of them."""
    if is_target:
        return list(example["answers"])
    return postprocess_line(output)


def digest(text: str) -> bytes:
    """Returns what orders and deals out texts: their SHA-256."""
    return hashlib.sha256(text.encode()).digest()


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
