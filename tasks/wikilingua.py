"""WikiLingua in English: the summary of a how-to article."""

from promot_jax.data import metrics
from promot_jax.data.tasks import Row
from promot_jax.tasks import dataset, templates


def _text(row: Row) -> Row:
    inputs = templates.format_summarization(row["source"])
    return {"inputs": inputs, "targets": row["target"]}


WIKILINGUA = dataset.Dataset(
    "gem/wiki_lingua_english_en:1.1.0",
    _text,
    fields=("source", "target"),
    sizes={"train": 99_020, "validation": 13_823, "test": 28_614},
    evaluated_on="test",
    metric_fn=metrics.t5.rouge2,
    postprocess_fn=templates.postprocess_text,
    cut=True,
)
