"""Each objective against its authors' formula, and what several of them come to."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promot_jax.base import values
from promot_jax.base.errors import UserError
from promot_jax.data import packing
from promot_jax.models import losses
from promot_jax.models.scored import Whole
from promot_jax.training import objectives
from promot_jax.training.objectives import Reference, Start, Tokens
from tests import tiny

SIZES = (4, 6, 11)


def random_logits(seed, sizes=SIZES):
    """Logits of two models, targets, and which of these are learnt; each row has some."""
    rng = np.random.default_rng(seed)
    own, start = (rng.normal(size=sizes).astype(np.float32) * 2 for _ in range(2))
    targets = rng.integers(sizes[-1], size=sizes[:-1])
    learnt = np.arange(sizes[1]) < rng.integers(1, sizes[1] + 1, (sizes[0], 1))
    learnt[:, 0] &= rng.random(sizes[0]) < 0.8
    learnt[learnt.sum(1) == 0, -1] = True
    return own, start, targets, learnt.astype(np.int32)


def scored(logits, targets):
    return Whole(losses.token_losses(logits, targets), logits)


def total(chosen, own, start, targets, learnt, measured=None):
    """What a stage of these objectives differentiates, and its scalars."""
    batch = {"decoder_loss_weights": learnt, "decoder_target_tokens": targets}
    tokens = Tokens(batch, scored(own, targets), lambda: scored(start, targets))
    reference = Reference(measured=measured or tuple({} for _ in chosen))
    return objectives.total(chosen, tokens, {}, reference, learnt.sum(), 1)


def value_and_gradient(chosen, own, *rest, **options):
    def of(own):
        return total(chosen, own, *rest, **options)

    (found, scalars), gradient = jax.value_and_grad(of, has_aux=True)(jnp.asarray(own))
    return found, gradient, scalars


def theirs(own, start, targets, learnt):
    """Torch's losses and probabilities of the learnt targets, and their divergence."""
    logits = torch.tensor(own, requires_grad=True)
    found = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(targets).flatten(), reduction="none"
    )
    log_q = torch.log_softmax(torch.tensor(start), -1)
    divergence = torch.nn.functional.kl_div(
        torch.log_softmax(logits, -1), log_q, reduction="none", log_target=True
    ).sum(-1)
    mask = torch.tensor(learnt).bool()
    return logits, found.reshape(mask.shape)[mask], divergence[mask]


@pytest.mark.parametrize("seed", range(3))
def test_dft_and_asft_are_those_of_torch(seed):
    case = random_logits(seed)
    for chosen, alpha in ((objectives.DFT(), 0.0), (objectives.ASFT(), 0.1)):
        logits, nll, divergence = theirs(*case)
        expected = (nll * torch.exp(-nll).detach()).mean() + alpha * divergence.mean()
        expected.backward()
        found, gradient, scalars = value_and_gradient([chosen], *case)
        np.testing.assert_allclose(found, expected.item(), rtol=1e-5)
        np.testing.assert_allclose(gradient, logits.grad, atol=1e-6)
        np.testing.assert_allclose(scalars["penalty"], alpha * divergence.mean().item(), rtol=1e-5)
        np.testing.assert_allclose(scalars["weight"], torch.exp(-nll).mean().item(), rtol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_divergence_is_a_mean_over_the_learnt_targets(direction):
    own, start, targets, learnt = random_logits(4)
    plain, *_ = value_and_gradient([], own, start, targets, learnt)
    found, _, scalars = value_and_gradient(
        [objectives.KL(0.5, direction)], own, start, targets, learnt
    )
    p, q = (torch.log_softmax(torch.tensor(one), -1) for one in (own, start))
    first, second = (q, p) if direction == "forward" else (p, q)
    each = (first.exp() * (first - second)).sum(-1).numpy()
    expected = 0.5 * each[learnt > 0].mean()
    np.testing.assert_allclose(scalars["penalty"], expected, rtol=1e-5)
    np.testing.assert_allclose(found - plain, expected, rtol=1e-4)


def test_one_token_rollout_is_the_mean_over_draws():
    own, start, targets, learnt = random_logits(5, (1, 1, 7))
    learnt[:] = 1
    targets[0, 0] = own[0, 0].argsort()[-2]
    beta, draws = -0.3, 200_000
    _, gradient, _ = value_and_gradient([objectives.OTR(beta)], own, start, targets, learnt)
    probabilities = np.exp(own[0, 0]) / np.exp(own[0, 0]).sum()
    target = targets[0, 0]
    drawn = np.random.default_rng(0).choice(7, size=draws, p=probabilities / probabilities.sum())
    rewards = np.where(drawn == target, 1.0, beta)
    # The gradient of -log p of a token is p less one at the token.
    each = rewards[:, None] * (probabilities - np.eye(7)[drawn])
    error = each.std(0) / math.sqrt(draws)
    assert (np.abs(each.mean(0) - gradient[0, 0]) < 5 * error).all()
    assert np.abs(gradient).max() > 20 * error.max()
    # Without the rewards of wrong tokens it is dynamic fine-tuning.
    without = value_and_gradient([objectives.OTR(0.0)], own, start, targets, learnt)[1]
    dft = value_and_gradient([objectives.DFT()], own, start, targets, learnt)[1]
    assert (without == dft).all()


def surprises(logits, targets):
    each = torch.nn.functional.cross_entropy(
        torch.tensor(logits).flatten(0, 1), torch.tensor(targets).flatten(), reduction="none"
    )
    return each.reshape(targets.shape).numpy()


def weighted(case, weights):
    """The loss with given weights, by the count of targets."""
    own, _, targets, learnt = case
    return (surprises(own, targets) * weights * learnt).sum() / learnt.sum()


def test_stm_drops_what_surprised_the_start():
    case = random_logits(6)
    _, start, targets, learnt = case
    keep = np.exp(surprises(start, targets)) <= 20.0
    assert 0.2 < keep[learnt > 0].mean() < 0.9
    found, _, scalars = value_and_gradient([objectives.STM(20.0)], *case)
    np.testing.assert_allclose(found, weighted(case, keep), rtol=1e-5)
    np.testing.assert_allclose(scalars["kept"], keep[learnt > 0].mean(), rtol=1e-6)


@pytest.mark.parametrize("level", ["row", "token"])
def test_flow_weighs_by_the_loss_of_the_start(level):
    case = random_logits(7)
    _, start, targets, learnt = case
    each = surprises(start, targets)
    if level == "row":
        each = ((each * learnt).sum(1) / learnt.sum(1))[:, None]
    for temperature in (None, 0.7):
        chosen = objectives.FLOW(level, temperature)
        assert chosen.measures == (temperature is None)
        measured = ({"median": 1.3},)
        found, *_ = value_and_gradient([chosen], *case, measured=measured)
        expected = weighted(case, np.exp(-each / (temperature or 1.3)))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
def test_sstoken_learns_the_largest_falls_of_each_row(share):
    case = random_logits(8)
    own, start, targets, learnt = case
    keep = np.zeros(learnt.shape, bool)
    fallen = torch.tensor(surprises(start, targets) - surprises(own, targets))
    for row in range(len(learnt)):
        places = np.flatnonzero(learnt[row])
        best = torch.topk(fallen[row][places], math.ceil(len(places) * share)).indices
        keep[row, places[best.numpy()]] = True
    found, _, scalars = value_and_gradient([objectives.SSToken(share)], *case)
    np.testing.assert_allclose(found, weighted(case, keep), rtol=1e-5)
    np.testing.assert_allclose(scalars["kept"], keep.sum() / learnt.sum(), rtol=1e-6)


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 2**31))
def test_rows_of_a_packed_line_are_weighed_as_rows_of_their_own(seed):
    own, start, targets, learnt = random_logits(seed)
    places = np.argwhere(learnt)
    order = np.random.default_rng(seed).permutation(len(learnt))
    places = np.concatenate([places[places[:, 0] == row] for row in order])

    def packed(array):
        line = np.zeros((1, learnt.size, *array.shape[2:]), array.dtype)
        line[0, : len(places)] = array[tuple(places.T)]
        return line

    slots = np.arange(learnt.size)[None]
    batch = {
        "decoder_target_tokens": packed(targets),
        "decoder_loss_weights": packed(learnt),
        "decoder_segment_ids": packed(np.arange(1, len(learnt) + 1)[:, None] + 0 * learnt),
        "decoder_target_slots": np.where(slots < len(places), slots, 0),
    }
    tokens = [
        Tokens(fields, scored(first, fields["decoder_target_tokens"]),
               lambda second=second, fields=fields: scored(second, fields["decoder_target_tokens"]))
        for first, second, fields in (
            (own, start, {"decoder_target_tokens": targets, "decoder_loss_weights": learnt}),
            (packed(own), packed(start), batch),
        )
    ]  # fmt: skip
    for chosen in (objectives.FLOW(temperature=0.8), objectives.SSToken(0.5)):
        whole, line = (np.asarray(chosen.weights(each, {})) for each in tokens)
        np.testing.assert_allclose(line[0, : len(places)], whole[tuple(places.T)], rtol=1e-5)


def test_the_count_of_targets_divides_and_not_their_weights():
    case = random_logits(9)

    @dataclasses.dataclass(frozen=True)
    class Tenth(objectives.Objective):
        def weights(self, tokens, measured):
            return jnp.full(tokens.counted.shape, 0.1)

    plain, *_ = value_and_gradient([], *case)
    found, _, scalars = value_and_gradient([Tenth()], *case)
    np.testing.assert_allclose(found, 0.1 * plain, rtol=1e-5)
    assert scalars["kept"] == 1.0
    # Several multiply.
    found, _, scalars = value_and_gradient([Tenth(), objectives.DFT(), Tenth()], *case)
    expected, *_ = value_and_gradient([objectives.DFT()], *case)
    np.testing.assert_allclose(found, 0.01 * expected, rtol=1e-5)


def test_a_batch_of_which_nothing_is_kept_has_no_gradient():
    case = random_logits(10)
    found, gradient, scalars = value_and_gradient([objectives.STM(1.000001)], *case)
    assert found == scalars["kept"] == scalars["weight"] == 0.0
    assert not gradient.any()
    with_penalty, gradient, _ = value_and_gradient(
        [objectives.STM(1.000001), objectives.KL(1.0)], *case
    )
    assert with_penalty > 0
    assert np.isfinite(gradient).all()


class Linear:
    """A model of one leaf, whose logits are products with one-hot inputs."""

    def scored(self, params, batch):
        return scored(params["w"][batch["inputs"]], batch["decoder_target_tokens"])


def linear_start(seed, rows=3):
    rng = np.random.default_rng(seed)
    batch = {
        "inputs": rng.integers(5, size=(rows, 4)),
        "decoder_target_tokens": rng.integers(7, size=(rows, 4)),
        "decoder_loss_weights": np.ones((rows, 4), np.int32),
    }
    leaves = {"w": jnp.asarray(rng.normal(size=(5, 7)), jnp.float32)}
    return Start(Linear(), leaves, {}), batch


def test_ewc_measures_the_squared_gradients_of_rows(monkeypatch):
    start, batch = linear_start(0)
    batch["decoder_loss_weights"][2] = 0

    def row(number):
        one = {name: array[number : number + 1] for name, array in batch.items()}
        return jax.grad(lambda leaves: Linear().scored(leaves, one).losses.loss.sum())(start.leaves)

    expected = sum(np.square(row(number)["w"]) for number in range(2)) / 2
    found, chosen = [], objectives.EWC(1.0)
    for signs in itertools.product([-1.0, 1.0], repeat=3):
        monkeypatch.setattr(
            jax.random, "rademacher", lambda *_, signs=signs: jnp.array(signs)[:, None]
        )
        found.append(chosen.measure(start, batch, None))
    settled = chosen.settle(found)
    np.testing.assert_allclose(settled["w"], expected, rtol=1e-5)
    shapes = jax.tree.map(jnp.shape, chosen.unmeasured(start.leaves))
    assert shapes == jax.tree.map(jnp.shape, settled)


def test_parameters_are_pulled_to_where_they_began():
    rng = np.random.default_rng(0)
    leaves, start, fisher = (
        {"a": {"b": rng.random((2, 3)).astype(np.float32)}, "c": rng.random(4).astype(np.float32)}
        for _ in range(3)
    )
    # A leaf that the start does not have, such as an adapter.
    leaves["new"] = np.ones(3, np.float32)
    for chosen, measured in ((objectives.L2SP(0.3), {}), (objectives.EWC(0.3), fisher)):
        value, pulled = jax.value_and_grad(chosen.leaf_penalty)(leaves, start, measured)
        expected = {
            "a": {"b": 0.3 * (leaves["a"]["b"] - start["a"]["b"])},
            "c": 0.3 * (leaves["c"] - start["c"]),
            "new": np.zeros(3),
        }
        if measured:
            expected["a"]["b"] *= fisher["a"]["b"]
            expected["c"] *= fisher["c"]
        for ours, theirs_ in zip(*map(jax.tree.leaves, (pulled, expected)), strict=True):
            np.testing.assert_allclose(ours, theirs_, rtol=1e-5)
        assert value > 0
        assert chosen.leaf_penalty(start, start, measured) == 0


def test_flow_measures_the_median_of_its_losses():
    start, batch = linear_start(1)
    batch["decoder_loss_weights"][0, 2:] = 0
    batch["decoder_loss_weights"][1] = 0
    each = surprises(np.asarray(start.leaves["w"])[batch["inputs"]],
                     batch["decoder_target_tokens"])  # fmt: skip
    learnt = batch["decoder_loss_weights"] > 0
    means = [each[row][learnt[row]].mean() for row in (0, 2)]
    for level, expected in (("row", np.median(means)), ("token", np.median(each[learnt]))):
        chosen = objectives.FLOW(level)
        found = chosen.settle([chosen.measure(start, batch, None)])
        np.testing.assert_allclose(found["median"], expected, rtol=1e-6)


def padded_and_packed(inputs, learnt, prompt_length=0):
    """Rows with so many inputs and with targets of which some are learnt, and the same packed."""
    learnt = np.array(learnt, np.int32)
    rng, shape = np.random.default_rng(0), (len(inputs), 9)
    targets = rng.integers(2, 1279, learnt.shape, np.int32)
    segments = (np.arange(shape[1]) < np.array(inputs)[:, None]).astype(np.int32)
    batch = {
        "encoder_input_tokens": rng.integers(2, 1279, shape, np.int32) * segments,
        "encoder_segment_ids": segments,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": learnt,
    }
    if prompt_length:
        batch["prompt_ids"] = np.zeros(len(inputs), np.int32)
    packer = packing.Packer([batch], None, None, prompt_length, 1)
    packer.shapes = [packing.Shape(1, 48, 24)]
    return batch, packer(batch)


def test_masked_thought_hides_what_is_learnt_where_it_is_read():
    learnt = [[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 0, 0]]
    batch, packed = padded_and_packed([5, 1, 9, 7], learnt)
    assert packed["decoder_tokens"].shape == (1, 48)
    key, done = jax.random.key(0), jnp.float32(1)
    chosen = objectives.MaskedThought(mask_id=1279, rate=1 - 1e-7)
    for fields, name in ((batch, "decoder_input_tokens"), (packed, "decoder_tokens")):
        read = chosen.read(fields, done, key)
        masked = read[name] == 1279
        assert (np.where(masked, fields[name], read[name]) == fields[name]).all()
        assert {n: a for n, a in read.items() if n != name} == {
            n: a for n, a in fields.items() if n != name
        }
        same = dataclasses.replace(chosen, rate=0.0).read(fields, done, key)
        assert (same[name] == fields[name]).all()
        # Nothing is hidden before the first step.
        assert (chosen.read(fields, jnp.float32(0), key)[name] == fields[name]).all()
    hidden = np.asarray(chosen.read(batch, done, key)["decoder_input_tokens"] == 1279)
    assert (hidden[:, 1:] == (np.array(learnt)[:, :-1] > 0)).all()
    in_lines = np.asarray(chosen.read(packed, done, key)["decoder_tokens"] == 1279)
    # The last learnt target of a row does not stand in its line: 3 + 1 + 3 + 1 less one each.
    assert in_lines.sum() == 4
    assert sorted(packed["decoder_tokens"][in_lines]) == sorted(
        batch["decoder_target_tokens"][[0, 0, 2, 2], [0, 1, 2, 3]]
    )


def test_masked_thought_has_its_rate():
    batch = {
        "decoder_input_tokens": np.ones((64, 65), np.int32),
        "decoder_loss_weights": np.ones((64, 65), np.int32),
    }
    for progress, expected in ((1.0, 0.4), (0.33, 0.2)):
        read = objectives.MaskedThought(0).read(batch, jnp.float32(progress), jax.random.key(0))
        found = 1 - read["decoder_input_tokens"][:, 1:].mean()
        assert abs(found - expected) < 0.04


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: objectives.KL(-1.0), "KL.weight = -1.0: expected a number of at least 0"),
        (lambda: objectives.KL(direction="back"), "direction = 'back': expected"),
        (lambda: objectives.STM(1.0), "expected a number above 1"),
        (lambda: objectives.OTR(1.0), "expected a number below 1"),
        (lambda: objectives.SSToken(0.0), "SSToken.share"),
        (lambda: objectives.FLOW("word"), "FLOW.level"),
        (lambda: tiny.stage(objective=objectives.KL()), "Stage.objective"),
        (lambda: tiny.stage(objective=("kl",)), "Stage.objective"),
    ],
)
def test_bad_settings_are_clear_errors(make, message):
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_objectives_of_no_use_are_errors():
    model = tiny.model()
    with pytest.raises(UserError, match=r"L2SP pulls parameters .* prompts or adapters alone"):
        objectives.L2SP(1.0).check(model, {})
    with pytest.raises(UserError, match=r"mask_id = 1280; the model has 1280 tokens"):
        objectives.MaskedThought(1280).check(model, {})
    with pytest.raises(values.Misfit, match="reference_dtype = 'bfloat16' rounds"):
        tiny.stage(objective=(objectives.L2SP(1.0),), reference_dtype="bfloat16")
