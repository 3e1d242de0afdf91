"""The divergence of two models in chunks against that of whole logits, and against float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from promot_jax.models import chunked_divergence, chunked_loss, losses
from promot_jax.models.chunked_loss import Head
from tests import meshes
from tests.models.chunked_loss_test import (
    BFLOAT16,
    loops,
    network,
    random_batch,
    relative_error,
    small_chunks,  # noqa: F401 (every test of this file has small chunks)
)
from tests.quick import quick_jit

pytestmark = pytest.mark.long
DIRECTIONS = ("forward", "reverse")


def pair(seed, vocab_size, distance, dtype="float32", scale=1.0):
    """Hidden states `[2, 3, 16]` and kernels `[16, V]` of a model and of one at a distance."""
    rng = np.random.default_rng(seed)
    hidden = scale * rng.normal(size=(2, 3, 16))
    # Columns have much in common, as embeddings do.
    kernel = rng.normal(size=(16, vocab_size)) / 4 + rng.normal(size=(16, 1))
    moved = [part + distance * rng.normal(size=part.shape) for part in (hidden, kernel)]
    arrays = [hidden, kernel, *moved]
    return [jnp.asarray(a, dtype if n % 2 == 0 else "float32") for n, a in enumerate(arrays)]


def chunked(direction, vocab_axis, hidden, kernel, other, other_kernel):
    """The sum of the divergences, each token's weight its number; both models' normalisers."""

    def scored(hidden, kernel):
        head = Head(kernel if vocab_axis else kernel.T, vocab_axis)
        targets = jnp.zeros(hidden.shape[:2], jnp.int32)
        return hidden, head, chunked_loss.token_losses(hidden, head, targets).log_z

    model, reference = scored(hidden, kernel), scored(other, other_kernel)
    found = chunked_divergence.divergence(*model, reference, direction)
    weighted = jnp.sum(found * (1 + jnp.arange(found.size).reshape(found.shape)))
    return weighted, (found, (model[2], reference[2]))


def dense(direction, hidden, kernel, other, other_kernel):
    logits = hidden.astype(jnp.float32) @ kernel
    found = losses.divergence(logits, other.astype(jnp.float32) @ other_kernel, direction)
    weighted = jnp.sum(found * (1 + jnp.arange(found.size).reshape(found.shape)))
    return weighted, (found, None)


def log_sums(*logits):
    return [np.log(np.exp(one).sum(-1)) for one in logits]


def float64(direction, hidden, kernel, other, other_kernel, normalisers=None):
    """Divergences, and gradients of their weighted sum by hidden state and kernel, by the book."""
    hidden, kernel, other, other_kernel = (
        np.asarray(array, np.float64) for array in (hidden, kernel, other, other_kernel)
    )
    logits = (hidden @ kernel, other @ other_kernel)
    normalisers = normalisers or log_sums(*logits)
    log_p, log_q = (
        one - np.asarray(log_z, np.float64)[..., None]
        for one, log_z in zip(logits, normalisers, strict=True)
    )
    p, q = np.exp(log_p), np.exp(log_q)
    if direction == "forward":
        found, slope = (q * (log_q - log_p)).sum(-1), p - q
    else:
        found = (p * (log_p - log_q)).sum(-1)
        slope = p * (log_p - log_q - found[..., None])
    slope = slope * (1 + np.arange(found.size).reshape(found.shape))[..., None]
    rows = hidden.reshape(-1, hidden.shape[-1])
    return found, slope @ kernel.T, rows.T @ slope.reshape(len(rows), -1)


@functools.cache
def measures(direction, vocab_axis):
    """Compiled: divergences and gradients in chunks and of whole logits."""
    ways = functools.partial(chunked, direction, vocab_axis), functools.partial(dense, direction)
    return [quick_jit(jax.value_and_grad(way, (0, 1), has_aux=True)) for way in ways]


# Few shapes, so that little is compiled: one chunk and several, of which the last overlaps.
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("vocab_size", [7, 1001])
@pytest.mark.parametrize("vocab_axis", [0, 1])
@pytest.mark.parametrize("direction", DIRECTIONS)
@example(seed=272264, distance=0.01, scale=0.1)
@example(seed=1711, distance=0.01, scale=0.1)
@example(seed=480, distance=0.01, scale=0.1)
@settings(deadline=None, max_examples=8)
@given(
    seed=st.integers(0, 2**31),
    distance=st.sampled_from([1e-2, 1.0]),
    scale=st.sampled_from([0.1, 3.0]),
)
def test_equals_float64_and_whole_logits(
    direction, vocab_axis, vocab_size, dtype, seed, distance, scale
):
    case = pair(seed, vocab_size, distance, dtype, scale)
    expected, *exact = float64(direction, *case)
    models = [[np.asarray(part, np.float64) for part in two] for two in (case[:2], case[2:])]
    logits = [hidden @ kernel for hidden, kernel in models]
    products = max((abs(a) @ abs(b)).max() for a, b in models)
    # What rounds in a logit is in its probability, times the token's weight and the column.
    last = expected.size * products * 2.0**-24 * abs(models[0][1]).max(), 0.0
    for measure in measures(direction, vocab_axis):
        (_, (found, normalisers)), pulled = measure(*case)
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-6)
        gradients = exact
        if normalisers is not None:
            # A few bits round: of products, of a sum, of its logarithm, and of the last addition.
            # In reverse they cancel. Forward they are in each p, times the columns' common part.
            rounding = products * 2.0**-22 + np.log(vocab_size) * 2.0**-24
            np.testing.assert_allclose(normalisers, log_sums(*logits), rtol=0, atol=rounding)
            if direction == "forward":
                gradients = float64(direction, *case, normalisers)[1:]
        assert pulled[0].dtype == dtype
        limit = 5e-4 if dtype == "float32" else 2 * BFLOAT16
        for ours, theirs, rounding in zip(pulled, gradients, last, strict=True):
            atol = limit * (np.abs(theirs).max() + 1e-5) + rounding
            np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, atol=atol)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_model_has_no_divergence_from_itself(direction):
    hidden, kernel, *_ = pair(0, 1001, 1.0)
    for measure in measures(direction, 1):
        (_, (found, _)), pulled = measure(hidden, kernel, hidden, kernel)
        assert not found.any()
        assert not any(leaf.any() for leaf in pulled)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("distance", [1e-3, 1e-1])
def test_products_that_round_their_operands_keep_small_differences(
    monkeypatch, direction, distance
):
    """A TPU rounds to bfloat16: of two means that are nearly equal nothing would be left."""

    def rounded(array):
        return array.astype(jnp.bfloat16).astype(jnp.float32)

    # Logits are exact: their rounding is the model's, not the gradient's.
    hidden, kernel, other, other_kernel = map(rounded, pair(0, 1001, distance))
    monkeypatch.setattr(chunked_loss, "_dot", lambda a, b: rounded(a) @ rounded(b))
    case = hidden, kernel, other, other_kernel
    _, *expected = float64(direction, *case)
    found = quick_jit(jax.grad(lambda *four: chunked(direction, 1, *four)[0], (0, 1)))(*case)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < 4 * BFLOAT16


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_chunks_are_computed_again_only_where_the_projection_trains(direction):
    hidden, kernel, other, other_kernel = pair(0, 1280, 1.0)

    def measure(hidden, kernel, log_z, other_log_z):
        reference = other, Head(other_kernel, 1), other_log_z
        return chunked_divergence.divergence(
            hidden, Head(kernel, 1), log_z, reference, direction
        ).sum()

    normalisers = [jnp.zeros((2, 3))] * 2
    # Of KL(model || reference), the gradient of a column needs the divergence.
    for argument, expected in ((0, 1), (1, 1 + (direction == "reverse")), ((0, 1), 2)):
        _, found = loops(jax.grad(measure, argument), hidden, kernel, *normalisers)
        assert found == expected, argument


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        *(("t5_tied", "bfloat16"), ("decoder", "float32")),
        pytest.param("t5_tied", "float32", marks=pytest.mark.slow),
        pytest.param("decoder", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_a_model_has_the_divergence_of_its_logits(family, dtype, monkeypatch):
    model, batch = network(family, dtype=dtype), random_batch()
    params, start = (model.init(jax.random.key(seed)) for seed in (0, 1))

    def measure():
        @quick_jit
        @jax.grad
        def pulled(params):
            scored, reference = model.scored(params, batch), model.scored(start, batch)
            return sum(scored.divergence(reference, way).sum() for way in DIRECTIONS)

        @quick_jit
        def found(params):
            scored, reference = model.scored(params, batch), model.scored(start, batch)
            return [scored.divergence(reference, way) for way in DIRECTIONS]

        return found(params), pulled(params)

    chunks = measure()
    assert (chunks[0][0] > 0.01).all()
    monkeypatch.setattr(chunked_loss, "CHUNK", 10**9)
    whole = measure()
    for ours, theirs in zip(chunks[0], whole[0], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5)
    limit = 1e-3 if dtype == "float32" else 0.05
    for ours, theirs in zip(*map(jax.tree.leaves, (chunks[1], whole[1])), strict=True):
        size = np.abs(theirs).max() + 1e-6
        np.testing.assert_allclose(ours, theirs, atol=limit * size)


# Both divergences on meshes whose axes divide vocabulary, H and batch.
ON_A_MESH = """
import sys
import jax, numpy as np
from promot_jax.models import chunked_loss
from promot_jax.base import partitioning
from tests.models.divergence_test import DIRECTIONS, chunked, pair

chunked_loss.CHUNK, chunked_loss.FEWEST_COLUMNS = 1, 64
found = {}
for name, mesh in (
    ("model", partitioning.make_mesh(4)), ("fsdp", partitioning.make_mesh(2, fsdp=4))
):
    hidden, kernel, other, other_kernel = pair(0, 1016, 0.3)
    spec = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp", "model"))
    kernels = [jax.device_put(each, spec) for each in (kernel, other_kernel)]
    with partitioning.activate(mesh):
        rows = partitioning.shard_batch(
            mesh, {"own": np.tile(hidden, (4, 1, 1)), "other": np.tile(other, (4, 1, 1))}
        )
        for direction in DIRECTIONS:
            measure = lambda h, k: chunked(direction, 1, h, k, rows["other"], kernels[1])
            (_, (values, _)), pulled = jax.jit(jax.value_and_grad(measure, (0, 1), has_aux=True))(
                rows["own"], kernels[0]
            )
            for what, leaf in zip(("values", "hidden", "kernel"), (values, *pulled)):
                found[f"{name}/{direction}/{what}"] = np.asarray(leaf)
np.savez(sys.argv[1], **found)
"""


def test_divergences_on_a_mesh(tmp_path):
    found = meshes.found(ON_A_MESH, tmp_path)
    hidden, kernel, other, other_kernel = pair(0, 1016, 0.3)
    rows = [jnp.tile(array, (4, 1, 1)) for array in (hidden, other)]
    for direction in DIRECTIONS:
        expected = float64(direction, rows[0], kernel, rows[1], other_kernel)
        for mesh in ("model", "fsdp"):
            for what, theirs in zip(("values", "hidden", "kernel"), expected, strict=True):
                ours = found[f"{mesh}/{direction}/{what}"]
                assert relative_error(ours, theirs) < 1e-4, (mesh, direction, what)
