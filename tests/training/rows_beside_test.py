"""Objectives with rows of their own: read beside those of the stage, with nothing attached."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.data import batching
from promot_jax.models import attached
from promot_jax.models.networks import lora
from promot_jax.training import objectives, train_state, train_step
from tests import tiny
from tests.training.objective_stages_test import host_batch
from tests.training.train_test import RISING, params_with_prompt, run_stage

pytestmark = pytest.mark.long

KL = objectives.KL(0.5, rows="mini_triviaqa", size=4)
ADAPTERS = lora.Lora(".*attention/(query|value)/kernel", 2, 4.0)


def stage(**changes):
    settings = {"prompt": "rte", "prompt_length": 3, "dropout_rate": 0.0}
    return tiny.stage(**settings | changes)


def other_batch():
    rows = batching.train_batches("mini_triviaqa", tiny.LENGTHS, batching.FixedBatches(4), seed=0)
    batch = next(rows)
    rows.close()
    return batch


def one_step(chosen, params):
    """A step with rows beside the others, by a model that has moved away from its start."""
    model, mesh = tiny.model(), partitioning.make_mesh()
    chosen = dataclasses.replace(chosen, optimizer=lambda: optax.sgd(1.0))
    params = jax.tree.map(jnp.copy, chosen.params(params, model))
    state = train_state.sharded_state(chosen, params, model, mesh)
    moved = jax.tree.map(lambda leaf: 0.7 * leaf, state.reference.leaves)
    state = state.replace(reference=state.reference.replace(leaves=moved))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = train_step.make_train_step(model, chosen, chosen.transformation(), mesh, shardings)
    batch = partitioning.shard_batch(mesh, host_batch())
    batch["beside"] = {"0": partitioning.shard_batch(mesh, other_batch())}
    return step(state, batch, jax.random.key(0))


@pytest.mark.parametrize(
    "case", ["prompt", pytest.param("frozen adapters", marks=pytest.mark.slow)]
)
def test_the_divergence_is_of_those_rows_with_nothing_attached(case):
    params, changes = params_with_prompt(), {"objective": (KL,), "microbatches": 2}
    if case == "frozen adapters":
        params = lora.add(params, ADAPTERS, jax.random.key(1))
        leaves = trees.flatten(params).items()
        params = trees.unflatten({p: leaf + 0.3 * p.endswith("lora_b") for p, leaf in leaves})
        changes |= {"prompt": None, "lora": ADAPTERS, "trainable": ("(?!.*/(prompt/|lora_)).*",)}
    _, found = one_step(stage(**changes), params)
    model, batch = tiny.model(), other_batch()
    bare = attached.BARE.params(model, params)

    @jax.jit
    def expected(bare):
        moved = jax.tree.map(lambda leaf: 0.7 * leaf, bare)
        each = model.scored(bare, batch).divergence(model.scored(moved, batch), "forward")
        mask = batch["decoder_loss_weights"]
        return 0.5 * jnp.sum(each * mask) / mask.sum()

    np.testing.assert_allclose(found["penalty"], expected(bare), rtol=1e-4)
    assert found["penalty"] > 1e-3
    # All targets of the stage's own rows are learnt as before.
    assert found["kept"] == found["weight"] == 1


@pytest.mark.slow
def test_resumed_equals_never_interrupted(tmp_path):
    chosen = stage(objective=(KL,), dropout_rate=0.1)
    before = chosen.params(params_with_prompt(), tiny.model())
    whole = run_stage(tmp_path / "whole", chosen, before)
    with pytest.raises(IndexError):
        run_stage(tmp_path / "parts", chosen, before, RISING[:2])
    assert tiny.leaves_equal(whole, run_stage(tmp_path / "parts", chosen, before, RISING[2:]))


def test_a_weight_of_nothing_is_fine_tuning_bit_for_bit():
    params, nothing = params_with_prompt(), dataclasses.replace(KL, weight=0.0)
    found, _ = one_step(stage(objective=(nothing,), dropout_rate=0.1), params)
    plain, _ = one_step(stage(dropout_rate=0.1), params)
    assert tiny.leaves_equal(plain.trainable, found.trainable)


def test_prompts_alone_cannot_be_held_near_the_start():
    chosen = tiny.prompt_stage(objective=(KL,))
    params = chosen.params(params_with_prompt(), tiny.model())
    with pytest.raises(UserError, match=r"trains prompts alone, and the rows of 'mini_triviaqa'"):
        chosen.reference(params, tiny.model())


def test_these_rows_are_written_first_where_the_start_writes_them():
    chosen = stage(objective=(KL, dataclasses.replace(KL, rows="mini_rte")))
    assert chosen.read_tasks == ["mini_rte", "mini_triviaqa"]
    assert chosen.rates == {"mini_rte": 1.0}
