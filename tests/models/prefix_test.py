"""Prefixes: keys and values of each layer, for some rows of a batch and not for others."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.models.networks import prompt_kinds
from promot_jax.models.networks.prompt_kinds import Prefix
from tests import tiny
from tests.models.models_test import decoder_model, params_of
from tests.quick import quick_jit

pytestmark = pytest.mark.long

TWO = {"num_encoder_layers": 2, "num_decoder_layers": 2}
KINDS = {
    "encoder_decoder": lambda **changes: tiny.model(**TWO, **changes),
    "encoder_decoder_scanned": lambda **changes: tiny.model(**TWO, scan_layers=True, **changes),
    "decoder": lambda **changes: decoder_model(num_layers=2, qk_norm=True, **changes),
    "decoder_scanned": lambda **changes: decoder_model(
        num_layers=2, scan_layers=True, prefix_lm=True, start_id=99, **changes
    ),
}
# The answers of two beams a row are tokens of their own.
BEAMS = jnp.array([[4, 5, 6], [7, 3, 2], [3, 8, 1], [9, 4, 4]])
BATCH = {
    "encoder_input_tokens": jnp.array([[5, 6, 7, 2], [8, 9, 0, 0]]),
    "encoder_segment_ids": jnp.array([[1, 1, 1, 1], [1, 1, 0, 0]]),
    "decoder_input_tokens": jnp.array([[0, 4, 5], [0, 3, 8]]),
    "decoder_target_tokens": jnp.array([[4, 5, 6], [3, 8, 1]]),
    "decoder_loss_weights": jnp.ones((2, 3), jnp.int32),
}


def with_prefixes(model, params, sides="both"):
    """Returns a model and its parameters with two random prefixes of three keys."""
    model = model.with_prompts({"one": 3, "two": 3}, Prefix(sides))
    shapes, _ = model.shapes_and_axes()
    drawn = {}
    for number, (path, leaf) in enumerate(trees.flatten(shapes).items()):
        if trees.PROMPT.fullmatch(path):
            drawn[path] = jax.random.normal(jax.random.key(number), leaf.shape)
    return model, trees.combine(params, trees.unflatten(drawn))


@functools.cache
def made(kind, sides="both"):
    model = KINDS[kind]()
    return with_prefixes(model, params_of(model), sides)


@functools.cache
def logits_of(kind, sides="both"):
    model, params = made(kind, sides)
    measured = quick_jit(lambda batch: model.logits(params, batch))
    return lambda ids, batch=BATCH: measured(
        batch if ids is None else batch | {"prompt_ids": jnp.array(ids)}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_has_its_own_prefix_or_none(kind):
    model, params = made(kind)
    assert prompt_kinds.of_params(params).word == "prefix"
    assert model.with_prompts_of(params).shapes_and_axes() == model.shapes_and_axes()
    logits = logits_of(kind)
    bare = quick_jit(KINDS[kind]().logits)(trees.keep_prompts(params, ()), BATCH)
    np.testing.assert_array_equal(logits(None), bare)
    one, two = logits([0, 0]), logits([1, 1])
    assert all(abs(a - b).max() > 1e-2 for a, b in [(one, bare), (two, bare), (one, two)])
    np.testing.assert_allclose(logits([1, -1]), jnp.stack([two[0], bare[1]]), atol=2e-6)
    np.testing.assert_allclose(logits([-1, 0]), jnp.stack([bare[0], one[1]]), atol=2e-6)


@pytest.mark.parametrize("kind", ["encoder_decoder", "decoder_scanned"])
def test_length_0_is_the_bare_model(kind):
    model = KINDS[kind]()
    none = model.with_prompts({"one": 0}, Prefix())
    batch = BATCH | {"prompt_ids": jnp.zeros(2, jnp.int32)}
    assert none.shapes_and_axes()[0].keys() == model.shapes_and_axes()[0].keys()
    found, bare = (quick_jit(m.logits)(params_of(model), batch) for m in (none, model))
    np.testing.assert_array_equal(found, bare)


@dataclasses.dataclass(frozen=True)
class Replay:
    """Reads the tokens of two beams a row; gives the logits in front of each as its answer."""

    num_beams: int = 2

    def __call__(self, cache, tokens_to_logits, *, start_tokens, **_):
        def beams(leaf):
            return jnp.repeat(leaf, 2, axis=0) if leaf.ndim else leaf

        cache, found = jax.tree.map(beams, cache), []
        for tokens in (beams(start_tokens), *BEAMS.T[:-1]):
            logits, cache = tokens_to_logits(tokens[:, None], cache)
            found.append(logits)
        return jnp.stack(found, axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_beams_read_what_teacher_forcing_does(kind):
    model, params = made(kind)
    batch = BATCH | {"prompt_ids": jnp.array([1, -1])}
    found = quick_jit(lambda batch: model.predict_batch(params, batch, Replay(), 3))(batch)
    doubled = {name: jnp.repeat(array, 2, axis=0) for name, array in batch.items()}
    doubled["decoder_target_tokens"] = BEAMS
    doubled["decoder_input_tokens"] = jnp.pad(BEAMS[:, :-1], ((0, 0), (1, 0)))
    expected = quick_jit(lambda batch: model.logits(params, batch))(doubled)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("kind", ["decoder_scanned"])
def test_a_prefix_begins_as_the_soft_prompt_of_the_same_rows(kind):
    # In a causal network the prompt never sees what follows it, so keys and values say it all.
    model = KINDS[kind]()
    model = dataclasses.replace(model, prefix_lm=False)
    params = params_of(model)
    rows = jax.random.normal(jax.random.key(1), (3, 16))
    leaves = Prefix().begun(model.network, params, rows, None)
    assert {path: leaf.shape for path, leaf in leaves.items()} == {
        "decoder/keys": (2, 3, 8),
        "decoder/values": (2, 3, 8),
    }
    found = [
        trees.add_prompt_leaves(params, "a", each) for each in (leaves, {"decoder/prompt": rows})
    ]
    batch = BATCH | {"prompt_ids": jnp.array([0, -1])}
    prefix, soft = (quick_jit(model.with_prompts_of(tree).logits)(tree, batch) for tree in found)
    assert abs(soft - quick_jit(model.logits)(params, BATCH)).max() > 1e-2
    np.testing.assert_allclose(prefix, soft, atol=2e-6)


@pytest.mark.parametrize("sides", ["encoder", "decoder"])
def test_a_side_of_an_encoder_decoder_is_its_own(sides):
    _, params = made("encoder_decoder", sides)
    assert prompt_kinds.of_params(params) == Prefix(sides)
    begun = Prefix(sides).begun(KINDS["encoder_decoder"]().network, params, jnp.ones((3, 16)), None)
    assert begun.keys() == {f"{sides}/keys", f"{sides}/values"}
    # Without values of its own, a prefix only takes attention away from what is read.
    logits = logits_of("encoder_decoder", sides)
    assert abs(logits([0, 0]) - logits([-1, -1])).max() > 1e-2
    both, everything = made("encoder_decoder")
    for side in {"encoder", "decoder"} - {sides}:
        everything[side]["prompt"] = {}
    ids = BATCH | {"prompt_ids": jnp.array([1, 0])}
    everything = {**everything, sides: {**everything[sides], "prompt": params[sides]["prompt"]}}
    alone = quick_jit(both.with_prompts_of(everything).logits)(everything, ids)
    np.testing.assert_allclose(alone, logits([1, 0]), atol=2e-6)


def test_an_encoder_attends_to_its_prefix_as_by_hand():
    model = tiny.model()
    model, params = with_prefixes(model, params_of(model), "encoder")
    leaves = {path: np.float64(leaf) for path, leaf in trees.flatten(params).items()}
    tokens = BATCH["encoder_input_tokens"][:1]
    x = leaves["token_embedder/embedding"][tokens[0]]

    def normed(x, path):
        return leaves[path] * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)

    def heads(y):
        return y.reshape(len(y), 2, 8)

    layer = "encoder/layers_0/"
    y = normed(x, layer + "pre_attention_layer_norm/scale")
    query, key, value = (
        heads(y @ leaves[f"{layer}attention/{name}/kernel"]) for name in ("query", "key", "value")
    )
    key, value = (
        np.concatenate([heads(leaves[f"encoder/prompt/two/{name}"][0]), own])
        for name, own in (("keys", key), ("values", value))
    )
    # Buckets of bidirectional distances below 8 are exact; a key behind its query has 16 more.
    behind = (3 + np.arange(4))[:, None] - np.arange(7)[None]
    bucket = np.abs(behind) + 16 * (behind < 0)
    scores = (
        np.einsum("qnd,knd->nqk", query, key)
        + leaves["encoder/relpos_bias/rel_embedding"][:, bucket]
    )
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = np.einsum("nqk,knd->qnd", weights, value).reshape(4, -1)
    x = x + mixed @ leaves[layer + "attention/out/kernel"]
    y = normed(x, layer + "pre_mlp_layer_norm/scale")
    hidden = np.maximum(y @ leaves[layer + "mlp/wi/kernel"], 0.0)
    x = x + hidden @ leaves[layer + "mlp/wo/kernel"]
    expected = normed(x, "encoder/encoder_norm/scale")
    encode = functools.partial(model.network.apply, enable_dropout=False, method="encode")
    found = quick_jit(encode)({"params": params}, tokens, prompt_ids=jnp.array([1]))
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["encoder_decoder_scanned"])
def test_gradients_in_bfloat16_are_near_those_in_float32(kind):
    found = {}
    for dtype in ("float32", "bfloat16"):
        model = KINDS[kind](dtype=dtype)
        model, params = with_prefixes(model, params_of(KINDS[kind]()))
        batch = BATCH | {"prompt_ids": jnp.array([1, -1])}
        loss = quick_jit(jax.grad(lambda p, m=model, b=batch: m.loss_fn(p, b, None).total))
        found[dtype] = trees.flatten(loss(params))
    for path, expected in found["float32"].items():
        if trees.PROMPT.fullmatch(path):
            rounded = found["bfloat16"][path]
            assert rounded.dtype == jnp.float32
            if "/one/" in path:
                assert not rounded.any()
                continue
            assert abs(expected).max() > 1e-4
            assert np.linalg.norm(rounded - expected) < 0.1 * np.linalg.norm(expected)


def test_prompts_of_two_kinds_do_not_go_together():
    _, params = made("decoder")
    params = trees.add_prompt(params, "soft", jnp.ones((3, 16)))
    with pytest.raises(UserError, match="of one kind: one is a prefix, soft is a prompt, two"):
        KINDS["decoder"]().with_prompts_of(params)
