"""Stages that train adapters of each kind: what moves, what stays, and that they are resumed."""

import dataclasses

import jax
import numpy as np
import pytest

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.experiment import attachments, lineage
from promot_jax.models import attached, moments
from promot_jax.models.attached import Attached
from promot_jax.models.networks import lora
from promot_jax.models.networks.lora import Lora
from promot_jax.models.networks.lora_inits import CorDA, LoRANull, MiLoRA
from promot_jax.models.networks.parallel import Parallel
from promot_jax.training import afterwards, optimizers, selections
from tests import meshes, tiny
from tests.models.parallel_test import BATCH
from tests.quick import quick_jit
from tests.training.train_test import RISING, run_stage

pytestmark = pytest.mark.long

PATTERN = ".*(query|wo)/kernel"
DORA = Lora(PATTERN, 2, 4.0, form="dora")
NULL = Lora(PATTERN, 2, 4.0, init=LoRANull("mini_rte", 2))
ADAPTER = Parallel(".*/mlp", 3)
MOVES = {
    "dora": (DORA, ".*/lora_(a|b|magnitude)"),
    "parallel": (ADAPTER, ".*/adapter_(down|up)"),
    "lora_null": (NULL, ".*/lora_[ab]"),
}


def stage_of(kind, **changes):
    adapters, moves = MOVES[kind]
    settings = {"name": kind, "trainable": (moves,), "lora": adapters, "dropout_rate": 0.0}
    settings["optimizer"] = lambda: optimizers.adamw(0.01)
    if kind == "lora_null":
        settings["selection"] = selections.Located((moves,))
        settings["trainable"] = (".*/lora_[ab]0?",)
    return tiny.stage(**settings | changes)


def model_of(kind):
    # Stacked where layers begin one by one.
    layers = {"num_encoder_layers": 2, "num_decoder_layers": 2}
    return tiny.model(**layers, scan_layers=True) if kind == "lora_null" else tiny.model()


@pytest.mark.parametrize(
    "kind", [pytest.param("dora", marks=pytest.mark.slow), "parallel", "lora_null"]
)
def test_a_stage_moves_its_adapters_alone_and_is_resumed(kind, tmp_path, monkeypatch):
    stage, model = stage_of(kind), model_of(kind)
    bare = model.init(jax.random.key(0))
    before = attachments.add(bare, stage, 3, model)
    seen = []
    whole = run_stage(tmp_path / "whole", stage, before, evaluations=seen, model=model)
    with pytest.raises(IndexError):
        run_stage(tmp_path / "parts", stage, before, RISING[:2], model=model)
    # Whoever goes on, or only loads, measures nothing again.
    monkeypatch.setattr(moments, "of_inputs", None)
    rest = run_stage(tmp_path / "parts", stage, before, RISING[2:], model=model)
    loaded = run_stage(tmp_path / "whole", stage, before, (), model=model)
    assert tiny.leaves_equal(whole, rest)
    assert tiny.leaves_equal(whole, loaded)
    old, new = trees.flatten(seen[0]), trees.flatten(whole)
    assert old.keys() == new.keys()
    moved = {path for path in old if (np.asarray(old[path]) != np.asarray(new[path])).any()}
    assert moved == trees.select(old, [MOVES[kind][1]])
    # With nothing attached it is the model that there was, also after the training.
    assert tiny.leaves_equal(attached.BARE.params(model, whole), bare)
    start = [quick_jit(one.logits) for one in (model.with_lora(stage.lora), model)]
    found, expected = start[0](seen[0], BATCH), start[1](bare, BATCH)
    if kind == "dora":
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(found, expected)
    if kind == "lora_null":
        path = "encoder/layers/mlp/wo/lora_"
        assert (old[f"{path}a"] == old[f"{path}a0"]).all()
        assert np.abs(old[f"{path}a0"] @ old[f"{path}b0"]).max(axis=(1, 2)).min() > 1e-4


@pytest.mark.slow
def test_a_second_stage_reads_what_the_first_one_made(tmp_path):
    """ProMoT with adapters: they stand still in its second stage, and are off elsewhere."""
    model = tiny.model()
    first = stage_of("parallel")
    params = attachments.add(model.init(jax.random.key(0)), first, 3, model)
    params = run_stage(tmp_path / "first", first, params, model=model)
    others = ("(?!.*/(prompt/|lora_|adapter_)).*",)
    second = tiny.stage(trainable=others, lora=ADAPTER)
    after = run_stage(tmp_path / "second", second, params, model=model)
    old, new = trees.flatten(params), trees.flatten(after)
    moved = {path for path in old if (np.asarray(old[path]) != np.asarray(new[path])).any()}
    assert moved == trees.select(old, others)
    assert tiny.leaves_equal(lora.adapters(after), lora.adapters(params))
    on, off = Attached(adapters=ADAPTER), attached.BARE
    found = [one.model(model, after).logits(one.params(model, after), BATCH) for one in (on, off)]
    assert np.abs(np.asarray(found[0] - found[1])).max() > 1e-3


def test_what_adapters_began_with_must_be_in_checkpoints(tmp_path):
    stage, model = stage_of("lora_null", trainable=(".*/lora_[ab]",)), model_of("lora_null")
    params = attachments.add(model.init(jax.random.key(0)), stage, 3, model)
    with pytest.raises(UserError, match=r"must hold lora_a0 and lora_b0: .*ab\]0\?'\)"):
        run_stage(tmp_path, stage, params, model=model)


def test_settings_that_came_later_count_where_they_say_something():
    embedding = np.zeros((4, 2), np.float32)

    def of(adapters):
        return lineage.of_stage(
            "base", tiny.stage(lora=adapters, dropout_rate=0.1), 0, "", embedding
        )

    plain = Lora(PATTERN, 2, 4.0)
    # As it was before there were other scales, forms and inits.
    assert of(plain) == "2:190b99d457cc72c7"
    kinds = [
        *(plain, DORA, NULL, ADAPTER, Lora(PATTERN, 2, 4.0, "root_rank")),
        *(dataclasses.replace(plain, init=init) for init in (MiLoRA(), CorDA("mini_rte", 2))),
        dataclasses.replace(plain, init=LoRANull("mini_wic", 2)),
        Parallel(".*/mlp", 3, 2.0),
    ]
    assert len({of(kind) for kind in kinds}) == len(kinds)


@pytest.mark.parametrize("kind", MOVES)
def test_half_of_what_adapters_add(kind):
    """At 0 the start, at 1 every bit of the end; between, what half an adapter is."""
    adapters, model = MOVES[kind][0], tiny.model()
    params = attachments.add(model.init(jax.random.key(0)), stage_of(kind), 3, model)
    rng = np.random.default_rng(0)
    small = {
        path: leaf + np.float32(rng.normal(0, 0.1, leaf.shape))
        for path, leaf in trees.flatten(lora.adapters(params)).items()
    }
    end = trees.combine(lora.remove(params), trees.unflatten(small))
    made = [afterwards.AdapterScale().apply(params, end, at, 0) for at in (0.0, 0.5, 1.0)]
    assert tiny.leaves_equal(made[2], end)
    begun = model.with_lora(adapters).logits(made[0], BATCH)
    bare = model.logits(lora.remove(params), BATCH)
    np.testing.assert_allclose(begun, bare, rtol=1e-5, atol=1e-5)
    if kind == "lora_null":
        begun, half, ended = (trees.flatten(lora.merge(tree, adapters)) for tree in made)
    else:
        begun, half, ended = map(trees.flatten, made)
    changed = {path for path in ended if np.abs(ended[path] - begun[path]).max() > 1e-3}
    assert {path.split("/")[-1] for path in changed} == {
        "dora": {"lora_b", "lora_magnitude"},
        "parallel": {"adapter_up"},
        "lora_null": {"kernel"},
    }[kind]
    for path in changed:
        middle = (begun[path] + ended[path]) / 2
        np.testing.assert_allclose(half[path], middle, rtol=1e-5, atol=1e-5, err_msg=path)


# ---- devices -------------------------------------------------------------------------------------

ON_MESHES = """
import contextlib, dataclasses, sys
import jax, numpy as np
from promot_jax.base import partitioning, trees
from promot_jax.experiment import attachments
from promot_jax.models import moments
from promot_jax.models.networks.lora_inits import MiLoRA
from promot_jax.training import begun_adapters, train_state
from tests import tiny
from tests.training.adapter_stages_test import MOVES, NULL, stage_of
from tests.training.objective_stages_test import host_batch, one_step
from tests.training.replay_test import ADAPTED, adapted_params_of

found, batch = {}, host_batch()
model = tiny.model(num_encoder_layers=2, scan_layers=True)
for name, devices, sizes in (("one", 1, (1, 1)), ("eight", 8, (2, 2))):
    mesh = partitioning.make_mesh(*sizes, jax.devices()[:devices])
    for kind in ("dora", "parallel"):
        stage = stage_of(kind)
        params = attachments.add(model.init(jax.random.key(0)), stage, 3, model)
        metrics, state = one_step(stage, model, params, batch, mesh)
        leaves = {**metrics, **trees.flatten(state.trainable)}
        found |= {f"{name}:{kind}:{what}": np.asarray(leaf) for what, leaf in leaves.items()}
    # Adapters that stand still, and act in every other row.
    acting = batch | {"adapted": np.arange(len(batch["decoder_target_tokens"]), dtype=np.int32) % 2}
    metrics, state = one_step(ADAPTED, model, adapted_params_of(model), acting, mesh)
    leaves = {**metrics, **trees.flatten(state.trainable)}
    found |= {f"{name}:acting:{what}": np.asarray(leaf) for what, leaf in leaves.items()}
    bare = model.init(jax.random.key(0))
    _, axes = model.shapes_and_axes()
    bare = jax.device_put(bare, partitioning.params_sharding(mesh, axes, bare))
    placed = partitioning.shard_batch(mesh, batch)
    with partitioning.activate(mesh):
        run = jax.jit(lambda bare, placed: moments.of_inputs(model, bare, placed, NULL))
        leaves = run(bare, placed)
    found |= {f"{name}:moment:{what}": np.asarray(leaf) for what, leaf in leaves.items()}
    # Of several directions that no row uses, each choice is as good: this one has no choice.
    stage = stage_of("lora_null", lora=dataclasses.replace(NULL, init=MiLoRA()))
    params = attachments.add(model.init(jax.random.key(0)), stage, 3, model)
    state = train_state.sharded_state(stage, params, model, mesh)
    read = lambda mixture: contextlib.nullcontext([placed])
    state = begun_adapters.begun(stage, state, model, mesh, read)
    leaves = trees.flatten(state.trainable)
    for path in [path for path in leaves if path.endswith("lora_a0")]:
        # But for a sign.
        a, b = (np.asarray(leaves[p]) for p in (path, path.replace("lora_a0", "lora_b0")))
        found[f"{name}:begun:{path}"] = a @ b
np.savez(sys.argv[1], **found)
"""


@pytest.mark.slow
def test_eight_devices_equal_one(tmp_path):
    found = meshes.found(ON_MESHES, tmp_path)
    names = meshes.names(found)
    assert len(names) > 20
    meshes.check_equal(found, names, atol=1e-4)
