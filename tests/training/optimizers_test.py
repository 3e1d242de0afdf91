"""One step and many of each recipe against a float64 reference, written from the paper."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.training import adafactor, optimizers

pytestmark = pytest.mark.long


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


def adafactor_reference(param, gradients, *, rate, factored, scaled, weight_decay):
    """Adafactor (Shazeer & Stern 2018, algorithms 4 and 5) in float64."""
    param = param.astype(np.float64)
    rows, columns, full = np.zeros(param.shape[0]), np.zeros(param.shape[1]), np.zeros(param.shape)
    for step, gradient in enumerate(gradients, 1):
        gradient = gradient.astype(np.float64)
        square = np.square(gradient) + 1e-30
        decay = 1.0 - step**-0.8
        if factored:
            rows = decay * rows + (1 - decay) * square.mean(axis=1)
            columns = decay * columns + (1 - decay) * square.mean(axis=0)
            second = np.outer(rows, columns) / rows.mean()
        else:
            full = decay * full + (1 - decay) * square
            second = full
        update = gradient / np.sqrt(second)
        update /= max(1.0, rms(update) / 1.0)
        update *= rate * (max(rms(param), 1e-3) if scaled else 1.0)
        param = param - update - weight_decay * param
    return param


CASES = {
    "model": (optimizers.model_adafactor, (160, 128), 0.001, True, True, 0.0),
    "prompt": (optimizers.prompt_adafactor, (128, 160), 0.2, False, False, 1e-5),
}


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("name", CASES)
def test_adafactor_agrees_with_float64(name, steps):
    recipe, shape, rate, factored, scaled, weight_decay = CASES[name]
    rng = np.random.default_rng(0)
    param = rng.normal(size=shape).astype(np.float32)
    gradients = [(rng.normal(size=shape) * 0.01).astype(np.float32) for _ in range(steps)]
    tx = recipe()
    params, state = {"w": param}, tx.init({"w": param})
    slots = {leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim}
    assert (shape in slots) == (not factored)
    for gradient in gradients:
        updates, state = tx.update({"w": gradient}, state, params)
        params = optax.apply_updates(params, updates)
    expected = adafactor_reference(
        param,
        gradients,
        rate=rate,
        factored=factored,
        scaled=scaled,
        weight_decay=weight_decay,
    )
    moved = np.abs(expected - param).max()
    assert moved > rate / 10
    np.testing.assert_allclose(params["w"], expected, rtol=0, atol=1e-4 * moved + 1e-6)


def test_relative_steps_are_shares_of_where_the_prompt_began():
    rng = np.random.default_rng(0)
    small = {"w": rng.normal(size=(4, 8)).astype(np.float32) * 0.1}
    # They push the prompt outward.
    gradients = [{"w": -small["w"] * factor} for factor in (1, 3, 2, 5, 4)]

    def moved(params, tx):
        state = tx.init(params)
        for gradient in gradients:
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params["w"]

    recipe = functools.partial(optimizers.prompt_adafactor, weight_decay=0.0)
    relative = moved(small, recipe(0.2, relative=True))
    absolute = moved(small, recipe(0.2 * rms(small["w"])))
    np.testing.assert_allclose(relative, absolute, rtol=1e-5)
    assert rms(relative) > 1.2 * rms(small["w"])


def test_adamw_clips_the_global_norm():
    tx = optimizers.adamw(learning_rate=1.0, weight_decay=0.0, clip_norm=1.0)
    params = {"w": np.zeros(4, np.float32)}
    small, _ = tx.update({"w": np.full(4, 0.5, np.float32)}, tx.init(params), params)
    large, _ = tx.update({"w": np.full(4, 50.0, np.float32)}, tx.init(params), params)
    np.testing.assert_allclose(small["w"], large["w"], rtol=1e-5)


def test_warmup_cosine():
    rate = optimizers.warmup_cosine(0.1, 10, 100)
    assert rate(0) == 0
    np.testing.assert_allclose(rate(5), 0.05, rtol=1e-5)
    np.testing.assert_allclose(rate(10), 0.1, rtol=1e-5)
    np.testing.assert_allclose(rate(100), 0.001, rtol=1e-4)
    with pytest.raises(UserError, match="warmup_steps = 100"):
        optimizers.warmup_cosine(0.1, 100, 100)


def random_tree(seed, shapes):
    rng = np.random.default_rng(seed)
    return trees.unflatten(
        {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
    )


SHAPES = {"wide": (128, 1024), "tall": (1000, 136), "small": (130, 7), "scale": (9,)}


@pytest.mark.parametrize(("factored", "block"), [(True, 2**20), (True, 2**12), (False, 2**20)])
def test_adafactor_is_that_of_optax(factored, block, monkeypatch):
    # Large parameters have many blocks.
    monkeypatch.setattr(adafactor, "BLOCK", block)
    theirs = optax.adafactor(
        0.01, decay_rate=0.8, factored=factored, weight_decay_rate=0.001, clipping_threshold=1.0
    )
    ours = adafactor.adafactor(0.01, factored=factored, weight_decay=0.001)
    params = random_tree(0, SHAPES)
    states = [ours.init(params), theirs.init(params)]
    for seed in range(1, 4):
        gradients = random_tree(seed, SHAPES)
        mine, states[0] = jax.jit(ours.update)(gradients, states[0], params)
        expected, states[1] = jax.jit(theirs.update)(gradients, states[1], params)
        for path, leaf in trees.flatten(expected).items():
            found = trees.flatten(mine)[path]
            np.testing.assert_allclose(found, leaf, rtol=1e-4, atol=1e-7, err_msg=path)
    sizes = sum(leaf.size for leaf in jax.tree.leaves(states[0]))
    assert (sizes < 5000) == factored


@pytest.mark.slow
def test_stacked_layers_move_as_they_would_alone():
    shapes = {
        f"decoder/layers_{i}/{name}": shape for i in range(3) for name, shape in SHAPES.items()
    }
    shapes["embedding"] = (256, 128)
    tx = adafactor.adafactor(0.01)
    params, gradients = random_tree(0, shapes), random_tree(1, shapes)
    # Each layer is clipped and scaled on its own.
    gradients["decoder"]["layers_1"]["wide"][0, 0] = 1e3
    params["decoder"]["layers_2"]["wide"] *= 100
    expected, slots = tx.update(gradients, tx.init(params), params)
    stacked = trees.stack_layers(params)
    found, own = tx.update(trees.stack_layers(gradients), tx.init(stacked), stacked)
    pairs = trees.flatten(trees.unstack_layers(found)), trees.flatten(expected)
    assert pairs[0].keys() == pairs[1].keys() == shapes.keys()
    for path in shapes:
        np.testing.assert_allclose(pairs[0][path], pairs[1][path], rtol=1e-5, err_msg=path)
    for mine, alone in zip(own[1:], slots[1:], strict=True):
        assert trees.flatten(trees.unstack_layers(mine)).keys() == trees.flatten(alone).keys()


def test_any_transformation_sees_single_layers():
    shapes = {f"layers_{i}/kernel": (4, 5) for i in range(2)}
    params, gradients = random_tree(0, shapes), random_tree(1, shapes)
    gradients["layers_1"]["kernel"] *= 100
    tx = optax.clip_by_block_rms(0.1)
    expected, _ = tx.update(gradients, tx.init(params))
    wrapped, stacked = adafactor.layer_by_layer(tx), trees.stack_layers(params)
    found, _ = wrapped.update(trees.stack_layers(gradients), wrapped.init(stacked), stacked)
    for path, leaf in trees.flatten(trees.unstack_layers(found)).items():
        np.testing.assert_array_equal(leaf, trees.flatten(expected)[path])
    assert adafactor.layer_by_layer(own := adafactor.adafactor(0.1)) is own


def test_each_pattern_has_its_own_optimizer():
    params = {"a": {"prompt": jnp.ones(2)}, "b": {"offset_a": jnp.ones(3), "offset_b": jnp.ones(1)}}
    parts = {".*/prompt": lambda: optax.sgd(0.5), "b/.*": lambda: optax.adam(0.25)}
    tx = optimizers.by_pattern(parts)
    updates, state = tx.update(jax.tree.map(lambda leaf: 2 * leaf, params), tx.init(params), params)
    assert updates["a"]["prompt"].tolist() == [-1.0, -1.0]
    # Adam's first step is its rate, whatever the gradient.
    np.testing.assert_allclose(updates["b"]["offset_a"], -0.25, rtol=1e-5)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    slots = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert sorted(slots) == [(1,), (1,), (3,), (3,)]
    for changed, match in [
        ({".*/prompt": parts[".*/prompt"]}, "no optimizer for b/offset_a"),
        ({**parts, "c": parts[".*/prompt"]}, "'c' matches no parameter"),
    ]:
        with pytest.raises(UserError, match=match):
            optimizers.by_pattern(changed).init(params)
