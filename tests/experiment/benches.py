"""A bench for probes of tiny models, and models of both families."""

import functools

import jax
import numpy as np

from promot_jax import models
from promot_jax.base import partitioning
from promot_jax.experiment.evaluation import EvalTask, Evaluator
from promot_jax.experiment.probes.bench import Bench
from promot_jax.models import architectures, decoding
from promot_jax.tasks import mini
from tests import tiny

DECODER = {
    "vocab_size": 1280,
    "emb_dim": 16,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 8,
    "mlp_dim": 32,
    "num_layers": 2,
}
TARGET = EvalTask("mini_rte", "RTE", "accuracy", tiny.LENGTHS, generative=False)
UNSEEN = EvalTask("mini_triviaqa", "TriviaQA", "exact_match", {"inputs": 32, "targets": 4})


def encoder_decoder(**changes) -> models.Model:
    return tiny.model(num_decoder_layers=2, **changes)


def decoder_only(**changes) -> models.Model:
    return architectures.build("decoder", DECODER | changes, mini.vocabulary())


FAMILIES = [encoder_decoder, decoder_only]


def random_params(model: models.Model, seed: int = 0):
    """Draws parameters under which predictions are far from even."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.normal(0.0, 0.3, leaf.shape).astype(np.float32),
        model.shapes_and_axes()[0],
    )


@functools.cache
def evaluator(make) -> Evaluator:
    """An evaluator of a family, whose programs are compiled once for all tests."""
    return Evaluator(make(), partitioning.make_mesh(), decoding.Greedy(), 8)


def bench(make, start, examples: int = 5) -> Bench:
    """Returns a bench whose start has these parameters and is asked one unseen task."""
    judge = evaluator(make)

    def answers(task):
        return judge.evaluate(start, task, split="validation", limit=examples)

    return Bench(
        model=make(),
        mesh=partitioning.make_mesh(),
        evaluator=judge,
        targets=[TARGET],
        tasks=[UNSEEN],
        examples=examples,
        seed=lambda: 0,
        start=lambda: start,
        answers_of_start=answers,
    )
