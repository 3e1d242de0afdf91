"""CommitmentBank of superGLUE: entailment, contradiction or neither.

The test split of tfds has no labels, so the paper evaluates on the development set.
"""

from promot_jax.data import metrics
from promot_jax.data.tasks import Row
from promot_jax.tasks import dataset, templates


def _text(row: Row) -> Row:
    inputs = templates.format_cb(row["premise"], row["hypothesis"])
    return {"inputs": inputs, "targets": row["label"]}


CB = dataset.Dataset(
    "super_glue/cb:1.0.2",
    _text,
    fields=("premise", "hypothesis"),
    sizes={"train": 250, "validation": 56, "test": 250},
    evaluated_on="validation",
    metric_fn=metrics.accuracy,
    postprocess_fn=templates.postprocess_label,
    splits={"train": "train", "validation": "validation"},
    label="label",
    words={"entailment": "True", "contradiction": "False", "neutral": "Neither"},
)
