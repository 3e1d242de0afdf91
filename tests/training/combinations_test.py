"""Drawn pairs of the catalogue's parts on drawn methods: what training keeps whatever is added."""

import dataclasses
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from promot_jax import configuration
from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.data import generated
from promot_jax.experiment.points import Point
from promot_jax.experiment.runner import Runner
from promot_jax.training import objectives, train
from tests import tiny

pytestmark = pytest.mark.long

BASES = ("fine_tuning", "promot", "lora_fine_tuning")
CATALOGUE = (configuration.GIN_FOLDER / "methods/parts.gin").read_text()
PARTS = re.findall(r"^(\w+)/parts\.Part:", CATALOGUE, re.MULTILINE)
# No row of the miniature brings weights.
PARTS.remove("given_weights")
FLAGS = [
    *("TRAIN_STEPS=4", "EVAL_PERIOD=2", "PROMPT_TRAIN_STEPS=2", "PROMPT_EVAL_PERIOD=2"),
    *("BATCH_SIZE=8", "PROMPT_LENGTH=3", "DROPOUT_RATE=0.0", "LEARNING_RATE=0.01"),
    *("KL_WEIGHT=1.0", "L2_SP_WEIGHT=1.0", "SPARSE_SHARE=0.1", "MASK_ID=5"),
    *("KL_ROWS='mini_triviaqa'", "KL_ROWS_IN_A_STEP=8", "KEY_PATTERN='[a-m]'"),
    "KL_ROWS_FEATURE_LENGTHS={'inputs': 48, 'targets': 12}",
    "LOCATED_PATTERNS=('.*/layers_0/.*(kernel|lora_b)',)",
]
# What two parts, or a part and adapters, cannot do together.
REFUSED = (
    "chooses what moves, and so does a part before it",
    "trains prompts or adapters alone",
    "changes the model, which none of its stages trains",
    "attaches nothing that could teach it",
)


class Killed(Exception):
    """The run was ended from outside."""


def drawn():
    """Names such as `promot+kl+half_reset`."""
    pairs = st.lists(st.sampled_from(PARTS), min_size=2, max_size=2, unique=True)
    return st.tuples(st.sampled_from(BASES), pairs).map(lambda both: "+".join([both[0], *both[1]]))


def opened(name, folder, **changes):
    """Returns the runner of a tiny model, and the method of a name."""
    flags = [*FLAGS, f"METHODS=('{name}',)"]
    flags += ["OPTIMIZER='adamw'"] if "mofo" in name else []
    configuration.parse(
        [configuration.experiment_file("mini")], [f"--gin.{flag}" for flag in flags]
    )
    found = configuration.built()[0]
    model = tiny.model(num_encoder_layers=2)
    settings = {"model": model, "initial_checkpoint": None, "tasks": [], "probes": ()} | changes
    settings = dataclasses.replace(found, **settings)
    (method,) = settings.selected
    for stage in method.stages:
        for source in filter(None, map(generated.source, stage.rates)):
            source._count = 16
    stages = [
        dataclasses.replace(stage, objective=[*map(fitting, stage.objective)])
        for stage in method.stages
    ]
    return Runner(settings, folder), dataclasses.replace(method, stages=stages)


def fitting(objective):
    """Returns an objective that measures little, and keeps some targets of an untrained model."""
    if isinstance(objective, objectives.STM):
        return objectives.STM(1e4)
    return dataclasses.replace(objective, batches=1) if objective.batches else objective


def trained(name, folder, evaluations=None, **changes):
    """Trains a method; it is killed at the evaluation that follows so many.

    Returns the parameters that it hands on and what is made of them afterwards, by path; each
    stage that began with what it was given and what it left; and the times of evaluations.
    """
    seen, times = [], []

    def measure(self, params, *, method, stage):
        if len(times) == evaluations:
            raise Killed
        # Each is better than those before, whoever began the stage.
        times.append(time.monotonic())
        return {"validation/score": times[-1], "validation/loss": 1.0}

    def recorded(run, params, model, mesh, train_stage=train.train_stage):
        before = trees.flatten(jax.tree.map(np.array, params))
        after = train_stage(run, params, model, mesh)
        seen.append((run, before, trees.flatten(jax.device_get(after))))
        return after

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "_measure", measure)
        patch.setattr("promot_jax.experiment.runner.train_stage", recorded)
        runner, method = opened(name, folder, **changes)
        end = runner.trained(method, 0).params
        found = {"end": jax.device_get(end)}
        start_and_end = runner.start.apart(0, end) if method.after else ()
        for transform in method.after:
            made = runner.points._apply(Point(transform, transform.points[0]), 0, *start_and_end)
            found[transform.name] = jax.device_get(made)
    return trees.flatten(found), seen, times


def assert_kept(run, before, after):
    """Frozen leaves have every bit; of what trains no more moved than was chosen."""
    assert before.keys() == after.keys()
    moved = {path: int((before[path] != after[path]).sum()) for path in before}
    moved = {path: count for path, count in moved.items() if count}
    assert moved
    assert moved.keys() <= trees.select(before, run.stage.trainable)
    assert all(np.isfinite(leaf).all() for leaf in after.values())
    chosen = json.loads(run.folder.summary.read_text()).get("selected")
    if chosen and type(run.stage.selection).__name__ != "MoFO":  # which chooses anew at each step
        assert sum(moved.values()) <= chosen["parameters"]


def check(name, **changes):
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        try:
            whole, seen, times = trained(name, folder / "whole", **changes)
        except UserError as error:
            if not any(reason in str(error) for reason in REFUSED):
                raise
            hypothesis.reject()
        for stage in seen:
            assert_kept(*stage)
        # At the last evaluation of all, so that there is a checkpoint to go on from.
        with pytest.raises(Killed):
            trained(name, folder / "parts", len(times) - 1, **changes)
        resumed, *_ = trained(name, folder / "parts", **changes)
        assert resumed.keys() == whole.keys()
        for path, leaf in whole.items():
            np.testing.assert_array_equal(resumed[path], leaf, err_msg=path)


# A pair that fails is told as it was drawn: to look for a simpler one would take minutes.
SETTINGS = {"deadline": None, "derandomize": True, "phases": [hypothesis.Phase.generate]}


@hypothesis.settings(max_examples=2, **SETTINGS)
@hypothesis.given(drawn())
def test_few_drawn_pairs_resume_and_leave_alone_what_is_frozen(name):
    check(name, model=tiny.model())


@pytest.mark.slow
@hypothesis.settings(max_examples=60, **SETTINGS)
@hypothesis.given(drawn())
def test_drawn_pairs_resume_and_leave_alone_what_is_frozen(name):
    check(name)


ON_EIGHT = """
import pathlib, sys
import numpy as np
from tests.training.combinations_test import trained

folder = pathlib.Path(sys.argv[1])
for name in sys.argv[2:]:
    found, *_ = trained(name, folder / name, model_parallel=2, fsdp=2)
    np.savez(folder / f"{name}.npz", **found)
"""


def allowed(name):
    try:
        opened(name, pathlib.Path("nowhere"))
    except UserError:
        return False
    return True


@pytest.mark.slow
def test_drawn_pairs_on_eight_devices_are_those_of_one(tmp_path):
    choice = random.Random(0)
    names = ("+".join([choice.choice(BASES), *choice.sample(PARTS, 2)]) for _ in range(40))
    names = [name for name in names if allowed(name)][:12]
    assert len({*names}) > 8
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", ON_EIGHT, tmp_path, *names], check=True, env=env)
    for name in names:
        one, seen, _ = trained(name, tmp_path / "one" / name)
        eight = np.load(tmp_path / f"{name}.npz")
        start = {f"end/{path}": leaf for path, leaf in seen[0][1].items()}
        assert one.keys() == {*eight.files}
        for path, leaf in one.items():
            begun = start.get(path, np.zeros_like(leaf))
            size = np.linalg.norm(leaf - begun) + 1e-6
            assert np.linalg.norm(eight[path] - leaf) < 0.02 * size, (name, path)
