"""Packed rows: the same rows, the same losses, the same training, in less padding."""

import collections
import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.data import batching, packing
from promot_jax.models.networks.lora import Lora
from promot_jax.models.networks.prompt_kinds import SOFT, Decomposed, Prefix
from promot_jax.training import optimizers, train
from tests import tiny
from tests.models.models_test import decoder_model, params_of
from tests.quick import quick_jit
from tests.training.train_test import RISING, run_stage

pytestmark = pytest.mark.long

LENGTHS = st.lists(st.tuples(st.integers(0, 24), st.integers(0, 9)), min_size=1, max_size=12)
EOS = 1


def padded(lengths, seed=0, prompts=None, width=(24, 9), gaps=0.0):
    """A batch of `data.py` with rows of these lengths; some inputs end with EOS, some ids are 0.

    A share of the targets, `gaps`, is read and not learnt; the last one never is.
    """
    rng = np.random.default_rng(seed)
    inputs = np.zeros((len(lengths), width[0]), np.int32)
    targets = np.zeros((len(lengths), width[1]), np.int32)
    marks, weights = inputs.copy(), targets.copy()
    for row, (length, count) in enumerate(lengths):
        inputs[row, :length] = rng.integers(0, 1279, length)
        if length and rng.random() < 0.5:
            inputs[row, length - 1] = EOS
        targets[row, :count] = rng.integers(0, 1279, count)
        marks[row, :length], weights[row, :count] = 1, 1
        if gaps and count:
            weights[row, : count - 1] = rng.random(count - 1) >= gaps
    found = {
        "encoder_input_tokens": inputs,
        "encoder_segment_ids": marks,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": weights,
    }
    return found if prompts is None else found | {"prompt_ids": np.array(prompts, np.int32)}


def read(batch, prompt_length):
    """The rows of a packed batch, as (prompt, inputs and targets, targets), and their number."""
    found = collections.Counter()
    for line in range(len(batch["decoder_tokens"])):
        fields = {name: array[line] for name, array in batch.items()}
        predicted = fields["decoder_loss_weights"] > 0
        for segment in range(1, fields["decoder_segment_ids"].max() + 1):
            slots = np.flatnonzero(fields["decoder_segment_ids"] == segment)
            assert (np.diff(slots) == 1).all()
            assert (fields["decoder_positions"][slots] == np.arange(len(slots))).all()
            asked = predicted & np.isin(fields["decoder_target_slots"], slots)
            targets = fields["decoder_target_tokens"][asked]
            known = len(slots) - (len(targets) - 1)
            assert (fields["decoder_prefix"][slots] == (np.arange(len(slots)) < known)).all()
            places = slots[known - 1 : known - 1 + len(targets)]
            assert (fields["decoder_target_slots"][asked] == places).all()
            rows = fields["decoder_prompts"]
            front = int((rows[slots] >= 0).sum())
            prompt = -1
            if front:
                prompt = int(rows[slots[0]]) // prompt_length
                assert (rows[slots[:front]] == prompt * prompt_length + np.arange(front)).all()
                assert front == prompt_length
            tokens = [*fields["decoder_tokens"][slots[front:]], targets[-1]]
            found[prompt, tuple(tokens), tuple(targets)] += 1
    return found


@settings(deadline=None, max_examples=100)
@given(LENGTHS, st.integers(1, 4), st.booleans(), st.data())
def test_every_row_is_in_one_line_whole(lengths, lines, attached, draw):
    numbers = st.lists(st.integers(-1, 1), min_size=len(lengths), max_size=len(lengths))
    batch = padded(lengths, prompts=draw.draw(numbers) if attached else None)
    packer = packing.Packer([batch], 1278, EOS, 3, lines)
    expected = collections.Counter()
    for row, (length, count) in enumerate(lengths):
        if count:
            inputs = batch["encoder_input_tokens"][row, :length]
            inputs = [*(inputs[:-1] if length and inputs[-1] == EOS else inputs)]
            inputs = inputs if inputs[:1] == [1278] else [1278, *inputs]
            targets = batch["decoder_target_tokens"][row, :count]
            prompt = int(batch["prompt_ids"][row]) if attached else -1
            expected[prompt, (*inputs, *targets), tuple(targets)] += 1
    packer.shapes = [packing.Shape(lines, 12 * (3 + 1 + 24 + 8), 12 * 9)]
    rows = packer._rows(batch)
    found = packing.pack(packing.divide(rows, packer.shapes[0]), packer.shapes[0])
    assert read(found, 3) == expected
    assert {array.shape[0] for array in found.values()} == {lines}
    assert {array.dtype for array in found.values()} == {np.dtype(np.int32)}


@settings(deadline=None, max_examples=50)
@given(st.lists(LENGTHS, min_size=1, max_size=6), st.integers(1, 3))
def test_shapes_are_few_and_never_cost_more(samples, multiple):
    batches = [padded(lengths) for lengths in samples]
    packer = packing.Packer(batches, None, EOS, 0, multiple)
    assert len(packer.shapes) <= packing.MOST
    assert all(shape.lines % multiple == 0 for shape in packer.shapes)
    for batch in batches:
        found = packer(batch)
        if found is not batch:
            lines, slots = found["decoder_tokens"].shape
            shape = packing.Shape(lines, slots, found["decoder_target_slots"].shape[1])
            assert shape in packer.shapes
            rows, width = batch["decoder_target_tokens"].shape
            assert shape.cost < packing.Shape(rows, 24 + width - 1, width).cost


def test_what_is_not_learnt_takes_no_place_among_targets():
    batch = padded([(5, 9), (7, 9)], gaps=0.7)
    packer = packing.Packer([batch], None, EOS, 0, 1)
    rows = packer._rows(batch)
    found = packing.pack([rows], packing.Shape(1, 40, 18))
    learnt = batch["decoder_loss_weights"] > 0
    assert found["decoder_loss_weights"].sum() == learnt.sum() < 18
    count = int(learnt.sum())
    wanted = batch["decoder_target_tokens"][learnt]
    assert (found["decoder_target_tokens"][0, :count] == wanted).all()
    slots = found["decoder_target_slots"][0, :count]
    # The next slot holds the target itself, but behind the last one of a row.
    following = found["decoder_tokens"][0, slots + 1]
    ends = np.flatnonzero(np.diff(found["decoder_segment_ids"][0, slots], append=9))
    kept = np.delete(np.arange(count), ends)
    assert (following[kept] == wanted[kept]).all()
    assert packing.target_lengths(batch["decoder_loss_weights"]).tolist() == [9, 9]


def test_short_rows_among_long_ones_are_packed():
    rng = np.random.default_rng(0)
    batches = [
        padded([(int(length), 2) for length in rng.integers(4, 25, 16)], seed) for seed in range(8)
    ]
    packer = packing.Packer(batches, None, None, 0, 2)
    slots = sum(packer(batch)["decoder_tokens"].size for batch in batches)
    assert slots < 0.75 * 8 * 16 * (24 + 9 - 1)
    # A batch that is longer than any shape stays as it is.
    full = padded([(24, 9)] * 16)
    assert packer(full) is full


# Two layers: in one, the last input sees all inputs with or without a prefix.
KINDS = {
    "causal": {},
    "start": {"start_id": 1278},
    "prefix": {"prefix_lm": True},
    "scanned": {"scan_layers": True},
}


@functools.cache
def both_losses(kind, prompted):
    """The model, and its losses and their gradients by the parameters."""
    model = decoder_model(num_layers=2, **KINDS[kind])
    params = params_of(model)
    if prompted:
        bare = model.network, params
        for name in ("one", "two"):
            rows = jax.random.normal(jax.random.key(len(name) + ord(name[0])), (3, 16))
            leaves = prompted.begun(*bare, rows, jax.random.key(0))
            params = trees.add_prompt_leaves(params, name, leaves)
        model = model.with_prompts_of(params)

    @quick_jit
    def measured(params, batch):
        def total(params):
            loss = model.loss_fn(params, batch, None, label_smoothing=0.1, z_loss=1e-4)
            return loss.total, loss

        return jax.grad(total, has_aux=True)(params)

    return model, functools.partial(measured, params)


OTHER_PROMPTS = [("scanned", Prefix()), ("start", Decomposed(4, 2))]


@pytest.mark.parametrize(
    ("kind", "prompted"), [*itertools.product(KINDS, (None, SOFT)), *OTHER_PROMPTS], ids=str
)
@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5]))
def test_losses_and_gradients_are_those_of_padded_rows(kind, prompted, seed, gaps):
    rng = np.random.default_rng(seed)
    lengths = [(int(rng.integers(0, 20)), int(rng.integers(1, 8))) for _ in range(8)]
    prompts = rng.integers(-1, 2, 8) if prompted else None
    batch = padded(lengths, seed, prompts, gaps=gaps)
    model, measured = both_losses(kind, prompted)
    packer = model.packer([batch], 1)
    packer.shapes = [packing.Shape(1, 240, 64)]
    packed = packer(batch)
    assert packed["decoder_tokens"].shape == (1, 240)
    assert packed["decoder_loss_weights"].sum() == batch["decoder_loss_weights"].sum()
    (expected_gradients, expected), (gradients, loss) = measured(batch), measured(packed)
    np.testing.assert_allclose(loss, expected, rtol=2e-5)
    gradients = trees.flatten(gradients)
    for path, leaf in trees.flatten(expected_gradients).items():
        np.testing.assert_allclose(gradients[path], leaf, rtol=1e-3, atol=1e-4, err_msg=path)
    if prompted:
        assert set(trees.prompts_of(trees.unflatten(gradients))) == {"one", "two"}


def trained(monkeypatch, folder, scores=RISING, **changes):
    """Trains a prompted decoder; returns its parameters and the shapes of its batches."""
    shapes = []
    shard_batch = partitioning.shard_batch

    def recording(mesh, batch, held):
        shapes.append({name: array.shape for name, array in batch.items()})
        return shard_batch(mesh, batch, held)

    params = params_of(decoder_model(num_layers=2))
    params = trees.add_prompt(params, "rte", np.full((3, 16), 0.1, np.float32))
    stage = tiny.stage(
        trainable=(".*",),
        prompt="rte",
        prompt_length=3,
        batches=batching.FixedBatches(8),
        optimizer=lambda: optimizers.model_adafactor(0.05),
    )
    stage = dataclasses.replace(stage, **changes)
    with monkeypatch.context() as patch:
        patch.setattr(partitioning, "shard_batch", recording)
        params = run_stage(folder, stage, params, scores, model=decoder_model(num_layers=2))
    return trees.flatten(params), shapes


# Microbatches of packed lines hold more than one line alone does.
@pytest.mark.parametrize("microbatches", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_stage_trains_as_it_does_padded(monkeypatch, tmp_path, microbatches):
    expected, shapes = trained(monkeypatch, tmp_path / "padded", pack=False)
    assert not any("decoder_tokens" in shape for shape in shapes)
    found, shapes = trained(monkeypatch, tmp_path / "packed", microbatches=microbatches)
    packed = [shape["decoder_tokens"] for shape in shapes if "decoder_tokens" in shape]
    assert packed
    assert all(lines < 8 and lines % microbatches == 0 for lines, _ in packed)
    for path, leaf in expected.items():
        np.testing.assert_allclose(found[path], leaf, rtol=1e-3, atol=2e-4, err_msg=path)


def test_a_batch_that_cannot_be_divided_is_refused_at_once(monkeypatch, tmp_path):
    with pytest.raises(
        UserError, match="batches of 9 rows, which microbatches = 2 does not divide"
    ):
        trained(monkeypatch, tmp_path, batches=batching.FixedBatches(9), microbatches=2)


def test_a_resumed_stage_packs_as_it_did(monkeypatch, tmp_path):
    # Batches differ in what they would choose.
    monkeypatch.setattr(train, "_first_rows", lambda batches, least: [next(batches)])
    whole, shapes = trained(monkeypatch, tmp_path / "whole")
    _, first = trained(monkeypatch, tmp_path / "parts", steps=2)
    (tmp_path / "parts" / "stage.json").unlink()
    rest, second = trained(monkeypatch, tmp_path / "parts", scores=RISING[2:])
    assert first + second == shapes
    assert tiny.leaves_equal(whole, rest)


def test_adapters_train_packed_and_with_dropout(tmp_path):
    lora = Lora("decoder/layers_.*/(query|value)/kernel", rank=2, alpha=2)
    model = decoder_model().with_lora(lora)
    params = model.init(jax.random.key(0))
    stage = tiny.stage(trainable=(".*lora.*",), lora=lora, dropout_rate=0.1)
    after = trees.flatten(run_stage(tmp_path, stage, params, model=model))
    changed = {p for p, leaf in trees.flatten(params).items() if (leaf != after[p]).any()}
    assert changed
    assert all("lora" in path for path in changed)
