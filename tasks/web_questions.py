"""WebQuestions, closed book; every listed answer counts.

tfds has no validation split: it is the last tenth of train here, and train is the rest.
"""

from promot_jax.data import metrics
from promot_jax.data.tasks import Row
from promot_jax.tasks import dataset, templates


def _text(row: Row) -> Row:
    return {
        "inputs": templates.format_qa(row["question"]),
        "targets": row["answers"][0],
        "answers": row["answers"],
    }


WEB_QUESTIONS = dataset.Dataset(
    "web_questions:1.0.0",
    _text,
    fields=("question", "answers"),
    sizes={"train": 3_778, "test": 2_032},
    evaluated_on="test",
    metric_fn=metrics.t5.squad,
    postprocess_fn=templates.postprocess_answers,
    answers=True,
    splits={"train": "train[:90%]", "validation": "train[90%:]", "test": "test"},
)
