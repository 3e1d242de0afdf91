"""One step and many of each recipe against a float64 reference, written from the paper."""

import jax
import numpy as np
import optax
import pytest

from promot_jax import optimizers
from promot_jax.errors import UserError


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
