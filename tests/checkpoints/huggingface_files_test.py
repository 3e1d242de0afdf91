"""What folders of `transformers` may hold beside parameters, damage in them, and the hub."""

import json

import numpy as np
import pytest

from promot_jax.checkpoints.formats import hub, huggingface, safetensors_files
from promot_jax.checkpoints.formats import huggingface_config as configs
from promot_jax.checkpoints.formats import source as sources

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tiny = pytest.importorskip("tests.checkpoints.tiny_transformers")


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of a tiny T5.1.1 with its own output weights, never to be changed."""
    folder = tmp_path_factory.mktemp("hf") / "t5"
    tiny.random_model("t5_v1_1", untied_output=True).save_pretrained(folder)
    return folder


@pytest.fixture
def broken(saved, tmp_path):
    """A function that copies `saved`, with changed config keys or leaves."""

    def make(leaves=None, **about):
        tensors = safetensors_files.read_header(saved / "model.safetensors")
        tensors = {name: safetensors_files.read(tensor) for name, tensor in tensors.items()}
        for name, array in (leaves or {}).items():
            if array is None:
                del tensors[name]
            else:
                tensors[name] = array
        config = json.loads((saved / "config.json").read_text()) | about
        (tmp_path / "config.json").write_text(json.dumps(config))
        shapes = {name: array.shape for name, array in tensors.items()}
        safetensors_files.write(
            tmp_path / "model.safetensors", shapes, np.dtype("float32"), tensors.__getitem__
        )
        return tmp_path

    return make


def test_copies_and_buffers_are_ignored(broken, saved):
    embedding = tiny.load_model(saved).shared.weight.detach().numpy()
    relative = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    folder = broken(
        {
            "encoder.embed_tokens.weight": embedding,
            "decoder.embed_tokens.weight": embedding,
            relative: np.zeros((32, 4)),
        }
    )
    source, _, _ = tiny.load(folder)
    assert source.unexpected == []
    assert set(source.ignored) == {
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        relative,
    }
    other = broken({"encoder.embed_tokens.weight": embedding + 1})
    tiny.fails(
        r"model.safetensors: encoder.embed_tokens.weight differs from shared.weight",
        huggingface.open_checkpoint(str(other)).read,
        "token_embedder/embedding",
    )
    # Some files name the embedding only by a copy.
    alias = broken({"shared.weight": None, "decoder.embed_tokens.weight": embedding})
    _, _, params = tiny.load(alias)
    np.testing.assert_array_equal(params["token_embedder"]["embedding"], embedding)


def test_frequencies_of_old_llamas_are_ignored(tmp_path):
    model = tiny.random_model("llama")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    model.save_pretrained(tmp_path, state_dict={**model.state_dict(), name: torch.ones(3)})
    about = json.loads((tmp_path / "config.json").read_text())
    rope = about.pop("rope_parameters")
    about |= {"rope_theta": 77.0, "rope_scaling": None}
    assert rope["rope_theta"] != 77.0
    (tmp_path / "config.json").write_text(json.dumps(about))
    source = huggingface.open_checkpoint(str(tmp_path))
    assert source.config["rope_base"] == 77.0
    assert source.unexpected == []
    assert list(source.ignored) == [name]


def test_a_tied_output_may_stand_for_the_embedding(tmp_path):
    model = tiny.random_model("llama_3")
    embedding = model.lm_head.weight.detach().numpy()
    model.save_pretrained(tmp_path / "a")
    tensors = safetensors_files.read_header(tmp_path / "a/model.safetensors")
    arrays = {name: safetensors_files.read(tensor) for name, tensor in tensors.items()}
    arrays["lm_head.weight"] = arrays.pop("model.embed_tokens.weight")
    shapes = {name: array.shape for name, array in arrays.items()}
    safetensors_files.write(
        tmp_path / "a/model.safetensors", shapes, np.dtype("float32"), arrays.__getitem__
    )
    _, _, params = tiny.load(tmp_path / "a")
    np.testing.assert_array_equal(params["token_embedder"]["embedding"], embedding)


def test_vocabulary_beside_the_weights(broken):
    folder = broken()
    assert huggingface.open_checkpoint(str(folder)).vocabulary is None
    (folder / "tokenizer.json").write_text("{}")
    vocabulary = huggingface.open_checkpoint(str(folder)).vocabulary
    assert vocabulary == {"kind": "tokenizers", "file": str(folder / "tokenizer.json")}
    (folder / "spiece.model").write_text("")
    vocabulary = huggingface.open_checkpoint(str(folder)).vocabulary
    assert vocabulary["extra_ids"] == 100
    (folder / "tokenizer_config.json").write_text('{"extra_ids": 0}')
    vocabulary = huggingface.open_checkpoint(str(folder)).vocabulary
    assert vocabulary == {
        "kind": "sentencepiece",
        "file": str(folder / "spiece.model"),
        "extra_ids": 0,
    }
    # A word that was added to a T5's is in its tokenizer.json alone.
    for added, file in [("<extra_id_3>", "spiece.model"), ("<col>", "tokenizer.json")]:
        content = json.dumps({"added_tokens": [{"id": 9, "content": added}]})
        (folder / "tokenizer.json").write_text(content)
        vocabulary = huggingface.open_checkpoint(str(folder)).vocabulary
        assert vocabulary["file"] == str(folder / file)


# --- errors ---


def test_missing_extra_and_misshapen_leaves(broken):
    expected = tiny.expected_leaves(
        tiny.network("t5", huggingface.open_checkpoint(str(broken())).config), "t5"
    )

    def plan(leaves):
        sources.match(huggingface.open_checkpoint(str(broken(leaves))), expected)

    plan({})
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    path = "encoder/layers_0/attention/query/kernel"
    tiny.fails(rf"missing {path} \(32, 24\)", plan, {name: None})
    tiny.fails(r"unexpected score.weight", plan, {"score.weight": np.zeros(3)})
    tiny.fails(
        rf"model.safetensors: {name}\) has shape \(32, 23\)", plan, {name: np.zeros((23, 32))}
    )
    # Without output weights of its own, a file that unties them is short of a leaf.
    folder = broken({"lm_head.weight": None}, tie_word_embeddings=False)
    source = huggingface.open_checkpoint(str(folder))
    tiny.fails("missing decoder/logits_dense/kernel", sources.match, source, expected)
    wrong = tiny.network("t5", {**source.config, "mlp_activations": ("relu",)})
    tiny.fails("is another model", sources.match, source, tiny.expected_leaves(wrong, "t5"))


def test_tied_output_that_differs(broken):
    folder = broken(feed_forward_proj="gated-gelu", scale_decoder_outputs=True)
    source = huggingface.open_checkpoint(str(folder))
    assert source.config["logits_via_embedding"]
    tiny.fails("lm_head.weight differs from shared.weight", source.read, "token_embedder/embedding")


@pytest.mark.parametrize(
    ("case", "changes", "match"),
    [
        ("t5_v1_1", {"model_type": "umt5"}, "config.json: model_type is umt5"),
        ("t5_v1_1", {"model_type": "bert"}, "model_type is bert; supported are t5, mt5, llama"),
        ("t5_v1_1", {"feed_forward_proj": "gelu"}, "feed_forward_proj is gelu;"),
        ("t5_v1_1", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets is 64"),
        ("t5_v1_1", {"d_model": None}, "d_model is None"),
        ("llama", {"rope_parameters": {"rope_type": "longrope"}}, "rope_type is longrope"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "linear rope parameters lack factor"),
        ("llama", {"rope_scaling": {"type": "llama3", "factor": 2}}, "lack low_freq_factor"),
        ("llama", {"rope_parameters": {"full_attention": {}}}, "differ between layers"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is gelu;"),
        ("llama", {"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ("llama", {"rope_parameters": {"rope_theta": "x"}}, "config.json has a value of a wrong"),
        ("qwen2", {"layer_types": ["sliding_attention"]}, "layer_types"),
        (
            "qwen2",
            {
                "use_sliding_window": True,
                "sliding_window": 8,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            "layer_types has windows in other layers than the last",
        ),
        ("cohere", {"use_qk_norm": True}, "use_qk_norm is True"),
    ],
)
def test_settings_that_are_not_computed(case, changes, match):
    kind, settings = tiny.CASES[case]
    config = transformers.AutoConfig.for_model(kind, vocab_size=64, **settings).to_dict()
    configs.read(config, "config.json")
    tiny.fails(match, configs.read, config | changes, "config.json")


def test_mistral_without_a_key_has_a_window():
    kind, settings = tiny.CASES["mistral"]
    config = transformers.AutoConfig.for_model(kind, vocab_size=64, **settings).to_dict()
    del config["sliding_window"]
    assert transformers.MistralConfig.from_dict(config).sliding_window == 4096
    assert configs.read(config, "config.json")[1]["sliding_window"] == 4096


def test_damaged_files(saved, tmp_path):
    tiny.load_model(saved).save_pretrained(tmp_path, max_shard_size="10KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    file = tmp_path / index["weight_map"]["lm_head.weight"]
    content = file.read_bytes()

    def opening():
        return huggingface.open_checkpoint(str(tmp_path))

    source = opening()
    file.write_bytes(content[:-10])
    tiny.fails(rf"{file.name} is cut off", opening)
    leaf = "decoder/logits_dense/kernel"
    tiny.fails(rf"{file.name} is cut off within lm_head.weight", source.read, leaf)
    file.write_bytes(content[:5])
    tiny.fails(rf"{file.name} is cut off", opening)
    file.write_bytes(b"\x02\0\0\0\0\0\0\0{]" + content)
    tiny.fails(rf"{file.name} is not a safetensors file", opening)
    file.write_bytes(content.replace(b'"lm_head.weight"', b'"ml_head.weight"'))
    tiny.fails(rf"{file.name} lacks lm_head.weight", opening)
    file.unlink()
    tiny.fails(rf"{file.name} is not there, but .* holds lm_head.weight", opening)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    tiny.fails("index.json has no weight_map", opening)
    (tmp_path / "model.safetensors.index.json").write_text("[")
    tiny.fails("index.json is not JSON", opening)
    (tmp_path / "model.safetensors.index.json").unlink()
    tiny.fails("has neither model.safetensors nor", opening)
    (tmp_path / "config.json").write_text("{'model_type': 't5'}")
    tiny.fails("config.json is not JSON", opening)


@pytest.mark.parametrize(
    "entry",
    [
        {"data_offsets": [-400, -400 + 64 * 32 * 4]},
        {"data_offsets": [0.0, 8192.0]},
        {"shape": [-64, -32]},
        {"shape": [64.0, 32]},
    ],
)
def test_headers_that_place_a_tensor_nowhere(tmp_path, entry):
    about = {"dtype": "F32", "shape": [64, 32], "data_offsets": [0, 8192], **entry}
    header = json.dumps({"x": about}).encode()
    file = tmp_path / "a.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8192))
    tiny.fails("a.safetensors is damaged: x has the shape", safetensors_files.read_header, file)


def test_weights_without_an_embedding_can_be_inspected(tmp_path):
    tiny.random_model("llama").save_pretrained(tmp_path)
    safetensors_files.write(
        tmp_path / "model.safetensors",
        {"model.norm.weight": (32,)},
        np.dtype(np.float32),
        lambda name: np.ones(32),
    )
    about = json.loads((tmp_path / "config.json").read_text()) | {"num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(about))
    source = huggingface.open_checkpoint(str(tmp_path))
    assert list(source.leaves) == ["decoder/decoder_norm/scale"]


def test_more_layers_than_tensors(tmp_path):
    tiny.random_model("llama").save_pretrained(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text()) | {"num_hidden_layers": 10**9}
    (tmp_path / "config.json").write_text(json.dumps(about))
    opening = (huggingface.open_checkpoint, str(tmp_path))
    tiny.fails("config.json says 1000000000 layers, but the weights are", *opening)


@pytest.mark.parametrize(
    ("case", "changes", "match"),
    [
        ("llama", {"num_key_value_heads": "2"}, "num_key_value_heads is 2, expected a positive"),
        ("llama", {"head_dim": -6}, "head_dim is -6"),
        ("llama", {"head_dim": 6.5}, "head_dim is 6.5"),
        ("llama", {"vocab_size": True}, "vocab_size is True"),
        ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ("llama", {"rope_theta": -5, "rope_parameters": None}, "rope_theta is -5"),
        ("mt5", {"num_decoder_layers": "x"}, "num_decoder_layers is x"),
        ("mt5", {"num_decoder_layers": -1}, "num_decoder_layers is -1"),
    ],
)
def test_settings_of_impossible_values(case, changes, match):
    kind, values = tiny.CASES[case]
    config = {"model_type": kind, "vocab_size": 64, **values, **changes}
    tiny.fails(match, configs.read, config, "config.json")


def test_tensors_of_other_types(saved, tmp_path):
    tensors = {name: value.clone() for name, value in tiny.load_model(saved).state_dict().items()}
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.int8)
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    pytest.importorskip("safetensors.torch").save_file(tensors, tmp_path / "model.safetensors")
    tiny.fails("lm_head.weight has the dtype I8", huggingface.open_checkpoint, str(tmp_path))


def test_pickles_are_refused(saved, tmp_path):
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    assert not huggingface.is_format(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert huggingface.is_format(str(tmp_path))
    tiny.fails(
        r"pytorch_model.bin is a pickle.*save_pretrained",
        huggingface.open_checkpoint,
        str(tmp_path),
    )


def test_is_format(saved, tmp_path):
    assert huggingface.is_format(str(saved))
    assert not huggingface.is_format(str(tmp_path))
    assert not huggingface.is_format(str(tmp_path / "nothing"))


def test_remote_folders_must_be_copied_first(saved, tmp_path, monkeypatch):
    epath = pytest.importorskip("etils.epath")
    buckets = {"gs://b/model": saved, "gs://b/none": tmp_path}
    monkeypatch.setattr(epath, "Path", lambda path: buckets[path])
    assert huggingface.is_format("gs://b/model")
    assert not huggingface.is_format("gs://b/none")
    assert not huggingface.is_format("gs://unreachable/model")
    tiny.fails(
        "gs://b/model: .* copy the folder first", huggingface.open_checkpoint, "gs://b/model"
    )


# --- the hub ---

HUB_FILES = [
    "config.json",
    "model.safetensors",
    "model-00001-of-00002.safetensors",
    "spiece.model",
    "pytorch_model.bin",
    "consolidated.safetensors",
    "model.fp16.safetensors",
    "onnx/config.json",
    "t5/config.json",
    "t5/onnx/config.json",
    "chat_template.jinja",
    "additional_chat_templates/tools.jinja",
]


def test_addresses_of_the_hub(saved, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    calls, chosen_files = [], {}

    def download(repo, *, revision, allow_patterns, ignore_patterns):
        calls.append((repo, revision))
        chosen = huggingface_hub.utils.filter_repo_objects(
            HUB_FILES, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        chosen_files[repo] = list(chosen)
        if repo == "a/lost":
            raise ConnectionError("Max retries\nexceeded")
        return str(saved.parent)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert huggingface.is_format("hf://google/t5@refs%2Fpr%2F1/t5")
    source = huggingface.open_checkpoint("hf://google/t5@refs%2Fpr%2F1/t5")
    assert source.path == "hf://google/t5@refs%2Fpr%2F1/t5"
    assert calls == [("google/t5", "refs/pr/1")]
    assert chosen_files["google/t5"] == ["t5/config.json"]
    assert hub.local_folder("hf://google/other") == saved.parent
    assert chosen_files["google/other"] == [
        "config.json",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "spiece.model",
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
    ]
    tiny.fails(r"^hf://a/lost cannot be downloaded: Max retries$", hub.local_folder, "hf://a/lost")
    tiny.fails("expected hf://OWNER/NAME", hub.local_folder, "hf://google")
