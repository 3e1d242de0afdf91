"""Stages with a selection: resumed, on eight devices, scanned, and rewound by the runner."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.experiment import lineage
from promot_jax.experiment.runner import Runner
from promot_jax.training import optimizers, selections
from promot_jax.training.stages import Method
from tests import tiny
from tests.training.train_test import RISING, run_stage

pytestmark = pytest.mark.long

LAYERS = {"num_encoder_layers": 2, "num_decoder_layers": 1}


# With weight decay, so that all that may move does.
ADAMW = functools.partial(optimizers.plain_adamw, 0.01, 0.1)


def selected(selection, **changes):
    settings = {"selection": selection, "optimizer": ADAMW}
    return tiny.stage(**settings | changes)


def moved(before, after):
    """Returns how many elements of each layer's leaf changed."""
    old, new = (trees.flatten(trees.unstack_layers(tree)) for tree in (before, after))
    assert old.keys() == new.keys()
    return {path: int((np.asarray(old[path]) != np.asarray(new[path])).sum()) for path in old}


def summary(folder):
    return json.loads((folder / "stage.json").read_text())["selected"]


@pytest.mark.slow
def test_a_rotated_half_is_resumed_between_two_draws(tmp_path):
    model, scanned = tiny.model(**LAYERS), tiny.model(**LAYERS, scan_layers=True)
    stage = selected(selections.Half(rotate_every=1))
    params = model.init(jax.random.key(0))
    stacked = trees.stack_layers(params)
    whole = run_stage(tmp_path / "whole", stage, stacked, model=scanned)
    shorter = dataclasses.replace(stage, steps=2)
    two = run_stage(tmp_path / "parts", shorter, stacked, model=scanned)
    (tmp_path / "parts" / "stage.json").unlink()
    rest = run_stage(tmp_path / "parts", stage, stacked, RISING[2:], model=scanned)
    assert tiny.leaves_equal(whole, rest)
    # Other draws leave less and less where it was.
    still = [list(moved(params, after).values()).count(0) for after in (two, whole)]
    assert still[0] > still[1]
    # Layers that are not stacked have the same draws.
    unrolled = run_stage(tmp_path / "unrolled", stage, params, model=model)
    assert moved(params, unrolled) == moved(params, whole)


@pytest.mark.slow
def test_entries_drawn_once_are_in_the_checkpoint(tmp_path):
    model, scanned = tiny.model(**LAYERS), tiny.model(**LAYERS, scan_layers=True)
    stage = selected(selections.RandomSparse(0.1))
    params = model.init(jax.random.key(0))
    # The stage's own seed, see `run_stage`.
    masks = jax.jit(selections.RandomSparse(0.1, seed=3).kept)(params)
    run_stage(tmp_path, dataclasses.replace(stage, steps=2), params, model=model)
    (tmp_path / "stage.json").unlink()
    # It goes on with other layers, and with a seed that would draw other entries.
    other = dataclasses.replace(stage, selection=selections.RandomSparse(0.1, seed=6))
    stacked = trees.stack_layers(params)
    after = run_stage(tmp_path, other, stacked, RISING[2:], model=scanned)
    found = moved(params, after)
    expected = {path: int(mask.sum()) for path, mask in trees.flatten(masks).items()}
    assert expected == {path: number for path, number in found.items() if number}
    number = sum(expected.values())
    share = number / trees.count(params)
    assert summary(tmp_path) == {"parameters": number, "share": share}
    new, old = (trees.flatten(trees.unstack_layers(tree)) for tree in (after, params))
    for path, mask in trees.flatten(masks).items():
        np.testing.assert_array_equal(new[path] != old[path], mask, err_msg=path)


def test_an_averaged_stage_hands_on_the_average_and_goes_on_with_its_iterates(tmp_path):
    iterates, scores = [], range(5)
    plain = tiny.stage(optimizer=ADAMW, eval_period=1)
    run_stage(tmp_path / "plain", plain, scores=scores, evaluations=iterates)
    averages, expected = [], iterates[0]
    for newest in iterates:
        expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, expected, newest)
        averages.append(expected)
    stage, found = selected(selections.Average(0.75), eval_period=1), []
    shorter = dataclasses.replace(stage, steps=2)
    run_stage(tmp_path / "parts", shorter, scores=scores, evaluations=found)
    (tmp_path / "parts" / "stage.json").unlink()
    end = run_stage(tmp_path / "parts", stage, scores=scores[3:], evaluations=found)
    assert len(found) == len(averages) == 5
    for one, other in zip([*found, end], [*averages, averages[-1]], strict=True):
        for path, leaf in trees.flatten(other).items():
            np.testing.assert_allclose(trees.flatten(one)[path], leaf, rtol=1e-5, atol=1e-6)


# ---- the runner ----------------------------------------------------------------------------------


def two_stages(**changes):
    settings = {"steps": 2, "optimizer": ADAMW}
    first = tiny.stage(name="full", **settings)
    sparse = selections.MostChanged(0.05)
    second = tiny.stage(name="sparse", selection=sparse, **settings | changes)
    return Method("sparse", "Sparse", [first, second])


def test_what_changed_most_trains_from_the_values_of_before(tmp_path):
    method = two_stages()
    runner = Runner(tiny.tiny_experiment(tasks=[], methods=[method]), tmp_path)
    start = jax.device_get(runner.start.params(0))
    full = Method("full", "Full", method.stages[:1])
    ended = jax.device_get(runner.trained(full, 0).params)
    after = runner.trained(method, 0).params
    flat = [trees.flatten(tree) for tree in (start, ended, after)]
    old, middle, new = (np.concatenate([leaf.ravel() for leaf in f.values()]) for f in flat)
    count = int(0.05 * old.size)
    least = np.sort(np.abs(middle - old))[-count]
    # Everything trained in the first stage; in the second what was moved most there.
    assert (middle != old).mean() > 0.3
    np.testing.assert_array_equal(new != old, np.abs(middle - old) >= least)
    found = summary(tmp_path / "seed_0/full-sparse")
    assert found == {"parameters": count, "share": count / old.size}
    # Once finished it is only read; begun again it takes the same way.
    again = Runner(tiny.tiny_experiment(tasks=[], methods=[method]), tmp_path)
    assert tiny.leaves_equal(after, again.trained(method, 0).params)


@pytest.mark.slow
def test_a_stage_that_rewinds_is_continued(tmp_path):
    found = []
    for name, steps in (("whole", (4,)), ("parts", (2, 4))):
        for number in steps:
            method = two_stages(steps=number)
            runner = Runner(tiny.tiny_experiment(tasks=[], methods=[method]), tmp_path / name)
            # As a shorter stage, whose lineage would be another, leaves it.
            runner._lineage = lambda *given: "one"
            params = runner.trained(method, 0).params
            if number < 4:
                (tmp_path / name / "seed_0/full-sparse/stage.json").unlink()
        found.append(params)
    assert tiny.leaves_equal(*found)


def test_a_stage_before_that_trained_something_else_is_an_error(tmp_path):
    method = two_stages(trainable=("encoder/.*mlp/.*",))
    prompt = tiny.prompt_stage(name="full", steps=2)
    method = dataclasses.replace(method, stages=[prompt, method.stages[1]])
    runner = Runner(tiny.tiny_experiment(tasks=[], methods=[method]), tmp_path)
    with pytest.raises(UserError, match="the stage before changed none"):
        runner.trained(method, 0)


def test_a_selection_is_part_of_the_lineage():
    embedding = np.zeros((8, 4), np.float32)
    kinds = [
        None,
        selections.Half(),
        selections.Half(0.25),
        selections.MoFO(),
        selections.MoFO(0.5),
    ]
    stages = [tiny.stage(selection=kind) for kind in kinds]
    found = {lineage.of_stage("base", stage, 0, "", embedding) for stage in stages}
    assert len(found) == len(kinds)


# ---- devices -------------------------------------------------------------------------------------

ON_EIGHT = """
import sys
import jax, jax.numpy as jnp, numpy as np
from promot_jax.base import partitioning, trees
from promot_jax.training import optimizers, selections, train_state
from tests import tiny

model = tiny.model(num_encoder_layers=2, scan_layers=True)
start = jax.device_get(model.init(jax.random.key(0)))
found = {}
for name, selection in {
    "half": selections.Half(rotate_every=2, seed=3),
    "random": selections.RandomSparse(0.1, seed=3),
    "changed": selections.MostChanged(0.1),
}.items():
    stage = tiny.stage(selection=selection, optimizer=lambda: optimizers.plain_adamw(0.01, 0.1))
    for shape in ((1, 1, 1), (2, 2, 2)):
        devices = jax.devices()[: int(np.prod(shape))]
        mesh = partitioning.make_mesh(shape[2], shape[1], devices)
        params = jax.device_put(start, partitioning.replicated(mesh))
        state = train_state.sharded_state(stage, params, model, mesh)
        if name == "changed":
            # Rounded, so that many changes are equal.
            ended = jax.tree.map(lambda leaf: leaf + jnp.round(2 * leaf) / 8, state.trainable)
            opt_state = selection.chosen(state.opt_state, state.trainable, ended)
            state = state.replace(opt_state=opt_state)
        tx = stage.transformation()
        gradients = jax.tree.map(jnp.sin, state.trainable)
        step = jax.jit(lambda state, gradients: state.apply_gradients(gradients, tx))
        for _ in range(3):
            state = step(state, gradients)
        key = f"{name}:{len(devices)}"
        found |= {f"{key}:{p}": np.asarray(x) for p, x in trees.flatten(state.trainable).items()}
        kept = jax.tree.leaves(state.opt_state.kept)
        found[f"{key}:kept"] = [
            kept.sharding.is_fully_replicated == leaf.sharding.is_fully_replicated
            for kept, leaf in zip(kept, jax.tree.leaves(state.trainable)) if len(kept.shape)
        ]
        found[f"{key}:count"] = selection.count(state.opt_state, state.trainable)
np.savez(sys.argv[1], **found)
"""


@pytest.mark.slow
def test_eight_devices_select_what_one_does(tmp_path):
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    path = tmp_path / "found.npz"
    subprocess.run([sys.executable, "-c", ON_EIGHT, str(path)], check=True, env=env)
    found = np.load(path)
    start = tiny.model(num_encoder_layers=2, scan_layers=True).init(jax.random.key(0))
    for name in ("half", "random", "changed"):
        assert found[f"{name}:8:count"] == found[f"{name}:1:count"] > 0
        assert all(found[f"{name}:8:kept"]), name
        for leaf_path, leaf in trees.flatten(start).items():
            one, eight = (found[f"{name}:{count}:{leaf_path}"] for count in (1, 8))
            np.testing.assert_array_equal(one != leaf, eight != leaf, err_msg=leaf_path)
            np.testing.assert_allclose(one, eight, rtol=1e-6, atol=1e-6)
    assert found["changed:8:count"] == int(0.1 * trees.count(start))
