"""OpenbookQA: a question with four options, answered by a letter."""

from promot_jax.data import metrics
from promot_jax.data.tasks import Row
from promot_jax.tasks import dataset, templates


def _text(row: Row) -> Row:
    question = row["question"]
    options = [question[f"choice_{letter}"] for letter in "ABCD"]
    inputs = templates.format_openbookqa(question["stem"], options)
    return {"inputs": inputs, "targets": row["answerKey"]}


OPENBOOKQA = dataset.Dataset(
    "openbookqa:0.1.0",
    _text,
    fields=("question",),
    sizes={"train": 4_957, "validation": 500, "test": 500},
    evaluated_on="test",
    metric_fn=metrics.accuracy,
    postprocess_fn=templates.postprocess_label,
    label="answerKey",
    words={"A": "A", "B": "B", "C": "C", "D": "D"},
)
