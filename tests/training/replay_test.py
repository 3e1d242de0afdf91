"""Replay: which rows a stage reads, how many of them are replayed, and what they are read with."""

import dataclasses
import functools
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.data import batching
from promot_jax.data.order import Order
from promot_jax.experiment import attachments, lineage
from promot_jax.models.networks import lora
from promot_jax.models.networks.lora import Lora
from promot_jax.training import train
from promot_jax.training.replay import Replay
from tests import tiny
from tests.models.models_test import decoder_model
from tests.quick import quick_jit
from tests.training.train_test import RISING, run_stage

REPLAY = Replay("mini_triviaqa", 0.25, {"inputs": 48, "targets": 12})
STAGE = tiny.stage(prompt="rte", prompt_length=3, replay=REPLAY)
KINDS = [
    batching.FixedBatches(8, ((40, 4),)),
    batching.SortedBatches(8, ((28, 4), (32, 4))),
    batching.TokenBatches(300, ((28, 4), (32, 4))),
]


MODELS = {"encoder-decoder": tiny.model, "decoder": decoder_model}
# Every kind of place that adapters have: the projection to the vocabulary too.
EVERYWHERE = Lora(".*/kernel", 2, 4.0)
# Its adapters are attached and stand still.
ADAPTED = tiny.stage(
    trainable=("(?!.*/lora_).*",), lora=EVERYWHERE, replay=REPLAY, dropout_rate=0.0
)
SCANNED = {"scan_layers": True, "remat": "full"}


def params_of(bare):
    params = bare.init(jax.random.key(0))
    return trees.add_prompt(params, "rte", np.full((3, 16), 0.1, np.float32))


def adapted_params_of(bare):
    """Returns parameters with adapters that are far from zero, also where layers are stacked."""
    params = trees.flatten(lora.add(bare.init(jax.random.key(0)), EVERYWHERE, jax.random.key(1)))
    for path in params:
        if path.endswith("lora_b"):
            params[path] = params[path] + 0.5
    return trees.unflatten(params)


def read(stage, count, first=0, bare=None):
    """Returns the first placed batches of a stage, as host arrays."""
    bare = stage.model(bare or tiny.model())
    run = train.StageRun(stage, None, seed=3, label="", evaluate=None)
    # Patterns of tiny stages are those of an encoder-decoder.
    leaves = bare.shapes_and_axes()[0] if stage.lora else {}
    trained = trees.partition(leaves, stage.trainable)[0] if leaves else {}
    marks = train._marks(stage, bare.network.config.prompt_names, trained)
    with train._batches(run, bare, partitioning.make_mesh(), first, marks) as batches:
        return jax.device_get(list(itertools.islice(batches, count)))


def rows(batches, *, replayed):
    """Returns inputs and targets of the rows that were replayed, or of the others."""
    found = []
    for batch in batches:
        for row, number in enumerate(batch["prompt_ids"]):
            if (number == -1) == replayed:
                names = "encoder_input_tokens", "decoder_target_tokens"
                found.append(
                    tuple(tuple(np.trim_zeros(batch[name][row]).tolist()) for name in names)
                )
    return found


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(
    share=st.floats(0.01, 0.99),
    counts=st.tuples(*[st.integers(100, 300)] * 3),
    begin=st.integers(0, 10**6),
    size=st.integers(1, 512),
)
def test_any_stretch_of_the_stream_has_the_share(share, counts, begin, size):
    rates = Replay("mini_triviaqa", share).among({"one": 0.25, "other": 0.75})
    whose, _ = Order(counts, list(rates.values()), seed=0)(begin, size)
    assert list(rates) == ["one", "other", "mini_triviaqa"]
    assert abs((whose == 2).sum() - share * size) <= 2
    assert abs((whose == 0).sum() - (1 - share) * 0.25 * size) <= 2


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_rows_of_the_target_come_as_they_do_without_replay(kind):
    stage = dataclasses.replace(STAGE, batches=kind)
    alone = dataclasses.replace(stage, replay=None)
    found = read(stage, 64)
    mixed, replayed = (rows(found, replayed=flag) for flag in (False, True))
    assert len(replayed) == pytest.approx(0.25 * (len(mixed) + len(replayed)), abs=8)
    # The order within a window depends on the lengths of all its rows.
    count = len(mixed) // 2
    expected = rows(read(alone, 64), replayed=False)
    if isinstance(kind, batching.FixedBatches):
        assert mixed[:count] == expected[:count]
    else:
        assert len({*mixed} & {*expected}) > 0.6 * len({*mixed})


def test_replayed_rows_have_lengths_of_their_own():
    short = {"inputs": 8, "targets": 2}
    stage = dataclasses.replace(STAGE, task_feature_lengths=short, batches=batching.FixedBatches(8))
    found = read(stage, 16)
    assert {batch["encoder_input_tokens"].shape[1] for batch in found} == {48}
    assert max(len(inputs) for inputs, _ in rows(found, replayed=False)) == 8
    assert max(len(inputs) for inputs, _ in rows(found, replayed=True)) > 8
    theirs = dataclasses.replace(stage, replay=Replay("mini_triviaqa", 0.25))
    assert max(len(inputs) for inputs, _ in rows(read(theirs, 16), replayed=True)) == 8


@pytest.mark.parametrize("family", MODELS)
def test_replayed_rows_are_read_by_the_bare_model(family):
    bare = MODELS[family]()
    params, stage = params_of(bare), dataclasses.replace(STAGE, pack=False)
    (batch,) = read(stage, 1, bare=bare)
    apart = batch["prompt_ids"] == -1
    assert 0 < apart.sum() < len(apart)
    mixed = quick_jit(stage.model(bare).score_batch)(stage.params(params, bare), batch)
    plain = {name: array for name, array in batch.items() if name != "prompt_ids"}
    alone = quick_jit(bare.score_batch)(trees.keep_prompts(params, ()), plain)
    np.testing.assert_allclose(mixed[apart], alone[apart], rtol=1e-5)
    assert (np.abs(mixed[~apart] - alone[~apart]) > 1e-3).all()


@pytest.mark.parametrize(
    ("family", "options"),
    [
        *(("encoder-decoder", SCANNED), ("decoder", SCANNED), ("decoder", {})),
        *(("encoder-decoder", {"dtype": "bfloat16"}), ("decoder", {"dtype": "bfloat16"})),
    ],
    ids=[
        "encoder-decoder, scanned",
        "decoder, scanned",
        "decoder",
        "bfloat16",
        "decoder, bfloat16",
    ],
)
def test_frozen_adapters_act_in_no_replayed_row(family, options):
    bare = MODELS[family](**options)
    params = adapted_params_of(bare)
    (batch,) = read(dataclasses.replace(ADAPTED, pack=False), 1, bare=bare)
    apart = batch["adapted"] == 0
    assert 0 < apart.sum() < len(apart)
    plain = {name: array for name, array in batch.items() if name != "adapted"}
    mixed = quick_jit(ADAPTED.model(bare).score_batch)(params, batch)
    everywhere = quick_jit(ADAPTED.model(bare).score_batch)(params, plain)
    alone = quick_jit(bare.score_batch)(lora.remove(params), plain)
    np.testing.assert_allclose(mixed[apart], alone[apart], rtol=1e-5)
    np.testing.assert_allclose(mixed[~apart], everywhere[~apart], rtol=1e-5)
    assert np.abs(alone - everywhere).mean() > 0.02 * np.abs(alone).mean()


def test_adapters_that_train_act_in_replayed_rows_too():
    stage = dataclasses.replace(ADAPTED, trainable=(".*/lora_[ab]",))
    assert "adapted" not in read(stage, 1)[0]


@pytest.mark.parametrize(
    ("stage", "params_of"), [(STAGE, params_of), (ADAPTED, adapted_params_of)],
    ids=["prompt", "adapters"],
)  # fmt: skip
def test_packed_rows_are_the_same_rows(stage, params_of):
    bare = decoder_model()
    params = params_of(bare)
    losses = []
    for pack in (False, True):
        stage = dataclasses.replace(stage, pack=pack, batches=batching.FixedBatches(8))
        found = read(stage, 4, bare=bare)
        assert pack == ("decoder_prompts" in found[0])
        loss = quick_jit(functools.partial(stage.model(bare).loss_fn, dropout_rng=None))
        totals = [loss(stage.params(params, bare), batch) for batch in found]
        losses.append([(float(each.total), float(each.weight)) for each in totals])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.mark.parametrize("family", MODELS)
def test_a_batch_is_a_function_of_its_number(family):
    bare = MODELS[family]()
    whole, rest = read(STAGE, 6, bare=bare), read(STAGE, 2, first=4, bare=bare)
    for batch, again in zip(whole[4:], rest, strict=True):
        assert batch.keys() == again.keys()
        assert all((batch[name] == again[name]).all() for name in batch)


@pytest.mark.long
def test_a_resumed_stage_ends_with_the_same_bits_and_moves_no_prompt(tmp_path):
    stage = dataclasses.replace(STAGE, steps=4)
    whole = run_stage(tmp_path / "whole", stage)
    run_stage(tmp_path / "parts", dataclasses.replace(stage, steps=2))
    (tmp_path / "parts" / "stage.json").unlink()
    assert tiny.leaves_equal(whole, run_stage(tmp_path / "parts", stage, scores=RISING[2:]))
    assert (np.asarray(whole["encoder"]["prompt"]["rte"]["prompt"]) == np.float32(0.1)).all()


def test_what_is_replayed_is_part_of_a_lineage():
    embedding = tiny.model().init(jax.random.key(0))["token_embedder"]["embedding"]
    replays = [
        None, REPLAY, dataclasses.replace(REPLAY, share=0.5),
        dataclasses.replace(REPLAY, task="mini_web_questions"),
    ]  # fmt: skip
    stages = [tiny.stage(replay=replay) for replay in replays]
    assert len({lineage.of_stage("", stage, 0, "", embedding) for stage in stages}) == 4
    before = dict(tiny.stage().__dict__)
    assert lineage.of_stage("", stages[0], 0, "", embedding) == lineage.of_stage(
        "", type(stages[0])(**before), 0, "", embedding
    )


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), "a"])
def test_a_share_is_a_part(share):
    with pytest.raises(UserError, match=r"Replay\.share = .*: expected a number"):
        tiny.stage(replay=Replay("mini_triviaqa", share))


def test_what_cannot_be_replayed_is_said():
    with pytest.raises(UserError, match="trains on 'mini_rte', which cannot be its replay too"):
        _ = tiny.stage(replay=Replay("mini_rte")).rates
    with pytest.raises(UserError, match="no task or mixture is registered as 'mini_trivia'"):
        _ = tiny.stage(replay=Replay("mini_trivia")).rates
    alone = tiny.prompt_stage(replay=REPLAY)
    with pytest.raises(UserError, match="trains prompts alone"):
        attachments.check_replay(alone, tiny.model())
    attachments.check_replay(STAGE, tiny.model())


def test_a_task_of_a_mixture_may_have_no_prompt():
    stage = tiny.prompt_stage(
        mixture="mini_rte_wmt_enfr", prompt={"mini_rte": "rte", "mini_wmt_enfr": None}
    )
    assert stage.prompts == ("rte",)
    assert train._marks(stage, ("rte",), {}) == {"prompt_ids": {"mini_rte": 0, "mini_wmt_enfr": -1}}
    assert {*np.concatenate([batch["prompt_ids"] for batch in read(stage, 8)])} == {-1, 0}
