"""Files beside the weights: of our folders, of GGUF files, of models that have none."""

import json

import jax
import numpy as np
import pytest

from promot_jax.base.errors import UserError
from promot_jax.checkpoints import conversion, pretrained
from promot_jax.checkpoints.formats import (
    gguf_metadata,
    huggingface_config,
    huggingface_kept,
    known,
    side_files,
)
from promot_jax.data import vocabularies
from tests import tiny

CONFIG = {
    "vocab_size": 8,
    "emb_dim": 8,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 4,
    "mlp_dim": 8,
    "num_layers": 1,
    "logits_via_embedding": True,
}
GGUF = {
    "general.architecture": "llama",
    "llama.context_length": 777,
    "tokenizer.ggml.tokens": [*"abcde", "<s>", "</s>", "<eot>"],
    "tokenizer.ggml.bos_token_id": 5,
    "tokenizer.ggml.eos_token_id": 6,
    "tokenizer.ggml.eot_token_id": 7,
    "tokenizer.chat_template": "{{ messages }}",
}


def read(files, name):
    return json.loads(files[name])


def test_metadata_of_gguf_become_files_of_transformers():
    files = gguf_metadata.beside(GGUF, CONFIG)
    about = read(files, "config.json")
    assert (about["max_position_embeddings"], about["bos_token_id"]) == (777, 5)
    assert huggingface_config.read(about, "x")[1]["num_kv_heads"] == 1
    assert read(files, "generation_config.json") == {
        "bos_token_id": 5,
        "eos_token_id": [6, 7],
        "pad_token_id": 6,
    }
    settings = read(files, "tokenizer_config.json")
    assert settings["model_max_length"] == 777
    assert settings["chat_template"] == "{{ messages }}"
    assert [settings[f"{name}_token"] for name in ("bos", "eos", "pad")] == ["<s>", "</s>", "</s>"]
    padded = GGUF | {"tokenizer.ggml.padding_token_id": 2, "tokenizer.chat_template.tools": "t"}
    files = gguf_metadata.beside(padded, CONFIG)
    assert read(files, "generation_config.json")["pad_token_id"] == 2
    settings = read(files, "tokenizer_config.json")
    assert settings["pad_token"] == "c"
    assert [t["name"] for t in settings["chat_template"]] == ["default", "tools"]
    bare = gguf_metadata.beside({"general.architecture": "llama"}, CONFIG)
    assert list(bare) == ["config.json"]


def test_a_configuration_keeps_what_it_says_beside_the_network():
    written = huggingface_config.write("decoder", CONFIG, {"eos": 1}, 4096)
    known = {**written, "eos_token_id": [3, 4], "max_position_embeddings": 9, "own_key": 5}
    kept = huggingface_kept.keep(known, written, "decoder", CONFIG)
    assert kept == known
    wider = CONFIG | {"mlp_dim": 16}
    written = huggingface_config.write("decoder", wider, {"eos": 1}, 4096)
    kept = huggingface_kept.keep(known, written, "decoder", wider)
    assert kept == known | {"intermediate_size": 16}


@pytest.mark.parametrize("value", [-1, 3.0, "7", [1.5]])
def test_ends_that_are_no_ids_are_refused(value):
    files = {"generation_config.json": json.dumps({"eos_token_id": value}).encode()}
    with pytest.raises(UserError, match=r"m/generation_config.json: eos_token_id is"):
        side_files.end_ids(files, "m")


def test_the_start_of_an_encoder_decoder_is_checked():
    start = huggingface_kept.decoder_start
    assert start({"vocab_size": 9}, "x") == 0
    assert start({"vocab_size": 9, "decoder_start_token_id": 8, "pad_token_id": 0}, "x") == 8
    with pytest.raises(UserError, match="decoder_start_token_id is 9, expected a token id below 9"):
        start({"vocab_size": 9, "decoder_start_token_id": 9}, "x")
    with pytest.raises(UserError, match="pad_token_id is 3; of an encoder-decoder only 0"):
        start({"vocab_size": 9, "pad_token_id": 3}, "x")


def test_a_folder_of_ours_keeps_files_dtype_and_ends(tmp_path):
    model = tiny.model()
    params = model.init(jax.random.key(0))
    files = {"generation_config.json": b'{"top_k": 3}', "additional_chat_templates/a.jinja": b"t"}
    pretrained.save(tmp_path / "m", model, params, {}, files, "bfloat16")
    source = known.open_checkpoint(str(tmp_path / "m"))
    assert {name: source.beside[name] for name in files} == files
    assert source.dtype == "bfloat16"
    assert str(source.leaves["token_embedder/embedding"].dtype) == "float32"
    about = {"model_type": "t5", "dtype": "float16", "eos_token_id": 9}
    lines = conversion.export_model(
        model,
        params,
        tmp_path / "hf",
        format_name="huggingface",
        origin={},
        beside=source.beside | {"config.json": json.dumps(about).encode()},
        dtype=source.dtype,
    )
    assert list(lines)
    written = json.loads((tmp_path / "hf/config.json").read_text())
    assert (written["dtype"], written["eos_token_id"]) == ("bfloat16", 9)
    exported = known.open_checkpoint(str(tmp_path / "hf"))
    assert exported.dtype == "bfloat16"
    assert exported.beside["additional_chat_templates/a.jinja"] == b"t"
    assert (tmp_path / "hf/generation_config.json").read_bytes() == b'{"top_k": 3}'


def test_weights_beyond_half_precision_are_refused(tmp_path):
    model = tiny.model()
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + 1e5, model.init(jax.random.key(0)))
    with pytest.raises(UserError, match="has values beyond float16; give --dtype bfloat16"):
        list(
            conversion.export_model(
                model,
                params,
                tmp_path / "hf",
                format_name="huggingface",
                origin={},
                dtype="float16",
            )
        )


def test_another_vocabulary_brings_its_own_files(tmp_path):
    model = tiny.model()
    files = {"generation_config.json": b"{}", "tokenizer_config.json": b'{"eos_token": "x"}'}
    pretrained.save(tmp_path / "m", model, model.init(jax.random.key(0)), {}, files)
    source = known.open_checkpoint(str(tmp_path / "m"))
    own = pretrained.beside(source, pretrained.find_vocabulary(source, None))
    assert own["tokenizer_config.json"] == files["tokenizer_config.json"]
    text = '{"model": {"type": "BPE", "vocab": {"a": 0, "</s>": 1}, "merges": []}}'
    other = vocabularies.Tokenizer.from_json(text, "</s>")
    changed = pretrained.beside(source, other)
    assert json.loads(changed["tokenizer_config.json"])["eos_token"] == "</s>"
    assert changed["generation_config.json"] == b"{}"
    assert "spiece.model" not in changed
