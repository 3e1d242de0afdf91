"""What every stage must prove: freezing, best choice, exact resume, one compile for each bucket."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.data import batching
from promot_jax.experiment.stage_folder import StageFolder
from promot_jax.training import optimizers, train, train_state, train_step
from tests import tiny

pytestmark = pytest.mark.long


def params_with_prompt(rows=3):
    params = tiny.model().init(jax.random.key(0))
    return trees.add_prompt(params, "rte", np.full((rows, 16), 0.1, np.float32))


RISING = (0, 1, 2, 3, 4)


def run_stage(folder, stage, params=None, scores=RISING, evaluations=None, model=None):
    """Trains a stage; `scores` are what its evaluations say, in order; their losses fall."""
    mesh = partitioning.make_mesh()
    left = list(scores)

    def evaluate(params):
        if evaluations is not None:
            evaluations.append(checkpoints_to_host(params))
        return {"validation/score": float(left.pop(0)), "validation/loss": float(len(left))}

    run = train.StageRun(stage, StageFolder(folder), seed=3, label=stage.name, evaluate=evaluate)
    params = params_with_prompt() if params is None else jax.tree.map(jnp.copy, params)
    model = model or tiny.model()
    return train.train_stage(run, stage.params(params, model), model, mesh)


def checkpoints_to_host(params):
    return jax.tree.map(np.array, params)


STAGES = {
    "model, no prompt": tiny.stage(trainable=tiny.MODEL_PATTERNS),
    "prompt": tiny.prompt_stage(),
    "model, prompt attached": tiny.stage(prompt="rte", prompt_length=3),
    "joint": tiny.stage(trainable=(".*",), prompt="rte", prompt_length=3),
}


@pytest.mark.parametrize("name", STAGES)
def test_trainable_leaves_change_and_frozen_ones_keep_every_bit(tmp_path, name):
    stage = STAGES[name]
    before = stage.params(params_with_prompt(), tiny.model())
    after = run_stage(tmp_path, stage, before)
    chosen = trees.select(trees.flatten(before), stage.trainable)
    old, new = trees.flatten(before), trees.flatten(after)
    assert old.keys() == new.keys()
    assert chosen
    changed = {path for path in old if (np.asarray(old[path]) != np.asarray(new[path])).any()}
    assert changed == chosen
    saved = json.loads((tmp_path / "stage.json").read_text())
    assert saved["trainable"]["leaves"] == len(chosen)
    assert saved["frozen"]["leaves"] == len(old) - len(chosen)


def test_a_scanned_model_trains_and_resumes_like_an_unrolled_one(tmp_path):
    layers = {"num_encoder_layers": 2, "num_decoder_layers": 2}
    # Large rates, so that Adafactor's clipping by the norm of each parameter matters.
    stage = tiny.stage(
        prompt="rte",
        prompt_length=3,
        optimizer=lambda: optimizers.model_adafactor(0.05),
    )
    unrolled, scanned = tiny.model(**layers), tiny.model(**layers, scan_layers=True)
    params = trees.add_prompt(unrolled.init(jax.random.key(0)), "rte", np.ones((3, 16)) / 10)
    expected = run_stage(tmp_path / "unrolled", stage, params, model=unrolled)
    stacked = trees.stack_layers(params)
    whole = run_stage(tmp_path / "scanned", stage, stacked, model=scanned)
    found = trees.flatten(trees.unstack_layers(whole))
    before = trees.flatten(params)
    for path, leaf in trees.flatten(expected).items():
        np.testing.assert_allclose(found[path], leaf, rtol=1e-3, atol=1e-4, err_msg=path)
        moved = np.abs(np.asarray(leaf) - before[path]).max()
        assert (moved > 1e-3) == ("/prompt/" not in path), path
    # A stage checkpoint has a place for each layer.
    saved = (tmp_path / "scanned/checkpoints/4/state/_METADATA").read_text()
    assert "layers_1" in saved
    run_stage(tmp_path / "parts", dataclasses.replace(stage, steps=2), stacked, model=scanned)
    (tmp_path / "parts" / "stage.json").unlink()
    rest = run_stage(tmp_path / "parts", stage, stacked, RISING[2:], model=scanned)
    assert tiny.leaves_equal(whole, rest)
    # A scanned model's checkpoint, slots included, is continued by an unrolled one.
    run_stage(tmp_path / "both", dataclasses.replace(stage, steps=2), stacked, model=scanned)
    (tmp_path / "both" / "stage.json").unlink()
    both = trees.flatten(run_stage(tmp_path / "both", stage, params, RISING[2:], model=unrolled))
    for path, leaf in trees.flatten(expected).items():
        np.testing.assert_allclose(both[path], leaf, rtol=1e-3, atol=1e-4, err_msg=path)


def test_gradients_and_slots_exist_for_trainable_leaves_only():
    state = train_state.sharded_state(
        tiny.prompt_stage(), params_with_prompt(), tiny.model(), partitioning.make_mesh()
    )
    assert set(trees.flatten(state.trainable)) == {"encoder/prompt/rte/prompt"}
    shapes = {leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.size > 1}
    assert shapes == {(3, 16)}


def test_the_best_checkpoint_is_handed_on(tmp_path):
    evaluations = []
    stage = tiny.stage(steps=6, eval_period=2)
    # One evaluation at step 0, which is no checkpoint, then one each at steps 2, 4 and 6.
    params = run_stage(tmp_path, stage, scores=[99, 10, 30, 20], evaluations=evaluations)
    assert json.loads((tmp_path / "stage.json").read_text())["best_step"] == 4
    assert tiny.leaves_equal(checkpoints_to_host(params), evaluations[2])
    assert not tiny.leaves_equal(checkpoints_to_host(params), evaluations[3])


@pytest.mark.parametrize("name", STAGES)
def test_of_equal_checkpoints_a_model_takes_the_first_and_a_prompt_the_lowest_loss(tmp_path, name):
    stage = dataclasses.replace(STAGES[name], steps=6, eval_period=2)
    run_stage(tmp_path, stage, scores=[99, 30, 30, 20])
    best = json.loads((tmp_path / "stage.json").read_text())["best_step"]
    assert best == (4 if name == "prompt" else 2)


def test_a_finished_stage_only_loads(tmp_path, monkeypatch):
    first = run_stage(tmp_path, tiny.stage())
    evaluations = []
    # Nothing is placed or begun for it.
    monkeypatch.setattr(train_state, "sharded_state", None)
    again = run_stage(tmp_path, tiny.stage(), evaluations=evaluations)
    assert tiny.leaves_equal(first, again)
    assert not evaluations


def test_the_devices_hold_what_trains_once(tmp_path):
    mesh, model = partitioning.make_mesh(), tiny.model()
    shapes, axes = model.shapes_and_axes()
    placed = partitioning.params_sharding(mesh, axes, shapes)

    def run(steps):
        """Returns what was given and what evaluations saw; they note whether the former is left."""
        given, seen = jax.device_put(model.init(jax.random.key(0)), placed), []

        def evaluate(params):
            seen.append(leaf(params))
            left.append(not leaf(given).is_deleted())
            return {"validation/score": -float(len(left)), "validation/loss": 0.0}

        stage = tiny.stage(steps=steps, eval_period=2)
        folder = StageFolder(tmp_path)
        stage_run = train.StageRun(stage, folder, seed=3, label="model", evaluate=evaluate)
        train.train_stage(stage_run, given, model, mesh)
        assert json.loads((tmp_path / "stage.json").read_text())["best_step"] == 2
        return leaf(given), seen

    def leaf(params):
        return params["encoder"]["layers_0"]["mlp"]["wi"]["kernel"]

    left = []
    given, seen = run(steps=4)
    assert seen[0] is given
    assert left == [True, False, False]
    # Of the last step nothing is left when the best one has been read.
    assert seen[-1].is_deleted()
    (tmp_path / "stage.json").unlink()
    run(steps=8)
    assert left[3:] == [False, False]
    given, seen = run(steps=8)
    assert seen == []
    assert given.is_deleted()


def test_resumed_equals_never_interrupted(tmp_path):
    stage = tiny.stage(steps=6, prompt="rte", prompt_length=3, dropout_rate=0.1)
    whole = run_stage(tmp_path / "whole", stage)
    # Stops at step 4 as a shorter stage, with its last log lines still written.
    run_stage(tmp_path / "parts", dataclasses.replace(stage, steps=4))
    (tmp_path / "parts" / "stage.json").unlink()
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "train/loss": 1.0}\n{"step": 6, "trai')
    assert tiny.leaves_equal(whole, run_stage(tmp_path / "parts", stage, scores=RISING[3:]))
    assert (tmp_path / "parts" / "metrics.jsonl").read_text() == (
        tmp_path / "whole" / "metrics.jsonl"
    ).read_text()


def step_of(stage):
    """Returns (step, state, mesh, a host batch at full length)."""
    mesh = partitioning.make_mesh()
    params = stage.params(params_with_prompt(), tiny.model())
    state = train_state.sharded_state(stage, params, tiny.model(), mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = train_step.make_train_step(tiny.model(), stage, stage.optimizer(), mesh, shardings)
    rows = batching.train_batches("mini_rte", tiny.LENGTHS, batching.FixedBatches(8), seed=0)
    return step, state, mesh, next(rows)


def test_dropout_depends_on_the_step_and_the_seed_alone():
    # A rate of 0, so that nothing but dropout can change the loss.
    stage = tiny.stage(optimizer=lambda: optax.sgd(0.0), dropout_rate=0.1)
    step, state, mesh, batch = step_of(stage)
    placed = partitioning.shard_batch(mesh, batch)
    losses = []
    for seed, number in [(0, 0), (0, 1), (1, 0), (0, 0)]:
        state = state.replace(step=jnp.int32(number))
        state, metrics = step(state, placed, jax.random.key(seed))
        losses.append(float(metrics["loss"]))
    assert losses[0] == losses[3]
    assert len(set(losses)) == 3


def test_the_step_compiles_once_for_each_bucket():
    step, state, mesh, batch = step_of(tiny.stage())
    shapes = set()
    for buckets in [(), ((40, 4),), ((48, 4),)] * 2:
        placed = partitioning.shard_batch(mesh, batching.trim(batch, buckets))
        shapes.add(placed["encoder_input_tokens"].shape)
        state, _ = step(state, placed, jax.random.key(0))
    assert step.compiled._cache_size() == len(shapes) == 3


def test_microbatches_add_up_to_the_batch():
    found = []
    for microbatches in (1, 4):
        stage = tiny.stage(microbatches=microbatches)
        step, state, mesh, batch = step_of(stage)
        # Rows of different weight, so that a mean of means would differ.
        weights = batch["decoder_loss_weights"].copy()
        weights[1::4, 1:] = 0
        batch = batch | {"decoder_loss_weights": weights}
        state, metrics = step(state, partitioning.shard_batch(mesh, batch), jax.random.key(0))
        found.append((metrics, state.trainable))
    pairs = list(zip(*map(jax.tree.leaves, found), strict=True))
    assert len(pairs) > 20
    for one, four in pairs:
        np.testing.assert_allclose(one, four, rtol=1e-3, atol=1e-5)


def test_microbatches_must_divide_the_batch():
    with pytest.raises(
        UserError, match="batches of 8 rows, which microbatches = 3 does not divide"
    ):
        tiny.stage(microbatches=3)
    # Batches that come otherwise than the stage says.
    step, state, mesh, batch = step_of(tiny.stage(microbatches=2))
    odd = {name: rows[:7] for name, rows in batch.items()}
    with pytest.raises(UserError, match="a batch of 7 rows cannot be divided into 2 microbatches"):
        step(state, partitioning.shard_batch(mesh, odd), jax.random.key(0))


def test_frozen_leaves_kept_in_bfloat16_come_back_as_they_were(tmp_path):
    before = params_with_prompt()
    after = run_stage(tmp_path, tiny.prompt_stage(frozen_dtype="bfloat16"), before)
    changed = {
        path
        for path, leaf in trees.flatten(after).items()
        if leaf.dtype != np.float32 or (leaf != trees.flatten(before)[path]).any()
    }
    assert changed == {"encoder/prompt/rte/prompt"}


def test_buckets_do_not_change_the_training(tmp_path):
    whole = tiny.stage(batches=batching.FixedBatches(8))
    cut = dataclasses.replace(whole, batches=batching.FixedBatches(8, ((40, 4), (48, 4))))
    a = run_stage(tmp_path / "whole", whole)
    b = run_stage(tmp_path / "cut", cut)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)


def test_a_loss_that_is_not_finite_stops_with_the_mend(tmp_path):
    def explode():
        return optimizers.model_adafactor(1e30)

    with pytest.raises(
        UserError, match=r"the loss is (nan|inf) at step 4; lower the learning rate"
    ):
        run_stage(tmp_path, tiny.stage(optimizer=explode, eval_period=4))
