"""Schedules, AdamW, clipping and weight decay as torch and transformers have them."""

import jax
import numpy as np
import optax
import pytest
import torch
import transformers

from promot_jax.base import trees, values
from promot_jax.base.errors import UserError
from promot_jax.training import optimizers
from tests import tiny

pytestmark = pytest.mark.long

THEIRS = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
STEPS = 40
SHAPES = {
    "encoder/layers_0/kernel": (6, 5),
    "encoder/layers_1/kernel": (6, 5),
    "token_embedder/embedding": (9, 4),
    "scale": (7,),
}


def theirs(leaves, rate, schedule, warmup, **options):
    """Returns torch's parameters, AdamW and scheduler."""
    params = {path: torch.nn.Parameter(torch.tensor(leaf)) for path, leaf in leaves.items()}
    adamw = torch.optim.AdamW(params.values(), lr=rate, **options)
    course = transformers.get_scheduler(
        THEIRS[schedule], adamw, num_warmup_steps=warmup, num_training_steps=STEPS
    )
    return params, adamw, course


@pytest.mark.parametrize("warmup", [0, 1, 7, 0.25, 0.26])
@pytest.mark.parametrize("schedule", THEIRS)
def test_schedules_are_those_of_transformers(schedule, warmup):
    steps = optimizers.warmup_steps(warmup, STEPS)
    # As `TrainingArguments.get_warmup_steps` rounds a ratio.
    assert steps == {0.25: 10, 0.26: 11}.get(warmup, warmup)
    _, adamw, course = theirs({"a": np.ones(1, np.float32)}, 0.1, schedule, steps)
    share = optimizers.shape(schedule, warmup, STEPS)
    for step in range(STEPS):
        np.testing.assert_allclose(
            0.1 * share(np.int32(step)), course.get_last_lr()[0], rtol=1e-5, atol=1e-9
        )
        adamw.step()
        course.step()


@pytest.mark.parametrize("schedule", THEIRS)
@pytest.mark.parametrize("kind", ["model", "prompt"])
def test_adamw_with_a_clip_is_torch_s(kind, schedule):
    rng = np.random.default_rng(0)
    leaves = {path: rng.normal(size=shape).astype(np.float32) for path, shape in SHAPES.items()}
    recipe = {"model": optimizers.model_optimizer, "prompt": optimizers.prompt_optimizer}[kind]
    stage = tiny.stage(
        steps=STEPS,
        schedule=schedule,
        warmup=5,
        gradient_clip=2.0,
        optimizer=lambda: recipe(0.03, algorithm="adamw", weight_decay=0.1),
    )
    tx = stage.transformation()
    params = trees.unflatten(leaves)
    # Layers that are stacked move as they would alone.
    stacked = trees.stack_layers(params)
    states = [tx.init(params), tx.init(stacked)]
    own, adamw, course = theirs(leaves, 0.03, schedule, 5, weight_decay=0.1)
    norms = []
    for step in range(STEPS):
        # Some of their norms are above the limit.
        gradients = {
            path: (rng.normal(size=shape) * (0.05 + step % 4 / 4)).astype(np.float32)
            for path, shape in SHAPES.items()
        }
        updates, states[0] = tx.update(trees.unflatten(gradients), states[0], params)
        params = optax.apply_updates(params, updates)
        given = trees.stack_layers(trees.unflatten(gradients))
        updates, states[1] = tx.update(given, states[1], stacked)
        stacked = optax.apply_updates(stacked, updates)
        for path, leaf in own.items():
            leaf.grad = torch.tensor(gradients[path])
        norms.append(float(torch.nn.utils.clip_grad_norm_(own.values(), 2.0)))
        adamw.step()
        course.step()
    assert min(norms) < 2.0 < max(norms)
    for found in (params, trees.unstack_layers(stacked)):
        for path, leaf in trees.flatten(found).items():
            expected = own[path].detach().numpy()
            np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-5, err_msg=path)
            assert np.abs(expected - leaves[path]).max() > 0.05


def moved(tx, params, gradients):
    updates, _ = tx.update(gradients, tx.init(params), params)
    return np.asarray(updates["w"])


def test_weight_decay_of_the_model_s_adafactor_goes_with_the_rate():
    params, gradients = ({"w": np.full((3, 4), x, np.float32)} for x in (2.0, 0.5))
    plain = moved(optimizers.model_adafactor(0.01), params, gradients)
    rates = (0.01, optax.constant_schedule(0.01))
    for rate in rates:
        assert (moved(optimizers.model_optimizer(rate), params, gradients) == plain).all()
        decayed = moved(optimizers.model_optimizer(rate, weight_decay=0.3), params, gradients)
        np.testing.assert_allclose(decayed - plain, -0.01 * 0.3 * 2.0, rtol=1e-4)


def test_the_prompt_s_optimizer_is_its_adafactor_unless_told_otherwise():
    params, gradients = ({"w": np.full((3, 4), x, np.float32)} for x in (2.0, 0.5))
    for options in ({}, {"relative": True}, {"weight_decay": 0.1}):
        found = moved(optimizers.prompt_optimizer(0.2, **options), params, gradients)
        assert (
            found == moved(optimizers.prompt_adafactor(0.2, **options), params, gradients)
        ).all()
    # A share of where the prompt began, which is 2.
    one, two = (
        moved(optimizers.prompt_optimizer(0.2, 0.0, relative, "adamw"), params, gradients)
        for relative in (False, True)
    )
    np.testing.assert_allclose(two, 2 * one)


def test_an_optimizer_of_one_s_own_gets_the_rate():
    params, gradients = ({"w": np.full((3, 4), x, np.float32)} for x in (2.0, 0.5))
    for recipe in (optimizers.model_optimizer, optimizers.prompt_optimizer):
        found = moved(recipe(0.2, algorithm=optax.sgd), params, gradients)
        np.testing.assert_allclose(found, -0.1)
    with pytest.raises(UserError, match=r"WEIGHT_DECAY = 0\.1: an optimizer of your own"):
        optimizers.model_optimizer(0.2, optax.sgd, weight_decay=0.1)


def test_the_rate_of_a_stage_ends_with_it():
    stage = tiny.stage(
        steps=4, schedule="linear", warmup=0.5, optimizer=lambda: optax.sgd(1.0), eval_period=4
    )
    tx, params = stage.transformation(), {"w": np.zeros(1, np.float32)}
    state, found = tx.init(params), []
    for _ in range(6):
        updates, state = jax.jit(tx.update)({"w": -np.ones(1, np.float32)}, state, params)
        found.append(float(updates["w"][0]))
    assert found == [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]


def test_a_warm_up_must_leave_something_of_the_stage():
    with pytest.raises(values.Misfit, match="'model': warmup = 4 leaves nothing of steps = 4"):
        tiny.stage(warmup=4)
    assert optimizers.warmup_steps(tiny.stage(warmup=0.99).warmup, 4) == 3
