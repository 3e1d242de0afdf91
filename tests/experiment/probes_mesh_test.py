"""Probes on eight devices, with the model divided over them, as on one."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long

ON_A_MESH = """
import dataclasses
import jax
from promot_jax.base import partitioning
from promot_jax.experiment.evaluation import Evaluator
from promot_jax.experiment.probes.bench import Moment
from promot_jax.experiment.probes.kl_to_start import KlToStart
from promot_jax.experiment.probes.rank_shift import RankShift
from promot_jax.experiment.probes.tuning_contribution import TuningContribution
from promot_jax.models import decoding
from promot_jax.models.attached import BARE, Attached
from tests import tiny
from tests.experiment import benches

make, attached = benches.decoder_only, Attached("rte")
model = make().with_prompts({"rte": 3})
probes = [
    KlToStart("mini_rte", tiny.LENGTHS, examples=5),
    TuningContribution("mini_rte", tiny.LENGTHS, examples=5),
    RankShift(),
]
found = []
for mesh in (partitioning.make_mesh(devices=jax.devices()[:1]), partitioning.make_mesh(2)):
    evaluator = Evaluator(make(), mesh, decoding.Greedy(), 8)
    trees = []
    for complete, seed in ((make(), 0), (model, 1)):
        params, axes = benches.random_params(complete, seed), complete.shapes_and_axes()[1]
        trees.append(jax.device_put(params, partitioning.params_sharding(mesh, axes, params)))
    start, params = trees
    bench = dataclasses.replace(benches.bench(make, start), mesh=mesh, evaluator=evaluator)
    given = evaluator.evaluate(params, benches.UNSEEN, split="validation", limit=5)
    moment = Moment(params, attached, BARE, [(benches.UNSEEN, given)])
    found.append({})
    for probe in probes:
        found[-1] |= probe.bind(bench)(moment)
one, eight = found
assert dict(mesh.shape) == {"data": 4, "fsdp": 1, "model": 2}
assert one.keys() == eight.keys() and len(one) == 14, one
for name, value in one.items():
    assert abs(value - eight[name]) < 1e-3 * max(1.0, value), (name, found)
assert one["tuco/unseen"] > 10.0 and one["rank/shifted"] > 10.0, one
"""


@pytest.mark.slow
def test_eight_devices_equal_one():
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", ON_A_MESH], env=environment, check=True)
