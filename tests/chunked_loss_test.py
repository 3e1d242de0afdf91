"""The loss in chunks against the loss of whole logits, and against float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promot_jax import architectures, chunked_loss, losses
from promot_jax.chunked_loss import Head
from promot_jax.networks import lora
from tests import tiny
from tests.losses_test import reference


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


@settings(deadline=None, max_examples=15)
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
        found = losses.cross_entropy(logits, targets, weights, **options)
        return found.total, found

    def chunked(hidden, kernel):
        return total(hidden, kernel, targets, weights, vocab_axis, **options)

    logits = hidden.astype(np.float64) @ (kernel if vocab_axis else kernel.T)
    expected, expected_z = reference(logits, targets, weights, smoothing, z_loss)
    (loss, tokens), gradients = jax.value_and_grad(chunked, (0, 1), has_aux=True)(hidden, kernel)
    (_, whole), expected_gradients = jax.value_and_grad(dense, (0, 1), has_aux=True)(hidden, kernel)
    close = {"rtol": 1e-4, "atol": 2e-5 * max(scale, 1.0)}
    np.testing.assert_allclose(loss, expected, **close)
    np.testing.assert_allclose(jnp.sum(tokens.z_loss * weights), expected_z, **close)
    assert jnp.sum(tokens.correct * weights) == whole.correct
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, **close)
    np.testing.assert_allclose(chunked(hidden, kernel)[0], loss, rtol=1e-6)


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


def network(family):
    if family == "t5":
        return tiny.model()
    if family == "t5_tied":
        return tiny.model(logits_via_embedding=True)
    sizes = {"emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32, "num_layers": 1}
    config = {"vocab_size": 1280, "num_kv_heads": 1, "logit_scale": 0.25, **sizes}
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

        (_, found), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return found, gradients, model.score_batch(params, batch)

    chunked = measure()
    text, _ = loops(lambda params: jax.grad(lambda p: model.loss_fn(p, batch, None).total)(params),
                    params)  # fmt: skip
    monkeypatch.setattr(chunked_loss, "CHUNK", 10**9)
    dense = measure()
    whole, _ = loops(lambda params: jax.grad(lambda p: model.loss_fn(p, batch, None).total)(params),
                     params)  # fmt: skip
    # All logits as one array, in any arrangement of their axes.
    large = re.compile(r"f32\[(4,5,1280|20,1280|1280,20|1280,4,5|4,5,1,1280)\]")
    assert large.search(whole)
    assert not large.search(text)
    pairs = list(zip(jax.tree.leaves(chunked), jax.tree.leaves(dense), strict=True))
    assert len(pairs) > 10
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


def test_an_adapted_projection_takes_whole_logits():
    adapters = lora.Lora(pattern=".*logits_dense/kernel", rank=2, alpha=8.0)
    model = tiny.model().with_lora(adapters)
    params = model.init(jax.random.key(0))
    side = params["decoder"]["logits_dense"]
    side["lora_b"] = jnp.ones_like(side["lora_b"])
    merged = lora.remove(lora.merge(params, adapters))
    found = [
        m.loss_fn(p, random_batch(), None).total
        for m, p in ((model, params), (tiny.model(), merged))
    ]
    np.testing.assert_allclose(*found, rtol=1e-5)
