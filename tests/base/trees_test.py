import hashlib

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promot_jax.base import trees
from promot_jax.base.errors import UserError

NAMES = st.sampled_from(["a", "b", "layers_0", "layers_1", "kernel", "scale"])
LEAVES = st.builds(lambda n: np.full((n,), n, np.float32), st.integers(1, 3))
TREES = st.dictionaries(
    NAMES,
    st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, min_size=1), max_leaves=8),
    min_size=1,
)


def same(a, b):
    a, b = trees.flatten(a), trees.flatten(b)
    return a.keys() == b.keys() and all((a[path] == b[path]).all() for path in a)


@hypothesis.given(TREES, st.data())
def test_combine_inverts_partition(tree, draw):
    paths = list(trees.flatten(tree))
    chosen = draw.draw(st.sets(st.sampled_from(paths), min_size=1))
    inside, outside = trees.partition(tree, sorted(chosen))
    assert set(trees.flatten(inside)) == chosen
    assert not chosen & set(trees.flatten(outside))
    assert same(trees.combine(inside, outside), tree)
    assert same(trees.combine(outside, inside), tree)


@hypothesis.given(TREES)
def test_unflatten_inverts_flatten(tree):
    assert same(trees.unflatten(trees.flatten(tree)), tree)


def test_patterns_match_whole_paths():
    paths = ["encoder/layers_1/mlp", "encoder/layers_10/mlp", "decoder/mlp"]
    assert trees.select(paths, ["encoder/layers_1/.*"]) == {"encoder/layers_1/mlp"}
    assert trees.select(paths, [".*mlp"]) == set(paths)


@pytest.mark.parametrize("pattern", ["mlp", "encoder", "nothing/.*", ""])
def test_a_pattern_that_trains_nothing_is_an_error(pattern):
    with pytest.raises(UserError, match=r"matches no parameter.*encoder/mlp"):
        trees.select(["encoder/mlp"], [pattern, ".*"])


def test_a_broken_pattern_is_an_error():
    with pytest.raises(UserError, match="not a regular expression"):
        trees.select(["encoder/mlp"], ["encoder/("])


def test_overlapping_trees_do_not_combine():
    leaf = np.zeros(1)
    with pytest.raises(ValueError, match="overlap at a/b"):
        trees.combine({"a": {"b": leaf}}, {"a": {"b": leaf, "c": leaf}})


def test_difference_names_each_leaf():
    leaf = np.zeros((2, 3))
    lines = trees.difference({"a": leaf, "b": leaf, "c": leaf}, {"b": leaf.T, "c": leaf, "d": leaf})
    assert lines == [
        "missing a (2, 3)",
        "unexpected d (2, 3)",
        "b has shape (3, 2), expected (2, 3)",
    ]


def test_checksum_sees_every_bit_name_and_type():
    tree = {"a": np.zeros(4, np.float32), "b": {"c": np.ones(2, np.float32)}}
    changed = {"a": np.zeros(4, np.float32), "b": {"c": np.ones(2, np.float32)}}
    assert trees.checksum(tree) == trees.checksum(changed)
    changed["a"][3] = np.nextafter(np.float32(0), np.float32(1))
    assert trees.checksum(tree) != trees.checksum(changed)
    assert trees.checksum(tree) != trees.checksum({"x": tree["a"], "b": tree["b"]})
    assert trees.checksum({"a": np.zeros(2, np.float32)}) != trees.checksum(
        {"a": np.zeros(2, np.int32)}
    )


def test_checksum_is_that_of_each_layer():
    layers = {f"layers_{n}": {"wo": np.full((2, 3), n, np.float32)} for n in range(11)}
    tree = {"norm": np.ones(2, np.float32), "decoder": layers}
    assert trees.checksum(trees.stack_layers(tree)) == trees.checksum(tree)
    swapped = {**layers, "layers_9": layers["layers_10"], "layers_10": layers["layers_9"]}
    stacked = trees.stack_layers({**tree, "decoder": swapped})
    assert trees.checksum(stacked) != trees.checksum(tree)


def test_checksum_is_sha256_of_what_older_runs_hashed():
    tree = {"a": {"x": jnp.arange(6.0).reshape(2, 3)}, "b": jnp.ones(3, jnp.bfloat16)}
    tree["c"], tree["d"] = jnp.zeros(()), np.zeros((0, 2), bool)
    text = b"a/x float32 (2, 3)\n" + np.arange(6, dtype=np.float32).tobytes()
    text += b"b bfloat16 (3,)\n" + b"\x80\x3f" * 3
    text += b"c float32 ()\n" + bytes(4) + b"d bool (0, 2)\n"
    assert trees.checksum(tree) == hashlib.sha256(text).hexdigest()[:16]


def test_the_same_arrays_are_hashed_once(monkeypatch):
    tree = {"layers": {"x": jnp.arange(4.0)}, "y": jnp.ones(2)}
    expected = trees.checksum(tree)
    monkeypatch.setattr(trees, "fingerprint", lambda leaves: len(list(leaves)))
    assert trees.checksum({"y": tree["y"], "layers": dict(tree["layers"])}) == expected
    # Another array, another name, an array that anyone can change: all are read.
    assert trees.checksum(tree | {"y": jnp.ones(2)}) == 5
    assert trees.checksum({"layers": tree["layers"], "z": tree["y"]}) == 5
    changing = {"x": np.ones(2)}
    assert trees.checksum(changing) == trees.checksum(changing) == 1
    known = len(trees._checksums)
    del tree
    assert len(trees._checksums) < known


def bytes_on_devices():
    return sum(array.nbytes for array in jax.live_arrays())


def test_layers_are_read_and_stacked_without_a_second_copy():
    def tree():
        layers = {f"layers_{n}": {"x": jnp.full((64, 64), float(n))} for n in range(8)}
        return {"a": layers, "norm": jnp.ones(3)}

    before = bytes_on_devices()
    given, stacked = tree(), trees.stack_layers(tree())
    size = (bytes_on_devices() - before) // 2
    assert size >= 8 * 64 * 64 * 4
    shardings = jax.tree.map(lambda leaf: leaf.sharding, stacked)
    found = trees.stack_and_release(given, shardings)
    assert bytes_on_devices() - before == 2 * size
    assert given["a"]["layers_3"]["x"].is_deleted()
    assert same(found, stacked)

    views = trees.layers_on_host(found)
    assert bytes_on_devices() - before == 2 * size
    assert same(views, tree())
    del views
    # A step can still write where its state was.
    place = found["a"]["layers"]["x"].unsafe_buffer_pointer()
    moved = jax.jit(lambda x: x + 1, donate_argnums=0)(found["a"]["layers"]["x"])
    assert moved.unsafe_buffer_pointer() == place


def test_shapes_of_layers_keep_where_they_are():
    mesh = jax.make_mesh((1, 1), ("data", "model"))
    placed = jax.NamedSharding(mesh, jax.P(None, "data", "model"))
    shape = jax.ShapeDtypeStruct((2, 4, 6), jnp.float32, sharding=placed)
    for layer in trees.unstack_layers({"layers": {"x": shape}}).values():
        assert layer["x"].shape == (4, 6)
        assert layer["x"].sharding.spec == jax.P("data", "model")


# Layers of one stack have the same leaves and shapes; the kind of array is the tree's.
SHAPES = st.dictionaries(
    st.sampled_from(["kernel", "scale", "mlp/wo", "bias"]),
    st.sampled_from([(), (2,), (2, 3)]),
    min_size=1,
)
STACKS = st.dictionaries(
    st.sampled_from(["encoder", "decoder", "a/b"]),
    st.tuples(SHAPES, st.sampled_from([1, 2, 11]), SHAPES),
)


def layered(stacks, make):
    """A tree with stacks of layers, and other leaves beside them."""
    leaves = {"token_embedder/embedding": make((2, 3), 0)}
    for place, (inside, length, beside) in stacks.items():
        leaves |= {f"{place}/norm/{path}": make(shape, 1) for path, shape in beside.items()}
        leaves |= {
            f"{place}/layers_{number}/{path}": make(shape, number)
            for number in range(length)
            for path, shape in inside.items()
        }
    return trees.unflatten(leaves)


def array(module):
    return lambda shape, seed: module.asarray(np.arange(np.prod(shape)).reshape(shape) + 100 * seed)


KINDS = {
    "numpy": array(np),
    "jax": array(jnp),
    "shapes": lambda shape, _: jax.ShapeDtypeStruct(shape, jnp.bfloat16),
}


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.settings(max_examples=8, deadline=None)
@hypothesis.given(stacks=STACKS)
def test_unstack_inverts_stack(kind, stacks):
    tree = layered(stacks, KINDS[kind])
    stacked = trees.flatten(trees.stack_layers(tree))
    assert not [path for path in stacked if "layers_" in path]
    for place, (inside, length, _) in stacks.items():
        assert {
            stacked[f"{place}/layers/{path}"].shape == (length, *shape)
            for path, shape in inside.items()
        } == {True}
    found = trees.flatten(trees.unstack_layers(trees.unflatten(stacked)))
    expected = trees.flatten(tree)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        assert isinstance(found[path], type(leaf) if kind != "jax" else jax.Array)
        assert found[path].dtype == leaf.dtype
        if kind == "shapes":
            assert found[path].shape == leaf.shape
        else:
            np.testing.assert_array_equal(found[path], leaf)


def test_the_tenth_layer_follows_the_ninth():
    tree = {f"layers_{number}": {"x": np.full(1, number)} for number in range(12)}
    np.testing.assert_array_equal(trees.stack_layers(tree)["layers"]["x"][:, 0], range(12))


def test_a_tree_without_layers_stays_as_it_is():
    tree = {"encoder": {"norm": {"scale": np.ones(2)}, "layers_x": {"y": np.ones(1)}}}
    tree["layers"] = tree["layers_0"] = np.zeros(3)  # leaves, not layers
    assert same(trees.stack_layers(tree), tree)
    assert same(trees.unstack_layers(tree), tree)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"layers_0": {"x": 1, "y": 1}, "layers_1": {"x": 1}}, "a/layers_0 has y and a/layers_1"),
        ({"layers_0": {"x": 1}, "layers_1": {"x": 1, "z": 1}}, "a/layers_1 has z and a/layers_0"),
        ({"layers_0": {"x": 1}, "layers_1": {"x": 2}}, r"a/layers_1/x is float32 \(2,\), in layer"),
        ({"layers_0": {"x": 1}, "layers_2": {"x": 1}}, "a/ has layers_0, layers_2; give"),
        ({"layers_0": {"x": 1}, "layers": {"x": 1}}, "a/ has layers_0, layers; give"),
    ],
)
def test_layers_that_differ_are_an_error(layers, message):
    tree = jax.tree.map(lambda size: np.zeros(size, np.float32), {"a": layers})
    with pytest.raises(UserError, match=message):
        trees.stack_layers(tree)


def test_layers_of_another_dtype_are_an_error():
    tree = {"layers_0": {"x": np.zeros(1)}, "layers_1": {"x": np.zeros(1, np.float32)}}
    with pytest.raises(UserError, match=r"layers_1/x is float32 \(1,\).*float64"):
        trees.stack_layers(tree)


@pytest.mark.parametrize(
    "stack",
    [{"x": np.zeros((2, 1)), "y": np.zeros((3, 1))}, {"x": np.zeros(())}, {"x": np.zeros((0, 1))}],
    ids=["uneven", "scalar", "empty"],
)
def test_a_stack_without_a_number_of_layers_is_an_error(stack):
    with pytest.raises(UserError, match="a/layers must hold all layers"):
        trees.unstack_layers({"a": {"layers": stack}})
