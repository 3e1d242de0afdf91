"""The tasks of the bundled small world; importing this module registers them.

| name | stands for | measured by |
|---|---|---|
| `mini_pretrain`, `mini_pretrain_entailment` | pretraining, first and second mixture | – |
| `mini_entailment` | the meaning of RTE in the formats of pretraining | accuracy |
| `mini_rte` | RTE, a fine-tuning target | accuracy |
| `mini_rte_randomized` | RTE with shuffled labels (section 3.3) | accuracy |
| `mini_wmt_enfr` | WMT14 En-Fr, a fine-tuning target | exact match |
| `mini_cb`, `mini_wic` | CB, WiC | accuracy |
| `mini_triviaqa`, `mini_web_questions` | TriviaQA, web_questions | exact match |
| `mini_wmt_ende`, `mini_wmt_enro` | WMT16 En-De, En-Ro | exact match |
| `mini_xsum`, `mini_wikilingua` | XSum, WikiLingua | ROUGE-2 |

A plain name is 0-shot, `NAME_1shot` puts one exemplar of the train split in front; there is one of
the target and evaluation tasks, which have the splits train, validation and test. Translations are
one word or three, on which BLEU's 4-grams are undefined, so they are scored by exact match.

`mini_rte_randomized` has the inputs of `mini_rte` in the same order. `mini_pretrain` knows the
words of `mini_wmt_enfr` and the French of 3,851 of its 4,000 train pairs, but never translated one
of its validation or test pairs into any language; those are the English pairs of `mini_wmt_ende`'s
validation and test rows. The mixtures `mini_rte_wmt_enfr` and `mini_rte_wmt_enfr_1shot` draw both
targets at equal rates.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from promot_jax.data import metrics, tasks
from promot_jax.data.tasks import Mixture, Row, Task
from promot_jax.data.vocabularies import SentencePieceVocabulary
from promot_jax.tasks import mini_entailment, mini_pretrain, mini_rows, mini_vocabulary, templates

VOCABULARY = SentencePieceVocabulary(
    str(mini_vocabulary.MODEL_PATH), extra_ids=mini_vocabulary.EXTRA_IDS
)


def vocabulary() -> SentencePieceVocabulary:
    """Returns the vocabulary of the bundled world, sentinels included."""
    return VOCABULARY


# Tasks of `mini_rows`: how outputs are cut, and the metric.
_LABELS = (templates.postprocess_label, metrics.accuracy)
_ANSWERS = (templates.postprocess_text, metrics.exact_match)
_SUMMARIES = (templates.postprocess_text, metrics.rouge2)
TARGETS = {"rte": _LABELS, "wmt_enfr": _ANSWERS}
UNSEEN = {
    "cb": _LABELS,
    "wic": _LABELS,
    "triviaqa": _ANSWERS,
    "web_questions": _ANSWERS,
    "wmt_ende": _ANSWERS,
    "wmt_enro": _ANSWERS,
    "xsum": _SUMMARIES,
    "wikilingua": _SUMMARIES,
}
# What follows a name, and the rows of each split.
FORMS = {"": mini_rows.zero_shot_splits, "_1shot": mini_rows.one_shot_splits}
EVALUATION_TASKS = tuple(f"mini_{name}" for name in UNSEEN)


@dataclasses.dataclass(frozen=True)
class Made:
    """Rows that are made when a split is first read; their order is fixed.

    Attributes:
      make: returns the inputs and targets of a split.
      sizes: rows of each split.
    """

    make: Callable[[str], Sequence[mini_rows.Row]]
    sizes: Mapping[str, int]
    origin: ClassVar[str] = "the miniature"

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.sizes)

    def rows(self, split: str) -> list[Row]:
        """Returns the rows of a split."""
        return _rows(self.make, split)


@functools.cache
def _rows(make: Callable[[str], Sequence[mini_rows.Row]], split: str) -> list[Row]:
    return [{"inputs": inputs, "targets": targets} for inputs, targets in make(split)]


def _register(name, make, sizes, postprocess, metric_fn) -> None:
    tasks.add(Task(name, Made(make, sizes), postprocess, (metric_fn,), vocabulary))


_register(
    "mini_pretrain",
    mini_pretrain.rows,
    mini_pretrain.SPLIT_SIZES,
    tasks.as_it_is,
    metrics.exact_match,
)
_register(
    "mini_pretrain_entailment",
    mini_entailment.rows,
    mini_entailment.SPLIT_SIZES,
    tasks.as_it_is,
    metrics.exact_match,
)
_register(
    "mini_entailment",
    mini_entailment.entailment_rows,
    mini_entailment.ENTAILMENT_SIZES,
    *_LABELS,
)


def _of(name: str, splits: Callable[[str], Mapping[str, list[mini_rows.Row]]], split: str):
    """Returns the rows of a task of `mini_rows` in one of its forms."""
    return splits(name)[split]


for name, scored in (TARGETS | UNSEEN).items():
    for suffix, splits in FORMS.items():
        made = functools.partial(_of, name, splits)
        _register(f"mini_{name}{suffix}", made, mini_rows.split_sizes(name), *scored)
_register(
    "mini_rte_randomized",
    functools.partial(_of, "rte", mini_rows.randomized_splits),
    mini_rows.split_sizes("rte"),
    *_LABELS,
)
for suffix in FORMS:
    parts = [f"mini_rte{suffix}", f"mini_wmt_enfr{suffix}"]
    tasks.add(Mixture(f"mini_rte_wmt_enfr{suffix}", dict.fromkeys(parts, 1.0)))


def __getattr__(name: str) -> object:
    """Returns what seqio tasks of a person's own take from here."""
    if name not in ("OUTPUT_FEATURES", "PREPROCESSORS"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from promot_jax.data import seqio_tasks

    return seqio_tasks.features(VOCABULARY) if name == "OUTPUT_FEATURES" else seqio_tasks.USUAL
