import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from promot_jax import trees
from promot_jax.errors import UserError

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
