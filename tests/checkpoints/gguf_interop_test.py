import functools
import json

import gguf as gguf_package
import ml_dtypes
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.checkpoints.formats import gguf, gguf_tokenizer
from promot_jax.data import vocabularies
from promot_jax.models.networks import decoder
from tests.quick import quick_jit

pytestmark = pytest.mark.long

CONFIGS = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
}
SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
    "max_position_embeddings": 64,
}
# Hugging Face's names in those of llama.cpp.
RENAMED = [
    ("model.embed_tokens", "token_embd"),
    ("model.layers.", "blk."),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("input_layernorm", "attn_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
]


def make(architecture, tied=True, seed=0, **changes):
    """Returns a random model of transformers."""
    config, model = CONFIGS[architecture]
    torch.manual_seed(seed)
    made = model(config(**SIZES, tie_word_embeddings=tied, **changes)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (parameter.ndim == 1))
    return made


def weights_of(model):
    """Returns {name of llama.cpp: array} in the layout of transformers."""
    weights = {}
    for name, array in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        for theirs, renamed in RENAMED:
            name = name.replace(theirs, renamed)
        weights[name] = array.numpy()
    return weights


def paired(rows, heads):
    """Interleaves the halves of each head, row by row."""
    size = len(rows) // heads
    order = []
    for head in range(heads):
        for i in range(size // 2):
            order += [head * size + i, head * size + i + size // 2]
    return rows[order]


def write(path, architecture, weights, kinds=None, metadata=None, tokenizer=None):
    """Writes a file as llama.cpp's converter does; `kinds` quantises tensors by name."""
    writer = gguf_package.GGUFWriter(str(path), architecture)
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_context_length(SIZES["max_position_embeddings"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(SIZES["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(SIZES["rms_norm_eps"])
    writer.add_rope_freq_base(SIZES["rope_theta"])
    writer.add_vocab_size(SIZES["vocab_size"])
    for key, value in (metadata or {}).items():
        kind = {str: "add_string", float: "add_float32"}.get(type(value), "add_uint32")
        getattr(writer, kind)(key, value)
    if tokenizer:
        tokenizer(writer)
    for name, array in weights.items():
        if architecture == "llama" and ".attn_q." in name:
            array = paired(array, SIZES["num_attention_heads"])
        if architecture == "llama" and ".attn_k." in name:
            array = paired(array, SIZES["num_key_value_heads"])
        kind = (kinds or {}).get(name, Kind.F32)
        data = array if kind == Kind.F32 else gguf_package.quants.quantize(array, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def network_logits(source, tokens):
    network = decoder.Transformer(decoder.DecoderConfig(**source.config))
    params = trees.unflatten({path: source.read(path).astype("f4") for path in source.leaves})
    apply = quick_jit(functools.partial(network.apply, enable_dropout=False))
    return apply({"params": params}, tokens)


@pytest.mark.parametrize(
    ("architecture", "tied", "changes"),
    [
        ("llama", True, {}),
        ("llama", False, {"attention_bias": True}),
        ("llama", True, {"attention_bias": True, "mlp_bias": True}),
        ("qwen2", True, {}),
        ("qwen3", False, {}),
    ],
)
def test_the_network_agrees_with_transformers(tmp_path, architecture, tied, changes):
    model = make(architecture, tied, **changes)
    weights = weights_of(model)
    path = write(
        tmp_path / "model.gguf",
        architecture,
        weights,
        metadata={f"{architecture}.attention.key_length": 16},
    )
    assert gguf.is_format(path)
    source = gguf.open_checkpoint(path)
    assert (source.family, source.format) == ("decoder", "GGUF")
    assert source.config["logits_via_embedding"] == tied
    assert source.config["qk_norm"] == (architecture == "qwen3")
    assert source.config["qkv_bias"] == (architecture == "qwen2" or bool(changes))
    assert source.config["norm_epsilon"] == 1e-5
    assert not source.unexpected
    assert len(source.leaves) == len(weights)
    tokens = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (2, 9))
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)).logits.numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(network_logits(source, tokens), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_leaves_are_exact_in_every_type(tmp_path, architecture):
    weights = weights_of(make(architecture, tied=False))
    cycle = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_1]
    kinds = {name: cycle[i % 5] for i, name in enumerate(weights) if weights[name].ndim == 2}
    # Query and key, whose rows move, are of all types in turn.
    kinds["blk.0.attn_q.weight"], kinds["blk.0.attn_k.weight"] = Kind.Q4_1, Kind.Q8_0
    kinds["blk.1.attn_q.weight"], kinds["blk.1.attn_k.weight"] = Kind.BF16, Kind.F16
    source = gguf.open_checkpoint(write(tmp_path / "m.gguf", architecture, weights, kinds))
    assert len(source.leaves) == len(weights) > 20
    seen = set()
    for our_path, where in source.where.items():
        name = where.split(": ")[1]
        kind = kinds.get(name, Kind.F32)
        expected = weights[name]
        if kind != Kind.F32:
            quantised = gguf_package.quants.quantize(expected, kind)
            expected = gguf_package.quants.dequantize(quantised, kind)
        dtype = {Kind.F16: np.float16, Kind.BF16: ml_dtypes.bfloat16}.get(kind, np.float32)
        found = source.read(our_path)
        assert found.dtype == source.leaves[our_path].dtype == dtype, our_path
        assert found.shape == source.leaves[our_path].shape
        wanted = expected.T if our_path.endswith("kernel") else expected
        np.testing.assert_array_equal(found.astype("f4"), wanted, our_path)
        seen.add(kind)
    assert seen == set(cycle)


def test_transformers_reads_the_same(tmp_path):
    weights = weights_of(make("llama"))
    kinds = {name: Kind.Q8_0 for name, array in weights.items() if array.ndim == 2}
    path = write(tmp_path / "m.gguf", "llama", weights, kinds, tokenizer=add(trained("smollm")))
    theirs = weights_of(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf")
    )
    source = gguf.open_checkpoint(path)
    assert len(source.leaves) == len(theirs) > 10
    for our_path, where in source.where.items():
        found = source.read(our_path)
        np.testing.assert_array_equal(
            found.T if our_path.endswith("kernel") else found, theirs[where.split(": ")[1]]
        )


def test_llama_3_frequencies(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    model = make("llama", rope_parameters={**scaling, "rope_theta": SIZES["rope_theta"]})
    plain = make("llama").model.rotary_emb.inv_freq.numpy()
    divisors = plain / model.model.rotary_emb.inv_freq.numpy()
    assert divisors.max() == pytest.approx(8)
    weights = {"rope_freqs.weight": divisors, **weights_of(model)}
    source = gguf.open_checkpoint(write(tmp_path / "m.gguf", "llama", weights))
    assert source.config["rope_scaling"] == (8.0, 1.0, 4.0, 8192)
    assert list(source.ignored) == ["rope_freqs.weight"]
    assert not source.unexpected
    tokens = np.arange(24).reshape(1, -1)
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(network_logits(source, tokens), expected, atol=2e-4, rtol=1e-4)
    weights["rope_freqs.weight"] = np.linspace(1, 9, 8).astype("f4")
    with pytest.raises(UserError, match=r"rope_freqs\.weight is not the scaling of Llama 3"):
        gguf.open_checkpoint(write(tmp_path / "other.gguf", "llama", weights))


ROPE = {"rope_theta": SIZES["rope_theta"], "factor": 4.0}
YARN = {**ROPE, "rope_type": "yarn", "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("rope", "metadata"),
    [
        ({**ROPE, "rope_type": "linear"}, {"scaling.type": "linear", "scaling.factor": 4.0}),
        ({**ROPE, "rope_type": "linear"}, {"scale_linear": 4.0}),
        (
            YARN,
            {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 16},
        ),
        (
            {**YARN, "original_max_position_embeddings": 64},
            {"scaling.type": "yarn", "scaling.factor": 4.0},
        ),
    ],
    ids=["linear", "old", "yarn", "yarn of the context"],
)
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_scaled_frequencies(tmp_path, architecture, rope, metadata):
    model = make(architecture, rope_parameters=rope)
    metadata = {f"{architecture}.rope.{name}": value for name, value in metadata.items()}
    path = write(tmp_path / "m.gguf", architecture, weights_of(model), metadata=metadata)
    source = gguf.open_checkpoint(path)
    assert source.config["max_positions"] == 64
    assert not source.ignored
    tokens = np.random.default_rng(0).integers(0, 96, (1, 48))
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)).logits.numpy()
        plain = make(architecture)(torch.from_numpy(tokens)).logits.numpy()
    assert np.abs(plain - expected).max() > 0.1
    np.testing.assert_allclose(network_logits(source, tokens), expected, atol=5e-4, rtol=1e-3)


def test_unknown_tensors_are_unexpected(tmp_path):
    weights = {**weights_of(make("llama")), "blk.0.attn_sinks.weight": np.ones(4, np.float32)}
    source = gguf.open_checkpoint(write(tmp_path / "m.gguf", "llama", weights))
    assert source.unexpected == ["blk.0.attn_sinks.weight"]
    assert source.vocabulary is None


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.rope.dimension_count": 8}, r"rope\.dimension_count = 8; only 16"),
        ({"llama.expert_count": 8}, r"expert_count = 8; only 0"),
        ({"llama.rope.scaling.type": "longrope"}, r"scaling\.type = longrope; only none, linear"),
        ({"llama.attention.value_length": 32}, r"value_length = 32; only 16"),
        ({"split.count": 2}, "join it"),
    ],
)
def test_models_that_the_network_is_not(tmp_path, metadata, message):
    path = write(tmp_path / "m.gguf", "llama", weights_of(make("llama")), metadata=metadata)
    with pytest.raises(UserError, match=message) as error:
        gguf.open_checkpoint(path)
    assert path in str(error.value)
    assert "\n" not in str(error.value)


def test_other_files(tmp_path):
    weights = weights_of(make("llama"))
    with pytest.raises(UserError, match="architecture 'gemma2'; it must be one of llama, qwen2"):
        gguf.open_checkpoint(write(tmp_path / "g.gguf", "gemma2", weights))
    some = {"output_norm.weight": np.ones(64, np.float32)}
    with pytest.raises(UserError, match=r"no tensor token_embd\.weight"):
        gguf.open_checkpoint(write(tmp_path / "n.gguf", "llama", some))
    (tmp_path / "text.gguf").write_text("GGML")
    assert not gguf.is_format(str(tmp_path / "text.gguf"))
    assert not gguf.is_format(str(tmp_path))
    with pytest.raises(UserError, match=r"text\.gguf is no GGUF file"):
        gguf.open_checkpoint(str(tmp_path / "text.gguf"))


def test_rows_that_are_no_heads(tmp_path):
    weights = {**weights_of(make("llama")), "blk.1.attn_k.weight": np.ones((48, 64), np.float32)}
    with pytest.raises(UserError, match=r"blk\.1\.attn_k\.weight has 48 rows, not 2 heads of 16"):
        gguf.open_checkpoint(write(tmp_path / "m.gguf", "llama", weights))


def test_a_type_without_dequantisation(tmp_path):
    weights = weights_of(make("llama"))
    path = tmp_path / "m.gguf"
    writer = gguf_package.GGUFWriter(str(path), "llama")
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_feed_forward_length(96)
    writer.add_block_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("token_embd.weight", weights["token_embd.weight"].astype(np.float64))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match=r"m\.gguf: token_embd\.weight is of type F64") as error:
        gguf.open_checkpoint(str(path))
    assert "\n" not in str(error.value)


def test_every_truncation_is_one_line(tmp_path):
    tokenizer = add(trained("smollm"))
    path = write(tmp_path / "m.gguf", "llama", weights_of(make("llama")), tokenizer=tokenizer)
    gguf.open_checkpoint(path)
    content = (tmp_path / "m.gguf").read_bytes()
    short = tmp_path / "short.gguf"
    ends = [4, 8, 16, 24, 100, 1001, 9000, 20000, len(content) // 2, len(content) - 1]
    for end in ends:
        short.write_bytes(content[:end])
        with pytest.raises(UserError, match=r"short\.gguf is damaged, perhaps cut short") as error:
            gguf.open_checkpoint(str(short))
        assert "\n" not in str(error.value)


CORPUS = [
    "the capital of France is Paris and the capital of Chad is N'Djamena, they've 202 202 202 202",
    "La géographie: 12 345 villes, l'été, des œufs 1999",
    "def f(x):\n\treturn x ** 2  # the end\n\n\nAND IT'S DONE",
]
NUMBER = {"llama-bpe": "{1,3}", "qwen2": ""}
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.lists(
        st.sampled_from(
            ["the", "<|end|>", "<tool>", " Paris", "e\u0301", "\n", "12", "345", "'s", "'VE", "½"]
        )
    ).map("".join),
)


def trained(pre):
    """Returns a tokenizer as the tokenizer.json of each kind of model describes it."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in NUMBER)
    first = {"smollm": [pre_tokenizers.Digits(True)], "gpt-2": []}.get(pre)
    if pre in NUMBER:
        regex = (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
            + NUMBER[pre]
            + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
        first = [pre_tokenizers.Split(Regex(regex), "isolated")]
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|start|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


def add(tokenizer, pre="smollm", **changes):
    """Returns what writes a tokenizer into a file, as llama.cpp's converter does."""
    parts = json.loads(tokenizer.to_str())
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    tokens = [*sorted(vocab, key=vocab.get), "[PAD]"]
    added = {token["content"]: 3 if token["special"] else 4 for token in parts["added_tokens"]}
    merges = [m if isinstance(m, str) else " ".join(m) for m in parts["model"]["merges"]]

    def write_into(writer):
        writer.add_tokenizer_model(changes.get("model", "gpt2"))
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([*[added.get(token, 1) for token in tokens[:-1]], 5])
        writer.add_token_merges(changes.get("merges", merges))
        writer.add_eos_token_id(vocab["<|end|>"])
        writer.add_bos_token_id(vocab["<|start|>"])
        if "add_bos" in changes:
            writer.add_add_bos_token(changes["add_bos"])

    return write_into


@pytest.fixture(scope="module", params=sorted({"smollm", "gpt-2", "llama-bpe", "qwen2"}))
def pair(request, tmp_path_factory):
    original = trained(request.param)
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    write(path, "llama", weights_of(make("llama")), tokenizer=add(original, request.param))
    source = gguf.open_checkpoint(str(path))
    return request.param, original, vocabularies.load(source.vocabulary, source.path)


@settings(max_examples=80, deadline=None)
@given(text=TEXTS)
def test_the_tokenizer_of_the_file_is_the_original(pair, text):
    _, original, vocabulary = pair
    ids = original.encode(text, add_special_tokens=False).ids
    assert vocabulary.encode(text) == ids
    assert (
        vocabulary.decode(ids)
        == original.decode(ids, skip_special_tokens=False).split("<|end|>")[0]
    )


def test_special_tokens_of_the_file(pair):
    pre, original, vocabulary = pair
    assert vocabulary.eos_id == original.token_to_id("<|end|>")
    assert vocabulary.vocab_size == original.get_vocab_size() > 300
    assert vocabulary.start_id == (0 if pre == "llama-bpe" else None)
    for text in ("<|start|>", "<|end|>", "<tool>"):
        assert vocabulary.encode(text) == [original.token_to_id(text)]
    assert len(vocabulary.encode("[PAD]")) > 1


def read_tokenizer(tmp_path, *args, **changes):
    path = tmp_path / "m.gguf"
    write(path, "llama", weights_of(make("llama")), tokenizer=add(*args, **changes))
    return gguf.open_checkpoint(str(path)).vocabulary


def test_a_word_of_llama_3_needs_no_merges(tmp_path):
    parts = json.loads(trained("llama-bpe").to_str())
    parts["model"]["merges"] = [m for m in parts["model"]["merges"] if "".join(m) != "Ġcapital"]
    original = tokenizers.Tokenizer.from_str(json.dumps(parts))
    found = read_tokenizer(tmp_path, original, "llama-bpe")
    ids = vocabularies.load(found, tmp_path).encode(" capital 202")
    assert ids == original.encode(" capital 202").ids
    assert ids[0] == original.token_to_id("Ġcapital")


def test_the_file_tells_whether_a_start_token_is_prepended(tmp_path):
    found = read_tokenizer(tmp_path, trained("smollm"), add_bos=True)
    vocabulary = vocabularies.load(found, tmp_path)
    assert vocabulary.start_id == 0
    assert vocabulary.encode("the") == trained("smollm").encode("the").ids
    saved = vocabularies.save(vocabulary, tmp_path / "saved")
    assert vocabularies.load(saved, tmp_path / "saved").start_id == 0
    found = read_tokenizer(tmp_path, trained("llama-bpe"), "llama-bpe", add_bos=False)
    assert vocabularies.load(found, tmp_path).start_id is None


def test_tokenizers_that_are_not_known(tmp_path):
    assert "unread" in read_tokenizer(tmp_path, trained("gpt-2"), "gpt-9")
    assert "unread" in read_tokenizer(tmp_path, trained("gpt-2"), "gpt-2", model="bert")
    assert read_tokenizer(tmp_path, trained("gpt-2"), "gpt-2") is not None
    with pytest.raises(UserError, match=r"m\.gguf: its tokenizer is inconsistent") as error:
        read_tokenizer(tmp_path, trained("gpt-2"), "gpt-2", merges=["zz zz"])
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"a\.gguf: its tokenizer lacks tokenizer\.ggml\.tokens"):
        gguf_tokenizer.description(
            {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"}, "a.gguf"
        )
