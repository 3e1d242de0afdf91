"""The families of the bank as tasks: halves, exemplars, texts, and what outputs are judged by.

Everything is made when it is first asked for, from the tables beside, in a fraction of a second.
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from promot_jax.data import metrics, tasks
from promot_jax.data.metrics import normalize_answer
from promot_jax.tasks import mini, templates
from promot_jax.tasks.bank import (
    arithmetic,
    forms,
    inference,
    lists,
    questions,
    rules,
    structured,
    summary,
    translation,
    unknown,
)
from promot_jax.tasks.bank.items import Item, digest

SPLITS = ("train", "validation", "test")
# Makes the items of a family, and what tables call it.
FAMILIES: dict[str, tuple[Callable[[], Iterator[Item]], str]] = {
    "questions": (questions.items, "Bank: questions"),
    "arithmetic": (arithmetic.items, "Bank: arithmetic"),
    "lists": (lists.items, "Bank: lists"),
    "forms": (forms.items, "Bank: forms"),
    "structured": (structured.items, "Bank: JSON"),
    "translation": (translation.items, "Bank: translation"),
    "summary": (summary.items, "Bank: summary"),
    "inference": (inference.items, "Bank: inference"),
    "unknown": (unknown.items, "Bank: unknown"),
}
# Exemplars of a kind in one language; of one with sides, of each side.
EXEMPLARS, OF_A_SIDE = 3, 2
# Exemplars in front of a question, see `exemplars`.
SHOTS = 2
# Stands before an output that the rule refuses though `exact_match` would take it for right.
REFUSED = "≠ "
_ASKED, _CUE = "Question: ", "\nAnswer:"
_CUT = re.compile(r"(?<!\S)(?:Question:|Q:)")


@dataclasses.dataclass(frozen=True)
class Family:
    """The items of a family.

    Attributes:
      splits: the items of each split, in the order in which they are asked.
      pools: exemplars by kind and language.
      by_asked: all that are asked, by their question.
    """

    splits: dict[str, list[Item]]
    pools: dict[tuple[str, str], list[Item]]
    by_asked: dict[str, Item]


@functools.cache
def family(name: str) -> Family:
    """Returns a family: the first items of each kind are exemplars, a hash deals out the rest."""
    make, _ = FAMILIES[name]
    found: dict[str, Item] = {}
    for item in make():
        found.setdefault(item.asked, item)
    pools: dict[tuple[str, str], list[Item]] = collections.defaultdict(list)
    splits: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for item in found.values():
        pool = pools[item.kind, item.language]
        if _is_exemplar(item, pool):
            pool.append(item)
            splits["train"].append(item)
        else:
            splits["validation" if digest(item.asked)[0] % 2 else "test"].append(item)
    for items in splits.values():
        items.sort(key=lambda item: digest(item.asked))
    return Family(splits, dict(pools), found)


def _is_exemplar(item: Item, pool: Sequence[Item]) -> bool:
    """Whether an item joins the exemplars of its kind; those of one without sides differ."""
    if item.side:
        return sum(other.side == item.side for other in pool) < OF_A_SIDE
    return len(pool) < EXEMPLARS and all(other.right != item.right for other in pool)


def exemplars(name: str, item: Item) -> list[Item]:
    """Returns what stands before an item: two of its family and language.

    Of a kind with sides both are of the kind and show two sides. Else the first is of another kind
    and the second of its own, and neither holds the answer where others are there. A hash of the
    question chooses.
    """
    pools = family(name).pools
    place = int.from_bytes(digest(f"exemplars {item.asked}"), "big")
    own = [each for each in pools[item.kind, item.language] if each.asked != item.asked]
    if item.side:
        first = own[place % len(own)]
        rest = [each for each in own if each.side != first.side]
        return [first, rest[place // 64 % len(rest)]]
    kinds = sorted(
        kind for kind, language in pools if language == item.language and kind != item.kind
    )
    chosen = kinds[place // 64 % len(kinds)]
    other = pools[chosen, item.language]
    silent = ([each for each in pool if not _tells(each, item)] or pool for pool in (other, own))
    return [pool[place // 4096 % len(pool)] for pool in silent]


def _tells(exemplar: Item, item: Item) -> bool:
    shown = f"{exemplar.asked} {exemplar.right}".casefold()
    return rules.stands_in(item.right, shown)


def text(name: str, item: Item) -> str:
    """Returns what a model reads: exemplars with their answers, the question, a cue."""
    shown = (f"{_ASKED}{each.asked}{_CUE} {each.right}" for each in exemplars(name, item))
    return templates.BLANK_LINE.join([*shown, f"{_ASKED}{item.asked}{_CUE}"])


def row(name: str, item: Item) -> tasks.Row:
    """Returns the row of an item; to a decoder-only model both texts are one."""
    return {"inputs": text(name, item), "targets": f" {item.right}"}


def asked(inputs: str) -> str:
    """Returns the question of a row's inputs."""
    return inputs.rpartition(_ASKED)[2].removesuffix(_CUE)


@dataclasses.dataclass(frozen=True)
class Written:
    """The rows of a split, written when they are read."""

    name: str
    items: Sequence[Item]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int, /) -> tasks.Row:
        return row(self.name, self.items[number])


@dataclasses.dataclass(frozen=True)
class Source:
    """The rows of a family.

    Attributes:
      name: of the family.
    """

    name: str
    splits: ClassVar[tuple[str, ...]] = SPLITS
    origin: ClassVar[str] = "the bank"

    def rows(self, split: str) -> Written:
        """Returns the rows of a split."""
        return Written(self.name, family(self.name).splits[split])


def answer(output: str) -> str:
    """Returns what an output answers: its first line with text, without a cue in front of it."""
    lines = (line.strip() for line in output.splitlines())
    first = next((line for line in lines if line.removeprefix("Answer:").strip()), "")
    first = first.removeprefix("Answer:").strip()
    # Where a vocabulary has no line breaks, what follows the answer follows in its line.
    following = _CUT.search(first)
    return (first[: following.start()] if following else first).strip()


class Postprocess:
    """Outputs as texts; one that the row's rule accepts becomes the row's right answer.

    So `exact_match` counts what the rule accepts, and nothing else: an output that the rule refuses
    and that differs from the right answer only by what `exact_match` forgives has `REFUSED` before
    it. A vocabulary that writes the right answer in another form, in lower case for instance, is
    not blamed for it: that form is right, too. A right answer that it cannot write at all is never
    reached, by any model of that vocabulary.
    """

    def __init__(self, name: str, write: Callable[[str], str] | None = None):
        """Takes a family, and what writes a text as the model's vocabulary does."""
        self._name, self._write = name, write

    def written_by(self, write: Callable[[str], str]) -> "Postprocess":
        """Returns the postprocessor for outputs in the words of a vocabulary, see `written`."""
        return Postprocess(self._name, write)

    def __call__(
        self, output: str, *, example: tasks.Row, is_target: bool = False, **_unused: Any
    ) -> str:
        """Returns the answer of an output; of a target, what is right."""
        if is_target:
            return output.strip()
        said = answer(output)
        right = example["targets"].strip()
        written = self._write(right).strip() if self._write else right
        item = family(self._name).by_asked.get(asked(example["inputs"]))
        if said == written or (item is not None and item.rule.accepts(said)):
            return written
        taken = normalize_answer(said) in (normalize_answer(right), normalize_answer(written))
        return f"{REFUSED}{said}" if taken and item is not None else said


def task(name: str) -> tasks.Task:
    """Returns the task of a family."""
    return tasks.Task(
        f"bank_{name}", Source(name), Postprocess(name), (metrics.exact_match,), mini.vocabulary
    )


def families() -> list[tuple[str, str, str, bool]]:
    """Returns (task, label, metric, free text) of each family, for `evaluation.unseen_tasks`."""
    return [
        (f"bank_{name}", label, "exact_match", name != "inference")
        for name, (_, label) in FAMILIES.items()
    ]


def lengths(name: str) -> dict[str, int]:
    """Returns the longest `inputs` and `targets` of a family, in tokens, end of sequence included.

    They are its longest texts in bytes of UTF-8: a vocabulary that falls back to bytes or to
    characters needs no more. Large vocabularies need half as much of inputs, so batches are best
    padded to buckets.
    """
    rows = [each for split in SPLITS[1:] for each in Source(name).rows(split)]
    return {
        feature: max(len(each[feature].encode()) for each in rows) + 1
        for feature in ("inputs", "targets")
    }


def coverage() -> dict[tuple[str, str, str, str], int]:
    """Returns how many items there are by family, language, kind and split."""
    counts = collections.Counter(
        (name, item.language, item.kind, split)
        for name in FAMILIES
        for split, items in family(name).splits.items()
        for item in items
    )
    return dict(sorted(counts.items()))
