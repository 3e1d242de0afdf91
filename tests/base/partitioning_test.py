"""Shardings by hand, and a forced 8-device mesh against one device."""

import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.training import train_state
from tests import tiny

pytestmark = pytest.mark.long

# Three steps that train everything, and a beam search, on meshes of data x fsdp x model.
SHAPES = {"one": (1, 1, 1), "data": (8, 1, 1), "mixed": (2, 2, 2), "sharded": (1, 4, 2)}
ON_MESHES = """
import sys
import jax, numpy as np
from promot_jax.models import chunked_loss
from promot_jax.data import batching
from promot_jax import models
from promot_jax.base import partitioning, trees
from promot_jax.training import train_state
from promot_jax.models.attached import Attached
from promot_jax.experiment.evaluation import EvalTask, Evaluator
from promot_jax.models.decoding import Beam
from promot_jax.training.train_step import make_train_step
from tests.base import partitioning_test
from tests import tiny

# Chunks of 2 x 16 tokens of 1280.
chunked_loss.CHUNK, chunked_loss.FEWEST_COLUMNS = 1, 32
params = trees.add_prompt(
    jax.device_get(tiny.model().init(jax.random.key(0))), "rte", np.full((3, 16), 0.1, np.float32)
)
stage = tiny.stage(trainable=(".*",), prompt="rte", prompt_length=3, dropout_rate=0.1)
model = tiny.model().with_prompts({"rte": 3})
found = {}
for name, (data_size, fsdp, model_parallel) in partitioning_test.SHAPES.items():
    devices = jax.devices()[: data_size * fsdp * model_parallel]
    mesh = partitioning.make_mesh(model_parallel, fsdp, devices)
    state = train_state.sharded_state(stage, params, tiny.model(), mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_train_step(model, stage, stage.optimizer(), mesh, shardings)
    losses = []
    rows = batching.train_batches("mini_rte", tiny.LENGTHS, stage.batches, seed=0)
    for _ in range(3):
        batch = {**next(rows), "prompt_ids": np.array([0, 0, 0, -1, 0, 0, -1, 0], np.int32)}
        state, metrics = step(state, partitioning.shard_batch(mesh, batch), jax.random.key(0))
        losses.append(float(metrics["loss"]))
    kernel = state.params["encoder"]["layers_0"]["mlp"]["wi"]["kernel"]
    evaluator = Evaluator(tiny.model(), mesh, Beam(num_beams=2), batch_size=8)
    task = EvalTask("mini_rte", "RTE", "accuracy", tiny.LENGTHS)
    attached = Attached("rte")
    answers = evaluator.evaluate(state.params, task, split="test", limit=12, attached=attached)
    # Rows that the devices cannot divide among them.
    few = evaluator.evaluate(state.params, task, split="test", limit=5, attached=attached)
    assert few.predictions == answers.predictions[:5]
    leaves = {path: np.asarray(leaf) for path, leaf in trees.flatten(state.params).items()}
    found |= {
        f"{name}:{what}": value
        for what, value in {
            "losses": losses,
            "pieces": len({str(shard.index) for shard in kernel.addressable_shards}),
            "predictions": answers.predictions,
            **leaves,
        }.items()
    }
np.savez(sys.argv[1], **found)
"""


# Loss, its gradients and a beam search on one device and on a mesh of 2 x 4, whose axis `model`
# divides the heads of queries but not those of keys.
DECODER_ON_A_MESH = """
import sys
import jax, numpy as np
from promot_jax.models import architectures, decoding
from promot_jax.base import partitioning, trees
from promot_jax.tasks import mini

SIZES = {"vocab_size": 1280, "emb_dim": 16, "num_heads": 4, "head_dim": 8, "mlp_dim": 32}
rng = np.random.default_rng(0)
tokens = rng.integers(2, 1280, (8, 10))
segments = (np.arange(10) < rng.integers(1, 11, 8)[:, None]).astype(np.int32)
batch = {
    "encoder_input_tokens": tokens * segments,
    "encoder_segment_ids": segments,
    "decoder_input_tokens": np.pad(tokens[:, :3], ((0, 0), (1, 0))),
    "decoder_target_tokens": tokens[:, :4],
    "decoder_loss_weights": np.ones((8, 4), np.int32),
    "prompt_ids": np.array([0, 0, 0, -1, 0, 0, -1, 0], np.int32),
}
meshes = {
    "one": partitioning.make_mesh(devices=jax.devices()[:1]),
    "eight": partitioning.make_mesh(4),
}
found = {}
for heads in (1, 2):
    config = SIZES | {"num_layers": 1, "num_kv_heads": heads, "logit_scale": 0.25}
    model = architectures.build("decoder", config, mini.vocabulary()).with_prompts({"rte": 3})
    params = jax.tree.map(
        lambda leaf: rng.normal(0.0, 0.5, leaf.shape).astype(np.float32),
        model.shapes_and_axes()[0],
    )

    def summed(params, batch):
        return model.loss_fn(params, batch, None).total

    def run(params, batch):
        tokens = model.predict_batch(params, batch, decoding.Beam(num_beams=3), 4)
        return *jax.value_and_grad(summed)(params, batch), tokens

    # Several rows to a line, and lines on both parts of the mesh.
    packed = model.packer([batch], 2)(batch)
    assert packed["decoder_tokens"].shape[0] in (2, 4)
    for name, mesh in meshes.items():
        axes = model.shapes_and_axes()[1]
        placed = jax.device_put(params, partitioning.params_sharding(mesh, axes, params))
        with partitioning.activate(mesh):
            loss, gradients, answers = jax.jit(run)(placed, partitioning.shard_batch(mesh, batch))
            rows = partitioning.shard_batch(mesh, packed if name == "eight" else batch)
            pulled = jax.jit(jax.grad(summed))(placed, rows)
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
                **{f"packed {path}": leaf for path, leaf in trees.flatten(pulled).items()},
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


@pytest.mark.slow
def test_three_meshes_of_eight_devices_equal_one_device(tmp_path):
    found = run(ON_MESHES, 8, tmp_path / "found.npz")
    names = [name.removeprefix("one:") for name in found.files if name.startswith("one:")]
    assert len(names) > 20
    assert [found[f"{mesh}:pieces"] for mesh in SHAPES] == [1, 1, 4, 8]
    for mesh in list(SHAPES)[1:]:
        for name in set(names) - {"pieces"}:
            one, other = found[f"one:{name}"], found[f"{mesh}:{name}"]
            if name == "predictions":
                assert one.tolist() == other.tolist()
                assert len(set(one.tolist())) > 1
            else:
                options = {"rtol": 1e-3, "atol": 1e-5, "err_msg": f"{mesh} {name}"}
                np.testing.assert_allclose(one, other, **options)
        np.testing.assert_allclose(found["one:losses"], found[f"{mesh}:losses"], rtol=1e-5)


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


def abstract(data_size=2, fsdp=2, model=2):
    return jax.sharding.AbstractMesh((data_size, fsdp, model), ("data", "fsdp", "model"))


def test_rules_map_axes_and_leave_what_does_not_divide():
    axes = {"mlp": ("embed", "mlp"), "odd": ("embed", "mlp"), "prompt": ("prompt", "prompt_embed")}
    params = {"mlp": np.ones((4, 8)), "odd": np.ones((3, 7)), "prompt": np.ones((4, 8))}
    found = partitioning.params_sharding(abstract(), axes, params)
    assert found["mlp"].spec == PartitionSpec("fsdp", "model")
    assert found["odd"].spec == PartitionSpec(None, None)
    assert found["prompt"].spec == PartitionSpec(None, None)


def test_optimizer_slots_are_sharded_like_their_parameters():
    mesh = partitioning.make_mesh()
    params = trees.add_prompt(tiny.model().init(jax.random.key(0)), "rte", np.ones((3, 16), "f4"))
    stage = tiny.stage(trainable=(".*",), prompt="rte", prompt_length=3)
    state = train_state.sharded_state(stage, params, tiny.model(), mesh)
    _, axes = tiny.model().with_prompts({"rte": 3}).shapes_and_axes()
    found = train_state.state_sharding(abstract(), axes, state)
    slots = jax.tree_util.tree_leaves_with_path(found.opt_state)
    specs = {sharding.spec for path, sharding in slots if "wi" in str(path)}
    assert PartitionSpec("fsdp", "model") in specs


def test_the_abstract_state_is_that_of_a_stage():
    mesh = partitioning.make_mesh()
    stage = tiny.prompt_stage(frozen_dtype="bfloat16")
    params = trees.add_prompt(tiny.model().init(jax.random.key(0)), "rte", np.ones((3, 16), "f4"))
    state = train_state.sharded_state(stage, params, tiny.model(), mesh)
    found = train_state.abstract_state(stage, tiny.model(), mesh)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True))
    assert len(pairs) > 20
    for shape, leaf in pairs:
        assert (shape.shape, shape.dtype, shape.sharding) == (leaf.shape, leaf.dtype, leaf.sharding)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.frozen)} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.trainable)} == {"float32"}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"model_parallel": 3}, "model_parallel = 3 and fsdp = 1 do not divide"),
        ({"fsdp": 5}, "model_parallel = 1 and fsdp = 5 do not divide"),
        ({"fsdp": 0}, "fsdp = 0; give a number of devices, at least 1"),
    ],
)
def test_bad_meshes_are_clear_errors(axes, message):
    with pytest.raises(UserError, match=message):
        partitioning.make_mesh(**axes)


def test_a_large_model_is_divided_over_all_devices():
    devices = [jax.devices()[0]] * 8

    def shape(*arguments, **options):
        return tuple(partitioning.make_mesh(*arguments, devices=devices, **options).shape.values())

    assert shape() == (8, 1, 1)
    assert shape(2, parameters=30_000_000) == (4, 1, 2)
    assert shape(2, parameters=13_000_000_000) == (1, 4, 2)
    assert shape(2, 2, parameters=13_000_000_000) == (2, 2, 2)


@pytest.mark.parametrize(
    ("processes", "model", "expected"),
    [
        ([0, 0, 0, 0], 1, {0: (0, 1)}),
        ([0, 0, 1, 1], 1, {0: (0, 2), 1: (1, 2)}),
        ([0, 1, 2, 3], 2, {0: (0, 2), 1: (0, 2), 2: (1, 2), 3: (1, 2)}),
        ([0, 0, 1, 1], 4, {0: (0, 1), 1: (0, 1)}),
        # Rows here and there, parts that overlap or are not equal: everybody reads all rows.
        ([0, 1, 0, 1], 1, {0: (0, 1), 1: (0, 1)}),
        ([0, 0, 0, 1, 1, 1], 2, {0: (0, 1), 1: (0, 1)}),
        ([0, 0, 0, 1], 1, {0: (0, 1), 1: (0, 1)}),
    ],
)
def test_a_process_reads_the_rows_that_its_devices_hold(monkeypatch, processes, model, expected):
    devices = [types.SimpleNamespace(process_index=number) for number in processes]
    mesh = types.SimpleNamespace(
        devices=np.array(devices).reshape(-1, 1, model),
        shape={"data": len(devices) // model, "fsdp": 1, "model": model},
    )
    for process, share in expected.items():
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert partitioning.share(mesh) == share


def test_bad_batches_are_clear_errors():
    with pytest.raises(UserError, match="6 rows cannot be divided over 4 devices"):
        partitioning.shard_batch(abstract(), {"x": np.ones((6, 2))})


def test_constraints_of_the_network_reach_the_compiler():
    model, mesh = tiny.model(), partitioning.make_mesh()
    tokens = jax.ShapeDtypeStruct((4, 6), "int32")
    with partitioning.activate(mesh):
        apply = jax.jit(lambda params, tokens: model.network.apply(
            {"params": params}, tokens, tokens, tokens, enable_dropout=False
        ))  # fmt: skip
        text = apply.lower(model.shapes_and_axes()[0], tokens).as_text()
    assert text.count("sharding_constraint") > 20


KEEPS = """
import pathlib, sys
import jax
from promot_jax.base import partitioning
partitioning.keep_compiled(*map(pathlib.Path, sys.argv[1:]))
jax.jit(lambda key: jax.random.permutation(key, 1000))(jax.random.key(0))
print(jax.config.jax_compilation_cache_dir)
"""


@pytest.mark.parametrize("where", ["home", "given", "environment", "nowhere"])
def test_compiled_programs_are_kept(tmp_path, where):
    home, given, named = (tmp_path / name for name in ("home", "given", "named"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    environment["HOME"] = str(home)
    if where == "environment":
        environment["JAX_COMPILATION_CACHE_DIR"] = str(named)
    if where == "nowhere":
        home.write_text("no folder")
    command = [sys.executable, "-c", KEEPS, *([str(given)] if where == "given" else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    folders = {"home": home / ".cache/promot_jax/compiled", "given": given, "environment": named}
    assert done.stdout.strip() == str(folders.get(where))
    if where in ("home", "given"):
        assert list(folders[where].glob("*-cache"))
    assert not done.stderr
