"""CommitmentBank of superGLUE: entailment, contradiction or neither.

The test split of tfds has no labels, so the paper evaluates on the development set.
"""

from promot_jax.data import metrics
from promot_jax.tasks import dataset, few_shot, templates


def _text(row: few_shot.Row) -> few_shot.Row:
    inputs = few_shot.fill(templates.CB, premise=row["premise"], hypothesis=row["hypothesis"])
    return {"inputs": inputs, "targets": row["label"]}


CB = dataset.Dataset(
    "super_glue/cb:1.0.2",
    _text,
    sizes={"train": 250, "validation": 56, "test": 250},
    evaluated_on="validation",
    metric_fn=metrics.accuracy,
    postprocess_fn=templates.postprocess_label,
    splits={"train": "train", "validation": "validation"},
    label="label",
    words={"entailment": "True", "contradiction": "False", "neutral": "Neither"},
)
