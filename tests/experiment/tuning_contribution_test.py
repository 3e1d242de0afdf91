"""TuCo by its identities: a start, layers of a multiple, and what layers add up to."""

import numpy as np
import pytest

from promot_jax.base import trees
from promot_jax.data import batching
from promot_jax.experiment.probes import tuning_contribution
from promot_jax.experiment.probes.bench import Moment
from promot_jax.experiment.probes.tuning_contribution import TuningContribution
from promot_jax.models.attached import BARE, Attached
from promot_jax.models.networks import lora
from tests import tiny
from tests.experiment import benches
from tests.quick import quick_jit

pytestmark = pytest.mark.long

PROBE = TuningContribution("mini_rte", tiny.LENGTHS, examples=5)


def components(model, start, params, attached=BARE):
    ((batch, _),) = batching.eval_batches(
        "mini_rte", tiny.LENGTHS, "validation", batch_size=5, limit=5
    )
    params, batch = attached.params(model, params), attached.batch(batch)

    def found(start, params):
        return tuning_contribution.components(model, start, params, batch, attached)

    return [np.asarray(part) for part in quick_jit(found)(start, params)]


def state_around_layers(model, params, attached=BARE):
    """Returns the state before the first and behind the last layer of the decoder."""
    seen = []
    ((batch, _),) = batching.eval_batches(
        "mini_rte", tiny.LENGTHS, "validation", batch_size=5, limit=5
    )

    def note(layer, args, options):
        seen.append((args[0], layer(*args, **options)))
        return seen[-1][1]

    def run(params):
        seen.clear()
        complete = attached.model(model, params)
        tuning_contribution._through_layers(complete, params, attached.batch(batch), note)
        return seen[0][0][:, -4], seen[-1][1][:, -4]

    return [np.asarray(state) for state in quick_jit(run)(attached.params(model, params))]


@pytest.mark.parametrize("make", benches.FAMILIES)
def test_components_add_up_to_what_all_layers_added(make):
    attached = Attached("rte")
    start = benches.random_params(make())
    params = benches.random_params(make().with_prompts({"rte": 3}), seed=1)
    pre, fine = components(make(), start, params, attached)
    first, last = state_around_layers(make(), params, attached)
    np.testing.assert_allclose(pre + fine, last - first, rtol=1e-4, atol=1e-4)
    assert min(np.abs(pre).max(), np.abs(fine).max()) > 0.1
    # Stacked layers are the same ones.
    stacked = [trees.stack_layers(tree) for tree in (start, params)]
    again = components(make(scan_layers=True), *stacked, attached)
    np.testing.assert_allclose(again, [pre, fine], rtol=1e-5, atol=1e-5)


def test_layers_that_add_a_multiple_are_solved_by_hand():
    """Attention and MLP side by side add three times as much: F = 2 P, at one layer and at each."""
    model = benches.decoder_only(parallel=True, num_layers=1)
    start = benches.random_params(model)
    leaves = trees.flatten(start)
    for path in ("self_attention/out", "mlp/wo"):
        leaves[f"decoder/layers_0/{path}/kernel"] = 3.0 * leaves[f"decoder/layers_0/{path}/kernel"]
    pre, fine = components(model, start, trees.unflatten(leaves))
    np.testing.assert_allclose(fine, 2.0 * pre, rtol=1e-3, atol=1e-4)


def test_adapters_count_as_the_kernels_that_they_merge_into():
    model, added = benches.decoder_only(), lora.Lora(".*(query|wo)/kernel", 2, 4.0)
    start = benches.random_params(model)
    params = benches.random_params(model.with_lora(added), seed=1)
    params = trees.unflatten(trees.flatten(params) | trees.flatten(start))
    adapted = components(model, start, params, Attached(adapters=added))
    merged = components(model, start, lora.merge(params, added))
    np.testing.assert_allclose(adapted, merged, rtol=1e-3, atol=1e-4)
    assert np.abs(adapted[1]).max() > 0.1
    # Taken off, nothing of them is left.
    assert not components(model, start, params)[1].any()


def test_the_probe_tells_rows_and_attachments_apart():
    make, attached = benches.decoder_only, Attached("rte")
    start = benches.random_params(make())
    params = benches.random_params(make().with_prompts({"rte": 3}), seed=1)
    measure = PROBE.bind(benches.bench(make, start))
    found = measure(Moment(params, attached, BARE, ()))
    assert list(found) == [
        *("tuco/target/bare", "tuco/target/attached"),
        *("tuco/unseen/mini_triviaqa", "tuco/unseen"),
    ]
    assert found["tuco/unseen"] == found["tuco/unseen/mini_triviaqa"]
    for name, given in (("bare", BARE), ("attached", attached)):
        pre, fine = (
            np.linalg.norm(part, axis=-1) for part in components(make(), start, params, given)
        )
        expected = 100.0 * (fine / (pre + fine)).mean()
        assert found[f"tuco/target/{name}"] == pytest.approx(expected, rel=1e-4)
    still = measure(Moment(start, BARE, BARE, ()))
    assert still == dict.fromkeys(["tuco/target/bare", *list(found)[2:]], 0.0)
