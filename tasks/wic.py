"""Word in Context of superGLUE: does a word mean the same in two sentences?

The test split of tfds has no labels, so the paper evaluates on the development set.
"""

import seqio

from promot_jax.data import metrics
from promot_jax.tasks import dataset, few_shot, templates


def _text(row: few_shot.Row) -> few_shot.Row:
    inputs = few_shot.fill(
        templates.WIC, sentence1=row["sentence1"], sentence2=row["sentence2"], word=row["word"]
    )
    return {"inputs": inputs, "targets": row["label"]}


WIC = dataset.Dataset(
    "super_glue/wic:1.0.2",
    _text,
    sizes={"train": 5_428, "validation": 638, "test": 1_400},
    evaluated_on="validation",
    metric_fn=metrics.accuracy,
    postprocess_fn=templates.postprocess_label,
    splits={"train": "train", "validation": "validation"},
    label="label",
    words={"True": "True", "False": "False"},
)

seqio.TaskRegistry.add("wic", **WIC.task())
seqio.TaskRegistry.add("wic_1shot", **WIC.task(shots=1))
seqio.TaskRegistry.add("wic_4shot", **WIC.task(shots=4))
seqio.TaskRegistry.add("wic_span", **WIC.task(span=True))
seqio.TaskRegistry.add("wic_span_1shot", **WIC.task(shots=1, span=True))
seqio.TaskRegistry.add("wic_span_4shot", **WIC.task(shots=4, span=True))
