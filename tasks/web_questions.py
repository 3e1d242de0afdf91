"""WebQuestions, closed book; every listed answer counts.

tfds has no validation split: it is the last tenth of train here, and train is the rest.
"""

from promot_jax.data import metrics
from promot_jax.tasks import dataset, few_shot, templates


def _text(row: few_shot.Row) -> few_shot.Row:
    return {
        "inputs": few_shot.fill(templates.QA, question=row["question"]),
        "targets": row["answers"][0],
        "answers": row["answers"],
    }


WEB_QUESTIONS = dataset.Dataset(
    "web_questions:1.0.0",
    _text,
    sizes={"train": 3_778, "test": 2_032},
    evaluated_on="test",
    metric_fn=metrics.t5.squad,
    postprocess_fn=templates.postprocess_answers,
    splits={"train": "train[:90%]", "validation": "train[90%:]", "test": "test"},
)
