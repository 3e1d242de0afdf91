"""Greedy and beam search against `transformers`' generate, on copied random weights."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from promot_jax import models
from promot_jax.models import decoding
from promot_jax.models.networks import t5
from tests.models import huggingface_parity_test as parity

pytestmark = pytest.mark.long

torch = pytest.importorskip("torch")

EOS = 1
ROWS, INPUT_LENGTH, MAX_LENGTH = 96, 9, 12


class Vocabulary:
    eos_id = EOS


@pytest.fixture(scope="module")
def pair():
    """A torch model, our model and our parameters, all with the same weights."""
    model, _ = parity.pair("gated-gelu", ("gelu", "linear"))
    with torch.no_grad():
        # Sure choices, so that a few more tokens cost little, and an end that is among them.
        model.lm_head.weight *= 3.0
        model.lm_head.weight[EOS] *= 2.0
    params = parity.copy_weights(model, parity.names(2, ("wi_0", "wi_1", "wo")))
    config = t5.T5Config(
        vocab_size=model.config.vocab_size,
        emb_dim=model.config.d_model,
        num_heads=model.config.num_heads,
        head_dim=model.config.d_kv,
        mlp_dim=model.config.d_ff,
        num_encoder_layers=2,
        num_decoder_layers=2,
    )
    return model, models.EncoderDecoderModel(t5.Transformer(config), Vocabulary()), params


def inputs():
    """Random inputs of 2 to 9 tokens, padded with 0, each with an end: int [ROWS, 9]."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, 64, size=(ROWS, INPUT_LENGTH))
    lengths = rng.integers(2, INPUT_LENGTH + 1, size=(ROWS, 1))
    places = np.arange(INPUT_LENGTH)
    return np.where(places < lengths - 1, tokens, np.where(places == lengths - 1, EOS, 0))


def generate(model, tokens, **options):
    """Tokens of `transformers`, without the start and filled up with 0: int [B, MAX_LENGTH]."""
    output = model.generate(
        input_ids=torch.tensor(tokens),
        attention_mask=torch.tensor(tokens > 0),
        max_new_tokens=MAX_LENGTH,
        do_sample=False,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=EOS,
        forced_eos_token_id=None,
        **options,
    ).numpy()
    assert (output[:, 0] == 0).all()
    tokens = np.pad(output[:, 1:], ((0, 0), (0, MAX_LENGTH + 1 - output.shape[1])))
    # Its beam search fills up with the end where the padding is 0.
    return np.where(np.cumsum(tokens == EOS, axis=1) - (tokens == EOS) > 0, 0, tokens)


@functools.lru_cache
def search_of(model, early_stopping, **rules):
    """Our beam search, compiled once for all length penalties."""

    @jax.jit
    def run(params, length_penalty):
        decoder = decoding.huggingface_beam(4, length_penalty, early_stopping)
        batch = {"encoder_input_tokens": inputs()}
        decoder = dataclasses.replace(decoder, **rules)
        return model.predict_batch(params, batch, decoder, MAX_LENGTH)

    return run


def assert_ends_matter(tokens):
    """A good share of the rows ends before full length, and a good share does not."""
    early = (tokens[:, :-1] == EOS).any(axis=1).mean()
    assert 0.1 < early < 0.95, early
    assert len({tuple(row) for row in tokens}) > ROWS / 3


def test_greedy(pair):
    model, ours, params = pair
    expected = generate(model, inputs(), num_beams=1)
    assert_ends_matter(expected)
    batch = {"encoder_input_tokens": inputs()}
    tokens = jax.jit(lambda p: ours.predict_batch(p, batch, decoding.Greedy(), MAX_LENGTH))(params)
    np.testing.assert_array_equal(tokens, expected)


CASES = [(0.6, True), (2.0, True), (2.0, "never"), (-1.0, "never"), (2.0, False)]
# Their programs are those of the others.
CASES += [
    pytest.param(*case, marks=pytest.mark.slow)
    for case in ((0.0, "never"), (0.6, "never"), (1.0, "never"), (0.0, True), (1.0, True))
]


@pytest.mark.parametrize(("length_penalty", "early_stopping"), CASES)
def test_beam(pair, length_penalty, early_stopping):
    model, ours, params = pair
    expected = generate(
        model,
        inputs(),
        num_beams=4,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
    )
    assert_ends_matter(expected)
    tokens = search_of(ours, early_stopping)(params, length_penalty)
    np.testing.assert_array_equal(tokens, expected)


def test_every_rule_matters_on_these_inputs(pair):
    model, ours, params = pair
    expected = generate(model, inputs(), num_beams=4, length_penalty=2.0, early_stopping=True)
    for rule in ("length_penalty", "finish", "stop"):
        search = search_of(ours, True, **{rule: getattr(decoding.Beam(), rule)})
        assert (search(params, 2.0) != expected).any(axis=1).sum() > 5, rule
