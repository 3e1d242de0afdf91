"""Attention of every kind of heads against its formula in float64, results and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promot_jax.models.networks.attention import Attention
from tests.quick import quick_jit

ROWS, LENGTH, WIDTH, HEADS, DIM = 2, 5, 16, 4, 8
# The last row of the batch has two keys less, its last query none at all.
MASK = np.tril(np.ones((ROWS, 1, LENGTH, LENGTH), bool))
MASK[1, :, :, :2] = False
MASK[1, :, -1] = False
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}


def attention(kv_heads, **changes):
    return Attention(
        HEADS, DIM, WIDTH, dropout_rate=0.5, num_kv_heads=kv_heads, scale=DIM**-0.5, **changes
    )


def inputs(kv_heads):
    x = np.random.default_rng(0).normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
    net = attention(kv_heads)
    params = net.init(jax.random.key(0), x, MASK, deterministic=True)["params"]
    noise = jax.random.normal(jax.random.key(1), (HEADS, LENGTH, LENGTH))
    return params, x, noise


def formula(params, x, bias, kv_heads):
    """Heads by copies of keys and values, in the dtype of what it gets."""
    query, key, value = (
        (x @ params[name]["kernel"]).reshape(ROWS, LENGTH, -1, DIM).swapaxes(1, 2)
        for name in ("query", "key", "value")
    )
    key, value = (leaf.repeat(HEADS // kv_heads, axis=1) for leaf in (key, value))
    logits = query @ key.swapaxes(2, 3) * DIM**-0.5 + bias
    weights = jax.nn.softmax(jnp.where(MASK, logits, -1e10))
    mixed = (weights @ value).swapaxes(1, 2).reshape(ROWS, LENGTH, -1)
    return mixed @ params["out"]["kernel"]


def gradients(function, params, x, bias):
    def weighed(params, x, bias):
        found = function(params, x, bias)
        return jnp.sum(jnp.sin(found.astype(bias.dtype))), found

    derived, found = quick_jit(jax.grad(weighed, (0, 1, 2), has_aux=True))(params, x, bias)
    return [found, *jax.tree.leaves(derived)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_equals_its_formula(kv_heads, dtype):
    net, given = attention(kv_heads, dtype=dtype), inputs(kv_heads)
    found = gradients(
        lambda params, x, bias: net.apply(
            {"params": params}, x, MASK, bias=bias[None], deterministic=True
        ),
        *given,
    )
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), given)
        expected = gradients(lambda *args: formula(*args, kv_heads), *exact)
        expected = [np.asarray(leaf) for leaf in expected]
    assert found[0].dtype == jnp.dtype(dtype)
    for ours, leaf in zip(found, expected, strict=True):
        error = np.linalg.norm(np.asarray(ours, np.float64) - leaf) / np.linalg.norm(leaf)
        assert error < TOLERANCE[dtype]


def test_dropout_of_groups_is_one_pattern_for_all_queries():
    net, (params, x, _) = attention(2), inputs(2)
    everything = np.ones_like(MASK)

    def run(deterministic):
        return net.apply(
            {"params": params},
            np.repeat(x[:, :1], LENGTH, axis=1),
            everything,
            deterministic=deterministic,
            rngs={"dropout": jax.random.key(0)},
        )

    dropped, whole = run(False), run(True)
    np.testing.assert_allclose(dropped, np.repeat(dropped[:, :1], LENGTH, 1), rtol=1e-5)
    assert not np.allclose(dropped, whole, atol=1e-3)
