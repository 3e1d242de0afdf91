"""Word in Context of superGLUE: does a word mean the same in two sentences?

The test split of tfds has no labels, so the paper evaluates on the development set.
"""

from promot_jax.data import metrics
from promot_jax.data.tasks import Row
from promot_jax.tasks import dataset, templates


def _text(row: Row) -> Row:
    inputs = templates.format_wic(row["sentence1"], row["sentence2"], row["word"])
    return {"inputs": inputs, "targets": row["label"]}


WIC = dataset.Dataset(
    "super_glue/wic:1.0.2",
    _text,
    fields=("sentence1", "sentence2", "word"),
    sizes={"train": 5_428, "validation": 638, "test": 1_400},
    evaluated_on="validation",
    metric_fn=metrics.accuracy,
    postprocess_fn=templates.postprocess_label,
    splits={"train": "train", "validation": "validation"},
    label="label",
    words={"True": "True", "False": "False"},
)
