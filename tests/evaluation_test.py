"""What an Evaluator gives to the search of each batch."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from promot_jax import evaluation, partitioning
from tests import tiny


@dataclasses.dataclass(frozen=True)
class Draws:
    """Answers tokens that depend on the key alone."""

    seed: int
    num_beams: int = 1

    def __call__(self, cache, tokens_to_logits, *, rng, batch_size, max_length, **options):
        token = jax.random.randint(rng, (), 100, 1000)
        return jnp.full((batch_size, max_length), token, jnp.int32)


def test_every_batch_draws_with_a_key_of_its_own():
    task = evaluation.EvalTask("mini_rte", "RTE", "accuracy", tiny.LENGTHS)
    params = tiny.model().init(jax.random.key(0))

    def predictions(seed):
        mesh = partitioning.make_mesh()
        evaluator = evaluation.Evaluator(tiny.model(), mesh, Draws(seed), batch_size=2)
        return evaluator.evaluate(params, task, split="test", limit=6).predictions

    found = predictions(0)
    assert len(set(found)) == 3
    assert predictions(0) == found
    assert not set(predictions(1)) & set(found)


@pytest.mark.parametrize(("limit", "expected"), [(3, 3), (11, 8)])
def test_few_rows_are_a_batch_without_empty_ones(limit, expected):
    sizes = set()

    def recorded(cache, tokens_to_logits, *, batch_size, max_length, **options):
        sizes.add(batch_size)
        return jnp.full((batch_size, max_length), 1, jnp.int32)

    task = evaluation.EvalTask("mini_rte", "RTE", "accuracy", tiny.LENGTHS)
    mesh = partitioning.make_mesh()
    evaluator = evaluation.Evaluator(tiny.model(), mesh, recorded, batch_size=8)
    params = tiny.model().init(jax.random.key(0))
    found = evaluator.evaluate(params, task, split="test", limit=limit)
    assert (sizes, len(found.predictions)) == ({expected}, limit)
