"""RTE of superGLUE: does the premise entail the hypothesis?

The test split of tfds has no labels, so the paper evaluates on the development set. In
`rte_randomized` the labels of a split are permuted: the format without the content (section 3.3).
"""

from promot_jax.data import metrics
from promot_jax.data.tasks import Row
from promot_jax.tasks import dataset, templates


def _text(row: Row) -> Row:
    inputs = templates.format_rte(row["premise"], row["hypothesis"])
    return {"inputs": inputs, "targets": row["label"]}


RTE = dataset.Dataset(
    "super_glue/rte:1.0.2",
    _text,
    fields=("premise", "hypothesis"),
    sizes={"train": 2_490, "validation": 277, "test": 3_000},
    evaluated_on="validation",
    metric_fn=metrics.accuracy,
    postprocess_fn=templates.postprocess_label,
    splits={"train": "train", "validation": "validation"},
    label="label",
    words={"entailment": "True", "not_entailment": "False"},
)
