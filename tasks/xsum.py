"""XSum: the one-sentence summary of a news article. tfds wants its articles by hand."""

from promot_jax.data import metrics
from promot_jax.data.tasks import Row
from promot_jax.tasks import dataset, templates


def _text(row: Row) -> Row:
    inputs = templates.format_summarization(row["document"])
    return {"inputs": inputs, "targets": row["summary"]}


XSUM = dataset.Dataset(
    "xsum:1.1.0",
    _text,
    fields=("document", "summary"),
    sizes={"train": 203_577, "validation": 11_305, "test": 11_301},
    evaluated_on="test",
    metric_fn=metrics.t5.rouge2,
    postprocess_fn=templates.postprocess_text,
    cut=True,
)
