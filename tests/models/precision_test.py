"""Networks in bfloat16 against the same in float32: loss, score and gradient of every parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promot_jax.base import trees
from promot_jax.models import chunked_loss
from promot_jax.training import train_state
from tests.models.chunked_loss_test import network, random_batch
from tests.quick import quick_jit

# Of activations with 8 bits of fraction, through a layer or two.
LOSS, GRADIENT = 2e-3, 0.05


def measured(model, params, batch):
    @quick_jit
    def measure(params):
        def loss(params):
            found = model.loss_fn(params, batch, None, label_smoothing=0.1, z_loss=1e-4)
            return found.total / found.weight

        return *jax.value_and_grad(loss)(params), model.score_batch(params, batch)

    loss, gradients, scores = measure(params)
    return float(loss), trees.flatten(gradients), np.asarray(scores, np.float64)


@pytest.mark.parametrize(
    ("family", "chunks", "frozen_dtype"),
    [
        *(("t5", True, "bfloat16"), ("t5_tied", True, "bfloat16")),
        *(("decoder", True, "bfloat16"), ("decoder", False, None)),
        pytest.param("t5", False, None, marks=pytest.mark.slow),
        pytest.param("t5_tied", False, None, marks=pytest.mark.slow),
    ],
)
def test_bfloat16_costs_only_rounding(family, chunks, frozen_dtype, monkeypatch):
    if chunks:
        monkeypatch.setattr(chunked_loss, "CHUNK", 1)
        monkeypatch.setattr(chunked_loss, "FEWEST_COLUMNS", 500)
    batch, params = random_batch(), network(family).init(jax.random.key(0))
    loss, gradients, scores = measured(network(family), params, batch)
    low = train_state.cast(params, frozen_dtype)
    found = measured(network(family, dtype="bfloat16"), low, batch)
    assert abs(found[0] - loss) < LOSS * loss
    np.testing.assert_allclose(found[2], scores, rtol=5 * LOSS)
    for path, expected in gradients.items():
        assert found[1][path].dtype == jnp.dtype(frozen_dtype or "float32"), path
        ours = np.asarray(found[1][path], np.float64)
        expected = np.asarray(expected, np.float64)
        error = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
        assert error < GRADIENT, (path, error)
