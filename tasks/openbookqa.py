"""OpenbookQA: a question with four options, answered by a letter."""

from promot_jax.data import metrics
from promot_jax.tasks import dataset, few_shot, templates


def _text(row: few_shot.Row) -> few_shot.Row:
    question = row["question"]
    inputs = few_shot.fill(
        templates.OPENBOOKQA,
        question=question["stem"],
        option_a=question["choice_A"],
        option_b=question["choice_B"],
        option_c=question["choice_C"],
        option_d=question["choice_D"],
    )
    return {"inputs": inputs, "targets": row["answerKey"]}


OPENBOOKQA = dataset.Dataset(
    "openbookqa:0.1.0",
    _text,
    sizes={"train": 4_957, "validation": 500, "test": 500},
    evaluated_on="test",
    metric_fn=metrics.accuracy,
    postprocess_fn=templates.postprocess_label,
    label="answerKey",
    words={"A": "A", "B": "B", "C": "C", "D": "D"},
)
