"""Adapters: where a module puts them, and the functions over parameter trees."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.models.networks import layers, lora, t5
from promot_jax.models.networks.lora import Lora
from tests.models import jaxprs
from tests.quick import quick_jit

pytestmark = pytest.mark.long

CONFIG = t5.T5Config(
    vocab_size=32,
    emb_dim=8,
    num_heads=2,
    head_dim=3,
    mlp_dim=20,
    num_encoder_layers=1,
    num_decoder_layers=2,
)
LORA = Lora(r".*(attention/(query|value)|mlp/wo|logits_dense)/kernel", 2, 6.0)
DORA = dataclasses.replace(LORA, form="dora")
TOKENS = (
    jnp.array([[5, 6, 7, 0], [8, 9, 0, 0]]),
    jnp.array([[0, 4, 5, 6, 2], [0, 3, 9, 8, 2]]),
    jnp.array([[4, 5, 6, 2, 1], [3, 9, 8, 2, 1]]),
)
SCAN = pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
RNG = jax.random.key(3)


def network(scan=False, adapters=None, **changes):
    return t5.Transformer(dataclasses.replace(CONFIG, scan_layers=scan, lora=adapters, **changes))


def shapes_of(net):
    return jax.eval_shape(lambda: net.init(RNG, *TOKENS, enable_dropout=False))["params"]


@functools.partial(quick_jit, static_argnums=0)
def logits(net, params):
    return net.apply({"params": params}, *TOKENS, enable_dropout=False)


def randomly(shapes, seed=0):
    """Values far from the initial ones; in particular the adapters are not zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), jnp.float32), shapes)


def same(found, expected, **tolerance):
    found, expected = trees.flatten(found), trees.flatten(expected)
    assert expected
    assert found.keys() == expected.keys()
    for path in expected:
        np.testing.assert_allclose(found[path], expected[path], err_msg=path, **tolerance)


@pytest.mark.parametrize(
    ("pattern", "scan", "adapted"),
    [
        ("encoder/layers_0/attention/query/kernel", False, "encoder/layers_0/attention/query"),
        ("decoder/layers_1/encoder_decoder_attention/out/kernel", False, None),
        ("decoder/layers_1/mlp/wi_1/kernel", False, None),
        ("decoder/logits_dense/kernel", False, None),
        ("encoder/layers/attention/query/kernel", True, None),
        ("decoder/layers/mlp/wo/kernel", True, None),
        ("decoder/layers_1/mlp/wo/kernel", True, ""),
        ("attention/query/kernel", False, ""),
    ],
)
def test_the_pattern_sees_whole_paths_of_kernels(pattern, scan, adapted):
    leaves = trees.flatten(shapes_of(network(scan, Lora(pattern, 2, 1.0))))
    place = pattern.removesuffix("/kernel") if adapted is None else adapted
    expected = {f"{place}/lora_a", f"{place}/lora_b"} if place else set()
    assert {path for path in leaves if "lora" in path} == expected


@SCAN
def test_add_makes_the_leaves_that_a_network_has(scan):
    params = randomly(shapes_of(network(scan)))
    adapted = lora.add(params, LORA, RNG)
    assert trees.difference(shapes_of(network(scan, LORA)), adapted) == []
    assert {leaf.dtype for leaf in jax.tree.leaves(adapted)} == {jnp.dtype("float32")}
    assert len(jax.tree.leaves(lora.adapters(adapted))) == 2 * (9 if scan else 14)
    same(lora.remove(adapted), params, rtol=0)


@SCAN
def test_add_makes_what_a_module_of_dora_has(scan):
    params = randomly(shapes_of(network(scan)))
    adapted = lora.add(params, DORA, RNG)
    assert trees.difference(shapes_of(network(scan, DORA)), adapted) == []
    assert len(jax.tree.leaves(lora.adapters(adapted))) == 3 * (9 if scan else 14)
    same(lora.remove(adapted), params, rtol=0)
    path = f"decoder/layers{'' if scan else '_1'}/mlp/wo/"
    leaves = trees.flatten(adapted)
    expected = np.linalg.norm(np.asarray(leaves[path + "kernel"], np.float64), axis=-2)
    np.testing.assert_allclose(leaves[path + "lora_magnitude"], expected, rtol=1e-6)


@pytest.mark.parametrize(("scan", "dtype"), [(True, "float32"), (False, "bfloat16")])
def test_new_lengths_are_those_of_the_kernel(scan, dtype):
    """To rounding: the lengths are computed in one program, and compared with in another."""
    params = randomly(shapes_of(network(scan)))
    found = logits(network(scan, DORA, dtype=dtype), lora.add(params, DORA, RNG))
    expected = logits(network(scan, dtype=dtype), params)
    bound = 2e-5 if dtype == "float32" else 0.05
    np.testing.assert_allclose(found, expected, rtol=bound, atol=bound)


def test_a_new_adapter_changes_nothing_in_bfloat16():
    params = randomly(shapes_of(network()))
    found = logits(network(False, LORA, dtype="bfloat16"), lora.add(params, LORA, RNG))
    np.testing.assert_array_equal(found, logits(network(dtype="bfloat16"), params))


def test_dora_agrees_with_float64():
    """One kernel, by the formula: columns of W + scale A B, brought to the lengths m."""
    rng = np.random.default_rng(1)
    x, kernel, a, b, m = (
        rng.normal(size=shape) for shape in ((1, 5, 7), (7, 4), (7, 2), (2, 4), (4,))
    )
    module = layers.Dense(4, ("embed", "mlp"), lora=Lora(".*", 2, 6.0, form="dora"))
    params = {"kernel": kernel, "lora_a": a, "lora_b": b, "lora_magnitude": m}
    found = module.apply({"params": jax.tree.map(np.float32, params)}, np.float32(x))
    whole = kernel + 3.0 * a @ b
    expected = x @ (whole * m / np.sqrt((whole**2).sum(axis=0)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    merged = lora.merge({"x": jax.tree.map(np.float32, params)}, module.lora)["x"]["kernel"]
    np.testing.assert_allclose(x @ merged, expected, rtol=1e-5)


@pytest.mark.parametrize(("scaling", "scale"), [("rank", 1.5), ("root_rank", 3.0)])
def test_the_scale_falls_with_the_rank_or_with_its_root(scaling, scale):
    assert Lora(".*", 4, 6.0, scaling).scale == scale


@SCAN
def test_a_new_adapter_changes_nothing(scan):
    params = randomly(shapes_of(network(scan)))
    adapted = lora.add(params, LORA, RNG)
    b = {path: leaf for path, leaf in trees.flatten(adapted).items() if path.endswith("lora_b")}
    assert b
    assert not any(leaf.any() for leaf in b.values())
    np.testing.assert_array_equal(
        logits(network(scan, LORA), adapted), logits(network(scan), params)
    )


def test_add_draws_as_a_module_does():
    """Uniform within 1 / sqrt(in), as PEFT; each layer of a stack and each kernel on its own."""
    rows, rank = 256, 40
    adapters = Lora("(.*/)?kernel", rank, 1.0)
    module = layers.Dense(8, ("embed", "mlp"), lora=adapters)
    of_module = module.init(RNG, jnp.zeros((1, rows)))["params"]["lora_a"]
    kernels = {"x": {"kernel": jnp.zeros((3, rows, 8))}, "y": {"kernel": jnp.zeros((rows, 8))}}
    added = lora.add(kernels, adapters, RNG)
    seen = [of_module, *added["x"]["lora_a"], added["y"]["lora_a"]]
    for drawn in seen:
        assert drawn.shape == (rows, rank)
        assert 0.99 < jnp.abs(drawn).max() * rows**0.5 <= 1.0
        np.testing.assert_allclose(drawn.std(), (3 * rows) ** -0.5, rtol=0.03)
    assert len({float(drawn[0, 0]) for drawn in seen}) == 5


@SCAN
@pytest.mark.parametrize("kind", [LORA, DORA], ids=["lora", "dora"])
def test_merged_weights_equal_adapters(scan, kind):
    adapted = randomly(shapes_of(network(scan, kind)))
    merged = lora.merge(adapted, kind)
    assert trees.difference(shapes_of(network(scan)), merged) == []
    expected = logits(network(scan, kind), adapted)
    found = logits(network(scan), merged)
    assert not np.allclose(logits(network(scan), lora.remove(adapted)), found, atol=0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_merge_is_kernel_plus_scaled_product():
    rng = np.random.default_rng(0)
    kernel, a, b = (rng.normal(size=shape) for shape in ((3, 5, 4), (3, 5, 2), (3, 2, 4)))
    params = {"x": {"kernel": kernel, "lora_a": a, "lora_b": b}, "y": {"kernel": kernel}}
    merged = lora.merge(jax.tree.map(np.float32, params), Lora(".*", 2, 6.0))
    expected = kernel + 3.0 * np.einsum("lir,lro->lio", a, b)
    np.testing.assert_allclose(merged["x"]["kernel"], expected, rtol=1e-5)
    np.testing.assert_array_equal(merged["y"]["kernel"], np.float32(kernel))
    assert set(merged["x"]) == {"kernel"}


@SCAN
def test_unmerge_inverts_merge(scan):
    adapted = randomly(shapes_of(network(scan, LORA)))
    merged = lora.merge(adapted, LORA)
    for source in (adapted, lora.adapters(adapted)):
        same(lora.unmerge(merged, source, LORA), adapted, rtol=1e-5, atol=1e-5)
    kernel = "decoder/layers/mlp/wo/kernel" if scan else "decoder/layers_1/mlp/wo/kernel"
    kernels = [trees.flatten(tree)[kernel] for tree in (merged, adapted)]
    assert not np.allclose(*kernels, atol=0.1)


def test_merge_keeps_the_dtype_of_kernels():
    adapted = randomly(shapes_of(network(False, LORA)))
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), adapted)
    merged = jax.tree.leaves(lora.merge(low, LORA))
    assert {leaf.dtype for leaf in merged} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("scan", "form"), [(False, "lora"), (True, "lora"), (True, "dora")], ids=str
)
def test_gradients_of_adapters_form_none_of_a_kernel(scan, form):
    net = network(scan, Lora(".*", 2, 6.0, form=form))
    params = randomly(shapes_of(net))
    adapters, kernels = lora.adapters(params), lora.remove(params)

    def loss(part, rest):
        return jnp.sum(
            net.apply({"params": trees.combine(part, rest)}, *TOKENS, enable_dropout=False)
        )

    # Gradients of kernels are products of activations, [in, positions] x [positions, out].
    wanted = {
        frozenset(leaf.shape[-2:])
        for path, leaf in trees.flatten(kernels).items()
        if path.endswith("kernel")
    }
    assert len(wanted) == 3

    def kernel_sized(part, rest):
        found = jaxprs.equations(jax.grad(loss), part, rest)
        shapes = [e.outvars[0].aval.shape for e in jaxprs.named(found, "dot_general")]
        assert len(shapes) > 10
        return [shape for shape in shapes if frozenset(shape) in wanted]

    assert kernel_sized(adapters, kernels) == []
    assert len(kernel_sized(kernels, adapters)) >= (15 if scan else 20)


def test_what_cannot_be_adapted_is_an_error():
    params = randomly(shapes_of(network()))
    for pattern in ("mlp/wo/kernel", ".*/embedding", "nothing"):
        with pytest.raises(UserError, match=r"matches no kernel.*decoder/"):
            lora.add(params, Lora(pattern, 2, 1.0), RNG)
    with pytest.raises(UserError, match="has an adapter already"):
        lora.add(lora.add(params, LORA, RNG), LORA, RNG)
    with pytest.raises(UserError, match="expected a regular expression"):
        Lora("(", 2, 1.0)
    with pytest.raises(UserError, match="at least 1"):
        Lora(".*", 0, 1.0)
    with pytest.raises(UserError, match="did you mean 'dora'"):
        Lora(".*", 2, 1.0, form="dorra")
    with pytest.raises(UserError, match="cannot be taken out"):
        lora.unmerge(params, lora.add(params, DORA, RNG), DORA)


def test_adapters_of_another_kind_do_not_merge():
    params = randomly(shapes_of(network(False, LORA)))
    with pytest.raises(UserError, match="no adapters"):
        lora.merge(lora.remove(params), LORA)
    with pytest.raises(UserError, match=r"lora_a has rank 2, Lora.rank is 4"):
        lora.merge(params, dataclasses.replace(LORA, rank=4))
    leaves = trees.flatten(params)
    lacking = {p: leaf for p, leaf in leaves.items() if p != "decoder/logits_dense/lora_b"}
    with pytest.raises(UserError, match=r"logits_dense/lora_b; one is missing"):
        lora.merge(trees.unflatten(lacking), LORA)
    wider = leaves | {"decoder/logits_dense/lora_b": jnp.zeros((2, 33))}
    with pytest.raises(UserError, match=r"\(8, 32\), its adapter \(8, 33\)"):
        lora.merge(trees.unflatten(wider), LORA)


def test_adapters_alone():
    params = {"x": {"kernel": 0, "lora_a": 1, "lora_b": 2}, "y": {"scale": 3}}
    assert lora.adapters(params) == {"x": {"lora_a": 1, "lora_b": 2}}
    assert lora.remove(params) == {"x": {"kernel": 0}, "y": {"scale": 3}}
    assert lora.adapters({"y": {"scale": 3}}) == {}
