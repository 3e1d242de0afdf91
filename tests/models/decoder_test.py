"""The decoder-only network against Hugging Face's torch implementations and its own promises."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import torch

from promot_jax import models
from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.checkpoints import pretrained
from promot_jax.models import decoding
from promot_jax.models.networks import decoder
from promot_jax.models.networks.lora import Lora
from tests.checkpoints import tiny_transformers
from tests.quick import quick_jit

pytestmark = pytest.mark.long

VOCAB, EOS = 61, 7
SIZES = {
    "vocab_size": VOCAB,
    "emb_dim": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "mlp_dim": 48,
    "num_layers": 2,
}


def config(**changes):
    return decoder.DecoderConfig(**SIZES | changes)


@functools.cache
def network(**changes):
    return decoder.Transformer(config(**changes))


@functools.cache
def random_params(**changes):
    """Parameters whose every leaf matters: prompts, biases and scales too."""
    shapes, _ = models.DecoderOnlyModel(network(**changes), None).shapes_and_axes()
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        size = 0.3 if "kernel" in path else 1.0
        centre = 1.0 if "scale" in path else 0.0
        return jnp.asarray(centre + size * rng.normal(size=leaf.shape), jnp.float32)

    return trees.unflatten({path: draw(path, leaf) for path, leaf in trees.flatten(shapes).items()})


@functools.cache
def compiled(**changes):
    options = ("enable_dropout", "last")
    return quick_jit(network(**changes).apply, static_argnames=options)


def logits(params, tokens, *, changes=(), **options):
    apply = compiled(**dict(changes))
    options = {k: v if isinstance(v, int) else jnp.asarray(v) for k, v in options.items()}
    return apply({"params": params}, jnp.asarray(tokens), enable_dropout=False, **options)


def tokens_of(seed, *shape):
    return np.random.default_rng(seed).integers(0, VOCAB, shape)


def assert_close(a, b, tolerance=1e-4):
    assert np.size(a)
    assert np.shape(a) == np.shape(b)
    np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)


class Ids(seqio.PassThroughVocabulary):
    """Every number is a token."""

    def __init__(self, vocab_size=VOCAB, eos_id=EOS):
        super().__init__(vocab_size, eos_id)


def inputs_batch(rows):
    width = max(map(len, rows))
    tokens, segments = np.zeros((2, len(rows), width), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], segments[i, : len(row)] = row, 1
    return {"encoder_input_tokens": tokens, "encoder_segment_ids": segments}


@pytest.mark.parametrize("name", ["llama_3", "cohere"])
def test_greedy_answers_equal_hugging_face(tmp_path, name):
    theirs = tiny_transformers.random_model(name)
    theirs.save_pretrained(tmp_path / name)
    model, source = pretrained.open_model(str(tmp_path / name))
    params = pretrained.load(source, model, partitioning.make_mesh())
    model = dataclasses.replace(model, vocabulary=Ids(tiny_transformers.VOCABULARY, 1))
    rng = np.random.default_rng(2)
    rows = [rng.integers(2, tiny_transformers.VOCABULARY, rng.integers(1, 12)) for _ in range(40)]
    # The id of padding is a token like others.
    rows[0][0] = 0
    width = max(map(len, rows))
    left = np.array([np.pad(row, (width - len(row), 0)) for row in rows])
    seen = np.array([np.arange(width) >= width - len(row) for row in rows])
    with torch.no_grad():
        expected = theirs.generate(
            input_ids=torch.tensor(left),
            attention_mask=torch.tensor(seen, dtype=torch.long),
            do_sample=False,
            max_new_tokens=12,
        ).numpy()[:, width:]
    found = quick_jit(lambda p, b: model.predict_batch(p, b, decoding.Greedy(), 12))(
        params, inputs_batch(rows)
    )
    assert (np.asarray(found)[:, : expected.shape[1]] == expected).all()
    # Some end and some do not, and the answers are not all alike.
    ended = (expected == 1).any(axis=1)
    assert 0 < ended.sum() < 40
    assert len({tuple(row) for row in expected}) > 20


def test_padding_changes_nothing_wherever_it_stands():
    params = random_params()
    tokens = tokens_of(3, 2, 5)
    alone = logits(params, tokens)
    for places in ([0, 1, 2, 3, 4], [3, 4, 5, 6, 7], [0, 2, 3, 6, 7]):
        padded, segments = np.full((2, 8), 9), np.zeros((2, 8), int)
        padded[:, places], segments[:, places] = tokens, 1
        found = logits(params, padded, decoder_segment_ids=segments)
        assert_close(found[:, places], alone, 1e-5)


def test_targets_say_where_padding_is():
    params = random_params()
    tokens, targets = tokens_of(4, 2, 6), np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 1, 1]])
    found = logits(params, tokens, decoder_target_tokens=targets)
    expected = logits(params, tokens, decoder_segment_ids=targets)
    assert_close(found, expected, 0)
    assert not np.allclose(found, logits(params, tokens))


def test_packed_rows_do_not_see_each_other():
    params = random_params()
    first, second = tokens_of(5, 1, 3), tokens_of(6, 1, 4)
    packed = logits(
        params,
        np.concatenate([first, second], axis=1),
        decoder_segment_ids=[[1] * 3 + [2] * 4],
        decoder_positions=[[0, 1, 2, 0, 1, 2, 3]],
    )
    assert_close(packed[:, :3], logits(params, first), 1e-5)
    assert_close(packed[:, 3:], logits(params, second), 1e-5)


PROMPTED = {"prompt_names": ("a", "b"), "prompt_length": 3}


@pytest.mark.parametrize("prefix", [False, True])
def test_a_prompt_of_embedded_tokens_is_those_tokens(prefix):
    params = random_params(**PROMPTED)
    front, tokens = tokens_of(7, 2, 3), tokens_of(8, 2, 5)
    rows = params["token_embedder"]["embedding"][front]
    params["decoder"]["prompt"] = {"a": {"prompt": rows[0]}, "b": {"prompt": rows[1]}}
    marks = np.array([[1, 1, 0, 0, 0]] * 2)
    options = {"decoder_causal_attention": marks} if prefix else {}
    found = logits(params, tokens, changes=PROMPTED.items(), prompt_ids=[0, 1], **options)
    if prefix:
        options = {"decoder_causal_attention": np.pad(marks, ((0, 0), (3, 0)), constant_values=1)}
    expected = logits(params, np.concatenate([front, tokens], axis=1), **options)
    assert_close(found, expected[:, 3:], 1e-5)


def test_rows_without_a_prompt_are_those_of_the_bare_network():
    params = random_params(**PROMPTED)
    bare = trees.keep_prompts(params, ())
    tokens, segments = tokens_of(9, 3, 6), np.array([[1] * 6, [0, 0, 1, 1, 1, 1], [1] * 6])
    expected = logits(bare, tokens, decoder_segment_ids=segments)
    options = {"changes": PROMPTED.items(), "decoder_segment_ids": segments}
    assert_close(logits(params, tokens, **options), expected, 0)
    found = logits(params, tokens, prompt_ids=[-1, -1, 1], **options)
    assert_close(found[0], expected[0], 1e-5)
    assert_close(found[1, 2:], expected[1, 2:], 1e-5)
    assert not np.allclose(found[2], expected[2], atol=0.1)
    empty = logits(bare, tokens, changes=[("prompt_names", ("a",))], prompt_ids=[0, 0, 0])
    assert_close(empty, logits(bare, tokens), 0)


def test_a_prefix_is_seen_in_both_directions():
    """Which logits a token changes, found by changing it, is the mask (in a single layer)."""
    changes = {"num_layers": 1}
    params = random_params(**changes)
    # Token j of row j is another one than in row 6.
    tokens = np.repeat(tokens_of(10, 1, 6), 7, axis=0)
    tokens[np.arange(6), np.arange(6)] = (tokens[0] + 1) % VOCAB
    marks = np.array([[1, 1, 1, 0, 0, 0]] * 7)
    found = logits(params, tokens, changes=changes.items(), decoder_causal_attention=marks)
    seen = (np.abs(found[:6] - found[6]).max(axis=-1) > 1e-6).T  # [query, key]
    expected = [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],
    ]
    assert seen.astype(int).tolist() == expected


@pytest.mark.parametrize("scan_layers", [False, True])
def test_cached_decoding_equals_whole_rows(scan_layers):
    params = random_params(**PROMPTED)
    tokens, ids = tokens_of(11, 3, 9), jnp.array([0, -1, 1])
    segments = np.array([[1] * 9, [0, 0] + [1] * 7, [1, 0, 0] + [1] * 6])
    expected = logits(
        params, tokens, changes=PROMPTED.items(), decoder_segment_ids=segments, prompt_ids=ids
    )
    net = network(**PROMPTED, scan_layers=scan_layers)
    params = trees.stack_layers(params) if scan_layers else params

    @quick_jit
    def call(variables, tokens, **options):
        return net.apply(
            {"params": params, **variables},
            tokens,
            enable_dropout=False,
            decode=True,
            max_decode_length=5,
            mutable=["cache"] if variables else ["cache", "shared"],
            **options,
        )

    found, variables = call({}, tokens[:, :5], decoder_segment_ids=segments[:, :5], prompt_ids=ids)
    for leaf in jax.tree.leaves(variables["cache"]):
        assert leaf.ndim == 0 or leaf.shape[0] == 3
    # A prompt counts where there is one, padding never.
    assert variables["cache"]["decoder"]["position"].tolist() == [3 + 5, 3, 3 + 3]
    # The token before is given once more, as a search does.
    variables = decoder.step_back(variables)
    steps = [found[:, :4]]
    for place in range(4, 9):
        one, changed = call(variables, tokens[:, place : place + 1])
        variables = {**variables, **changed}
        steps.append(one)
    found, valid = np.concatenate(steps, axis=1), segments > 0
    assert_close(found[valid], np.asarray(expected)[valid], 1e-4)


@pytest.mark.parametrize(("scan_layers", "dtype"), [(False, "float32"), (True, "bfloat16")])
def test_beams_share_the_keys_of_their_inputs(scan_layers, dtype):
    """Beams of a row over one copy of its inputs equal rows with a copy each, through a search."""
    changes = PROMPTED | {"scan_layers": scan_layers, "dtype": dtype}
    net, params = network(**changes), random_params(**PROMPTED)
    params = trees.stack_layers(params) if scan_layers else params
    tokens, ids = tokens_of(13, 2, 5), jnp.array([0, -1])
    segments = np.array([[1] * 5, [0, 0] + [1] * 3])
    apply = functools.partial(net.apply, enable_dropout=False, decode=True, max_decode_length=4)

    @functools.partial(quick_jit, static_argnums=0)
    def start(rows):
        fields = {"decoder_segment_ids": segments, "decoder_causal_attention": segments}
        fields = {name: np.repeat(field, rows, 0) for name, field in fields.items()}
        variables = apply(
            {"params": params},
            tokens.repeat(rows, 0),
            prompt_ids=ids.repeat(rows),
            mutable=["cache", "shared"],
            **fields,
        )[1]
        return decoder.step_back(variables)

    sizes = []

    def step(shared, tokens, cache):
        sizes.append({leaf.shape[0] for leaf in jax.tree.leaves(cache) if leaf.ndim})
        variables = {"params": params, "cache": cache, "shared": shared}
        found, changed = apply(variables, tokens, mutable=["cache"])
        return found[:, -1], changed["cache"]

    @quick_jit
    def search(cache, shared):
        return decoding.beam_search(
            cache,
            functools.partial(step, shared),
            batch_size=2,
            num_beams=3,
            max_length=4,
            eos_id=EOS,
            start_tokens=tokens[:, -1],
        )

    @quick_jit
    def follow(cache, shared, sequences):
        fed = jnp.concatenate([tokens[:, -1:].repeat(3, 0), sequences[:, :-1]], axis=1)
        total = 0.0
        for column in range(4):
            found, cache = step(shared, fed[:, column, None], cache)
            log_probs = jax.nn.log_softmax(found)
            total += jnp.take_along_axis(log_probs, sequences[:, column, None], axis=1)[:, 0]
        return total

    sequences, scores = search(**start(1))
    assert sizes[0] == {6}
    unfinished = np.asarray(sequences != EOS).all(axis=-1)
    assert unfinished.any()
    # No leaf is shared where each row has its own.
    alone = follow(**start(3), sequences=sequences.reshape(6, 4)).reshape(2, 3)
    penalty = decoding.gnmt_penalty(4, 0.6)
    tolerance = 1e-4 if dtype == "float32" else 2e-2
    assert_close(scores[unfinished], (alone / penalty)[unfinished], tolerance)


def test_last_is_a_slice():
    params = random_params(**PROMPTED)
    tokens = tokens_of(12, 2, 6)
    options = {"changes": PROMPTED.items(), "prompt_ids": [0, -1]}
    whole = logits(params, tokens, **options)
    assert_close(logits(params, tokens, last=2, **options), whole[:, 4:], 1e-5)
    for last in (7, -1):
        with pytest.raises(ValueError, match=f"last = {last}"):
            logits(params, tokens, last=last, **options)


@functools.cache
def gradients(**changes):
    net, params = network(**changes), random_params()
    tokens = jnp.asarray(tokens_of(13, 2, 6))

    def loss(params):
        found = net.apply({"params": params}, tokens, enable_dropout=False)
        return jnp.sum(jax.nn.log_softmax(found)[:, :, 3])

    stacked = net.config.scan_layers
    found = quick_jit(jax.grad(loss))(trees.stack_layers(params) if stacked else params)
    return trees.flatten(trees.unstack_layers(found) if stacked else found)


@pytest.mark.parametrize(
    "changes",
    [
        {"remat": "minimal"},
        {"remat": "full"},
        {"scan_layers": True},
        {"scan_layers": True, "remat": "full"},
    ],
)
def test_scan_and_remat_give_the_same_gradients(changes):
    expected, found = gradients(), gradients(**changes)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        assert np.abs(leaf).max() > 1e-3
        assert_close(found[path], leaf, 1e-3)


def test_dropout_of_scanned_layers_depends_on_its_key():
    params = trees.stack_layers(random_params())
    net = network(dropout_rate=0.5, scan_layers=True)
    tokens = jnp.asarray(tokens_of(14, 2, 6))
    call = quick_jit(lambda key: net.apply({"params": params}, tokens, rngs={"dropout": key}))
    first, again, other = (call(jax.random.key(seed)) for seed in (0, 0, 1))
    assert_close(first, again, 0)
    assert not np.allclose(first, other, atol=0.1)


def test_activations_in_bfloat16_give_float32_logits():
    params = random_params()
    tokens = tokens_of(15, 2, 6)
    exact = logits(params, tokens)
    found = logits(params, tokens, changes=[("dtype", "bfloat16")])
    assert found.dtype == jnp.float32
    error = np.abs(found - exact).max() / np.std(exact)
    assert 1e-4 < error < 0.2


def test_adapters_stand_beside_the_kernels_that_the_pattern_names():
    lora = Lora(".*self_attention/(query|value)/kernel|.*/wo/kernel", rank=2, alpha=4.0)
    for scan_layers, layer in ((False, "layers_1/"), (True, "layers/")):
        model = models.DecoderOnlyModel(network(lora=lora, scan_layers=scan_layers), None)
        shapes, axes = map(trees.flatten, model.shapes_and_axes())
        names = {path.removeprefix("decoder/" + layer) for path in shapes if layer in path}
        adapted = {path.removesuffix("/lora_a") for path in names if path.endswith("lora_a")}
        assert adapted == {"self_attention/query", "self_attention/value", "mlp/wo"}
        front = ("layers",) if scan_layers else ()
        assert axes[f"decoder/{layer}mlp/wo/lora_b"] == (*front, "lora", "embed")


def test_heads_of_keys_are_divided_over_the_mesh_only_where_queries_are():
    for heads, axis in ((4, "joined_kv"), (2, "kv"), (1, "kv")):
        model = models.DecoderOnlyModel(network(num_kv_heads=heads), None)
        axes = model.shapes_and_axes()[1]["decoder"]["layers_0"]["self_attention"]
        assert axes["query"]["kernel"] == ("embed", "joined_kv")
        assert axes["key"]["kernel"] == axes["value"]["kernel"] == ("embed", axis)
    assert {name for name, _ in partitioning.RULES} >= {"joined_kv", "kv", "embed"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads = 3 does not divide num_heads = 4"),
        ({"num_kv_heads": 0}, "num_kv_heads = 0"),
        ({"head_dim": 7}, "head_dim = 7"),
        ({"norm": "batch"}, "norm = 'batch'; choose 'rms' or 'layer'"),
        ({"remat": "half"}, "remat = 'half'"),
    ],
)
def test_a_wrong_configuration_is_named(changes, words):
    with pytest.raises(UserError, match=words):
        config(**changes)
