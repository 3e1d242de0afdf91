"""A task and an experiment that people wrote for an earlier version run as they are."""

import subprocess
import sys

import pytest

from tests.commands import your_task_test as pages

pytestmark = pytest.mark.long

TASK = """\
import json

import seqio
import tensorflow as tf
from promot_jax import metrics, vocabularies

VOCABULARY = vocabularies.Tokenizer("models/base/tokenizer.json")


def rows(split, shuffle_files=False, seed=None):
    with open(f"{split}.jsonl") as file:
        examples = [json.loads(line) for line in file]
    return tf.data.Dataset.from_tensor_slices(
        {
            "inputs": [f"question: {row['text']}, is it a colour? answer:" for row in examples],
            "targets": [f" {row['label']}" for row in examples],
        }
    )


seqio.TaskRegistry.add(
    "my_task",
    source=seqio.FunctionDataSource(rows, splits=("train", "validation", "test")),
    preprocessors=[
        seqio.preprocessors.tokenize,
        seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={
        "inputs": seqio.Feature(VOCABULARY, add_eos=False),
        "targets": seqio.Feature(VOCABULARY, add_eos=True),
    },
    metric_fns=[metrics.accuracy],
)
"""
EXPERIMENT = """\
from __gin__ import dynamic_registration

from promot_jax import decoding
from promot_jax import evaluation
from promot_jax import experiment
from promot_jax import stages
import my_task

include 'models/checkpoint.gin'
include 'stages/model.gin'
include 'stages/prompt.gin'

MODEL_DIR = 'runs/my_task'
INITIAL_CHECKPOINT_PATH = 'models/base'
MIXTURE_OR_TASK_NAME = 'my_task'
TASK_FEATURE_LENGTHS = {'inputs': 32, 'targets': 4}
PROMPT = 'my_task'
PROMPT_LENGTH = 8
PROMPT_TRAIN_STEPS = 20
PROMPT_EVAL_PERIOD = 10
TRAIN_STEPS = 10
EVAL_PERIOD = 10
BATCH_SIZE = 8
LEARNING_RATE = 0.0003
RELATIVE_PROMPT_RATE = True
LABEL_SMOOTHING = 0.0
DROPOUT_RATE = 0.0

experiment.Experiment:
    model = %MODEL
    initial_checkpoint = %INITIAL_CHECKPOINT_PATH
    targets = [@evaluation.EvalTask()]
    labels = ('yes', 'no')
    tasks = []
    methods = [@pretrained/stages.Method(), @promot/stages.Method()]
    decoder = @decoding.Greedy()
    eval_batch_size = 16

evaluation.EvalTask:
    name = %MIXTURE_OR_TASK_NAME
    label = 'My task'
    metric = 'accuracy'
    task_feature_lengths = %TASK_FEATURE_LENGTHS
    generative = False

pretrained/stages.Method:
    name = 'pretrained'
    label = 'Pretrained'

promot/stages.Method:
    name = 'promot'
    label = 'ProMoT'
    stages = [@prompt_tuning/stages.Stage(), @model_tuning/stages.Stage()]
"""


@pytest.mark.slow
def test_an_experiment_of_an_earlier_version_runs(tmp_path):
    pages.write_rows(tmp_path, "train.jsonl", "validation.jsonl", "test.jsonl")
    (tmp_path / "my_task.py").write_text(TASK)
    (tmp_path / "my_experiment.gin").write_text(EXPERIMENT)
    pages.write_small_model(tmp_path)
    pages.typed("promot run my_experiment.gin", tmp_path)
    # The run is opened by the names that it keeps; here by those of before.
    config = tmp_path / "runs/my_task/config.gin"
    kept = config.read_text()
    for module in ("models", "experiment", "training"):
        kept = kept.replace(f"from promot_jax.{module} import", "from promot_jax import")
    assert "from promot_jax import stages" in kept
    config.write_text(kept)
    question = "question: the box is blue, is it a colour? answer:"
    asked = f"promot generate runs/my_task --prompt my_task {question!r}"
    assert pages.typed(asked, tmp_path).endswith("\n")


def test_modules_for_tasks_of_ones_own_keep_their_old_names():
    program = (
        "from promot_jax import metrics, vocabularies\n"
        "print(metrics.__name__, vocabularies.__name__)\n"
    )
    found = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert found.split() == ["promot_jax.data.metrics", "promot_jax.data.vocabularies"]
