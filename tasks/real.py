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

from promot_jax.data import metrics, tasks
from promot_jax.tasks import big_bench, geography, phrases, templates, wordnet
from promot_jax.tasks.package_rows import Collection, postprocess_answers, postprocess_line

_labels = functools.partial(
    Collection,
    metric_fn=metrics.accuracy,
    postprocess_fn=templates.postprocess_label,
    balanced=True,
)
_questions = functools.partial(
    Collection, metric_fn=metrics.exact_match, postprocess_fn=postprocess_answers
)
# A sentence is in one split of all three languages.
_phrases = functools.partial(
    Collection,
    metric_fn=metrics.bleu,
    postprocess_fn=postprocess_line,
    validation=0.15,
    test=0.15,
)
_articles = functools.partial(
    Collection, metric_fn=metrics.rouge2, postprocess_fn=postprocess_line, cut=True
)

COLLECTIONS = {
    "vitaminc": _labels(big_bench.vitaminc, validation=0.1, test=0.1),
    "phrases_enfr": _phrases(functools.partial(phrases.translations, "fr")),
    "presuppositions": _labels(big_bench.presuppositions),
    "wordnet_wic": _labels(wordnet.word_in_context),
    "qa_wikidata": _questions(big_bench.qa_wikidata),
    "qa_geonames": _questions(geography.questions),
    "phrases_ende": _phrases(functools.partial(phrases.translations, "de")),
    "phrases_enro": _phrases(functools.partial(phrases.translations, "ro")),
    "xsum_bigbench": _articles(big_bench.xsum),
    "wikilingua_bigbench": _articles(big_bench.wikilingua),
}
# What follows the name of a collection, and the arguments of `Collection.task`.
FORMS = {"": {}, "_1shot": {"shots": 1}}
NAMES = (*(name + suffix for name in COLLECTIONS for suffix in FORMS), "vitaminc_randomized")

for name, collection in COLLECTIONS.items():
    for suffix, form in FORMS.items():
        tasks.add(collection.task(name + suffix, **form))
tasks.add(COLLECTIONS["vitaminc"].task("vitaminc_randomized", randomized=True))
