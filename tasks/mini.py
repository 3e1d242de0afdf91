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

EVALUATION_TASKS = (
    "mini_cb",
    "mini_wic",
    "mini_triviaqa",
    "mini_web_questions",
    "mini_wmt_ende",
    "mini_wmt_enro",
    "mini_xsum",
    "mini_wikilingua",
)


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


def _zero_shot(name: str) -> seqio.FunctionDataSource:
    """Returns the source of a task's plain rows."""
    sizes = mini_rows.split_sizes(name)
    return _source(lambda split: mini_rows.zero_shot_splits(name)[split], sizes)


def _one_shot(name: str) -> seqio.FunctionDataSource:
    """Returns the source of a task's rows behind one exemplar each."""
    sizes = mini_rows.split_sizes(name)
    return _source(lambda split: mini_rows.one_shot_splits(name)[split], sizes)


def _randomized(name: str) -> seqio.FunctionDataSource:
    """Returns the source of a task's plain rows with shuffled targets."""
    sizes = mini_rows.split_sizes(name)
    return _source(lambda split: mini_rows.randomized_splits(name)[split], sizes)


seqio.TaskRegistry.add(
    "mini_pretrain",
    source=_source(mini_pretrain.rows, mini_pretrain.SPLIT_SIZES),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[metrics.exact_match],
)
seqio.TaskRegistry.add(
    "mini_pretrain_entailment",
    source=_source(mini_entailment.rows, mini_entailment.SPLIT_SIZES),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[metrics.exact_match],
)
seqio.TaskRegistry.add(
    "mini_entailment",
    source=_source(mini_entailment.entailment_rows, mini_entailment.ENTAILMENT_SIZES),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_label,
    metric_fns=[metrics.accuracy],
)
seqio.TaskRegistry.add(
    "mini_rte",
    source=_zero_shot("rte"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_label,
    metric_fns=[metrics.accuracy],
)
seqio.TaskRegistry.add(
    "mini_rte_1shot",
    source=_one_shot("rte"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_label,
    metric_fns=[metrics.accuracy],
)
seqio.TaskRegistry.add(
    "mini_rte_randomized",
    source=_randomized("rte"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_label,
    metric_fns=[metrics.accuracy],
)
seqio.TaskRegistry.add(
    "mini_wmt_enfr",
    source=_zero_shot("wmt_enfr"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_text,
    metric_fns=[metrics.exact_match],
)
seqio.TaskRegistry.add(
    "mini_wmt_enfr_1shot",
    source=_one_shot("wmt_enfr"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_text,
    metric_fns=[metrics.exact_match],
)
seqio.TaskRegistry.add(
    "mini_cb",
    source=_zero_shot("cb"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_label,
    metric_fns=[metrics.accuracy],
)
seqio.TaskRegistry.add(
    "mini_cb_1shot",
    source=_one_shot("cb"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_label,
    metric_fns=[metrics.accuracy],
)
seqio.TaskRegistry.add(
    "mini_wic",
    source=_zero_shot("wic"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_label,
    metric_fns=[metrics.accuracy],
)
seqio.TaskRegistry.add(
    "mini_wic_1shot",
    source=_one_shot("wic"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_label,
    metric_fns=[metrics.accuracy],
)
seqio.TaskRegistry.add(
    "mini_triviaqa",
    source=_zero_shot("triviaqa"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_text,
    metric_fns=[metrics.exact_match],
)
seqio.TaskRegistry.add(
    "mini_triviaqa_1shot",
    source=_one_shot("triviaqa"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_text,
    metric_fns=[metrics.exact_match],
)
seqio.TaskRegistry.add(
    "mini_web_questions",
    source=_zero_shot("web_questions"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_text,
    metric_fns=[metrics.exact_match],
)
seqio.TaskRegistry.add(
    "mini_web_questions_1shot",
    source=_one_shot("web_questions"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_text,
    metric_fns=[metrics.exact_match],
)
seqio.TaskRegistry.add(
    "mini_wmt_ende",
    source=_zero_shot("wmt_ende"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_text,
    metric_fns=[metrics.exact_match],
)
seqio.TaskRegistry.add(
    "mini_wmt_ende_1shot",
    source=_one_shot("wmt_ende"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_text,
    metric_fns=[metrics.exact_match],
)
seqio.TaskRegistry.add(
    "mini_wmt_enro",
    source=_zero_shot("wmt_enro"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_text,
    metric_fns=[metrics.exact_match],
)
seqio.TaskRegistry.add(
    "mini_wmt_enro_1shot",
    source=_one_shot("wmt_enro"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_text,
    metric_fns=[metrics.exact_match],
)
seqio.TaskRegistry.add(
    "mini_xsum",
    source=_zero_shot("xsum"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_text,
    metric_fns=[metrics.rouge2],
)
seqio.TaskRegistry.add(
    "mini_xsum_1shot",
    source=_one_shot("xsum"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_text,
    metric_fns=[metrics.rouge2],
)
seqio.TaskRegistry.add(
    "mini_wikilingua",
    source=_zero_shot("wikilingua"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_text,
    metric_fns=[metrics.rouge2],
)
seqio.TaskRegistry.add(
    "mini_wikilingua_1shot",
    source=_one_shot("wikilingua"),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=templates.postprocess_text,
    metric_fns=[metrics.rouge2],
)

seqio.MixtureRegistry.add("mini_rte_wmt_enfr", ["mini_rte", "mini_wmt_enfr"], default_rate=1.0)
seqio.MixtureRegistry.add(
    "mini_rte_wmt_enfr_1shot", ["mini_rte_1shot", "mini_wmt_enfr_1shot"], default_rate=1.0
)
