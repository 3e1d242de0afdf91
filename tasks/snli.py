"""SNLI: entailment, contradiction or neither; pairs without a gold label are dropped."""

from promot_jax.data import metrics
from promot_jax.data.tasks import Row
from promot_jax.tasks import dataset, templates


def _text(row: Row) -> Row:
    inputs = templates.format_cb(row["premise"], row["hypothesis"])
    return {"inputs": inputs, "targets": row["label"]}


SNLI = dataset.Dataset(
    "snli:1.1.0",
    _text,
    fields=("premise", "hypothesis"),
    sizes={"train": 550_152, "validation": 10_000, "test": 10_000},
    evaluated_on="test",
    metric_fn=metrics.accuracy,
    postprocess_fn=templates.postprocess_label,
    label="label",
    words={"entailment": "True", "contradiction": "False", "neutral": "Neither"},
)
