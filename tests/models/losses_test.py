import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promot_jax.models import losses


def reference(logits, targets, weights, smoothing, z_loss):
    """T5X's definition in float64, with the soft targets written out."""
    logits = np.asarray(logits, np.float64)
    vocab_size = logits.shape[-1]
    maximum = logits.max(-1, keepdims=True)
    log_z = maximum[..., 0] + np.log(np.exp(logits - maximum).sum(-1))
    log_probs = logits - log_z[..., None]
    soft = np.full(logits.shape, smoothing / (vocab_size - 1))
    np.put_along_axis(soft, targets[..., None], 1 - smoothing, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(soft * np.log(soft), axis=-1)
    token_z_loss = z_loss * log_z**2
    token_loss = -(soft * log_probs).sum(-1) - entropy + token_z_loss
    return (token_loss * weights).sum(), (token_z_loss * weights).sum()


def random_batch(seed, shape, scale):
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=shape) * scale + rng.normal() * scale).astype(np.float32)
    targets = rng.integers(shape[-1], size=shape[:-1])
    return logits, targets, rng.integers(2, size=shape[:-1]).astype(np.float32)


def cross_entropy(logits, targets, weights, **options):
    return losses.summed(losses.token_losses(logits, targets, **options), weights)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(1, 1, 2), (2, 3, 7), (3, 4, 50)]),
    scale=st.sampled_from([0.1, 1.0, 30.0, 1000.0]),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    z_loss=st.sampled_from([0.0, 1e-4]),
)
def test_cross_entropy_equals_float64_reference(seed, shape, scale, smoothing, z_loss):
    logits, targets, weights = random_batch(seed, shape, scale)
    loss = cross_entropy(logits, targets, weights, label_smoothing=smoothing, z_loss=z_loss)
    total, z_total = reference(logits, targets, weights, smoothing, z_loss)
    tolerance = {"rtol": 1e-5, "atol": 1e-5 * max(scale, 1.0)}
    np.testing.assert_allclose(loss.total, total, **tolerance)
    np.testing.assert_allclose(loss.z_loss, z_total, **tolerance)
    assert loss.weight == weights.sum()
    assert loss.correct == ((logits.argmax(-1) == targets) * weights).sum()


def test_gradient_is_softmax_less_soft_targets():
    logits, targets, weights = random_batch(0, (2, 3, 5), 2.0)
    smoothing, z_loss = 0.2, 0.01

    def total(logits):
        return cross_entropy(
            logits, targets, weights, label_smoothing=smoothing, z_loss=z_loss
        ).total

    log_z = np.log(np.exp(logits).sum(-1, keepdims=True))
    soft = np.full(logits.shape, smoothing / 4)
    np.put_along_axis(soft, targets[..., None], 1 - smoothing, axis=-1)
    expected = ((1 + 2 * z_loss * log_z) * np.exp(logits - log_z) - soft) * weights[..., None]
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(logits)), expected, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_smallest_loss_is_zero(smoothing):
    vocab_size = 11
    best = np.full((1, 1, vocab_size), np.log(max(smoothing, 1e-30) / (vocab_size - 1)))
    best[..., 3] = np.log(1 - smoothing)
    targets, weights = np.array([[3]]), np.ones((1, 1))
    loss = cross_entropy(best, targets, weights, label_smoothing=smoothing).total
    assert abs(loss) < 1e-6
    worse = cross_entropy(best * 1.5, targets, weights, label_smoothing=smoothing).total
    assert worse >= loss - 1e-6
    assert smoothing == 0.0 or worse > 1e-3


def test_large_logits_stay_finite():
    logits = np.array([[[3e4, -3e4, 0.0]]], np.float32)
    loss = cross_entropy(logits, np.array([[1]]), np.ones((1, 1)), label_smoothing=0.1)
    assert np.isfinite(loss.total)


def test_bfloat16_logits_are_summed_in_float32():
    logits, targets, weights = random_batch(1, (2, 3, 50), 1.0)
    low = jnp.asarray(logits, jnp.bfloat16)
    loss = cross_entropy(low, targets, weights)
    exact = cross_entropy(low.astype(jnp.float32), targets, weights)
    assert loss.total.dtype == jnp.float32
    assert loss.total == exact.total


def test_soft_targets_are_never_built():
    shape = (2, 3, 1009)
    program = jax.make_jaxpr(
        lambda logits, targets, weights: cross_entropy(
            logits, targets, weights, label_smoothing=0.1
        )
    )(np.zeros(shape, np.float32), np.zeros(shape[:2], int), np.ones(shape[:2]))
    text = str(program)
    assert "f32[2,3,1009]" in text
    assert "bool[2,3,1009]" not in text, "a one-hot encoding compares with every token"
    assert "gather" in text


def test_the_surprise_is_that_of_the_target_alone():
    logits, targets, _ = random_batch(2, (2, 3, 7), 5.0)
    expected = np.take_along_axis(
        np.asarray(jax.nn.log_softmax(logits)), targets[..., None], axis=-1
    )[..., 0]
    np.testing.assert_allclose(
        -losses.token_losses(logits, targets, label_smoothing=0.3).surprise, expected, atol=1e-5
    )


def test_errors_name_the_culprit():
    logits, targets, weights = random_batch(0, (2, 3, 5), 1.0)
    with pytest.raises(ValueError, match=r"label_smoothing = 1\.0"):
        cross_entropy(logits, targets, weights, label_smoothing=1.0)
    with pytest.raises(ValueError, match=r"losses \(2, 3\) need as many weights, got \(2, 2\)"):
        cross_entropy(logits, targets, weights[:, :2])
    with pytest.raises(ValueError, match=r"as many targets, got \(2, 2\)"):
        losses.token_losses(logits, targets[:, :2])
