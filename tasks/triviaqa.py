"""TriviaQA, closed book; every alias of an answer counts.

The test split of tfds has no answers (each is "<unk>"), so evaluation is on the validation split.
"""

from promot_jax.data import metrics
from promot_jax.data.tasks import Row
from promot_jax.tasks import dataset, templates


def _text(row: Row) -> Row:
    answer = row["answer"]
    return {
        "inputs": templates.format_qa(row["question"]),
        "targets": answer["value"],
        "answers": [answer["value"], *answer["aliases"], *answer["normalized_aliases"]],
    }


TRIVIAQA = dataset.Dataset(
    "trivia_qa/rc.nocontext:1.1.0",
    _text,
    fields=("question", "answer"),
    sizes={"train": 138_384, "validation": 18_669, "test": 17_210},
    evaluated_on="validation",
    metric_fn=metrics.t5.trivia_qa,
    postprocess_fn=templates.postprocess_answers,
    answers=True,
    splits={"train": "train", "validation": "validation"},
)
