import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from flax.linen import partitioning
from hypothesis import given, settings
from hypothesis import strategies as st

from promot_jax.models.networks import relative, t5
from promot_jax.models.networks.parameters import parameter

pytestmark = pytest.mark.long

CONFIG = t5.T5Config(
    vocab_size=32,
    emb_dim=8,
    num_heads=2,
    head_dim=3,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
    prompt_names=("rte",),
    prompt_length=3,
)
NETWORK = t5.Transformer(CONFIG)
INPUTS = jnp.array([[5, 6, 7, 0], [8, 9, 0, 0]])
TARGETS = jnp.array([[4, 5, 6, 1], [3, 9, 8, 1]])
SHIFTED = jnp.array([[0, 4, 5, 6], [0, 3, 9, 8]])


def init(network):
    return network.init(jax.random.key(0), INPUTS, SHIFTED, TARGETS, enable_dropout=False)


def shapes_of(network):
    return jax.eval_shape(lambda: init(network))["params"]


VARIABLES = jax.jit(lambda: init(NETWORK))()
PARAMS = {"params": VARIABLES["params"]}

# Sizes: embed 8, joined_kv 6, mlp 16, vocab 32, heads 2.
ATTENTION = {
    "query": ((8, 6), ("embed", "joined_kv")),
    "key": ((8, 6), ("embed", "joined_kv")),
    "value": ((8, 6), ("embed", "joined_kv")),
    "out": ((6, 8), ("joined_kv", "embed")),
}
MLP = {
    "wi_0": ((8, 16), ("embed", "mlp")),
    "wi_1": ((8, 16), ("embed", "mlp")),
    "wo": ((16, 8), ("mlp", "embed")),
}
SCALE = ((8,), ("embed",))
LITERAL = {
    "token_embedder/embedding": ((32, 8), ("vocab", "embed")),
    "encoder/prompt/rte/prompt": ((3, 8), ("prompt", "prompt_embed")),
    "encoder/relpos_bias/rel_embedding": ((2, 32), ("heads", "relpos_buckets")),
    "encoder/layers_0/pre_attention_layer_norm/scale": SCALE,
    **{f"encoder/layers_0/attention/{k}/kernel": v for k, v in ATTENTION.items()},
    "encoder/layers_0/pre_mlp_layer_norm/scale": SCALE,
    **{f"encoder/layers_0/mlp/{k}/kernel": v for k, v in MLP.items()},
    "encoder/encoder_norm/scale": SCALE,
    "decoder/relpos_bias/rel_embedding": ((2, 32), ("heads", "relpos_buckets")),
    "decoder/layers_0/pre_self_attention_layer_norm/scale": SCALE,
    **{f"decoder/layers_0/self_attention/{k}/kernel": v for k, v in ATTENTION.items()},
    "decoder/layers_0/pre_cross_attention_layer_norm/scale": SCALE,
    **{f"decoder/layers_0/encoder_decoder_attention/{k}/kernel": v for k, v in ATTENTION.items()},
    "decoder/layers_0/pre_mlp_layer_norm/scale": SCALE,
    **{f"decoder/layers_0/mlp/{k}/kernel": v for k, v in MLP.items()},
    "decoder/decoder_norm/scale": SCALE,
    "decoder/logits_dense/kernel": ((8, 32), ("embed", "vocab")),
}


def test_parameters_have_the_names_shapes_and_axes_of_t5x():
    params = traverse_util.flatten_dict(VARIABLES["params"], sep="/")
    axes = traverse_util.flatten_dict(
        partitioning.get_axis_names(VARIABLES["params_axes"]), sep="/"
    )
    found = {path: (leaf.shape, tuple(axes[path])) for path, leaf in params.items()}
    assert found == LITERAL
    assert axes.keys() == params.keys()
    assert {leaf.dtype for leaf in params.values()} == {jnp.dtype("float32")}


def test_one_activation_is_called_wi():
    network = t5.Transformer(dataclasses.replace(CONFIG, mlp_activations=("relu",)))
    assert set(shapes_of(network)["encoder"]["layers_0"]["mlp"]) == {"wi", "wo"}


@pytest.mark.parametrize(
    ("emb_dim", "num_heads", "num_layers", "mlp_dim", "expected"),
    [(512, 6, 8, 1024, 300_176_768), (4096, 64, 24, 10240, 12_921_057_280)],
    ids=["mt5_small", "mt5_xxl"],
)
def test_sizes_of_mt5(emb_dim, num_heads, num_layers, mlp_dim, expected):
    network = t5.Transformer(
        t5.T5Config(250112, emb_dim, num_heads, 64, mlp_dim, num_layers, num_layers)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes_of(network))) == expected


def test_initial_scales():
    """No division by sqrt(D) at run time: it is in the query's initialiser."""
    config = dataclasses.replace(CONFIG, emb_dim=256, num_heads=4, head_dim=64, mlp_dim=512)
    params = jax.jit(lambda: init(t5.Transformer(config)))()["params"]
    attention = params["encoder"]["layers_0"]["attention"]
    scales = {name: attention[name]["kernel"].std() for name in attention}
    np.testing.assert_allclose(scales["key"], 256**-0.5, rtol=0.05)
    np.testing.assert_allclose(scales["value"], 256**-0.5, rtol=0.05)
    np.testing.assert_allclose(scales["out"], 256**-0.5, rtol=0.05)
    np.testing.assert_allclose(scales["query"], (256 * 64) ** -0.5, rtol=0.05)
    mlp = params["encoder"]["layers_0"]["mlp"]
    np.testing.assert_allclose(mlp["wi_0"]["kernel"].std(), 256**-0.5, rtol=0.05)
    np.testing.assert_allclose(mlp["wo"]["kernel"].std(), 512**-0.5, rtol=0.05)
    np.testing.assert_allclose(params["token_embedder"]["embedding"].std(), 1.0, rtol=0.05)


@jax.jit
def logits(inputs=INPUTS, shifted=SHIFTED, targets=TARGETS, prompt_ids=None, segments=()):
    return NETWORK.apply(
        PARAMS, inputs, shifted, targets, *segments, prompt_ids=prompt_ids, enable_dropout=False
    )


def test_float_tokens_as_t5x_initialises_with():
    as_floats = [tokens.astype(float) for tokens in (INPUTS, SHIFTED, TARGETS)]
    np.testing.assert_allclose(logits(*as_floats), logits(INPUTS, SHIFTED, TARGETS), atol=1e-5)


@settings(deadline=None, max_examples=15)
@given(
    prompt_ids=st.sampled_from([None, (0, 0), (0, -1)]),
    seed=st.integers(0, 1000),
)
def test_padding_changes_nothing(prompt_ids, seed):
    rng = np.random.default_rng(seed)
    inputs, targets = rng.integers(1, 32, size=(2, 2, 4))
    inputs[0, rng.integers(1, 5) :] = 0
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    ids = None if prompt_ids is None else jnp.array(prompt_ids)

    def pad(tokens, columns):
        return jnp.asarray(np.pad(tokens, ((0, 0), (0, columns))))

    padded = logits(pad(inputs, 3), pad(shifted, 2), pad(targets, 2), ids)
    expected = logits(jnp.asarray(inputs), jnp.asarray(shifted), jnp.asarray(targets), ids)
    np.testing.assert_allclose(padded[:, :4], expected, atol=1e-5)


def test_packed_examples_equal_separate_ones():
    packed = logits(
        jnp.array([[5, 6, 7, 8, 9, 0]]),
        jnp.array([[0, 4, 5, 0, 3, 9]]),
        jnp.array([[4, 5, 1, 3, 9, 1]]),
        segments=(jnp.array([[1, 1, 1, 2, 2, 0]]), jnp.array([[1, 1, 1, 2, 2, 2]])),
    )[0]
    separate = logits(
        jnp.array([[5, 6, 7], [8, 9, 0]]),
        jnp.array([[0, 4, 5], [0, 3, 9]]),
        jnp.array([[4, 5, 1], [3, 9, 1]]),
    )
    np.testing.assert_allclose(packed, separate.reshape(6, -1), atol=1e-5)


@functools.partial(jax.jit, static_argnames="mutable")
def start_decoding(encoded, prompt_ids, mutable):
    blank = jnp.ones_like(SHIFTED)
    _, collections = NETWORK.apply(
        PARAMS,
        encoded,
        INPUTS,
        blank,
        blank,
        prompt_ids=prompt_ids,
        enable_dropout=False,
        decode=True,
        mutable=list(mutable),
        method="decode",
    )
    return collections


@jax.jit
def decode_step(collections, encoded, inputs, tokens, prompt_ids):
    return NETWORK.apply(
        {**PARAMS, **collections},
        encoded,
        inputs,
        tokens,
        tokens,
        prompt_ids=prompt_ids,
        enable_dropout=False,
        decode=True,
        max_decode_length=SHIFTED.shape[1],
        mutable=["cache"],
        method="decode",
    )


@jax.jit
def encode(prompt_ids):
    return NETWORK.apply(
        PARAMS, INPUTS, prompt_ids=prompt_ids, enable_dropout=False, method="encode"
    )


@pytest.mark.parametrize("mutable", [("cache",), ("cache", "shared")], ids=" + ".join)
@pytest.mark.parametrize("ids", [None, [0, 0], [0, -1]], ids=str)
def test_step_by_step_equals_teacher_forcing(ids, mutable):
    prompt_ids = None if ids is None else jnp.array(ids)
    encoded = encode(prompt_ids)
    collections = start_decoding(encoded, prompt_ids, mutable)
    assert set(collections) == set(mutable)
    if "shared" in mutable:
        encoded = jnp.full_like(encoded, jnp.nan)  # nothing reads it any more
    steps = []
    for column in range(SHIFTED.shape[1]):
        step, changed = decode_step(
            collections, encoded, INPUTS, SHIFTED[:, column : column + 1], prompt_ids
        )
        collections = {**collections, **changed}
        steps.append(step[:, 0])
    np.testing.assert_allclose(jnp.stack(steps, axis=1), logits(prompt_ids=prompt_ids), atol=1e-5)
    assert collections["cache"]["decoder"]["cache_index"] == SHIFTED.shape[1]


@pytest.mark.parametrize("stored", [True, False])
def test_beams_share_the_encoder_side(stored):
    """K beams of a row against keys of B rows equal K copies of everything."""
    num_beams, prompt_ids = 3, jnp.array([0, -1])
    encoded = encode(prompt_ids)
    collections = start_decoding(encoded, prompt_ids, ("cache", "shared"))
    tokens = jnp.array([[4], [5], [6], [7], [8], [9]])

    def copied(tree):
        return jax.tree.map(lambda x: jnp.repeat(x, num_beams, 0) if x.ndim else x, tree)

    cache = copied(collections["cache"])
    given = {**collections, "cache": cache} if stored else {"cache": cache}
    ours, _ = decode_step(given, encoded, INPUTS, tokens, prompt_ids)
    expected, _ = decode_step(
        {"cache": cache}, *map(copied, (encoded, INPUTS)), tokens, copied(prompt_ids)
    )
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_cache_shapes():
    collections = start_decoding(encode(None), None, ("cache", "shared"))
    assert jax.tree.map(jnp.shape, collections) == {
        "cache": {
            "decoder": {
                "cache_index": (),
                "layers_0": {
                    "self_attention": {
                        "cached_key": (2, 2, 3, 4),
                        "cached_value": (2, 2, 3, 4),
                    }
                },
            }
        },
        "shared": {
            "decoder": {
                "layers_0": {
                    "encoder_decoder_attention": {
                        "key": (2, 4, 2, 3),
                        "value": (2, 4, 2, 3),
                    }
                }
            }
        },
    }


def test_a_step_needs_the_length_of_its_cache():
    encoded = encode(None)
    collections = start_decoding(encoded, None, ("cache",))
    tokens = SHIFTED[:, :1]
    with pytest.raises(ValueError, match="max_decode_length"):
        NETWORK.apply(
            {**PARAMS, **collections},
            encoded,
            INPUTS,
            tokens,
            tokens,
            enable_dropout=False,
            decode=True,
            mutable=["cache"],
            method="decode",
        )


def test_dropout_acts_only_when_enabled():
    @jax.jit
    def with_dropout(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return NETWORK.apply(PARAMS, INPUTS, SHIFTED, TARGETS, rngs=rngs)

    assert not np.allclose(with_dropout(0), logits(), atol=1e-3)
    assert not np.allclose(with_dropout(0), with_dropout(1), atol=1e-3)
    np.testing.assert_array_equal(with_dropout(0), with_dropout(0))


def test_bfloat16_activations_keep_parameters_and_logits_in_float32():
    network = t5.Transformer(dataclasses.replace(CONFIG, dtype="bfloat16"))
    params = jax.tree.leaves(shapes_of(network))
    assert {leaf.dtype for leaf in params} == {jnp.dtype("float32")}
    apply = jax.jit(functools.partial(network.apply, PARAMS, INPUTS, enable_dropout=False))
    encode_only = functools.partial(network.apply, PARAMS, enable_dropout=False, method="encode")
    assert jax.eval_shape(encode_only, INPUTS).dtype == jnp.bfloat16
    low = apply(SHIFTED, TARGETS)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, logits(), atol=0.15)


def test_tied_logits():
    network = t5.Transformer(dataclasses.replace(CONFIG, logits_via_embedding=True))
    assert "logits_dense" not in shapes_of(network)["decoder"]
    tied = network.apply(PARAMS, INPUTS, SHIFTED, TARGETS, enable_dropout=False)
    params = PARAMS["params"]
    kernel = params["token_embedder"]["embedding"].T / np.sqrt(8)
    untied = {**params, "decoder": {**params["decoder"], "logits_dense": {"kernel": kernel}}}
    expected = NETWORK.apply({"params": untied}, INPUTS, SHIFTED, TARGETS, enable_dropout=False)
    np.testing.assert_allclose(tied, expected, atol=1e-5)


def test_distance_buckets_of_the_decoder():
    buckets = relative.distance_buckets(32, 128)
    assert list(buckets[:18]) == [*range(16), 16, 16]
    first = [int(np.argmax(buckets == bucket)) for bucket in range(16, 32)]
    assert first == [16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]
    assert (len(buckets), buckets[-1]) == (129, 31)


def test_distance_buckets_of_one_side_of_the_encoder():
    buckets = relative.distance_buckets(16, 128)
    first = [int(np.argmax(buckets == bucket)) for bucket in range(16)]
    assert first == [*range(8), 8, 12, 16, 23, 32, 46, 64, 91]


def test_relative_bias_tells_before_from_after_only_in_both_directions():
    values = jnp.arange(32.0)[None]
    module = relative.RelativePositionBias(num_heads=1)
    positions = jnp.arange(3)
    variables = {"params": {"rel_embedding": values}}
    both = module.apply(variables, positions, positions, bidirectional=True)
    np.testing.assert_array_equal(both[0, 0], [[0, 17, 18], [1, 0, 17], [2, 1, 0]])
    causal = module.apply(variables, positions, positions, bidirectional=False)
    np.testing.assert_array_equal(causal[0, 0], [[0, 0, 0], [1, 0, 0], [2, 1, 0]])


def test_a_token_beyond_the_vocabulary_is_not_silently_another():
    assert np.isnan(logits(INPUTS.at[0, 0].set(32))[0]).all()


def test_a_parameter_that_is_there_is_not_drawn_again():
    drawn = []

    def zeros(rng, shape, dtype):
        drawn.append(shape)
        return jnp.zeros(shape, dtype)

    class Scale(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x * parameter(self, "scale", zeros, (x.shape[-1],), ("embed",))

    variables = Scale().init(jax.random.key(0), INPUTS)
    assert variables["params_axes"]["scale_axes"].names == ("embed",)
    ones = {"params": {"scale": jnp.ones(4)}}
    assert (jax.jit(Scale().apply)(ones, INPUTS) == INPUTS).all()
    assert drawn == [(4,)]
