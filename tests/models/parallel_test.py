"""Parallel adapters: where they stand, what they compute, and that they come off again."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.models import architectures, decoding
from promot_jax.models.attached import BARE, Attached
from promot_jax.models.networks import layers, lora
from promot_jax.models.networks.lora import Lora
from promot_jax.models.networks.parallel import Parallel
from tests import tiny
from tests.models.models_test import decoder_model
from tests.quick import quick_jit

pytestmark = pytest.mark.long

ADAPTER = Parallel(".*/mlp", 3)
BATCH = {
    "encoder_input_tokens": np.array([[5, 6, 7, 1], [8, 9, 1, 0]], np.int32),
    "encoder_segment_ids": np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int32),
    "decoder_input_tokens": np.array([[0, 4, 5], [0, 3, 9]], np.int32),
    "decoder_target_tokens": np.array([[4, 5, 1], [3, 9, 1]], np.int32),
    "decoder_loss_weights": np.ones((2, 3), np.int32),
}
FAMILIES = {
    "t5": functools.partial(tiny.model, num_encoder_layers=2, num_decoder_layers=2),
    "decoder": decoder_model,
}


@pytest.fixture(scope="module", params=["t5 scanned", "decoder"])
def case(request):
    """A bare model, its random parameters, and those with an adapter that changes something."""
    family, *scanned = request.param.split()
    model = FAMILIES[family]()
    params = random(model.shapes_and_axes()[0])
    if scanned:
        model, params = FAMILIES[family](scan_layers=True), trees.stack_layers(params)
    added = lora.add(params, ADAPTER, jax.random.key(1))
    return model, params, trees.combine(lora.remove(added), random(lora.adapters(added)))


def random(tree):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.float32(rng.normal(0, 0.3, leaf.shape)), tree)


def logits(model, params):
    return np.asarray(quick_jit(model.logits)(params, BATCH))


def test_a_new_adapter_changes_no_bit(case):
    model, params, _ = case
    for dtype in ("float32", "bfloat16"):
        bare = dataclasses.replace(
            model,
            network=type(model.network)(dataclasses.replace(model.network.config, dtype=dtype)),
        )
        added = lora.add(params, ADAPTER, jax.random.key(1))
        with_adapter = bare.with_lora(ADAPTER)
        assert trees.difference(with_adapter.shapes_and_axes()[0], added) == []
        np.testing.assert_array_equal(logits(with_adapter, added), logits(bare, params))


def test_what_is_taken_off_leaves_the_model_that_there_was(case):
    model, params, adapted = case
    on, off = Attached(adapters=ADAPTER), BARE
    assert tiny.leaves_equal(off.params(model, adapted), params)
    bare = logits(off.model(model, params), off.params(model, adapted))
    np.testing.assert_array_equal(bare, logits(model, params))
    found = logits(on.model(model, adapted), on.params(model, adapted))
    assert np.abs(found - bare).max() > 0.1


def test_decoding_sees_the_adapters_as_teacher_forcing_does(case):
    """Greedy tokens, put in as targets, are those of the largest logits."""
    model, _, adapted = case
    model = model.with_lora(ADAPTER)
    tokens = np.asarray(model.predict_batch(adapted, BATCH, decoding.Greedy(), 3))
    start = BATCH["decoder_input_tokens"][:, :1]
    forced = BATCH | {
        "decoder_input_tokens": np.concatenate([start, tokens[:, :-1]], axis=1),
        "decoder_target_tokens": np.maximum(tokens, 1),
    }
    best = np.asarray(quick_jit(model.logits)(adapted, forced)).argmax(axis=-1)
    until = np.cumsum(tokens == 1, axis=1) - (tokens == 1) == 0
    np.testing.assert_array_equal(tokens[until], best[until])
    assert until.sum() > 2


def test_an_mlp_and_what_stands_beside_it_are_those_of_torch():
    """The sum of the MLP and scale * up(relu(down(x))), values and gradients."""
    rng = np.random.default_rng(2)
    sizes = {"wi": (4, 6), "wo": (6, 4), "down": (4, 5), "up": (5, 4)}
    drawn = {name: np.float32(rng.normal(size=size)) for name, size in sizes.items()}
    x = np.float32(rng.normal(size=(2, 3, 4)))
    module = layers.MLP(6, ("relu",), 0.0, lora=Parallel(".*", 5, 2.5))

    def total(drawn):
        params = {
            "wi": {"kernel": drawn["wi"]},
            "wo": {"kernel": drawn["wo"]},
            "adapter_down": drawn["down"],
            "adapter_up": drawn["up"],
        }
        y = module.apply({"params": params}, x, deterministic=True)
        return jnp.sum(jnp.sin(y)), y

    (_, found), gradients = jax.value_and_grad(total, has_aux=True)(drawn)
    ours = {name: torch.tensor(value, requires_grad=True) for name, value in drawn.items()}
    read = torch.tensor(x)
    y = torch.relu(read @ ours["wi"]) @ ours["wo"]
    y = y + 2.5 * torch.relu(read @ ours["down"]) @ ours["up"]
    torch.sin(y).sum().backward()
    np.testing.assert_allclose(found, y.detach(), rtol=1e-5, atol=1e-5)
    for name, value in ours.items():
        np.testing.assert_allclose(gradients[name], value.grad, rtol=1e-4, atol=1e-4)


def test_an_adapter_stands_where_its_pattern_says():
    params = random(tiny.model().shapes_and_axes()[0])
    added = trees.flatten(lora.add(params, Parallel("encoder/.*/mlp", 3), jax.random.key(1)))
    new = [path for path in added if "adapter_" in path]
    assert new == [f"encoder/layers_0/mlp/adapter_{name}" for name in ("down", "up")]
    for pattern in ("mlp", ".*/mlp/wo/kernel"):
        with pytest.raises(UserError, match=r"matches no MLP; it must .*: decoder/layers_0/mlp, "):
            lora.add(params, Parallel(pattern, 3), jax.random.key(1))
    with pytest.raises(UserError, match="has an adapter already"):
        lora.add(trees.unflatten(added), ADAPTER, jax.random.key(1))


@pytest.mark.parametrize(
    "kind", [ADAPTER, Lora(".*", 2, 4.0, "root_rank", "dora"), Lora(".*", 2, 4.0)]
)
def test_a_model_with_adapters_is_described_and_built_again(kind):
    model = tiny.model().with_lora(kind)
    about = architectures.describe(model)
    again = architectures.build(about["family"], about["config"], model.vocabulary)
    assert again.network.config.lora == kind
    # What came later is told only where it says something.
    plain = about["config"]["lora"].keys() == {"pattern", "rank", "alpha"}
    assert plain == (kind == Lora(".*", 2, 4.0))
