"""WebQuestions, closed book; every listed answer counts.

tfds has no validation split: it is the last tenth of train here, and train is the rest.
"""

import seqio

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

seqio.TaskRegistry.add("web_questions", **WEB_QUESTIONS.task())
seqio.TaskRegistry.add("web_questions_1shot", **WEB_QUESTIONS.task(shots=1))
seqio.TaskRegistry.add("web_questions_4shot", **WEB_QUESTIONS.task(shots=4))
seqio.TaskRegistry.add("web_questions_span", **WEB_QUESTIONS.task(span=True))
seqio.TaskRegistry.add("web_questions_span_1shot", **WEB_QUESTIONS.task(shots=1, span=True))
seqio.TaskRegistry.add("web_questions_span_4shot", **WEB_QUESTIONS.task(shots=4, span=True))
