"""Sampling over the chains of decoding_test."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from promot_jax.base.errors import UserError
from promot_jax.models import decoding
from tests.models.decoding_test import (
    EOS,
    batch_greedy,
    empty_cache,
    log_prob_and_length,
    markov,
    random_tables,
)


def expected_distribution(logits, temperature, top_k, top_p):
    """The restricted distribution of one row [V], token by token in float64."""
    probs = np.exp(np.asarray(logits, np.float64) / temperature)
    order = sorted(range(len(probs)), key=lambda token: -probs[token])
    order = order[:top_k] if top_k else order
    total, mass, kept = probs[order].sum(), 0.0, []
    for token in order:
        kept.append(token)
        mass += probs[token] / total
        # Rounding may bring the mass to 1 before the last token.
        if mass >= top_p < 1:
            break
    result = np.zeros(len(probs))
    result[kept] = probs[kept] / probs[kept].sum()
    return result


RESTRICTIONS = {
    "temperature": st.sampled_from([0.3, 1.0, 2.5]),
    "top_k": st.sampled_from([0, 1, 3, 40, 5000]),
    "top_p": st.sampled_from([1e-6, 0.3, 0.9, 0.999, 1.0]),
}


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([7, 3000]),
    options=st.fixed_dictionaries(RESTRICTIONS),
)
# Sums from the most probable token on are not exact enough here.
@example(seed=1, size=3000, options={"temperature": 1.0, "top_k": 0, "top_p": 0.999})
def test_keep_probable_equals_a_slow_calculation_and_transformers(seed, size, options):
    logits = np.random.default_rng(seed).normal(size=(3, size)).astype(np.float32) * 3
    restricted = decoding.keep_probable(jnp.asarray(logits), **options)
    probs = np.asarray(jax.nn.softmax(restricted))
    expected = [expected_distribution(row, **options) for row in logits]
    np.testing.assert_array_equal(probs > 0, np.asarray(expected) > 0)
    np.testing.assert_allclose(probs, expected, atol=1e-5)

    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    warpers = [transformers.TemperatureLogitsWarper(options["temperature"])]
    if options["top_k"]:
        warpers.append(transformers.TopKLogitsWarper(options["top_k"]))
    if options["top_p"] < 1:
        warpers.append(transformers.TopPLogitsWarper(options["top_p"]))
    theirs = torch.tensor(logits)
    for warper in warpers:
        theirs = warper(None, theirs)
    np.testing.assert_allclose(restricted, theirs.numpy(), rtol=1e-5)


def test_equal_tokens_stay_together():
    kept = decoding.keep_probable(jnp.array([[3.0, 2.0, 2.0, 1.0]]), top_k=2)
    np.testing.assert_array_equal(np.isfinite(kept), [[True, True, True, False]])


@functools.lru_cache
def sampler(max_length, **options):
    decoder = decoding.Sample(**options)

    @jax.jit
    def run(tables, rng):
        return decoder(
            empty_cache(len(tables), max_length),
            markov(tables),
            batch_size=len(tables),
            max_length=max_length,
            eos_id=EOS,
            rng=rng,
        )

    return run


def draw(tables, max_length=4, rng=None, **options):
    """Samples from chains [B, V, V] with a key or, without one, with the decoder's own seed."""
    return np.asarray(sampler(max_length, **options)(jnp.asarray(tables), rng))


def test_frequencies_of_sampled_sequences():
    table = np.log([[1e-9, 0.2, 0.5, 0.3], *[[1e-9, 0.5, 0.1, 0.4]] * 3])
    count = 20_000
    tokens = draw(np.broadcast_to(table, (count, 4, 4)), 2, jax.random.key(5))
    rows, counts = np.unique(tokens, axis=0, return_counts=True)
    found = {tuple(map(int, row)): n / count for row, n in zip(rows, counts, strict=True)}
    expected = {(1, 0): 0.2}
    for first, p in [(2, 0.5), (3, 0.3)]:
        expected |= {(first, second): p * q for second, q in [(1, 0.5), (2, 0.1), (3, 0.4)]}
    assert found.keys() == expected.keys()
    for sequence, p in expected.items():
        assert abs(found[sequence] - p) < 4 * (p * (1 - p) / count) ** 0.5


def test_sampling_is_a_function_of_the_key_and_the_row():
    tables = random_tables(0, 6)
    first = draw(tables, rng=jax.random.key(1))
    np.testing.assert_array_equal(first, draw(tables, rng=jax.random.key(1)))
    assert (first != draw(tables, rng=jax.random.key(2))).any()
    np.testing.assert_array_equal(first[:2], draw(tables[:2], rng=jax.random.key(1)))
    np.testing.assert_array_equal(draw(tables, seed=1), first)
    same = np.broadcast_to(tables[0], (20, *tables[0].shape))
    assert len(np.unique(draw(same), axis=0)) > 5


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-3}])
def test_sampling_the_best_token_is_greedy(options):
    tables = random_tables(4, 5)
    np.testing.assert_array_equal(draw(tables, 5, **options), batch_greedy(tables, 5)[0])


def test_log_probabilities_of_samples_are_those_of_the_network():
    tables = random_tables(2, 4)
    tokens, log_probs = decoding.sample(
        empty_cache(4, 5),
        markov(tables),
        batch_size=4,
        max_length=5,
        eos_id=EOS,
        rng=jax.random.key(0),
        temperature=0.5,
        top_k=3,
    )
    expected = [
        log_prob_and_length(*pair)[0] for pair in zip(tables, np.asarray(tokens), strict=True)
    ]
    np.testing.assert_allclose(log_probs, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature = 0 .*decoding.Greedy"),
        ({"temperature": -1.0}, "Sample.temperature = -1.0"),
        ({"temperature": float("nan")}, "Sample.temperature = nan"),
        ({"top_k": -1}, "Sample.top_k = -1"),
        ({"top_k": 2.5}, "Sample.top_k = 2.5"),
        ({"top_p": 0.0}, "Sample.top_p = 0.0"),
        ({"top_p": 1.1}, "Sample.top_p = 1.1"),
    ],
)
def test_bad_settings_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        decoding.Sample(**options)
