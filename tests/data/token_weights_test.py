"""Weights of targets from their text: which tokens a span is, and how they reach a batch."""

import contextlib
import dataclasses

import numpy as np
import pytest

from promot_jax.base.errors import UserError
from promot_jax.data import batching, packing, tasks
from promot_jax.data.token_weights import ByPattern, Given
from promot_jax.tasks import mini
from promot_jax.training import objectives
from promot_jax.training.replay import Replay
from tests import tiny
from tests.training.objectives_test import random_logits, scored, weighted

WORDS = mini.vocabulary()


def tokens_of(text):
    (found,) = tasks.encode_texts([{"inputs": "a", "targets": text}], WORDS, {
        "inputs": 9, "targets": 99,
    })  # fmt: skip
    return found


def pieces(tokens):
    return [WORDS.decode([i]) for i in tokens.targets.tolist()]


@pytest.mark.parametrize("text", ["the capital of mali is bamako", "lift the table and open it"])
def test_a_pattern_weighs_as_much_as_all_others(text):
    tokens = tokens_of(text)
    first, *_, last = text.split()
    weights = ByPattern(f"{last}$|^{first}", most=50.0)({}, tokens, WORDS)
    found = "".join(p for p, w in zip(pieces(tokens), weights, strict=True) if w > 1)
    assert found.replace(" ", "") == first + last
    keys = weights > 1
    # Summed up they are even, and the row counts as it did.
    np.testing.assert_allclose(weights[keys].sum(), weights[~keys].sum(), rtol=1e-6)
    np.testing.assert_allclose(weights.sum(), len(weights), rtol=1e-6)
    capped = ByPattern(f"^{first}", most=2.0)({}, tokens, WORDS)
    np.testing.assert_allclose(capped.max() / capped.min(), 2.0, rtol=1e-6)
    assert (ByPattern("nowhere")({}, tokens, WORDS) == 1).all()


def test_rows_bring_weights_of_texts():
    tokens = tokens_of("go to mali and to peru")
    row = {"token_weights": [["to", 0.5], ["to", 3.0], ["ru", 2.0]]}
    weights = Given()(row, tokens, WORDS)
    assert set(weights.tolist()) == {1.0, 0.5, 3.0, 2.0}
    order = [w for w in weights if w != 1.0]
    assert [w for i, w in enumerate(order) if i == 0 or w != order[i - 1]] == [0.5, 3.0, 2.0]
    # The end of the sequence is no text.
    assert weights[-1] == 1.0
    with pytest.raises(UserError, match="'mali' does not stand where it should in the targets"):
        Given()({"token_weights": [["peru", 2.0], ["mali", 2.0]]}, tokens, WORDS)
    with pytest.raises(UserError, match="a row has no column 'token_weights'; it has a; give"):
        Given()({"a": 1}, tokens, WORDS)
    with pytest.raises(UserError, match="rows that templates fill, not rows of chat"):
        Given()({"messages": [], "token_weights": [["to", 0.5]]}, tokens, WORDS)


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Weighs each target by its own number, so that a place in a batch tells its target."""

    def __call__(self, row, tokens, words):
        return tokens.targets.astype(np.float32)


def test_batches_have_the_weights_of_their_targets_packed_or_not():
    rates = {"mini_triviaqa": 0.5, "mini_rte": 0.5}
    reading = batching.train_batches(
        rates, tiny.LENGTHS, batching.FixedBatches(8), seed=0, vocabulary=WORDS,
        weights={"mini_triviaqa": Numbered()},
        marks={"prompt_ids": {"mini_triviaqa": 0, "mini_rte": -1}},
    )  # fmt: skip
    with contextlib.closing(reading):
        batch = next(reading)
    learnt, whose = batch["decoder_loss_weights"] > 0, batch["prompt_ids"] == 0
    scales, targets = batch[packing.SCALES], batch["decoder_target_tokens"]
    assert 0 < whose.sum() < 8
    assert (scales == np.where(learnt & whose[:, None], targets, 1)).all()
    assert scales.dtype == np.float32
    packer = packing.Packer([batch], None, WORDS.eos_id, 0, 1)
    packer.shapes = [packing.Shape(2, 160, 24)]
    line = packer(batch)
    assert line["decoder_tokens"].shape == (2, 160)
    pairs = [
        sorted(zip(*(each[name][each["decoder_loss_weights"] > 0] for name in names), strict=True))
        for each in (batch, line)
        for names in [("decoder_target_tokens", packing.SCALES)]
    ]
    assert pairs[0] == pairs[1]
    assert len({scale for _, scale in pairs[0]}) > 3


def test_the_loss_is_weighed_by_them():
    case = random_logits(0)
    own, _, targets, learnt = case
    scales = np.random.default_rng(0).random(learnt.shape).astype(np.float32)
    batch = {"decoder_loss_weights": learnt, "decoder_target_tokens": targets}
    chosen = objectives.RowWeights(ByPattern("x"))
    tokens = objectives.Tokens(batch | {packing.SCALES: scales}, scored(own, targets), None)
    reference = objectives.Reference(measured=({},))
    found, _ = objectives.total([chosen], tokens, {}, reference, learnt.sum(), 1)
    np.testing.assert_allclose(found, weighted(case, scales), rtol=1e-5)


def test_weights_are_of_the_mixture_and_not_of_its_replay():
    chosen = objectives.RowWeights(Given())
    stage = tiny.stage(objective=(chosen,), replay=Replay("mini_triviaqa", 0.5))
    assert stage.weights_in_rows == {"mini_rte": Given()}
    assert tiny.stage().weights_in_rows == {}
    with pytest.raises(UserError, match="more than one of objective"):
        tiny.stage(objective=(chosen, chosen))
