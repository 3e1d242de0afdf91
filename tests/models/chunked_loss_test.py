"""The loss in chunks against the loss of whole logits, and against float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promot_jax.models import architectures, chunked_loss, losses
from promot_jax.models.chunked_loss import Head
from promot_jax.models.networks import lora
from promot_jax.training import adafactor
from tests import meshes, tiny
from tests.models.losses_test import reference
from tests.quick import quick_jit

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 64 columns or a few more."""
    monkeypatch.setattr(chunked_loss, "CHUNK", 1)
    monkeypatch.setattr(chunked_loss, "FEWEST_COLUMNS", 64)


def random_case(seed, vocab_size, vocab_axis, scale=1.0):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(2, 3, 8)).astype(np.float32) * scale
    shape = (8, vocab_size) if vocab_axis else (vocab_size, 8)
    kernel = rng.normal(size=shape).astype(np.float32)
    return hidden, kernel, rng.integers(vocab_size, size=(2, 3))


def total(hidden, kernel, targets, weights, vocab_axis, **options):
    tokens = chunked_loss.token_losses(hidden, Head(kernel, vocab_axis), targets, **options)
    return jnp.sum(tokens.loss * weights), tokens


# One chunk, chunks of 64 columns, chunks of which the last overlaps, few columns.
VOCABULARIES = [64, 1280, 1001, 7]


@settings(deadline=None, max_examples=8)
@given(
    seed=st.integers(0, 2**31),
    vocab_size=st.sampled_from(VOCABULARIES),
    vocab_axis=st.sampled_from([0, 1]),
    scale=st.sampled_from([0.01, 1.0, 50.0]),
    smoothing=st.sampled_from([0.0, 0.1]),
    z_loss=st.sampled_from([0.0, 1e-2]),
)
def test_equals_float64_and_the_dense_gradient(
    seed, vocab_size, vocab_axis, scale, smoothing, z_loss
):
    hidden, kernel, targets = random_case(seed, vocab_size, vocab_axis, scale)
    weights = np.random.default_rng(seed).integers(2, size=(2, 3)).astype(np.float32)
    options = {"label_smoothing": smoothing, "z_loss": z_loss}

    def dense(hidden, kernel):
        logits = hidden @ (kernel if vocab_axis else kernel.T)
        found = losses.summed(losses.token_losses(logits, targets, **options), weights)
        return found.total, found

    def chunked(hidden, kernel):
        return total(hidden, kernel, targets, weights, vocab_axis, **options)

    logits = hidden.astype(np.float64) @ (kernel if vocab_axis else kernel.T)
    expected, expected_z = reference(logits, targets, weights, smoothing, z_loss)

    @quick_jit
    def differentiated(*arguments):
        ours, theirs = (jax.value_and_grad(f, (0, 1), has_aux=True) for f in (chunked, dense))
        return ours(*arguments), theirs(*arguments), chunked(*arguments)[0]

    found = differentiated(hidden, kernel)
    ((loss, tokens), gradients), ((_, whole), expected_gradients), undifferentiated = found
    close = {"rtol": 1e-4, "atol": 2e-5 * max(scale, 1.0)}
    np.testing.assert_allclose(loss, expected, **close)
    np.testing.assert_allclose(jnp.sum(tokens.z_loss * weights), expected_z, **close)
    assert jnp.sum(tokens.correct * weights) == whole.correct
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, **close)
    np.testing.assert_allclose(undifferentiated, loss, rtol=1e-6)


def confident_case(certainty, vocab_size, dtype="bfloat16"):
    """Hidden states `[4, 6, 64]` that point to their target's column, the more the more certain."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(64, vocab_size)).astype(np.float32) / 8
    # Embeddings have much in common.
    kernel += rng.normal(size=(64, 1)) / 8
    targets = rng.integers(vocab_size, size=(4, 6))
    columns = kernel.T[targets]
    hidden = certainty * columns / np.square(columns).sum(-1, keepdims=True)
    hidden += 0.1 * rng.normal(size=hidden.shape)
    return jnp.asarray(hidden, dtype), jnp.asarray(kernel, jnp.float32), targets


def float64_gradients(hidden, kernel, targets, smoothing, z_loss):
    """Of hidden and kernel, without any cancellation; and the mean of 1 - p of the targets."""
    hidden, kernel = np.asarray(hidden, np.float64), np.asarray(kernel, np.float64)
    logits = hidden @ kernel
    maximum = logits.max(-1, keepdims=True)
    odds = np.exp(logits - maximum)
    log_z = maximum + np.log(odds.sum(-1, keepdims=True))
    share = odds / odds.sum(-1, keepdims=True)
    np.put_along_axis(odds, targets[..., None], 0.0, axis=-1)
    missed = odds.sum(-1, keepdims=True) * np.exp(maximum - log_z)
    vocab_size = kernel.shape[1]
    soft = np.full(logits.shape, smoothing / (vocab_size - 1))
    np.put_along_axis(soft, targets[..., None], 0.0, axis=-1)
    gradient = share * (1 + 2 * z_loss * log_z) - soft
    at = np.take_along_axis(share, targets[..., None], axis=-1)
    target = smoothing - missed + 2 * z_loss * log_z * at
    np.put_along_axis(gradient, targets[..., None], target, axis=-1)
    rows = hidden.reshape(-1, hidden.shape[-1])
    return gradient @ kernel.T, rows.T @ gradient.reshape(len(rows), -1), missed.mean()


def relative_error(found, expected, axis=None):
    """Of the whole, or the largest of the rows along an axis."""
    error = np.linalg.norm(np.asarray(found, np.float64) - expected, axis=axis)
    return (error / np.linalg.norm(expected, axis=axis)).max()


# What rounding a gradient to bfloat16 costs, and a little; ordinary autodiff has as much.
BFLOAT16 = 0.004
CERTAINTIES = (2.0, 20.0, 30.0, 45.0, 60.0)


@pytest.mark.parametrize("vocab_axis", [0, 1])
@pytest.mark.parametrize(
    ("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 1e-4), (0.1, 1e-4)]
)
def test_gradients_of_certain_tokens_in_bfloat16_against_float64(vocab_axis, smoothing, z_loss):
    @quick_jit
    def gradients(hidden, kernel, targets):
        def loss(hidden, kernel):
            options = {"label_smoothing": smoothing, "z_loss": z_loss}
            return total(hidden, kernel, targets, 1.0, vocab_axis, **options)[0]

        return jax.grad(loss, (0, 1))(hidden, kernel if vocab_axis else kernel.T)

    missing = []
    for certainty in CERTAINTIES:
        case = confident_case(certainty, 1001)
        *expected, missed = float64_gradients(*case, smoothing, z_loss)
        missing.append(missed)
        of_hidden, of_kernel = gradients(*case)
        assert of_hidden.dtype == jnp.bfloat16
        assert relative_error(of_hidden, expected[0], -1) < BFLOAT16, certainty
        of_kernel = of_kernel if vocab_axis else of_kernel.T
        # Nothing of it is bfloat16.
        assert relative_error(of_kernel, expected[1]) < 1e-4, certainty
    assert missing[0] > 0.9
    assert 1e-5 < missing[3] < 1e-3
    assert missing[4] < 1e-4


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_products_that_round_their_operands_lose_no_more_than_that(monkeypatch, smoothing):
    """A TPU multiplies float32 numbers as if they were bfloat16."""

    def rounded(array):
        return array.astype(jnp.bfloat16).astype(jnp.float32)

    @quick_jit
    def gradients(hidden, kernel, targets):
        def loss(hidden, kernel):
            return total(hidden, kernel, targets, 1.0, 1, label_smoothing=smoothing)[0]

        return jax.grad(loss, (0, 1))(hidden, kernel)

    monkeypatch.setattr(chunked_loss, "_dot", lambda a, b: rounded(a) @ rounded(b))
    for certainty in CERTAINTIES:
        hidden, kernel, targets = confident_case(certainty, 1001)
        exact = float64_gradients(hidden, rounded(kernel), targets, smoothing, 0.0)
        found = gradients(hidden, kernel, targets)
        for ours, expected in zip(found, exact[:2], strict=True):
            assert relative_error(ours, expected) < 2 * BFLOAT16, certainty


def test_a_certain_token_has_an_exact_loss():
    hidden, kernel, targets = confident_case(60.0, 1001)
    logits = np.asarray(hidden, np.float64) @ np.asarray(kernel, np.float64)
    at = np.take_along_axis(logits, targets[..., None], axis=-1)
    np.put_along_axis(logits, targets[..., None], -np.inf, axis=-1)
    expected = np.log1p(np.exp(logits - at).sum(-1))
    _, tokens = total(hidden, kernel, targets, 1.0, 1)
    assert expected.min() < 1e-9
    np.testing.assert_allclose(tokens.loss, expected, rtol=1e-4)


def test_a_vocabulary_of_two():
    hidden, kernel, _ = random_case(0, 2, 1)
    targets = np.zeros((2, 3), np.int64)
    found = quick_jit(jax.grad(lambda hidden: total(hidden, kernel, targets, 1.0, 1)[0]))(hidden)
    expected, *_ = float64_gradients(hidden, kernel, targets, 0.0, 0.0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


# Gradients of certain tokens on meshes whose axes divide vocabulary, H and batch.
ON_A_MESH = """
import sys
import jax, numpy as np
from promot_jax.models import chunked_loss
from promot_jax.base import partitioning
from tests.models.chunked_loss_test import confident_case, total

chunked_loss.CHUNK, chunked_loss.FEWEST_COLUMNS = 1, 64
found = {}
for name, mesh in (
    ("model", partitioning.make_mesh(4)), ("fsdp", partitioning.make_mesh(2, fsdp=4))
):
    for axis in (0, 1):
        # 1,016 columns in 4 parts of 254: the last chunk of each overlaps.
        hidden, kernel, targets = confident_case(40.0, 1016)
        spec = jax.sharding.PartitionSpec(*(("fsdp", "model") if axis else ("model", "fsdp")))
        kernel = jax.device_put(kernel if axis else kernel.T, jax.NamedSharding(mesh, spec))
        with partitioning.activate(mesh):
            rows = partitioning.shard_batch(mesh, {"hidden": np.tile(hidden, (2, 1, 1)),
                                                   "targets": np.tile(targets, (2, 1))})
            gradients = jax.jit(jax.grad(
                lambda h, k, t: total(h, k, t, 0.5, axis, label_smoothing=0.1)[0], (0, 1)
            ))(rows["hidden"], kernel, rows["targets"])
        for what, leaf in zip(("hidden", "kernel"), gradients):
            found[f"{name}/{axis}/{what}"] = np.asarray(leaf.astype("float32"))
np.savez(sys.argv[1], **found)
"""


def test_gradients_of_certain_tokens_on_a_mesh(tmp_path):
    found = meshes.found(ON_A_MESH, tmp_path)
    of_hidden, of_kernel, _ = float64_gradients(*confident_case(40.0, 1016), 0.1, 0.0)
    assert len(found.files) == 8
    for name in found.files:
        _, axis, what = name.split("/")
        if what == "hidden":
            # Every row stands twice and counts half.
            assert relative_error(found[name][:4] * 2, of_hidden) < BFLOAT16, name
        else:
            ours = found[name] if axis == "1" else found[name].T
            assert relative_error(ours, of_kernel) < 1e-4, name


def loops(function, *arguments):
    """Returns the compiled program and how many loops it has."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return text, len(re.findall(r" while\(", text))


def test_chunks_are_computed_twice_only_where_the_projection_trains():
    hidden, kernel, targets = random_case(0, 1280, 1)

    def loss(hidden, kernel):
        return total(hidden, kernel, targets, 1.0, 1)[0]

    for argument, expected in ((0, 1), (1, 2), ((0, 1), 2)):
        _, found = loops(jax.grad(loss, argument), hidden, kernel)
        assert found == expected, argument


def network(family, **changes):
    if family == "t5":
        return tiny.model(**changes)
    if family == "t5_tied":
        # A scale that bfloat16 would round.
        return tiny.model(logits_via_embedding=True, **changes | {"emb_dim": 24})
    sizes = {"emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32, "num_layers": 1}
    config = {"vocab_size": 1280, "num_kv_heads": 1, "logit_scale": 0.3, **sizes, **changes}
    config["logits_via_embedding"] = False
    return architectures.build("decoder", config, tiny.model().vocabulary)


def random_batch():
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 1280, (4, 9)).astype(np.int32)
    return {
        "encoder_input_tokens": tokens,
        "encoder_segment_ids": np.ones_like(tokens),
        "decoder_target_tokens": tokens[:, :5],
        "decoder_input_tokens": np.pad(tokens[:, :4], ((0, 0), (1, 0))),
        "decoder_loss_weights": (np.arange(5) < rng.integers(1, 6, (4, 1))).astype(np.int32),
    }


@pytest.mark.parametrize("family", ["t5", "t5_tied", "decoder"])
def test_a_model_has_the_loss_of_its_logits(family, monkeypatch):
    model, batch = network(family), random_batch()
    params = model.init(jax.random.key(0))

    def measure():
        def loss(params):
            found = model.loss_fn(params, batch, None, label_smoothing=0.1, z_loss=0.01)
            return found.total, found

        def measured(params):
            (_, found), gradients = jax.value_and_grad(loss, has_aux=True)(params)
            return found, gradients, model.score_batch(params, batch)

        program = jax.jit(measured).lower(params).compile()
        return program(params), program.as_text()

    chunked, text = measure()
    monkeypatch.setattr(chunked_loss, "CHUNK", 10**9)
    dense, whole = measure()
    # All logits as one array, in any arrangement of their axes.
    large = re.compile(r"f32\[(4,5,1280|20,1280|1280,20|1280,4,5|4,5,1,1280)\]")
    assert large.search(whole)
    assert not large.search(text)
    pairs = list(zip(jax.tree.leaves(chunked), jax.tree.leaves(dense), strict=True))
    assert len(pairs) > 10
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("family", ["t5", "t5_tied", "decoder"])
def test_a_loss_does_not_depend_on_how_many_rows_there_are(family, monkeypatch):
    """In bfloat16 too: few rows have whole logits, many are computed in chunks."""
    model, batch = network(family, dtype="bfloat16"), random_batch()
    params = model.init(jax.random.key(0))

    def measure():
        return quick_jit(
            lambda params: (
                model.loss_fn(params, batch, None, label_smoothing=0.1, z_loss=0.01),
                model.score_batch(params, batch),
            )
        )(params)

    chunked = measure()
    monkeypatch.setattr(chunked_loss, "CHUNK", 10**9)
    for ours, theirs in zip(jax.tree.leaves(chunked), jax.tree.leaves(measure()), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=3e-6)


@pytest.mark.parametrize("vocab_axis", [0, 1])
def test_a_frozen_projection_is_not_copied(vocab_axis):
    """At mT5-small's shape a copy is half a gigabyte."""
    kernel = jax.ShapeDtypeStruct((256, 16384) if vocab_axis else (16384, 256), jnp.float32)
    tokens = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    hidden = jax.ShapeDtypeStruct((2, 64, 256), jnp.float32)

    def loss(hidden, kernel, targets):
        return total(hidden, kernel, targets, 1.0, vocab_axis)[0]

    # Tests compile without what makes the copy worth its while.
    usual = {"xla_cpu_use_fusion_emitters": True, "xla_backend_optimization_level": 3}
    lowered = jax.jit(jax.grad(loss)).lower(hidden, kernel, tokens)
    program = lowered.compile(compiler_options=usual)
    assert program.memory_analysis().temp_size_in_bytes < kernel.size * 4 // 4


def test_a_projection_is_updated_in_place(monkeypatch):
    """Beside its gradient, nothing of its size exists in a step that gives its memory away."""
    monkeypatch.setattr(chunked_loss, "CHUNK", 2**18)
    tx = adafactor.adafactor(1e-3)

    def step(params, slots, hidden, targets):
        def loss(params):
            head = Head(params["kernel"], 1)
            found = jnp.tanh(hidden @ params["before"])
            options = {"label_smoothing": 0.1, "z_loss": 1e-4}
            return chunked_loss.token_losses(found, head, targets, **options).loss.sum()

        updates, slots = tx.update(jax.grad(loss)(params), slots, params)
        return optax.apply_updates(params, updates), slots

    def shaped(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    kernel = shaped(256, 32768)
    params = {"before": shaped(256, 256), "kernel": kernel}
    arguments = (
        params,
        jax.eval_shape(tx.init, params),
        shaped(8, 16, 256),
        shaped(8, 16, dtype=int),
    )
    program = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()
    assert program.memory_analysis().temp_size_in_bytes < kernel.size * 4 * 1.5


def test_an_adapted_projection_takes_whole_logits():
    adapters = lora.Lora(pattern=".*logits_dense/kernel", rank=2, alpha=8.0)
    model = tiny.model().with_lora(adapters)
    params = model.init(jax.random.key(0))
    side = params["decoder"]["logits_dense"]
    side["lora_b"] = jnp.ones_like(side["lora_b"])
    merged = lora.remove(lora.merge(params, adapters))
    found = [
        quick_jit(m.loss_fn)(p, random_batch(), None).total
        for m, p in ((model, params), (tiny.model(), merged))
    ]
    np.testing.assert_allclose(*found, rtol=1e-5)
