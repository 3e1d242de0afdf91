"""KL divergences from the start, against float64 and by their identities."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from scipy import special

from promot_jax.data import batching
from promot_jax.experiment.probes import bench as bench_module
from promot_jax.experiment.probes.bench import Moment
from promot_jax.experiment.probes.kl_to_start import KlToStart
from promot_jax.models.attached import BARE, Attached
from promot_jax.models.networks import lora
from tests import tiny
from tests.experiment import benches
from tests.quick import quick_jit

pytestmark = pytest.mark.long

PROBE = KlToStart("mini_rte", tiny.LENGTHS, examples=5)
WAYS = ("start_tuned", "tuned_start")
NAMES = [f"kl/{way}/{read}" for read in ("bare", "attached") for way in WAYS]


def measured(make, start, params, attached=BARE, probe=PROBE):
    measure = probe.bind(benches.bench(make, start))
    return measure(Moment(params, attached, BARE, ()))


def expected(make, start, params, attached):
    """Computes both divergences from whole logits in float64."""
    ((batch, _),) = batching.eval_batches(
        "mini_rte", tiny.LENGTHS, "validation", batch_size=5, limit=5
    )
    logits = []
    for tree, with_ in ((start, BARE), (params, attached)):
        tree = with_.params(make(), tree)
        found = quick_jit(with_.model(make(), tree).logits)(tree, with_.batch(batch))
        logits.append(special.log_softmax(np.asarray(found, np.float64), axis=-1))
    before, after = logits
    counted = batch["decoder_loss_weights"] > 0
    ways = [np.exp(before) * (before - after), np.exp(after) * (after - before)]
    return [way.sum(axis=-1)[counted].mean() for way in ways]


@pytest.mark.parametrize("make", benches.FAMILIES)
def test_both_directions_equal_those_of_whole_logits(make):
    start = benches.random_params(make())
    params = benches.random_params(make().with_prompts({"rte": 3}), seed=1)
    found = measured(make, start, params, Attached("rte"))
    values = [*expected(make, start, params, BARE), *expected(make, start, params, Attached("rte"))]
    assert len(set(np.round(values, 5))) == 4
    assert found == pytest.approx(dict(zip(NAMES, values, strict=True)), rel=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_start_that_has_not_moved_is_no_distance_away(dtype):
    make = functools.partial(benches.decoder_only, dtype=dtype)
    start = benches.random_params(make())
    assert measured(make, start, start) == dict.fromkeys(NAMES[:2], 0.0)
    # Of adapters whose product is zero, too.
    added = lora.Lora(".*query/kernel", 2, 4.0)
    params = lora.add(start, added, jax.random.key(0))
    assert max(measured(make, start, params, Attached(adapters=added)).values()) < 1e-6


def test_small_batches_give_the_same(monkeypatch):
    make = benches.decoder_only
    start, params = (benches.random_params(make(), seed) for seed in (0, 1))
    whole = measured(make, start, params)
    rows = len(jax.devices())
    monkeypatch.setattr(bench_module, "LOGITS", 1)
    assert benches.bench(make, start).batch_size(4) == rows
    assert measured(make, start, params) == pytest.approx(whole, rel=1e-5)
    more = dataclasses.replace(PROBE, examples=3)
    assert measured(make, start, params, probe=more) != pytest.approx(whole, rel=1e-5)
