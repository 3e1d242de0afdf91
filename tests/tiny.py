"""A tiny model on the miniature's tasks, for tests of the engine: seconds, not minutes."""

import dataclasses

import jax

from promot_jax import models
from promot_jax.data import batching
from promot_jax.experiment import evaluation, experiment
from promot_jax.models import decoding
from promot_jax.models.networks import prompt, t5
from promot_jax.tasks import mini
from promot_jax.training import optimizers, stages

LENGTHS = {"inputs": 64, "targets": 4}
MODEL_PATTERNS = ("token_embedder/.*", "encoder/(?!prompt/).*", "decoder/.*")


def model(**changes) -> models.EncoderDecoderModel:
    config = t5.T5Config(
        vocab_size=1280,
        emb_dim=16,
        num_heads=2,
        head_dim=8,
        mlp_dim=32,
        num_encoder_layers=1,
        num_decoder_layers=1,
        mlp_activations=("relu",),
        dropout_rate=0.0,
    )
    config = dataclasses.replace(config, **changes)
    return models.EncoderDecoderModel(t5.Transformer(config), mini.vocabulary())


def stage(**changes) -> stages.Stage:
    """Model tuning without a prompt; see `prompt_stage`.

    Without dropout, whose random numbers take more than half of the time to compile a step.
    """
    settings = {
        "name": "model",
        "trainable": MODEL_PATTERNS,
        "mixture": "mini_rte",
        "task_feature_lengths": LENGTHS,
        "steps": 4,
        "batches": batching.FixedBatches(8, ((40, 4),)),
        "optimizer": optimizers.model_adafactor,
        "dropout_rate": 0.0,
        "label_smoothing": 0.1,
        "eval_period": 2,
    }
    return stages.Stage(**settings | changes)


def prompt_stage(**changes) -> stages.Stage:
    settings = {
        "name": "prompt",
        "trainable": ("encoder/prompt/.*",),
        "optimizer": optimizers.prompt_adafactor,
        "prompt": "rte",
        "prompt_length": 3,
        "prompt_init": prompt.sampled_vocabulary,
        "label_smoothing": 0.0,
    }
    return stage(**settings | changes)


def methods(**changes) -> list[stages.Method]:
    """Pretrained, fine-tuning, prompt tuning and ProMoT; `changes` go to every stage."""
    prompted = {"prompt": "rte", "prompt_length": 3}
    return [
        stages.Method("pretrained", "Pretrained"),
        stages.Method("fine_tuning", "Standard fine-tuning", [stage(**changes)]),
        stages.Method("prompt_tuning", "Prompt tuning", [prompt_stage(**changes)]),
        stages.Method("promot", "ProMoT", [prompt_stage(**changes), stage(**prompted | changes)]),
    ]


def tiny_experiment(**changes) -> experiment.Experiment:
    settings = {
        "model": model(),
        "targets": [evaluation.EvalTask("mini_rte", "RTE", "accuracy", LENGTHS, generative=False)],
        "labels": ("True", "False"),
        "tasks": [
            evaluation.EvalTask(
                "mini_triviaqa_1shot",
                "TriviaQA",
                "exact_match",
                {"inputs": 64, "targets": 4},
                family="Closed-book QA",
            )
        ],
        "methods": methods(),
        "decoder": decoding.Greedy(),
        "eval_batch_size": 8,
        "eval_examples": 8,
        "validation_examples": 8,
        "unseen_examples": 8,
    }
    return experiment.Experiment(**settings | changes)


def leaves_equal(a, b) -> bool:
    """True where two trees hold the same leaves, bit for bit; fails on empty trees."""
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    assert pairs
    return all(x.dtype == y.dtype and (x == y).all() for x, y in pairs)
