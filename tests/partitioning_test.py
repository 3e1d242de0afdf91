"""Shardings by hand, and a forced 8-device mesh against one device."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from promot_jax import models, partitioning, train
from promot_jax.errors import UserError
from tests import tiny

ON_A_MESH = """
import sys
import jax, numpy as np
from promot_jax import data, models, partitioning, train, trees
from promot_jax.attached import Attached
from promot_jax.evaluation import EvalTask, Evaluator
from promot_jax.decoding import Beam
from promot_jax.train_step import make_train_step
from tests import tiny

model_parallel, out = int(sys.argv[1]), sys.argv[2]
mesh = partitioning.make_mesh(model_parallel)
params = models.add_prompt(
    tiny.model().init(jax.random.key(0)), "rte", np.full((3, 16), 0.1, np.float32)
)
stage = tiny.stage(trainable=(".*",), prompt="rte", prompt_length=3)
state = train.sharded_state(stage, params, tiny.model(), mesh)
model = tiny.model().with_prompts({"rte": 3})
shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
step = make_train_step(model, stage, stage.optimizer(), mesh, shardings)
losses = []
rows = data.train_batches("mini_rte", tiny.LENGTHS, stage.batches, seed=0)
for _ in range(3):
    batch = {**next(rows), "prompt_ids": np.array([0, 0, 0, -1, 0, 0, -1, 0], np.int32)}
    state, metrics = step(state, partitioning.shard_batch(mesh, batch), jax.random.key(0))
    losses.append(float(metrics["loss"]))
kernel = state.params["encoder"]["layers_0"]["mlp"]["wi"]["kernel"]
evaluator = Evaluator(tiny.model(), mesh, Beam(num_beams=2), batch_size=8)
task = EvalTask("mini_rte", "RTE", "accuracy", tiny.LENGTHS)
found = evaluator.evaluate(state.params, task, split="test", limit=12, attached=Attached("rte"))
np.savez(
    out,
    losses=losses,
    devices=jax.device_count(),
    pieces=len({str(shard.index) for shard in kernel.addressable_shards}),
    predictions=found.predictions,
    **{path: np.asarray(leaf) for path, leaf in trees.flatten(state.params).items()},
)
"""


# Loss, its gradients and a beam search on one device and on a mesh of 2 x 4, whose axis `model`
# divides the heads of queries but not those of keys.
DECODER_ON_A_MESH = """
import sys
import jax, numpy as np
from jax.sharding import Mesh
from promot_jax import decoding, models, partitioning, trees
from promot_jax.tasks import mini

SIZES = {"vocab_size": 1280, "emb_dim": 16, "num_heads": 4, "head_dim": 8, "mlp_dim": 32}
rng = np.random.default_rng(0)
tokens = rng.integers(2, 1280, (8, 10))
segments = (np.arange(10) < rng.integers(1, 11, 8)[:, None]).astype(np.int32)
batch = {
    "encoder_input_tokens": tokens * segments,
    "encoder_segment_ids": segments,
    "decoder_target_tokens": tokens[:, :4],
    "decoder_loss_weights": np.ones((8, 4), np.int32),
    "prompt_ids": np.array([0, 0, 0, -1, 0, 0, -1, 0], np.int32),
}
meshes = {
    "one": Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model")),
    "eight": partitioning.make_mesh(4),
}
found = {}
for heads in (1, 2):
    config = SIZES | {"num_layers": 1, "num_kv_heads": heads, "logit_scale": 0.25}
    model = models.build("decoder", config, mini.vocabulary()).with_prompts({"rte": 3})
    params = jax.tree.map(
        lambda leaf: rng.normal(0.0, 0.5, leaf.shape).astype(np.float32),
        model.shapes_and_axes()[0],
    )

    def run(params, batch):
        loss = lambda params: model.loss_fn(params, batch, None).total
        tokens = model.predict_batch(params, batch, decoding.Beam(num_beams=3), 4)
        return *jax.value_and_grad(loss)(params), tokens

    for name, mesh in meshes.items():
        axes = model.shapes_and_axes()[1]
        placed = jax.device_put(params, partitioning.params_sharding(mesh, axes, params))
        with partitioning.activate(mesh):
            loss, gradients, answers = jax.jit(run)(placed, partitioning.shard_batch(mesh, batch))
        attention = placed["decoder"]["layers_0"]["self_attention"]
        found |= {
            f"{name}/{heads}/{what}": np.asarray(value)
            for what, value in {
                "loss": loss,
                "answers": answers,
                "pieces": [
                    len({str(s.index) for s in attention[kind]["kernel"].addressable_shards})
                    for kind in ("query", "key")
                ],
                **trees.flatten(gradients),
            }.items()
        }
np.savez(sys.argv[1], **found)
"""


def run(script, devices, *arguments):
    """Runs a script on so many devices; returns the arrays it saves as its last argument."""
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": os.getcwd(),
    }
    subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], env=environment, check=True
    )
    return np.load(arguments[-1])


def test_eight_devices_equal_one(tmp_path):
    one = run(ON_A_MESH, 1, 1, tmp_path / "one.npz")
    eight = run(ON_A_MESH, 8, 2, tmp_path / "eight.npz")
    assert (one["devices"], eight["devices"]) == (1, 8)
    assert (one["pieces"], eight["pieces"]) == (1, 2)
    assert one.files == eight.files
    assert len(one.files) > 20
    np.testing.assert_allclose(one["losses"], eight["losses"], rtol=1e-5)
    assert one["predictions"].tolist() == eight["predictions"].tolist()
    for name in one.files:
        if "/" in name:
            np.testing.assert_allclose(one[name], eight[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_decoder_on_eight_devices_equals_one(tmp_path):
    found = run(DECODER_ON_A_MESH, 8, tmp_path / "found.npz")
    names = [name.removeprefix("one/") for name in found.files if name.startswith("one/")]
    assert len(names) > 20
    for name in names:
        one, eight = found[f"one/{name}"], found[f"eight/{name}"]
        if name.endswith("pieces"):
            assert (one.tolist(), eight.tolist()) == ([1, 1], [4, 1])
        elif name.endswith("answers"):
            assert one.tolist() == eight.tolist()
            assert len(np.unique(one, axis=0)) > 3
        else:
            assert np.abs(one).max() > 1e-4, name
            np.testing.assert_allclose(one, eight, rtol=1e-3, atol=1e-4, err_msg=name)


def test_rules_map_axes_and_leave_what_does_not_divide():
    mesh = jax.sharding.AbstractMesh((4, 2), ("data", "model"))
    axes = {"mlp": ("embed", "mlp"), "odd": ("embed", "mlp"), "prompt": ("prompt", "prompt_embed")}
    params = {"mlp": np.ones((3, 8)), "odd": np.ones((3, 7)), "prompt": np.ones((4, 8))}
    found = partitioning.params_sharding(mesh, axes, params)
    assert found["mlp"].spec == PartitionSpec(None, "model")
    assert found["odd"].spec == PartitionSpec(None, None)
    assert found["prompt"].spec == PartitionSpec(None, None)


def test_optimizer_slots_are_sharded_like_their_parameters():
    mesh = partitioning.make_mesh()
    params = models.add_prompt(tiny.model().init(jax.random.key(0)), "rte", np.ones((3, 16), "f4"))
    state = train.sharded_state(tiny.stage(trainable=(".*",)), params, tiny.model(), mesh)
    _, axes = tiny.model().with_prompts({"rte": 3}).shapes_and_axes()
    abstract = jax.sharding.AbstractMesh((4, 2), ("data", "model"))
    found = partitioning.state_sharding(abstract, axes, state)
    slots = jax.tree_util.tree_leaves_with_path(found.opt_state)
    specs = {sharding.spec for path, sharding in slots if "wi" in str(path)}
    assert PartitionSpec(None, "model") in specs


def test_bad_meshes_and_batches_are_clear_errors():
    with pytest.raises(UserError, match="model_parallel = 3 does not divide"):
        partitioning.make_mesh(3)
    mesh = jax.sharding.AbstractMesh((4, 2), ("data", "model"))
    with pytest.raises(UserError, match="6 rows cannot be divided over 4 devices"):
        partitioning.shard_batch(mesh, {"x": np.ones((6, 2))})
