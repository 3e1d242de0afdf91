"""A data set of tfds as tasks: its rows as texts, 0-shot or few-shot, plain or span form."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from promot_jax.data import tasks
from promot_jax.data.tasks import Row, Task
from promot_jax.data.vocabularies import SentencePieceVocabulary
from promot_jax.tasks import few_shot, tfds_rows

# mT5's; a model that is evaluated brings its own. The file is read on first use, not here.
VOCABULARY = SentencePieceVocabulary("gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model")
_SHUFFLE_SEED = 20_240_507


def vocabulary() -> SentencePieceVocabulary:
    """Returns mT5's vocabulary."""
    return VOCABULARY


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set that the paper uses.

    Attributes:
      tfds_name: data set, configuration and version.
      text: makes the texts `inputs` and `targets` of a raw row, and `answers` where there are
        several right ones.
      fields: those of a raw row that `text` reads, besides `label`.
      sizes: rows of each split of tfds in the paper's Table 5 (SNLI and OpenbookQA, which it leaves
        out: in tfds), also of splits that are not offered because they have no labels.
      evaluated_on: the split of the final evaluation.
      metric_fn: the paper's metric.
      postprocess_fn: of outputs and targets, see `Task`.
      splits: splits of the task and where they are in tfds.
      label: the class label of a raw row, None where targets are free text. `text` is given its
        word, and rows without a label (-1) are dropped.
      words: the word for each class of `label`, by the names of tfds.
      answers: `text` makes `answers`.
      cut: articles are cut to the length of inputs.
    """

    tfds_name: str
    text: Callable[[Row], Row]
    fields: tuple[str, ...]
    sizes: Mapping[str, int]
    evaluated_on: str
    metric_fn: Callable[..., dict[str, float]]
    postprocess_fn: Callable[..., Any]
    splits: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {split: split for split in ("train", "validation", "test")}
    )
    label: str | None = None
    words: Mapping[str, str] = dataclasses.field(default_factory=dict)
    answers: bool = False
    cut: bool = False

    @property
    def wanted(self) -> tfds_rows.Wanted:
        """What is read of its raw rows."""
        return tfds_rows.Wanted(self.tfds_name, self.fields, self.label)

    def task(
        self, name: str, *, shots: int = 0, span: bool = False, randomized: bool = False
    ) -> Task:
        """Returns a task of this data set.

        Args:
          name: of the task.
          shots: exemplars in front of each input.
          span: the span form, see `few_shot.join`.
          randomized: the labels of a split are permuted: the format without the content.
        """
        kind = RandomizedSource if randomized else TfdsSource
        return Task(
            name,
            kind(self, shots, span),
            self.postprocess_fn,
            (self.metric_fn,),
            vocabulary,
            few_shot.CutArticles(span) if self.cut else tasks.encode_texts,
        )

    def texts(self, raw: Row) -> Row:
        """Converts a row of `tfds_rows` to `inputs`, `targets` and what else `text` gives."""
        if self.label is not None:
            raw = {**raw, self.label: self.words[raw[self.label]]}
        return self.text(raw)


@functools.lru_cache(maxsize=32)
def _pool(used: Dataset) -> list[few_shot.Pair]:
    """Returns what exemplars are drawn from."""
    found = tfds_rows.read(used.wanted, used.splits["train"], few_shot.POOL_SIZE)
    rows = (used.texts(found[number]) for number in range(len(found)))
    return [(row["inputs"], row["targets"]) for row in rows]


@dataclasses.dataclass(frozen=True)
class Source:
    """The rows of a task.

    Attributes:
      dataset: where they are from.
      shots, span: see `Dataset.task`.
    """

    dataset: Dataset
    shots: int = 0
    span: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.dataset.splits)

    @property
    def origin(self) -> str:
        """The data set's name."""
        return f"tfds {self.dataset.tfds_name}"

    def written(self, raw: Row) -> Row:
        """Returns the texts of a row of `tfds_rows`."""
        row = self.dataset.texts(raw)
        pool = _pool(self.dataset) if self.shots else []
        exemplars = few_shot.choose(row["inputs"], pool, self.shots)
        write = few_shot.with_parts if self.dataset.cut else few_shot.join
        return write(row, exemplars, self.span)


class TfdsSource(Source):
    """The rows of a data set as they are; seqio, too, reads them from its files."""

    @property
    def tfds_name(self) -> str:
        """Data set, configuration and version."""
        return self.dataset.tfds_name

    @property
    def tfds_splits(self) -> Mapping[str, str]:
        """Where each split is in tfds."""
        return self.dataset.splits

    @property
    def raw_fields(self) -> tuple[str, ...]:
        """Fields of a raw row that `from_raw` reads."""
        label = () if self.dataset.label is None else (self.dataset.label,)
        return (*self.dataset.fields, *label)

    @property
    def fields(self) -> dict[str, bool]:
        """Fields of a row, and whether each is a list of texts."""
        answers = {"answers": True} if self.dataset.answers else {}
        parts = few_shot.PARTS if self.dataset.cut else {}
        return {"inputs": False, "targets": False, **answers, **parts}

    def prepare(self, place: str | None) -> None:
        """Reads what `from_raw` needs besides a row.

        Args:
          place: of tfds' data sets; None for the usual one.
        """
        tfds_rows.use_place(place)
        tfds_rows.names(self.dataset.wanted)
        if self.shots:
            _pool(self.dataset)

    def keeps(self, raw: Mapping[str, Any]) -> bool:
        """Says whether a raw row as tfds has it is one of the task; those without label are not."""
        label = self.dataset.label
        return label is None or raw[label] >= 0

    def from_raw(self, raw: Mapping[str, Any]) -> Row:
        """Returns the texts of a raw row that is kept."""
        wanted = self.dataset.wanted
        return self.written(tfds_rows.plain(raw, wanted, tfds_rows.names(wanted)))

    def rows(self, split: str) -> tasks.Rows:
        """Returns the rows of a split."""
        return Written(self, tfds_rows.read(self.dataset.wanted, self.dataset.splits[split]))


class RandomizedSource(Source):
    """The rows of a data set in their order, their labels permuted."""

    def rows(self, split: str) -> list[Row]:
        """Returns the rows of a split."""
        raw = tfds_rows.read(self.dataset.wanted, self.dataset.splits[split])
        shuffled = few_shot.order(f"{_SHUFFLE_SEED} labels", len(raw))
        label = self.dataset.label
        return [
            self.written({**raw[number], label: raw[other][label]})
            for number, other in enumerate(shuffled)
        ]


@dataclasses.dataclass(frozen=True)
class Written:
    """Texts of raw rows.

    Attributes:
      source: makes them.
      raw: rows of `tfds_rows`.
    """

    source: Source
    raw: Sequence[Row]

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, number: int, /) -> Row:
        return self.source.written(self.raw[number])
