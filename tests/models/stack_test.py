"""Scanned and rematerialised stacks against the plain one, on the same parameters."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import partitioning

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.models import decoding
from promot_jax.models.networks import stack, t5
from promot_jax.models.networks.lora import Lora
from tests.models import jaxprs
from tests.quick import quick_jit

pytestmark = pytest.mark.long

run_quickly = functools.partial(quick_jit, static_argnums=0)

CONFIG = t5.T5Config(
    vocab_size=32,
    emb_dim=8,
    num_heads=2,
    head_dim=3,
    mlp_dim=16,
    num_encoder_layers=2,
    num_decoder_layers=3,
    prompt_names=("rte",),
    prompt_length=3,
)
INPUTS = jnp.array([[5, 6, 7, 0], [8, 9, 0, 0]])
TARGETS = jnp.array([[4, 5, 6, 1], [3, 9, 8, 1]])
SHIFTED = jnp.array([[0, 4, 5, 6], [0, 3, 9, 8]])
PROMPTED = jnp.array([0, -1])


def network(**changes):
    return t5.Transformer(dataclasses.replace(CONFIG, **changes))


def initial(net):
    return net.init(jax.random.key(0), INPUTS, SHIFTED, TARGETS, enable_dropout=False)


def shapes_of(net):
    return jax.eval_shape(lambda: initial(net))


@run_quickly
def random_params(net):
    """Values far from the initial ones, where norms are 1 and layers do little."""
    params = initial(net)["params"]
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(treedef, noisy)


PLAIN = network()
SCANNED = network(scan_layers=True)
PARAMS = random_params(PLAIN)
STACKED = trees.stack_layers(PARAMS)


def test_scanned_parameters_are_the_stacked_ones_with_an_axis_in_front():
    plain, scanned = shapes_of(PLAIN), shapes_of(SCANNED)
    expected = trees.flatten(trees.stack_layers(plain["params"]))
    assert trees.flatten(scanned["params"]) == expected
    assert expected["decoder/layers/mlp/wo/kernel"].shape == (3, 16, 8)
    before = trees.flatten(partitioning.get_axis_names(plain["params_axes"]))
    after = trees.flatten(partitioning.get_axis_names(scanned["params_axes"]))
    assert after.keys() == expected.keys()
    for path, names in after.items():
        old = before[path.replace("/layers/", "/layers_0/")]
        assert tuple(names) == ("layers", *old) if "/layers/" in path else tuple(old), path


def test_scanned_layers_start_different_and_at_the_scale_of_one_layer():
    net = network(scan_layers=True, emb_dim=256, mlp_dim=64)
    params = run_quickly(initial)(net)["params"]
    kernel = params["decoder"]["layers"]["mlp"]["wi_0"]["kernel"]
    assert kernel.shape == (3, 256, 64)
    np.testing.assert_allclose(kernel.std(axis=(1, 2)), 256**-0.5, rtol=0.05)
    assert not np.allclose(kernel[0], kernel[1])


def logits(net, params, prompt_ids):
    tokens = (INPUTS, SHIFTED, TARGETS)
    return net.apply({"params": params}, *tokens, prompt_ids=prompt_ids, enable_dropout=False)


def loss_and_gradients(net, params):
    def loss(params):
        return jnp.mean(jnp.square(logits(net, params, PROMPTED)))

    return jax.value_and_grad(loss)(params)


run_gradients = run_quickly(loss_and_gradients)


def close(found, expected):
    found, expected = trees.flatten(found), trees.flatten(expected)
    assert expected
    assert found.keys() == expected.keys()
    for path in expected:
        size = float(jnp.abs(expected[path]).max())
        np.testing.assert_allclose(
            found[path], expected[path], rtol=1e-4, atol=1e-5 * size, err_msg=path
        )


@pytest.mark.parametrize("prompt_ids", [None, PROMPTED], ids=["bare", "prompted"])
def test_scanned_logits_equal_unrolled_ones(prompt_ids):
    run = run_quickly(logits)
    expected = run(PLAIN, PARAMS, prompt_ids)
    assert float(jnp.abs(expected).max()) > 1.0
    np.testing.assert_allclose(run(SCANNED, STACKED, prompt_ids), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def gradients():
    return run_gradients(PLAIN, PARAMS)


@pytest.mark.parametrize("remat", ["none", "minimal"])
def test_scanned_gradients_equal_unrolled_ones(gradients, remat):
    loss, found = run_gradients(network(scan_layers=True, remat=remat), STACKED)
    np.testing.assert_allclose(loss, gradients[0], rtol=1e-5)
    close(found, trees.stack_layers(gradients[1]))


def test_remat_of_the_unrolled_network_changes_neither_loss_nor_gradients(gradients):
    loss, found = run_gradients(network(remat="full"), PARAMS)
    np.testing.assert_allclose(loss, gradients[0], rtol=1e-5)
    close(found, gradients[1])


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + nn.Dropout(0.5, deterministic=False)(jnp.sin(nn.Dense(4)(x)))


class Layers(nn.Module):
    scan: bool
    remat: str

    @nn.compact
    def __call__(self, x):
        return stack.apply_layers(
            Layer, lambda layer, x, *_: layer(x), x, 3, scan=self.scan, remat=self.remat
        )


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_remat_repeats_the_dropout_of_a_layer(scan):
    x = jax.random.normal(jax.random.key(0), (2, 4))

    rngs = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    params = jax.jit(Layers(scan, "none").init)(rngs, x)["params"]

    @run_quickly
    def run(remat, seed):
        def loss(params):
            rngs = {"dropout": jax.random.key(seed)}
            return Layers(scan, remat).apply({"params": params}, x, rngs=rngs).sum()

        return jax.value_and_grad(loss)(params)

    expected, gradients = run("none", 0)
    assert not np.allclose(expected, run("none", 1)[0])
    for remat in stack.REMAT_POLICIES:
        loss, found = run(remat, 0)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        close(found, gradients)


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_remat_computes_again_what_its_name_says(scan):
    def products(remat):
        net = network(scan_layers=scan, remat=remat)
        step = functools.partial(loss_and_gradients, net)
        params = STACKED if scan else PARAMS
        found = jaxprs.named(jaxprs.equations(step, params), "dot_general")
        batched = [e for e in found if e.params["dimension_numbers"][1][0]]
        return len(found) - len(batched), len(batched)

    plain, minimal, full = map(products, ("none", "minimal", "full"))
    # Products with parameters are stored, those of attention are not.
    assert minimal[0] == plain[0]
    assert minimal[1] > plain[1]
    assert full[0] > plain[0]


def test_an_unknown_remat_is_an_error():
    with pytest.raises(UserError, match=r"'some'.*'none', 'minimal', 'full'"):
        network(remat="some")
    stack.check_remat("none")


LENGTH = SHIFTED.shape[1]


@functools.partial(jax.jit, static_argnums=0)
def started(net, params, prompt_ids):
    """The encoder's output, and the collections that decoding begins with."""
    apply = functools.partial(
        net.apply, {"params": params}, prompt_ids=prompt_ids, enable_dropout=False
    )
    encoded = apply(INPUTS, method="encode")
    blank = jnp.ones((2, LENGTH), jnp.int32)
    _, start = apply(
        *(encoded, INPUTS, blank, blank),
        decode=True,
        mutable=["cache", "shared"],
        method="decode",
    )
    return encoded, start


@functools.partial(jax.jit, static_argnums=0)
def decode_step(net, params, variables, encoded, tokens, prompt_ids):
    step, changed = net.apply(
        {"params": params, **variables},
        *(encoded, INPUTS, tokens, tokens),
        prompt_ids=prompt_ids,
        enable_dropout=False,
        decode=True,
        max_decode_length=LENGTH,
        mutable=["cache"],
        method="decode",
    )
    return step, changed["cache"]


@run_quickly
def searched(net, params, prompt_ids):
    """Sequences and scores of a beam search."""
    encoded, start = started(net, params, prompt_ids)

    def tokens_to_logits(tokens, cache):
        variables = {**start, "cache": cache}
        step, changed = decode_step(net, params, variables, encoded, tokens, prompt_ids)
        return step[:, -1], changed

    return decoding.beam_search(
        start["cache"], tokens_to_logits, batch_size=2, num_beams=3, max_length=LENGTH, eos_id=1
    )


def test_a_beam_search_over_scanned_layers_finds_the_same():
    """It reorders the first axis of each leaf of the cache."""
    expected, scores = searched(PLAIN, PARAMS, PROMPTED)
    found, found_scores = searched(SCANNED, STACKED, PROMPTED)
    assert len(np.unique(expected)) > 3
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found_scores, scores, rtol=1e-4)


@pytest.mark.parametrize(
    ("prompt_ids", "remat"), [(None, "none"), (PROMPTED, "full")], ids=["bare", "prompted, remat"]
)
def test_scanned_decoding_equals_teacher_forcing(prompt_ids, remat):
    net = network(scan_layers=True, remat=remat)
    encoded, start = started(net, STACKED, prompt_ids)
    cache, steps = start["cache"], []
    for column in range(LENGTH):
        step, cache = decode_step(
            net,
            STACKED,
            {**start, "cache": cache},
            encoded,
            SHIFTED[:, column : column + 1],
            prompt_ids,
        )
        steps.append(step[:, 0])
    expected = run_quickly(logits)(net, STACKED, prompt_ids)
    np.testing.assert_allclose(jnp.stack(steps, axis=1), expected, rtol=1e-4, atol=1e-5)


def test_a_step_changes_its_place_of_the_cache_alone():
    """A scan that slices the cache, or moves its axes, would copy all of it in every step."""
    encoded, start = started(SCANNED, STACKED, None)
    shapes = {leaf.shape for leaf in jax.tree.leaves(start["cache"]) if leaf.ndim}
    assert shapes == {(2, 3, 2, 3, LENGTH)}
    step = functools.partial(decode_step, SCANNED, STACKED)
    makers = [
        equation
        for equation in jaxprs.equations(step, start, encoded, SHIFTED[:, :1], None)
        if shapes & {v.aval.shape for v in equation.outvars}
        and equation.primitive.name not in {"scan", "jit"}
    ]
    assert {e.primitive.name for e in makers} == {"dynamic_update_slice"}
    assert {e.invars[1].aval.shape for e in makers} == {(2, 1, 2, 3, 1)}


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_bfloat16_is_for_activations_only(scan, remat):
    lora = Lora(".*(query|wo)/kernel", 2, 4.0)
    net = network(scan_layers=scan, remat=remat, dtype="bfloat16", lora=lora)
    params = shapes_of(net)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}

    run = functools.partial(logits, net, prompt_ids=PROMPTED)
    assert jax.eval_shape(run, params).dtype == jnp.float32
    found = jaxprs.equations(run, params)

    def dtypes(*names):
        equations = jaxprs.named(found, *names)
        assert equations
        return [
            (*(str(v.aval.dtype) for v in e.invars), str(e.outvars[0].aval.dtype))
            for e in equations
        ]

    # Softmax and norms.
    assert set(dtypes("exp", "rsqrt", "reduce_max")) == {("float32", "float32")}
    products = dtypes("dot_general")
    low = ("bfloat16", "bfloat16", "bfloat16")
    scores = ("bfloat16", "bfloat16", "float32")
    assert set(products) == {low, scores, ("float32", "float32", "float32")}
    # Scores of attention, once each in the encoder and twice in the decoder; final logits.
    layers = 1 if scan else 2, 1 if scan else 3
    assert products.count(scores) == layers[0] + 2 * layers[1]
    assert products.count(("float32", "float32", "float32")) == 1
    assert set(dtypes("tanh")) == {("bfloat16", "bfloat16")}
