"""Real data from packages of PyPI, for a small pretrained model; importing registers the tasks.

| name | rows | template | metric |
|---|---|---|---|
| `vitaminc` | BIG-bench's VitaminC, a fine-tuning target | CB | accuracy |
| `phrases_enfr` | messages of programs, a fine-tuning target | translation | BLEU |
| `presuppositions` | BIG-bench's presuppositions_as_nli | CB | accuracy |
| `wordnet_wic` | usage examples of WordNet | WiC | accuracy |
| `qa_wikidata` | BIG-bench's qa_wikidata | QA | exact match |
| `qa_geonames` | countries and cities of GeoNames | QA | exact match |
| `phrases_ende`, `phrases_enro` | messages of programs | translation | BLEU |
| `xsum_bigbench`, `wikilingua_bigbench` | BIG-bench's parts of GEM | summarization | ROUGE-2 |

Each has the splits train, validation and test; `NAME_1shot` puts one exemplar of the train split in
front. `vitaminc_randomized` has the inputs of `vitaminc` in the same order, with shuffled labels
(section 3.3). Rows are read when they are first needed: docs/real_model.md says where they come
from and how to get the packages.
"""

import functools

import seqio

from promot_jax.data import metrics
from promot_jax.tasks import big_bench, geography, phrases, templates, wordnet
from promot_jax.tasks.package_rows import Collection, postprocess_answers, postprocess_line

VITAMINC = Collection(
    big_bench.vitaminc,
    metrics.accuracy,
    templates.postprocess_label,
    validation=0.1,
    test=0.1,
    balanced=True,
)
PRESUPPOSITIONS = Collection(
    big_bench.presuppositions, metrics.accuracy, templates.postprocess_label, balanced=True
)
WORDNET_WIC = Collection(
    wordnet.word_in_context, metrics.accuracy, templates.postprocess_label, balanced=True
)
QA_WIKIDATA = Collection(big_bench.qa_wikidata, metrics.exact_match, postprocess_answers)
QA_GEONAMES = Collection(geography.questions, metrics.exact_match, postprocess_answers)
# A sentence is in one split of all three languages.
_phrases = functools.partial(
    Collection,
    metric_fn=metrics.bleu,
    postprocess_fn=postprocess_line,
    validation=0.15,
    test=0.15,
)
PHRASES_ENFR = _phrases(functools.partial(phrases.translations, "fr"))
PHRASES_ENDE = _phrases(functools.partial(phrases.translations, "de"))
PHRASES_ENRO = _phrases(functools.partial(phrases.translations, "ro"))
XSUM = Collection(big_bench.xsum, metrics.rouge2, postprocess_line, cut=True)
WIKILINGUA = Collection(big_bench.wikilingua, metrics.rouge2, postprocess_line, cut=True)

COLLECTIONS = {
    "vitaminc": VITAMINC,
    "phrases_enfr": PHRASES_ENFR,
    "presuppositions": PRESUPPOSITIONS,
    "wordnet_wic": WORDNET_WIC,
    "qa_wikidata": QA_WIKIDATA,
    "qa_geonames": QA_GEONAMES,
    "phrases_ende": PHRASES_ENDE,
    "phrases_enro": PHRASES_ENRO,
    "xsum_bigbench": XSUM,
    "wikilingua_bigbench": WIKILINGUA,
}
NAMES = (
    *(name + suffix for name in COLLECTIONS for suffix in ("", "_1shot")),
    "vitaminc_randomized",
)

seqio.TaskRegistry.add("vitaminc", **VITAMINC.task())
seqio.TaskRegistry.add("vitaminc_1shot", **VITAMINC.task(shots=1))
seqio.TaskRegistry.add("vitaminc_randomized", **VITAMINC.task(randomized=True))
seqio.TaskRegistry.add("phrases_enfr", **PHRASES_ENFR.task())
seqio.TaskRegistry.add("phrases_enfr_1shot", **PHRASES_ENFR.task(shots=1))
seqio.TaskRegistry.add("presuppositions", **PRESUPPOSITIONS.task())
seqio.TaskRegistry.add("presuppositions_1shot", **PRESUPPOSITIONS.task(shots=1))
seqio.TaskRegistry.add("wordnet_wic", **WORDNET_WIC.task())
seqio.TaskRegistry.add("wordnet_wic_1shot", **WORDNET_WIC.task(shots=1))
seqio.TaskRegistry.add("qa_wikidata", **QA_WIKIDATA.task())
seqio.TaskRegistry.add("qa_wikidata_1shot", **QA_WIKIDATA.task(shots=1))
seqio.TaskRegistry.add("qa_geonames", **QA_GEONAMES.task())
seqio.TaskRegistry.add("qa_geonames_1shot", **QA_GEONAMES.task(shots=1))
seqio.TaskRegistry.add("phrases_ende", **PHRASES_ENDE.task())
seqio.TaskRegistry.add("phrases_ende_1shot", **PHRASES_ENDE.task(shots=1))
seqio.TaskRegistry.add("phrases_enro", **PHRASES_ENRO.task())
seqio.TaskRegistry.add("phrases_enro_1shot", **PHRASES_ENRO.task(shots=1))
seqio.TaskRegistry.add("xsum_bigbench", **XSUM.task())
seqio.TaskRegistry.add("xsum_bigbench_1shot", **XSUM.task(shots=1))
seqio.TaskRegistry.add("wikilingua_bigbench", **WIKILINGUA.task())
seqio.TaskRegistry.add("wikilingua_bigbench_1shot", **WIKILINGUA.task(shots=1))
