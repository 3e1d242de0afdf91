"""Transforms of a start and an end, against PEFT on the same tensors and against identities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.models.networks import lora
from promot_jax.training import afterwards
from promot_jax.training.stages import Method
from tests import tiny
from tests.base.partitioning_test import run

SHAPES = {
    "embedding": (12, 6),
    "encoder/layers_0/kernel": (6, 8),
    "encoder/layers_1/kernel": (6, 8),
}
ADAPTERS = lora.Lora(".*kernel", rank=3, alpha=6.0)
EVERY = (
    afterwards.Interpolation(),
    afterwards.Ties(),
    afterwards.Dare(drop=0.5),
    afterwards.HalfReset(),
)


def ids(transform):
    return transform.name


def drawn(seed, dtype="float32", spread=1.0):
    rng = np.random.default_rng(seed)
    leaves = {p: spread * rng.standard_normal(shape) for p, shape in SHAPES.items()}
    return trees.unflatten({path: jnp.asarray(leaf, dtype) for path, leaf in leaves.items()})


def ends(count=1, dtype="float32"):
    """A start and some ends, which have a prompt that the start has not."""
    start, found = drawn(0, dtype), []
    for seed in range(1, count + 1):
        end = jax.tree.map(lambda a, b: (a + b).astype(dtype), start, drawn(seed, dtype, 0.1))
        found.append(trees.add_prompt(end, "rte", jnp.full((2, 6), float(seed))))
    return start, *found


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and tiny.leaves_equal(a, b)


def wide(tree):
    return {path: np.asarray(leaf, np.float64) for path, leaf in trees.flatten(tree).items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_interpolation_is_that_of_float64_and_exact_at_both_ends(dtype):
    start, end = ends(dtype=dtype)
    wise = afterwards.Interpolation()
    assert same(wise.apply(start, end, 1, 0), end)
    prompt = trees.flatten(end)["encoder/prompt/rte/prompt"]
    assert same(wise.apply(start, end, 0, 0), trees.add_prompt(start, "rte", prompt))
    for at in (0.3, 0.9, 1.5):
        found = wise.apply(start, end, at, 0)
        for path, leaf in trees.flatten(found).items():
            exact = wide(end)[path]
            if path in wide(start):
                exact = (1 - at) * wide(start)[path] + at * exact
            assert leaf.dtype == trees.flatten(end)[path].dtype
            # One rounding to the leaf's dtype, of float32's arithmetic.
            step = np.abs(exact) * float(jnp.finfo(leaf.dtype).eps)
            assert (np.abs(np.asarray(leaf, np.float64) - exact) <= 0.51 * step + 1e-6).all()


def torch_tensors(start, several):
    import torch

    return {
        path: [torch.tensor(wide(end)[path] - base, dtype=torch.float32) for end in several]
        for path, base in wide(start).items()
    }


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("density", [0.2, 0.7])
def test_ties_is_that_of_peft(count, density):
    torch = pytest.importorskip("torch")
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    start, *several = ends(count)
    found = wide(afterwards.ties(start, several, density, 0.8))
    for path, tensors in torch_tensors(start, several).items():
        expected = merge_utils.ties(tensors, torch.full((count,), 0.8), density).double().numpy()
        np.testing.assert_allclose(found[path] - wide(start)[path], expected, atol=3e-7)
    assert (found["encoder/prompt/rte/prompt"] == 1).all()


def test_ties_of_all_changes_of_one_end_is_that_end():
    start, end = ends()
    found = afterwards.Ties(density=1.0).apply(start, end, 1.0, 0)
    for path, leaf in wide(found).items():
        np.testing.assert_allclose(leaf, wide(end)[path], atol=3e-7)
    # A tenth of 48 elements is 4.
    few = wide(afterwards.Ties(density=0.1).apply(start, end, 1.0, 0))["encoder/layers_0/kernel"]
    assert (few != wide(start)["encoder/layers_0/kernel"]).sum() == 4
    assert same(afterwards.Ties(density=0.01).apply(start, end, 1.0, 0)["encoder"]["layers_0"],
                start["encoder"]["layers_0"])  # fmt: skip


@given(
    st.lists(
        st.integers(-3, 3) | st.floats(-100, 100, width=16, allow_subnormal=False),
        min_size=12,
        max_size=12,
    ),
    st.sampled_from([0.1, 0.5, 1.0]),
)
@settings(max_examples=50, deadline=None)
def test_the_largest_changes_are_those_that_a_sort_would_keep(numbers, density):
    start, end = {"kernel": jnp.zeros(12)}, {"kernel": jnp.asarray(numbers, jnp.float32)}
    found = np.asarray(afterwards.ties(start, [end], density, 1.0)["kernel"])
    changes = np.asarray(numbers, np.float32)
    least = np.sort(np.abs(changes))[-int(density * 12)]
    np.testing.assert_array_equal(found, np.where(np.abs(changes) >= least, changes, 0.0))


@pytest.mark.long
def test_dare_is_that_of_peft_with_the_same_mask(monkeypatch):
    torch = pytest.importorskip("torch")
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    start, end = ends()
    found = wide(afterwards.Dare(drop=0.6).apply(start, end, 0.5, 3))
    for path, tensors in torch_tensors(start, [end]).items():
        mask = torch.tensor(found[path] != wide(start)[path], dtype=torch.float32)
        monkeypatch.setattr(torch, "bernoulli", lambda input, mask=mask: mask)
        expected = merge_utils.dare_linear(tensors, torch.tensor([0.5]), 0.4).double().numpy()
        np.testing.assert_allclose(found[path] - wide(start)[path], expected, atol=6e-7)


def test_dare_drops_by_its_share_and_keeps_the_mean():
    start = {"kernel": jnp.zeros((200, 300))}
    end = {"kernel": jnp.ones((200, 300))}
    found = np.asarray(afterwards.Dare(drop=0.9).apply(start, end, 1.0, 0)["kernel"])
    assert set(np.unique(found)) == {0.0, 10.0}
    # Five standard deviations of 60,000 draws.
    assert abs((found != 0).mean() - 0.1) < 5 * (0.09 / 60_000) ** 0.5
    assert not (found == np.asarray(afterwards.Dare().apply(start, end, 1.0, 1)["kernel"])).all()
    whole = afterwards.Dare(drop=0.0).apply(start, end, 1.0, 0)
    assert same(whole, end)


def test_half_reset_puts_back_exactly_half_of_the_matrices():
    start, end = (
        {f"layers_{n}": {m: jnp.full((2, 2), value) for m in "qkvo"} for n in range(8)}
        for value in (0.0, 1.0)
    )
    half = afterwards.HalfReset()
    kept = {}
    for at in (0.0, 0.25, 0.5, 1.0):
        found = wide(half.apply(start, end, at, 7))
        assert all(len(np.unique(leaf)) == 1 for leaf in found.values())
        kept[at] = {path for path, leaf in found.items() if leaf[0, 0]}
        assert len(kept[at]) == 32 * at
    assert kept[0.25] < kept[0.5] < kept[1.0]
    other = wide(half.apply(start, end, 0.5, 8))
    assert {path for path, leaf in other.items() if leaf[0, 0]} != kept[0.5]


def adapted(dtype="float32", strength=3.0):
    """A start and an end with adapters; those of the first layer are strong enough to intrude."""
    start = drawn(0, dtype)
    end = lora.add(start, ADAPTERS, jax.random.key(1))
    leaves, rng = trees.flatten(end), np.random.default_rng(2)
    for path, leaf in leaves.items():
        if path.endswith("lora_b"):
            size = strength if "layers_0" in path else 1e-3
            leaves[path] = jnp.asarray(size * rng.standard_normal(leaf.shape), leaf.dtype)
    return start, trees.unflatten(leaves)


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("at", [0.0, 0.75])
def test_intruders_are_reduced_as_peft_does(at, dtype):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from peft.tuners.lora.intruders import reduce_intruder_dimension

    start, end = adapted(dtype)
    leaves = trees.flatten(end)
    stems = [f"encoder/layers_{n}" for n in (0, 1)]
    layers = torch.nn.Module()
    for number in range(2):
        layers.add_module(f"linear{number}", torch.nn.Linear(6, 8, bias=False))
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["linear0", "linear1"])
    model = peft.get_peft_model(layers, config)
    wrapped = [getattr(model.base_model.model, f"linear{n}") for n in (0, 1)]

    def tensor(path):
        return torch.tensor(np.asarray(leaves[path], np.float32).T.copy())

    for stem, layer in zip(stems, wrapped, strict=True):
        layer.base_layer.weight.data = tensor(f"{stem}/kernel")
        layer.lora_A["default"].weight.data = tensor(f"{stem}/lora_a")
        layer.lora_B["default"].weight.data = tensor(f"{stem}/lora_b")
    lines = []
    reduce_intruder_dimension(
        model, top_k=4, threshold_epsilon=0.8, mitigation_lambda=at, logging_sink=lines.append
    )
    assert ["No intruders" in line for line in lines[:2]] == [False, True]
    transform = afterwards.Intruders(ADAPTERS, first=4, threshold=0.8)
    found = trees.flatten(transform.apply(start, end, at, 0))
    for stem, layer in zip(stems, wrapped, strict=True):
        expected = layer.get_delta_weight("intruder_reduced").detach().numpy().T
        ours = 2 * np.asarray(found[f"{stem}/lora_a"]) @ np.asarray(found[f"{stem}/lora_b"])
        np.testing.assert_allclose(ours, expected, atol=2e-5 * np.abs(expected).max())
        assert found[f"{stem}/kernel"] is leaves[f"{stem}/kernel"]
    assert same(transform.apply(start, end, 1, 0), end)


def test_a_share_of_the_adapters_is_the_interpolation_of_the_merged_model():
    start, end = adapted()
    scaled = afterwards.AdapterScale().apply(start, end, 0.4, 0)
    merged = afterwards.Interpolation().apply(start, lora.merge(end, ADAPTERS), 0.4, 0)
    for path, leaf in wide(lora.merge(scaled, ADAPTERS)).items():
        np.testing.assert_allclose(leaf, wide(merged)[path], atol=1e-5)
    assert same(afterwards.AdapterScale().apply(start, end, 1, 0), end)


@pytest.mark.parametrize("transform", [*EVERY, afterwards.Intruders(ADAPTERS)], ids=ids)
def test_stacked_layers_are_changed_as_single_ones(transform):
    start, end = adapted() if transform.name == "intruders" else ends()
    plain = transform.apply(start, end, 0.5, 3)
    stacked = transform.apply(trees.stack_layers(start), trees.stack_layers(end), 0.5, 3)
    for path, leaf in wide(trees.unstack_layers(stacked)).items():
        np.testing.assert_allclose(leaf, wide(plain)[path], atol=1e-5, err_msg=path)


@pytest.mark.parametrize("transform", EVERY, ids=ids)
def test_what_no_stage_trained_stays_the_very_array(transform):
    start, end = ends()
    end["embedding"] = start["embedding"]
    end = lora.add(end, ADAPTERS, jax.random.key(0))
    start = trees.add_prompt(start, "rte", jnp.zeros((2, 6)))
    found, given = (trees.flatten(t) for t in (transform.apply(start, end, 0.5, 0), end))
    kept = {path for path in given if found[path] is given[path]}
    kernels = {path for path in given if path.endswith("kernel")}
    assert kept == given.keys() - kernels


@pytest.mark.parametrize("transform", EVERY, ids=ids)
def test_ends_may_lie_in_the_memory_of_the_host(transform):
    start, end = ends()
    expected = transform.apply(start, end, 0.5, 0)
    copies = [jax.tree.map(jnp.copy, tree) for tree in (start, end)]
    moved = [jax.tree.map(partitioning.to_host, tree) for tree in copies]
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(copies))
    found = transform.apply(*moved, 0.5, 0)
    # The prompt is no part of what changes.
    kinds = {p: leaf.sharding.memory_kind for p, leaf in trees.flatten(found).items()}
    prompt = kinds.pop("encoder/prompt/rte/prompt")
    assert (prompt, set(kinds.values())) == (partitioning.HOST, {"device"})
    assert same(jax.tree.map(partitioning.on_device, found), expected)


def test_settings_that_would_do_nothing_are_refused():
    with pytest.raises(UserError, match=r"Ties\.density = 0: expected a number above 0"):
        afterwards.Ties(density=0)
    with pytest.raises(UserError, match=r"points = \(0\.5, 0\.5\)"):
        afterwards.Interpolation(points=(0.5, 0.5))
    with pytest.raises(UserError, match="'m' has no stage, so ties has no end"):
        Method("m", "M", after=[afterwards.Ties()])
    with pytest.raises(UserError, match="two transforms of the name 'dare'"):
        Method("m", "M", [tiny.stage()], after=[afterwards.Dare(), afterwards.Dare(drop=0.5)])
    for transform in (*EVERY, afterwards.Intruders(ADAPTERS), afterwards.AdapterScale()):
        assert hash(transform) == hash(dataclasses.replace(transform))


ON_A_MESH = """
import sys
import jax, numpy as np
from promot_jax.base import partitioning, trees
from tests import tiny
from tests.training import afterwards_test

shapes, axes = tiny.model().shapes_and_axes()
start, end = (tiny.model().init(jax.random.key(seed)) for seed in (0, 1))
mesh = partitioning.make_mesh(2, 4, jax.devices())
places = partitioning.params_sharding(mesh, axes, shapes)
on_one, on_mesh = [start, end], [jax.device_put(tree, places) for tree in (start, end)]
on_mesh = [jax.tree.map(partitioning.to_host, tree) for tree in on_mesh]
found = {}
for transform in afterwards_test.EVERY:
    one, eight = (
        trees.flatten(transform.apply(*sides, 0.5, 3)) for sides in (on_one, on_mesh)
    )
    assert {path: leaf.sharding for path, leaf in eight.items()} == trees.flatten(places)
    for path, leaf in eight.items():
        ours, theirs = np.asarray(one[path]), np.asarray(leaf)
        # Compiled together, a product and a sum round once or twice.
        step = np.abs(ours) * np.finfo(np.float32).eps
        found[f"{transform.name} {path}"] = (np.abs(ours - theirs) / (step + 1e-12)).max()
        pieces = {str(shard.index) for shard in leaf.addressable_shards}
        found[f"{transform.name} {path} pieces"] = len(pieces)
np.savez(sys.argv[1], **found)
"""


@pytest.mark.slow
@pytest.mark.long
def test_eight_devices_make_what_one_makes_and_leaves_stay_divided(tmp_path):
    found = run(ON_A_MESH, 8, tmp_path / "found.npz")
    assert len(found.files) > 4 * 10 * 2
    assert max(found[name] for name in found.files if not name.endswith("pieces")) <= 2
    assert max(found[name] for name in found.files if name.endswith("pieces")) == 8
