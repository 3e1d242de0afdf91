"""RTE of superGLUE: does the premise entail the hypothesis?

The test split of tfds has no labels, so the paper evaluates on the development set. In
`rte_randomized` the labels of a split are permuted: the format without the content (section 3.3).
"""

import seqio
import tensorflow as tf

from promot_jax.data import metrics
from promot_jax.tasks import dataset, few_shot, templates

_SHUFFLE_SEED = (20_240_507, 0)
# More rows than either split has: one batch is the whole split.
_ALL_ROWS = 4096


def _text(row: few_shot.Row) -> few_shot.Row:
    inputs = few_shot.fill(templates.RTE, premise=row["premise"], hypothesis=row["hypothesis"])
    return {"inputs": inputs, "targets": row["label"]}


RTE = dataset.Dataset(
    "super_glue/rte:1.0.2",
    _text,
    sizes={"train": 2_490, "validation": 277, "test": 3_000},
    evaluated_on="validation",
    metric_fn=metrics.accuracy,
    postprocess_fn=templates.postprocess_label,
    splits={"train": "train", "validation": "validation"},
    label="label",
    words={"entailment": "True", "not_entailment": "False"},
)


def _randomized(split: str, shuffle_files: bool = False, seed: int | None = None):
    """Reads a split in its fixed order, its labels permuted by a fixed seed."""
    del shuffle_files, seed
    rows = RTE.source.get_dataset(split, shuffle=False).filter(lambda row: row["label"] >= 0)
    labels = rows.map(lambda row: row["label"]).batch(_ALL_ROWS)
    labels = labels.map(
        lambda column: tf.random.experimental.stateless_shuffle(
            column, seed=_SHUFFLE_SEED, alg="philox"
        )
    ).unbatch()
    return tf.data.Dataset.zip(rows, labels).map(lambda row, label: row | {"label": label})


RANDOMIZED = seqio.FunctionDataSource(_randomized, splits=tuple(RTE.splits))
