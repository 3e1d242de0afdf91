"""The seqio tasks of the bundled small world; importing this module registers them.

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

import functools
from collections.abc import Callable, Mapping

import seqio
import tensorflow as tf

from promot_jax.data import metrics
from promot_jax.tasks import (
    mini_entailment,
    mini_pretrain,
    mini_rows,
    mini_vocabulary,
    templates,
)

VOCABULARY = seqio.SentencePieceVocabulary(
    str(mini_vocabulary.MODEL_PATH), extra_ids=mini_vocabulary.EXTRA_IDS
)


def vocabulary() -> seqio.SentencePieceVocabulary:
    """Returns the vocabulary of the bundled world, sentinels included."""
    return VOCABULARY


OUTPUT_FEATURES = {
    "inputs": seqio.Feature(vocabulary=VOCABULARY),
    "targets": seqio.Feature(vocabulary=VOCABULARY),
}
PREPROCESSORS = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim]

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


def _dataset(
    split: str,
    shuffle_files: bool = False,
    seed: int | None = None,
    *,
    rows_of: Callable[[str], list[mini_rows.Row]],
) -> tf.data.Dataset:
    """Serves a split's rows as `inputs` and `targets` strings; their order is fixed."""
    del shuffle_files, seed
    inputs, targets = zip(*rows_of(split), strict=True)
    return tf.data.Dataset.from_tensor_slices({"inputs": list(inputs), "targets": list(targets)})


def _source(
    rows_of: Callable[[str], list[mini_rows.Row]], sizes: Mapping[str, int]
) -> seqio.FunctionDataSource:
    """Wraps rows as a data source; they are made when a split is first read."""
    return seqio.FunctionDataSource(
        functools.partial(_dataset, rows_of=rows_of), splits=tuple(sizes), num_input_examples=sizes
    )


def _source_of(
    name: str, splits: Callable[[str], Mapping[str, list[mini_rows.Row]]]
) -> seqio.FunctionDataSource:
    """Wraps the rows of a task of `mini_rows` in one of its forms."""
    return _source(lambda split: splits(name)[split], mini_rows.split_sizes(name))


def _register(
    name: str,
    source: seqio.FunctionDataSource,
    postprocess_fn: Callable[..., str] | None,
    metric_fn: Callable[..., dict[str, float]],
) -> None:
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=PREPROCESSORS,
        output_features=OUTPUT_FEATURES,
        postprocess_fn=postprocess_fn,
        metric_fns=[metric_fn],
    )


_register(
    "mini_pretrain",
    _source(mini_pretrain.rows, mini_pretrain.SPLIT_SIZES),
    None,
    metrics.exact_match,
)
_register(
    "mini_pretrain_entailment",
    _source(mini_entailment.rows, mini_entailment.SPLIT_SIZES),
    None,
    metrics.exact_match,
)
_register(
    "mini_entailment",
    _source(mini_entailment.entailment_rows, mini_entailment.ENTAILMENT_SIZES),
    *_LABELS,
)
for name, scored in (TARGETS | UNSEEN).items():
    for suffix, splits in FORMS.items():
        _register(f"mini_{name}{suffix}", _source_of(name, splits), *scored)
_register("mini_rte_randomized", _source_of("rte", mini_rows.randomized_splits), *_LABELS)
for suffix in FORMS:
    seqio.MixtureRegistry.add(
        f"mini_rte_wmt_enfr{suffix}",
        [f"mini_rte{suffix}", f"mini_wmt_enfr{suffix}"],
        default_rate=1.0,
    )
