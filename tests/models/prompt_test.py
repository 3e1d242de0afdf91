import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from promot_jax.base.errors import UserError
from promot_jax.models.networks import decoder, prompt, t5

pytestmark = pytest.mark.long

CONFIG = t5.T5Config(
    vocab_size=32,
    emb_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=16,
    num_encoder_layers=2,
    num_decoder_layers=1,
    prompt_names=("rte", "wic"),
    prompt_length=3,
)
NETWORK = t5.Transformer(CONFIG)
INPUTS = jnp.array([[5, 6, 7, 0], [8, 9, 0, 0], [10, 11, 12, 13]])
TARGETS = jnp.array([[4, 5, 1], [3, 1, 0], [6, 7, 1]])
SHIFTED = jnp.array([[0, 4, 5], [0, 3, 1], [0, 6, 7]])


def init(network, **call):
    return network.init(jax.random.key(0), INPUTS, SHIFTED, TARGETS, enable_dropout=False, **call)


PARAMS = jax.jit(lambda: init(NETWORK))()["params"]


@jax.jit
def logits(prompt_ids, inputs=INPUTS, params=PARAMS):
    return NETWORK.apply(
        {"params": params}, inputs, SHIFTED, TARGETS, prompt_ids=prompt_ids, enable_dropout=False
    )


def test_initialising_without_a_prompt_creates_all_of_them():
    bank = PARAMS["encoder"]["prompt"]
    assert jax.tree.map(jnp.shape, bank) == {
        "rte": {"prompt": (3, 8)},
        "wic": {"prompt": (3, 8)},
    }
    assert not np.allclose(bank["rte"]["prompt"], bank["wic"]["prompt"])
    with_ids = jax.eval_shape(lambda: init(NETWORK, prompt_ids=jnp.zeros(3, jnp.int32)))
    assert jax.tree.structure(PARAMS) == jax.tree.structure(with_ids["params"])


@pytest.mark.parametrize("ids", [[0, 0, 0], [1, 1, 1], [0, 1, 0]])
def test_a_prompt_acts(ids):
    bare = logits(None)
    assert (abs(logits(jnp.array(ids)) - bare).max(axis=(1, 2)) > 1e-2).all()


def test_minus_one_is_no_prompt():
    np.testing.assert_allclose(logits(jnp.array([-1, -1, -1])), logits(None), atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(ids=st.lists(st.integers(-1, 1), min_size=3, max_size=3))
def test_a_mixed_batch_equals_separate_ones(ids):
    mixed = logits(jnp.array(ids))
    for row, number in enumerate(ids):
        alone = logits(None if number < 0 else jnp.full(3, number))
        np.testing.assert_allclose(mixed[row], alone[row], atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(
    ids=st.lists(st.integers(-1, 3), min_size=5, max_size=5),
    names=st.permutations(["a", "b", "c", "d"]),
)
def test_a_bank_gives_each_row_the_prompt_of_its_number(ids, names):
    """The order is that of `names`, not of the parameters; -1 is zeros."""
    prompts = {name: np.full((3, 8), ord(name), np.float32) for name in names}
    params = {name: {"prompt": rows} for name, rows in prompts.items()}
    bank = prompt.PromptBank(tuple(names), 3, prompt.DEFAULT_INIT)
    embedded = np.random.default_rng(0).normal(size=(len(ids), 2, 8)).astype(np.float32)
    found = bank.apply({"params": params}, embedded, jnp.array(ids))
    expected = [np.zeros((3, 8)) if i < 0 else prompts[names[i]] for i in ids]
    np.testing.assert_array_equal(found, np.concatenate([expected, embedded], axis=1))


DECODER = decoder.Transformer(
    decoder.DecoderConfig(
        vocab_size=32,
        emb_dim=8,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        mlp_dim=16,
        num_layers=2,
        prompt_names=("rte", "wic"),
        prompt_length=3,
    )
)


@functools.cache
def decoder_params():
    init = functools.partial(DECODER.init, enable_dropout=False)
    return jax.jit(init)(jax.random.key(0), INPUTS)["params"]


@jax.jit
def decoder_logits(params, segments, prefix, prompt_ids):
    return DECODER.apply(
        {"params": params},
        INPUTS,
        decoder_segment_ids=segments,
        decoder_causal_attention=prefix,
        prompt_ids=prompt_ids,
        enable_dropout=False,
    )


@settings(deadline=None, max_examples=20)
@given(
    ids=st.lists(st.integers(-1, 1), min_size=3, max_size=3),
    segments=arrays.arrays(np.int32, (3, 4), elements=st.integers(0, 1)),
    prefix=st.integers(0, 4),
)
def test_a_mixed_batch_of_a_decoder_equals_separate_ones(ids, segments, prefix):
    """Wherever padding stands, rows of nothing but padding included."""
    marks = np.tile(np.arange(4) < prefix, (3, 1)).astype(np.int32)
    params = decoder_params()
    mixed = decoder_logits(params, segments, marks, jnp.array(ids))
    assert np.isfinite(mixed).all()
    for row, number in enumerate(ids):
        numbers = None if number < 0 else jnp.full(3, number)
        alone = decoder_logits(params, segments, marks, numbers)
        valid = segments[row] > 0
        np.testing.assert_allclose(mixed[row][valid], alone[row][valid], atol=1e-4)


def test_a_prompt_reaches_only_the_rows_that_have_it():
    def row_sums(bank):
        params = {**PARAMS, "encoder": {**PARAMS["encoder"], "prompt": bank}}
        return jnp.abs(logits(jnp.array([1, -1, 1]), params=params)).sum(axis=(1, 2))

    gradient = jax.jit(jax.jacobian(row_sums))(PARAMS["encoder"]["prompt"])
    assert (gradient["rte"]["prompt"] == 0).all()
    touched = jnp.abs(gradient["wic"]["prompt"]).sum(axis=(1, 2)) > 0
    np.testing.assert_array_equal(touched, [True, False, True])


def test_a_diverged_prompt_stays_out_of_rows_without_it():
    bank = {**PARAMS["encoder"]["prompt"], "wic": {"prompt": jnp.full((3, 8), jnp.nan)}}
    params = {**PARAMS, "encoder": {**PARAMS["encoder"], "prompt": bank}}
    finite = np.isfinite(logits(jnp.array([0, -1, 1]), params=params)).all(axis=(1, 2))
    np.testing.assert_array_equal(finite, [True, True, False])


def test_rows_of_the_prompt_stand_before_the_input():
    @jax.jit
    def encode(prompt_ids):
        return NETWORK.apply(
            {"params": PARAMS}, INPUTS, prompt_ids=prompt_ids, enable_dropout=False, method="encode"
        )

    encoded, bare = encode(jnp.array([0, -1, 1])), encode(None)
    assert encoded.shape == (3, 3 + 4, 8)
    assert bare.shape == (3, 4, 8)
    np.testing.assert_allclose(encoded[1, 3:], bare[1], atol=1e-6)
    assert not np.allclose(encoded[0, 3:], bare[0], atol=1e-2)


def test_combine_keeps_order_and_dtype():
    rows, embedded = jnp.ones((2, 1, 4)), jnp.zeros((2, 3, 4), jnp.bfloat16)
    combined = prompt.combine(rows, embedded)
    assert (combined.shape, combined.dtype) == ((2, 4, 4), jnp.bfloat16)
    np.testing.assert_array_equal(combined[:, 0].astype(float), np.ones((2, 4)))


@pytest.mark.parametrize("changes", [{"prompt_length": 0}, {"prompt_names": ()}])
def test_no_rows_or_no_names_is_the_bare_network(changes):
    network = t5.Transformer(dataclasses.replace(CONFIG, **changes))
    shapes = jax.eval_shape(lambda: init(network))["params"]
    assert "prompt" not in shapes["encoder"]
    ids = jnp.zeros(3, jnp.int32)
    out = jax.jit(
        lambda: network.apply(
            {"params": PARAMS}, INPUTS, SHIFTED, TARGETS, prompt_ids=ids, enable_dropout=False
        )
    )()
    np.testing.assert_allclose(out, logits(None), atol=1e-6)


def test_the_bare_call_needs_no_prompt_parameters():
    encoder = {k: v for k, v in PARAMS["encoder"].items() if k != "prompt"}
    bare = logits(None, params={**PARAMS, "encoder": encoder})
    np.testing.assert_allclose(bare, logits(None), atol=1e-5)


def test_an_unknown_number_is_not_silently_another_prompt():
    assert np.isnan(logits(jnp.array([2, 0, 0]))[0]).all()


def test_packed_examples_refuse_a_prompt():
    segments = jnp.ones_like(INPUTS)
    with pytest.raises(ValueError, match="unpacked"):
        NETWORK.apply(
            {"params": PARAMS},
            INPUTS,
            SHIFTED,
            TARGETS,
            segments,
            jnp.ones_like(TARGETS),
            prompt_ids=jnp.zeros(3, jnp.int32),
            enable_dropout=False,
        )


def test_encode_and_decode_must_agree_on_the_prompt():
    encoded = jnp.zeros((3, 4, 8))
    with pytest.raises(ValueError, match="same prompt_ids"):
        NETWORK.apply(
            {"params": PARAMS},
            encoded,
            INPUTS,
            SHIFTED,
            TARGETS,
            prompt_ids=jnp.zeros(3, jnp.int32),
            enable_dropout=False,
            method="decode",
        )


def test_uniform_is_symmetric():
    values = prompt.uniform(0.5)(jax.random.key(0), (100, 100))
    assert values.dtype == jnp.float32
    assert -0.5 <= values.min() < -0.49
    assert 0.49 < values.max() <= 0.5
    assert abs(values.mean()) < 0.01


@pytest.mark.parametrize(("length", "distinct"), [(8, True), (30, False)])
def test_sampled_vocabulary_draws_leading_rows(length, distinct):
    embedding = jnp.arange(50.0)[:, None] * jnp.ones(4)
    drawn = prompt.sampled_vocabulary(embedding, length, jax.random.key(0), top=10)
    assert (drawn.shape, drawn.dtype) == ((length, 4), jnp.float32)
    assert set(np.unique(drawn)) <= set(range(10))
    assert (len(np.unique(drawn)) == length) == distinct
    other = prompt.sampled_vocabulary(embedding, length, jax.random.key(1), top=10)
    assert not np.array_equal(drawn, other)


def test_sampled_vocabulary_of_a_small_table():
    drawn = prompt.sampled_vocabulary(jnp.eye(6), 6, jax.random.key(0))
    np.testing.assert_array_equal(drawn.sum(axis=0), np.ones(6))


def test_symmetric_uniform_takes_the_width_of_the_table():
    values = prompt.symmetric_uniform(jnp.zeros((5, 64)), 200, jax.random.key(0), scale=0.1)
    assert (values.shape, values.dtype) == ((200, 64), jnp.float32)
    assert -0.1 <= values.min() < -0.099
    assert 0.099 < values.max() <= 0.1


class Letters:
    """A vocabulary of lower-case letters: a is 1."""

    def encode(self, text):
        return [ord(letter) - ord("a") + 1 for letter in text]


TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(20, 4)), jnp.bfloat16)


def test_class_labels_stand_first():
    rows = prompt.class_labels(TABLE, 5, jax.random.key(0), ["no", "b"], Letters(), top=10)
    table = np.asarray(TABLE, np.float32)
    assert (rows.shape, rows.dtype) == ((5, 4), jnp.float32)
    np.testing.assert_allclose(rows[0], (table[14] + table[15]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(rows[1], table[2])
    leading = {tuple(row) for row in table[:10]}
    assert len({tuple(row) for row in np.asarray(rows[2:])} & leading) == 3
    full = prompt.class_labels(TABLE, 2, jax.random.key(0), ("no", "b"), Letters())
    np.testing.assert_array_equal(full, rows[:2])


@pytest.mark.parametrize("text", ["abc", "abcdefg", "abcdefghijk"])
def test_a_text_is_cut_or_repeated_as_peft_does(text):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")

    class Tokenizer:
        def __call__(self, text):
            return {"input_ids": Letters().encode(text)}

    table = torch.nn.Embedding.from_pretrained(torch.tensor(np.asarray(TABLE, np.float32)))
    config = peft.PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM",
        num_virtual_tokens=7,
        num_transformer_submodules=1,
        token_dim=4,
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text=text,
        tokenizer_name_or_path="letters",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: Tokenizer())
        expected = peft.PromptEmbedding(config, table).embedding.weight.detach().numpy()
    rows = prompt.from_text(TABLE, 7, jax.random.key(0), text, Letters())
    assert rows.dtype == jnp.float32
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize(
    ("init", "options", "message"),
    [
        (prompt.class_labels, {"labels": []}, r"labels = \[\]; give the texts"),
        (prompt.class_labels, {"labels": "yes"}, "labels = 'yes'; give the texts"),
        (prompt.class_labels, {"labels": ["a", "b", "c", "d"]}, "4 labels .* prompt_length to 4"),
        (prompt.class_labels, {"labels": ["a", ""]}, "text '' .* has no tokens"),
        (prompt.class_labels, {"labels": ["a", "bz"]}, r"'bz' .* \[2, 26\], .* embeds 20 tokens"),
        (prompt.from_text, {"text": ""}, "text '' .* has no tokens"),
        (prompt.from_text, {"text": "`_"}, r"\[0, -1\], .* embeds 20 tokens"),
    ],
)
def test_bad_texts_are_one_line(init, options, message):
    with pytest.raises(UserError, match=message):
        init(TABLE, 3, jax.random.key(0), **options, vocabulary=Letters())


def test_a_file_of_prompt_tuning_has_no_suffix(tmp_path):
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    path = tmp_path / "encoder.prompt.prompt.prompt"
    with open(path, "wb") as file:
        np.save(file, rows)
    loaded = prompt.from_file(TABLE, 3, jax.random.key(0), str(path))
    assert loaded.dtype == jnp.float32
    np.testing.assert_array_equal(loaded, rows)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 5)), "rows of 5 numbers, the model embeds in 4"),
        (np.zeros((2, 4)), "has 2 rows, expected 3; set prompt_length to 2"),
        (np.zeros(4), r"shape \(4,\), not rows"),
        (np.zeros((3, 4), np.int32), "holds int32, expected float32"),
        (b"", "cannot be read"),
        (b"text", "cannot be read"),
        (None, "cannot be read: .*No such file"),
        ({"a": np.zeros(1)}, "holds several arrays"),
    ],
)
def test_bad_prompt_files_are_one_line(tmp_path, array, message):
    path = tmp_path / "prompt"
    with open(path, "wb") as file:
        if isinstance(array, bytes):
            file.write(array)
        elif isinstance(array, dict):
            np.savez(file, **array)
        elif array is not None:
            np.save(file, array)
    if array is None:
        path.unlink()
    with pytest.raises(UserError, match=message) as error:
        prompt.from_file(TABLE, 3, jax.random.key(0), str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([4, 8, 20, 27]),
    k=st.integers(1, 4),
    values=st.sampled_from([2, 1000]),
)
def test_nearest_tokens_equals_brute_force(seed, size, k, values):
    rng = np.random.default_rng(seed)
    # Rows of ones and zeros are often equal or parallel: ties.
    rows, table = (rng.integers(values, size=(n, 4)).astype(np.float32) for n in (3, size))

    def norm(array):
        lengths = np.linalg.norm(array, axis=1, keepdims=True)
        return array / np.where(lengths > 0, lengths, 1)

    expected = norm(rows).astype(np.float64) @ norm(table).astype(np.float64).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt, "CHUNK", 8)
        ids, similarity = prompt.nearest_tokens(jnp.asarray(rows), jnp.asarray(table), k)
    assert (ids.dtype, similarity.dtype) == (jnp.int32, jnp.float32)
    np.testing.assert_allclose(similarity, -np.sort(-expected, axis=1)[:, :k], atol=1e-6)
    np.testing.assert_allclose(
        np.take_along_axis(expected, np.asarray(ids), axis=1), similarity, atol=1e-6
    )
    assert all(len(set(row)) == k for row in np.asarray(ids).tolist())


def test_the_smaller_of_equally_near_tokens_stands_first(monkeypatch):
    monkeypatch.setattr(prompt, "CHUNK", 4)
    table = np.zeros((10, 4), np.float32)
    table[[1, 3, 6, 9], 0] = [2, 1, 4, 1]
    table[[2, 8], 1] = 1
    ids, similarity = prompt.nearest_tokens(jnp.eye(4)[:1] * 3, jnp.asarray(table), k=6)
    np.testing.assert_array_equal(ids, [[1, 3, 6, 9, 0, 2]])
    np.testing.assert_array_equal(similarity, [[1, 1, 1, 1, 0, 0]])


@pytest.mark.parametrize(
    ("rows", "k", "message"),
    [
        (np.zeros((2, 3)), 1, "rows of 3 numbers, the model embeds in 4"),
        (np.zeros((2, 4)), 0, "k = 0; .* from 1 to the 20"),
        (np.zeros((2, 4)), 21, "k = 21; .* from 1 to the 20"),
    ],
)
def test_nearest_tokens_refuses(rows, k, message):
    with pytest.raises(UserError, match=message):
        prompt.nearest_tokens(jnp.asarray(rows), TABLE, k)
