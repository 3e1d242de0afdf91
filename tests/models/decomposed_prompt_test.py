"""Decomposed prompts (DePT): offsets of the first tokens of some inputs of a batch."""

import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promot_jax.base import trees
from promot_jax.models.networks import prompt_kinds
from promot_jax.models.networks.prompt_kinds import Decomposed
from tests import tiny
from tests.models import prefix_test
from tests.models.models_test import decoder_model, params_of
from tests.models.prefix_test import BATCH, BEAMS, Replay
from tests.quick import quick_jit

pytestmark = pytest.mark.long

KIND = Decomposed(positions=3, rank=2)
KINDS = {name: prefix_test.KINDS[name] for name in ("encoder_decoder", "decoder_scanned")}


def begun(model, params, name="one", rng=0):
    rows = jax.random.normal(jax.random.key(len(name)), (2, 16))
    leaves = KIND.begun(model.network, params, rows, jax.random.key(rng))
    return trees.add_prompt_leaves(params, name, leaves)


@functools.cache
def made(kind):
    """A model with two of them; the offsets of `two` are at work."""
    model = KINDS[kind]()
    params = begun(model, begun(model, params_of(model)), "two", 1)
    (side,) = {"encoder", "decoder"} & {
        path.split("/")[0] for path in trees.flatten(params) if "/prompt/" in path
    }
    offsets = params[side]["prompt"]["two"]
    offsets["offset_b"] = jax.random.normal(jax.random.key(7), (2, 16))
    return model.with_prompts_of(params), params, side


@pytest.mark.parametrize("kind", KINDS)
def test_without_b_it_is_the_soft_prompt_bit_for_bit(kind):
    model, params, _ = made(kind)
    assert model.network.config.prompt_kind == KIND
    assert model.shapes_and_axes()[0].keys() == params.keys()
    soft = trees.unflatten(
        {path: leaf for path, leaf in trees.flatten(params).items() if "/offset_" not in path}
    )
    batch = BATCH | {"prompt_ids": jnp.array([0, -1])}
    found = quick_jit(model.logits)(params, batch)
    expected = quick_jit(model.with_prompts_of(soft).logits)(soft, batch)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_are_those_of_a_changed_embedding(kind):
    model, params, side = made(kind)
    own = params[side]["prompt"]["two"]
    shift = 8 * 2**-0.5 * own["offset_a"] @ own["offset_b"]
    batch = {name: BATCH[name][:1] for name in BATCH} | {"prompt_ids": jnp.array([1])}
    # The start token is the first of the input where there is one; each occurs once.
    start = [99] if getattr(model, "start_id", 0) == 99 else []
    tokens = jnp.array([*start, *BATCH["encoder_input_tokens"][0].tolist()][:3])
    batch["decoder_target_tokens"] = jnp.array([[20, 21, 22]])
    batch["decoder_input_tokens"] = jnp.array([[0, 20, 21]])
    leaves = trees.flatten(params)
    table = leaves["token_embedder/embedding"].at[tokens].add(shift)
    moved = leaves | {"token_embedder/embedding": table}
    moved[f"{side}/prompt/two/offset_b"] = jnp.zeros((2, 16))
    logits = quick_jit(lambda params: model.logits(params, batch))
    # The table scores answers too, and only these tokens otherwise.
    others = jnp.setdiff1d(jnp.arange(1280), tokens)
    found, expected = (logits(p)[..., others] for p in (params, trees.unflatten(moved)))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    bare = trees.unflatten({**leaves, f"{side}/prompt/two/offset_b": jnp.zeros((2, 16))})
    assert abs(found - logits(bare)[..., others]).max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_beams_read_the_last_input_as_teacher_forcing_does(kind):
    model, params, _ = made(kind)
    batch = BATCH | {"prompt_ids": jnp.array([-1, 1])}
    found = quick_jit(lambda batch: model.predict_batch(params, batch, Replay(), 3))(batch)
    doubled = {name: jnp.repeat(array, 2, axis=0) for name, array in batch.items()}
    doubled["decoder_target_tokens"] = BEAMS
    doubled["decoder_input_tokens"] = jnp.pad(BEAMS[:, :-1], ((0, 0), (1, 0)))
    expected = quick_jit(lambda batch: model.logits(params, batch))(doubled)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_it_has_as_many_parameters_as_the_authors_count():
    # T5 base: 40 rows, 256 tokens, rank 45 are as many as a soft prompt of 100 rows.
    model = tiny.model(emb_dim=768).with_prompts({"one": 40}, Decomposed(256, 45))
    shapes, _ = model.shapes_and_axes()
    own = trees.count(shapes["encoder"]["prompt"])
    assert own == 40 * 768 + (256 + 768) * 45 == 100 * 768
    assert prompt_kinds.of_params(shapes) == Decomposed(256, 45)


@pytest.mark.parametrize("family", ["t5", "decoder"])
def test_logits_are_those_of_the_authors_lines(family):
    """They add `alpha / sqrt(r) * A @ B` to the embedded tokens and put the prompt in front."""
    torch = pytest.importorskip("torch")
    hub = pytest.importorskip("tests.checkpoints.tiny_transformers")
    case = "t5_v1_1" if family == "t5" else "llama"
    theirs = hub.random_model(case)
    rng = np.random.default_rng(0)
    prompt, a, b = (rng.normal(size=size).astype("f4") for size in [(3, 32), (7, 2), (2, 32)])
    ids = torch.tensor(hub.INPUTS if family == "t5" else hub.TOKENS)
    with torch.no_grad():
        embedded = theirs.get_input_embeddings()(ids)
        offsets = 8.0 / np.sqrt(2) * (torch.tensor(a) @ torch.tensor(b))
        embedded = embedded + offsets.repeat(2, 1, 1)
        embedded = torch.cat([torch.tensor(prompt).repeat(2, 1, 1), embedded], dim=1)
        if family == "t5":
            mask = torch.cat([torch.ones(2, 3), ids > 0], dim=1)
            expected = theirs(
                inputs_embeds=embedded,
                attention_mask=mask,
                decoder_input_ids=torch.tensor(hub.SHIFTED),
            ).logits
        else:
            expected = theirs(inputs_embeds=embedded).logits[:, 3:]
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        source, _, params = hub.load(folder)
    side = "encoder" if family == "t5" else "decoder"
    leaves = {f"{side}/prompt": prompt, f"{side}/offset_a": a, f"{side}/offset_b": b}
    params = trees.add_prompt_leaves(params, "one", leaves)
    module = hub.network(
        source.family,
        source.config,
        prompt_names=("one",),
        prompt_length=3,
        prompt_kind=prompt_kinds.of_params(params),
    )
    found = hub.our_logits(module, params, source.family, prompt_ids=np.zeros(2, np.int32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_decoder_counts_from_the_first_real_token():
    # The model moves inputs to the right end; packed rows are compared in `packing_test`.
    model = decoder_model(num_layers=2)
    params = begun(model, params_of(model))
    params["decoder"]["prompt"]["one"]["offset_b"] = jnp.ones((2, 16))
    model = model.with_prompts_of(params)
    batch = {**BATCH, "prompt_ids": jnp.array([0, 0])}
    wider = {
        name: jnp.pad(batch[name], ((0, 0), (0, 3)))
        for name in ("encoder_input_tokens", "encoder_segment_ids")
    }
    found = quick_jit(model.logits)(params, batch | wider)
    np.testing.assert_allclose(found, quick_jit(model.logits)(params, batch), atol=2e-6)
