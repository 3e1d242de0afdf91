"""Stages with objectives: the same reference always, the same training however it is divided."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.data import batching
from promot_jax.experiment import lineage
from promot_jax.models import attached
from promot_jax.models.networks import lora
from promot_jax.training import objectives, train_state, train_step
from tests import meshes, tiny
from tests.models.chunked_loss_test import network
from tests.quick import quick_jit
from tests.training.objectives_test import padded_and_packed
from tests.training.train_test import RISING, params_with_prompt, run_stage

pytestmark = pytest.mark.long

ALL = (
    objectives.KL(0.2),
    objectives.KL(0.1, "reverse"),
    objectives.L2SP(0.5),
    objectives.EWC(0.5, batches=2),
    objectives.DFT(),
    objectives.FLOW(batches=2),
    objectives.STM(1e4),
    objectives.SSToken(0.5),
    objectives.MaskedThought(mask_id=0, rate=0.3),
)


def attached_stage(**changes):
    """The model trains, a prompt is attached: ProMoT's second stage."""
    settings = {"prompt": "rte", "prompt_length": 3}
    return tiny.stage(**settings | changes)


def training_metrics(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "train/loss" in line]


def test_resumed_equals_never_interrupted(tmp_path):
    stage = attached_stage(objective=ALL, dropout_rate=0.1)
    before = stage.params(params_with_prompt(), tiny.model())
    whole = run_stage(tmp_path / "whole", stage, before)
    # It stops while it measures step 4, for want of a score. A shorter stage would not do: the rate
    # of masks rises with the share of all steps.
    with pytest.raises(IndexError):
        run_stage(tmp_path / "parts", stage, before, RISING[:2])
    rest = run_stage(tmp_path / "parts", stage, before, RISING[2:])
    assert tiny.leaves_equal(whole, rest)
    lines, others = map(training_metrics, (tmp_path / "whole", tmp_path / "parts"))
    assert lines == others
    assert len(lines) == 2
    assert all(0.3 < line["train/kept"] < 1 for line in lines)
    assert {"train/penalty", "train/weight", "train/loss"} <= lines[0].keys()
    # Frozen leaves keep every bit, and no checkpoint holds the reference.
    prompt = "encoder/prompt/rte/prompt"
    assert (trees.flatten(whole)[prompt] == trees.flatten(before)[prompt]).all()
    saved = (tmp_path / "whole/checkpoints/4/state/_METADATA").read_text()
    assert "reference" not in saved


def test_a_weight_of_nothing_is_fine_tuning_bit_for_bit(tmp_path):
    stage = attached_stage(dropout_rate=0.1)
    plain = run_stage(tmp_path / "plain", stage)
    nothing = (objectives.KL(0.0), objectives.L2SP(0.0), objectives.MaskedThought(0, rate=0.0))
    found = run_stage(tmp_path / "found", dataclasses.replace(stage, objective=nothing))
    assert tiny.leaves_equal(plain, found)


def one_step(stage, model=None, params=None, batch=None, mesh=None):
    """The metrics of a step, and the state after it; the rate is 1 and the optimizer none."""
    model, mesh = model or tiny.model(), mesh or partitioning.make_mesh()
    stage = dataclasses.replace(stage, optimizer=lambda: optax.sgd(1.0))
    params = stage.params(params_with_prompt() if params is None else params, model)
    params = jax.tree.map(jnp.copy, params)
    state = train_state.sharded_state(stage, params, model, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = train_step.make_train_step(model, stage, stage.transformation(), mesh, shardings)
    state, metrics = step(state, partitioning.shard_batch(mesh, batch), jax.random.key(0))
    return metrics, state


@functools.cache
def host_batch():
    rows = batching.train_batches("mini_rte", tiny.LENGTHS, batching.FixedBatches(8), seed=0)
    batch = next(rows)
    rows.close()
    # Rows of different weight, so that a mean of means would differ.
    weights = batch["decoder_loss_weights"].copy()
    weights[1::4, 1:] = 0
    return batch | {"decoder_loss_weights": weights, "prompt_ids": np.zeros(8, np.int32)}


@pytest.mark.slow
@pytest.mark.parametrize("scan_layers", [False, True])
def test_microbatches_add_up_to_the_batch(scan_layers):
    layers = {"num_encoder_layers": 2, "num_decoder_layers": 2, "scan_layers": scan_layers}
    model = tiny.model(**layers)
    params = trees.add_prompt(model.init(jax.random.key(0)), "rte", np.ones((3, 16), "f4") / 10)
    found = []
    for microbatches in (1, 4):
        stage = attached_stage(objective=ALL, microbatches=microbatches)
        metrics, state = one_step(stage, model, params, host_batch())
        found.append((metrics, state.trainable))
    for one, four in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, four, rtol=1e-3, atol=1e-5)


def test_packed_rows_train_as_rows_of_their_own():
    model = network("decoder", num_layers=2)
    params = trees.add_prompt(model.init(jax.random.key(0)), "rte", np.ones((3, 16), "f4") / 10)
    learnt = [[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 0, 0]]
    batch, packed = padded_and_packed([5, 1, 9, 7], learnt, prompt_length=3)
    assert (packed["decoder_prompts"] >= 0).sum() == 12
    patterns = ("token_embedder/.*", "decoder/(?!prompt/).*")
    # Their masks are drawn in other places.
    stage = attached_stage(trainable=patterns, objective=ALL[:-1])
    found = []
    for fields in (batch, packed):
        metrics, state = one_step(stage, model, params, fields)
        found.append((metrics, state.trainable))
    assert found[0][0]["penalty"] > 1e-3
    assert 0 < found[0][0]["kept"] < 1
    for own, shared in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(own, shared, rtol=1e-3, atol=1e-5)


def start_of(stage, params=None):
    params = stage.params(params_with_prompt() if params is None else params, tiny.model())
    return train_state.sharded_state(stage, params, tiny.model(), partitioning.make_mesh())


def adapted():
    """A stage that trains adapters, and its parameters: their product is 0."""
    adapters = lora.Lora(".*attention/(query|value)/kernel", 2, 4.0)
    params = lora.add(tiny.model().init(jax.random.key(0)), adapters, jax.random.key(1))
    chosen = (objectives.KL(1.0),)
    stage = tiny.stage(trainable=(".*/lora_[ab]",), lora=adapters, objective=chosen)
    return stage, params


def test_adapters_that_do_nothing_yet_are_at_no_distance():
    stage, params = adapted()
    batch = {name: array for name, array in host_batch().items() if name != "prompt_ids"}
    metrics, state = one_step(stage, params=params, batch=batch)
    assert abs(metrics["penalty"]) < 1e-9
    _, plain = one_step(dataclasses.replace(stage, objective=()), params=params, batch=batch)
    for ours, theirs in zip(*map(jax.tree.leaves, (state.trainable, plain.trainable)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    before = trees.flatten(params)
    after = trees.flatten(state.params)
    moved = {path for path in before if (np.asarray(after[path]) != before[path]).any()}
    assert moved
    assert all(path.endswith("lora_b") for path in moved)


def test_the_reference_is_a_copy_of_what_trains_and_of_nothing_else():
    model = tiny.model()
    prompted = start_of(tiny.prompt_stage(objective=(objectives.KL(),)))
    assert prompted.reference.leaves == {}
    assert start_of(*adapted()).reference.leaves == {}
    # Without an objective that compares there is none.
    assert start_of(attached_stage(objective=(objectives.DFT(),))).reference.leaves == {}
    chosen = (objectives.KL(), objectives.EWC(1.0))
    state = start_of(attached_stage(trainable=(".*",), objective=chosen))
    kept = trees.flatten(state.reference.leaves)
    assert kept.keys() == trees.flatten(state.trainable).keys() - {"encoder/prompt/rte/prompt"}
    for path, leaf in kept.items():
        other = trees.flatten(state.trainable)[path]
        assert leaf.unsafe_buffer_pointer() != other.unsafe_buffer_pointer()
        assert (leaf == other).all()
    low = attached_stage(reference_dtype="bfloat16", objective=(objectives.KL(),))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(start_of(low).reference.leaves)} == {
        "bfloat16"
    }
    abstract = train_state.abstract_state(low, model, partitioning.make_mesh())
    for shape, leaf in zip(*map(jax.tree.leaves, (abstract, start_of(low))), strict=True):
        assert (shape.shape, shape.dtype, shape.sharding) == (leaf.shape, leaf.dtype, leaf.sharding)


def test_pulling_what_the_start_does_not_have_is_an_error():
    with pytest.raises(UserError, match="trains prompts or adapters alone"):
        start_of(tiny.prompt_stage(objective=(objectives.L2SP(1.0),)))


def test_the_reference_has_nothing_attached():
    """A prompt that trains moves the prediction away from the bare model's."""
    stage = tiny.prompt_stage(objective=(objectives.KL(1.0),))
    numbers = np.array([0, 0, 0, -1, 0, 0, -1, 0], np.int32)
    batch = host_batch() | {"prompt_ids": numbers}
    metrics, state = one_step(stage, batch=batch)
    model, bare = tiny.model(), attached.BARE.params(tiny.model(), params_with_prompt())

    @quick_jit
    def divergence(params):
        prompted = model.with_prompts({"rte": 3}).scored(params, batch)
        reference = model.scored(bare, attached.bare_batch(batch))
        return prompted.divergence(reference, "forward")

    each = divergence(params_with_prompt()) * (batch["decoder_loss_weights"] > 0)
    assert (np.asarray(each).sum(1) > 1e-5).tolist() == (numbers == 0).tolist()
    expected = each.sum() / batch["decoder_loss_weights"].sum()
    np.testing.assert_allclose(metrics["penalty"], expected, rtol=1e-4)
    assert state.reference.leaves == {}


def test_objectives_that_keep_nothing_stop_the_stage_with_the_mend(tmp_path):
    stage = attached_stage(objective=(objectives.STM(1.0001),))
    with pytest.raises(UserError, match=r"its objectives keep 0\.00% of the target tokens until"):
        run_stage(tmp_path, stage)


def test_a_stage_without_objectives_has_the_lineage_that_it_had():
    plain, embedding = tiny.stage(), np.zeros((4, 2), np.float32)

    def of(stage):
        return lineage.of_stage("start", stage, 0, "", embedding)

    assert of(plain) == of(tiny.stage(objective=[], reference_dtype=None))
    changed = [
        tiny.stage(objective=(objectives.KL(0.1),)),
        tiny.stage(objective=(objectives.KL(0.2),)),
        tiny.stage(objective=(objectives.ASFT(0.1),)),
        tiny.stage(objective=(objectives.KL(0.1),), reference_dtype="bfloat16"),
    ]
    assert len({of(stage) for stage in [plain, *changed]}) == 5


# A step with every objective on one device and on meshes of data x fsdp x model.
ON_MESHES = """
import sys
import jax, numpy as np
from promot_jax.base import partitioning, trees
from promot_jax.models import chunked_loss
from promot_jax.training import measured, train_state
from tests import tiny
from tests.training.objective_stages_test import ALL, attached_stage, host_batch, one_step

chunked_loss.CHUNK, chunked_loss.FEWEST_COLUMNS = 1, 32
found = {}
for name, devices, sizes in (("one", 1, (1, 1)), ("eight", 8, (2, 2))):
    mesh = partitioning.make_mesh(*sizes, jax.devices()[:devices])
    metrics, state = one_step(attached_stage(objective=ALL), batch=host_batch(), mesh=mesh)
    kernel = state.reference.leaves["encoder"]["layers_0"]["mlp"]["wi"]["kernel"]
    pieces = len({str(shard.index) for shard in kernel.addressable_shards})
    for what, leaf in {**metrics, **trees.flatten(state.trainable), "pieces": pieces}.items():
        found[f"{name}:{what}"] = np.asarray(leaf)
np.savez(sys.argv[1], **found)
"""


@pytest.mark.slow
def test_eight_devices_equal_one(tmp_path):
    found = meshes.found(ON_MESHES, tmp_path)
    names = meshes.names(found)
    assert {"kept", "penalty"} < set(names)
    assert (found["one:pieces"], found["eight:pieces"]) == (1, 4)
    meshes.check_equal(found, {*names} - {"pieces"}, atol=1e-5)
