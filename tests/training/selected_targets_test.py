"""Objectives that leave out rows or targets by where they stand in a batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promot_jax.models import chunked_loss
from promot_jax.models.scored import InChunks, Whole
from promot_jax.training import objectives
from promot_jax.training.objectives import Tokens
from tests.training.objectives_test import (
    random_logits,
    scored,
    surprises,
    total,
    value_and_gradient,
    weighted,
)


def quantile_sides(perplexity, entropy, share):
    """Which rows are wrong and sure, and right and unsure: thresholds by halving, and the rest."""
    low, high = 0.0, 0.49
    for _ in range(10):
        alpha = (low + high) / 2
        wrong = perplexity > np.quantile(perplexity, 1 - alpha)
        wrong &= entropy <= np.quantile(entropy, alpha)
        unsure = perplexity <= np.quantile(perplexity, alpha)
        unsure &= entropy > np.quantile(entropy, 1 - alpha)
        part = (wrong.sum() + unsure.sum()) / len(perplexity)
        if abs(part - share) < 0.01:
            break
        low, high = (alpha, high) if part < share else (low, alpha)
    tilt = np.ptp(entropy) * (perplexity - perplexity.min())
    tilt = (tilt - np.ptp(perplexity) * (entropy - entropy.min())) / np.ptp(entropy)
    missing = max(1, round(len(perplexity) * share)) - (wrong | unsure).sum()
    for row in sorted(np.flatnonzero(~wrong & ~unsure), key=lambda row: -abs(tilt[row])):
        if missing > 0:
            (wrong if tilt[row] >= 0 else unsure)[row] = True
            missing -= 1
    return wrong, unsure


def expected_kept(own, targets, learnt, share, share_of_targets, neighbours):
    """Which targets are learnt, row by row in plain numbers."""
    log_p = own - np.log(np.exp(own).sum(-1, keepdims=True))
    nll, counts = surprises(own, targets), learnt.sum(1)
    perplexity = np.exp((nll * learnt).sum(1) / counts)
    entropy = (-(np.exp(log_p) * log_p).sum(-1) * learnt).sum(1) / counts
    wrong, unsure = quantile_sides(perplexity, entropy, share)
    kept = (learnt > 0) & (wrong | unsure)[:, None]
    surplus = max(0, kept.sum() - round(float(learnt.sum() * share * share_of_targets)))
    scores = {}
    for row, place in np.argwhere(kept & wrong[:, None]):
        beside = [p for p in (place - 1, place + 1) if 0 <= p < len(learnt[0]) and learnt[row, p]]
        near = sum(np.exp(nll[row, p]) for p in beside)
        scores[row, place] = (1 - neighbours) * np.exp(nll[row, place]) + neighbours * near
    for place in sorted(scores, key=scores.get, reverse=True)[:surplus]:
        kept[place] = False
    return kept, surplus > 0 and bool(scores)


@functools.partial(jax.jit, static_argnums=0)
def weights_of(chosen, own, batch):
    targets = batch["decoder_target_tokens"]
    return chosen.weights(Tokens(batch, scored(own, targets), lambda: None), {})


def test_q_tuning_keeps_what_its_quadrants_say():
    pruned, sizes = 0, (12, 6, 11)
    for seed in range(8):
        case = random_logits(seed, sizes)
        own, _, targets, learnt = case
        for share, of_targets in ((0.5, 0.6), (0.3, 1.0)):
            chosen = objectives.QTuning(share, of_targets, 0.3)
            kept, any_pruned = expected_kept(own, targets, learnt, share, of_targets, 0.3)
            if of_targets == 1:
                kept, _ = expected_kept(own, targets, learnt, share, 9.0, 0.3)
            pruned += any_pruned
            batch = {"decoder_loss_weights": learnt, "decoder_target_tokens": targets}
            found = np.asarray(weights_of(chosen, own, batch))
            assert (found & (learnt > 0) == kept).all(), seed
    assert pruned > 3


def test_rows_of_packed_lines_have_the_same_quadrants():
    own, _, targets, learnt = random_logits(1, (12, 6, 11))
    chosen = objectives.QTuning(0.5, 0.6)
    places = np.argwhere(learnt)
    # Two lines of six rows, one behind the other.
    line = places[:, 0] // 6
    slots = np.concatenate([np.arange((line == number).sum()) for number in range(2)])
    width = slots.max() + 1

    def packed(array):
        found = np.zeros((2, width, *array.shape[2:]), array.dtype)
        found[line, slots] = array[tuple(places.T)]
        return found

    rows = packed(np.broadcast_to(np.arange(12)[:, None] % 6 + 1, learnt.shape))
    batch = {
        "decoder_target_tokens": packed(targets),
        "decoder_loss_weights": packed(learnt),
        "decoder_segment_ids": rows,
        "decoder_target_slots": np.broadcast_to(np.arange(width), rows.shape),
    }
    plain = {"decoder_target_tokens": targets, "decoder_loss_weights": learnt}
    both = [(own, plain), (packed(own), batch)]
    whole, lines = (np.asarray(weights_of(chosen, *case)) for case in both)
    assert 0.2 < whole[learnt > 0].mean() < 0.5
    assert (lines[line, slots] == whole[tuple(places.T)]).all()


def test_a_batch_of_one_row_or_none_is_no_fault():
    own, start, targets, learnt = random_logits(2, (3, 4, 5))
    learnt[1:] = 0
    found, gradient, scalars = jax.jit(
        lambda own: value_and_gradient([objectives.QTuning(0.5, 1.0)], own, start, targets, learnt)
    )(own)
    assert scalars["kept"] == 1
    assert np.isfinite(found)
    assert np.isfinite(gradient).all()


def test_entropy_needs_no_whole_logits(monkeypatch):
    monkeypatch.setattr(chunked_loss, "CHUNK", 64)
    monkeypatch.setattr(chunked_loss, "FEWEST_COLUMNS", 8)
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(2, 3, 16)) * 2, jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(16, 37)), jnp.float32)
    targets = rng.integers(37, size=(2, 3))
    logits = np.asarray(hidden, np.float64) @ np.asarray(kernel, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -(np.exp(log_p) * log_p).sum(-1)
    for axis in (0, 1):
        head = chunked_loss.Head(kernel if axis else kernel.T, axis)
        found = InChunks(chunked_loss.token_losses(hidden, head, targets), hidden, head).entropy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    whole = Whole(None, jnp.asarray(logits, jnp.float32)).entropy()
    np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("leaves_out", ["expected", "random"])
def test_controls_leave_out_as_many_as_stm(leaves_out):
    case = random_logits(6)
    own, start, targets, learnt = case
    surprise, places = surprises(start, targets), np.argwhere(learnt)
    count = (np.exp(surprise) > 20.0)[learnt > 0].sum()
    assert count > 2
    chosen = objectives.STM(20.0, leaves_out)
    drawn = np.random.default_rng(0).random(learnt.shape).astype(np.float32)
    batch = {"decoder_loss_weights": learnt, "decoder_target_tokens": targets}
    tokens = Tokens(
        batch | {"drawn_places": drawn}, scored(own, targets), lambda: scored(start, targets)
    )
    found = np.asarray(chosen.weights(tokens, {}))
    order = surprise if leaves_out == "expected" else -drawn
    keep = learnt > 0
    for place in sorted(map(tuple, places), key=lambda place: order[place])[:count]:
        keep[place] = False
    assert (found & (learnt > 0) == keep).all()
    plain = total([objectives.STM(20.0)], *case)[1]["kept"]
    np.testing.assert_allclose(keep.sum() / learnt.sum(), plain, rtol=1e-6)
    if leaves_out == "expected":
        np.testing.assert_allclose(total([chosen], *case)[0], weighted(case, keep), rtol=1e-5)


def test_random_places_are_drawn_anew_with_each_key():
    chosen = objectives.STM(leaves_out="random")
    batch = {"decoder_target_tokens": np.zeros((3, 4), np.int32)}
    one, same, other = (
        chosen.written(batch, None, jax.random.key(seed))["drawn_places"] for seed in (0, 0, 1)
    )
    assert (one == same).all()
    assert (one != other).any()
    assert objectives.STM().written(batch, None, jax.random.key(0)) is batch
