"""TriviaQA, closed book; every alias of an answer counts.

The test split of tfds has no answers (each is "<unk>"), so evaluation is on the validation split.
"""

import tensorflow as tf

from promot_jax.data import metrics
from promot_jax.tasks import dataset, few_shot, templates


def _text(row: few_shot.Row) -> few_shot.Row:
    answer = row["answer"]
    answers = [[answer["value"]], answer["aliases"], answer["normalized_aliases"]]
    return {
        "inputs": few_shot.fill(templates.QA, question=row["question"]),
        "targets": answer["value"],
        "answers": tf.concat(answers, 0),
    }


TRIVIAQA = dataset.Dataset(
    "trivia_qa/rc.nocontext:1.1.0",
    _text,
    sizes={"train": 138_384, "validation": 18_669, "test": 17_210},
    evaluated_on="validation",
    metric_fn=metrics.t5.trivia_qa,
    postprocess_fn=templates.postprocess_answers,
    splits={"train": "train", "validation": "validation"},
)
