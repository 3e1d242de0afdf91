"""What an Evaluator gives to the search of each batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promot_jax.base import partitioning
from promot_jax.data import batching
from promot_jax.experiment import evaluation
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


def evaluator(devices=1, batch_size=8, search=None):
    mesh = partitioning.make_mesh(devices=jax.devices()[:devices])
    return evaluation.Evaluator(tiny.model(), mesh, search or Draws(0), batch_size=batch_size)


def test_rows_are_kept_apart_by_their_lengths():
    params = tiny.model().init(jax.random.key(0))
    long = evaluation.EvalTask("mini_rte", "RTE", "accuracy", tiny.LENGTHS)
    short = dataclasses.replace(long, task_feature_lengths=tiny.LENGTHS | {"inputs": 6})

    def losses(*tasks):
        one = evaluator()
        return [one.loss(params, task, split="validation", limit=8) for task in tasks]

    assert losses(long, short) == losses(short, long)[::-1] == losses(long) + losses(short)
    assert losses(long) != losses(short)


@pytest.mark.parametrize("devices", [3, 6])
@pytest.mark.parametrize("limit", [None, 1, 20])
def test_the_devices_need_not_divide_the_rows(devices, limit):
    params = tiny.model().init(jax.random.key(0))
    task = evaluation.EvalTask("mini_rte", "RTE", "accuracy", tiny.LENGTHS)
    one, several = evaluator(), evaluator(devices)
    rows = {"split": "validation", "limit": limit}
    expected = one.loss(params, task, **rows)
    assert several.loss(params, task, **rows) == pytest.approx(expected, rel=1e-5)
    found = several.evaluate(params, task, **rows)
    assert len(found.predictions) == len(one.evaluate(params, task, **rows).predictions)
    assert len(several.answer(params, ["a", "b"], 2)) == 2


def test_no_padding_is_kept_and_texts_once():
    long = tiny.LENGTHS | {"inputs": 2048}
    batches = batching.eval_batches("mini_rte", long, "test", batch_size=64, buckets=[(64, 8)])
    assert sum(ids.nbytes for row in batches.rows for ids in row[:2]) < 4 * 64 * batches.count
    assert {batch["encoder_input_tokens"].shape[1] for batch, _ in batches} == {64}
    whole = {"encoder_input_tokens": np.ones((4, 512), np.int32)}
    whole["encoder_segment_ids"] = np.pad(np.ones((4, 9), np.int32), ((0, 0), (0, 503)))
    cut = batching.trim(whole, [(16, 4)])["encoder_input_tokens"]
    assert cut.shape == (4, 16)
    assert cut.base is None
