"""Batches that the devices do not divide: eight devices train as one does."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from promot_jax.base import partitioning

pytestmark = pytest.mark.long

ON_EIGHT = """
import pathlib, sys
import jax, numpy as np, optax
from promot_jax.base import jsonl, partitioning, trees
from promot_jax.data import batching
from promot_jax.experiment.stage_folder import StageFolder
from promot_jax.training import train
from tests import tiny
from tests.data.packing_test import decoder_model

folder, found = pathlib.Path(sys.argv[1]), {}
models = {"encoder-decoder": tiny.model(), "decoder": decoder_model(num_layers=1)}
for kind, model in models.items():
    params = jax.device_get(model.init(jax.random.key(0)))
    params = trees.add_prompt(params, "rte", np.full((3, 16), 0.1, np.float32))
    for microbatches in (1, 3):
        stage = tiny.stage(
            trainable=("(?!.*/prompt/).*",),
            prompt="rte",
            prompt_length=3,
            batches=batching.FixedBatches(6),
            microbatches=microbatches,
            # Half of what the norm is without it, so that all updates depend on the norm.
            gradient_clip=0.5,
            optimizer=lambda: optax.sgd(0.1),
        )
        for devices in (1, 8):
            mesh = partitioning.make_mesh(1, 2 if devices > 1 else 1, jax.devices()[:devices])
            name = f"{kind}-{microbatches}-{devices}"
            run = train.StageRun(
                stage,
                StageFolder(folder / name),
                seed=3,
                label=name,
                evaluate=lambda _: {"validation/score": 0.0, "validation/loss": 0.0},
            )
            ours = jax.tree.map(np.array, params)
            train.train_stage(run, stage.params(ours, model), model, mesh)
            found[name] = [
                [line[f"train/{what}"] for what in ("loss", "accuracy", "grad_norm")]
                for line in jsonl.read_jsonl(folder / name / "metrics.jsonl")
                if "train/loss" in line
            ]
np.savez(folder / "found.npz", **found)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", ON_EIGHT, str(folder)], check=True, env=env)
    return np.load(folder / "found.npz")


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
def test_six_rows_on_eight_devices_train_as_on_one(kind, microbatches, found):
    one, eight = (found[f"{kind}-{microbatches}-{devices}"] for devices in (1, 8))
    assert one.shape == eight.shape
    assert len(one) >= 2
    # Loss, accuracy and the norm of the gradients; they move with every step.
    np.testing.assert_allclose(eight, one, rtol=2e-5)
    assert (one[0] != one[-1]).any()
    assert (one[:, 2] > 0.5).all()


def test_empty_rows_stand_behind_the_others():
    batch = {"a": np.arange(12, dtype=np.int32).reshape(6, 2), "prompt_ids": np.ones(6, np.int32)}
    padded = partitioning.padded(batch, 8)
    for name, array in padded.items():
        assert array.dtype == np.int32
        np.testing.assert_array_equal(array[:6], batch[name])
        assert not array[6:].any()
    assert partitioning.padded(batch, 6) is batch


@pytest.mark.parametrize(
    ("rows", "microbatches", "whole"), [(6, 1, 8), (8, 1, 8), (6, 3, 12), (1, 1, 4), (13, 2, 16)]
)
def test_rows_are_raised_to_what_devices_and_microbatches_divide(rows, microbatches, whole):
    mesh = jax.sharding.AbstractMesh((2, 2, 1), ("data", "fsdp", "model"))
    assert partitioning.divisible(mesh, rows, microbatches) == whole
