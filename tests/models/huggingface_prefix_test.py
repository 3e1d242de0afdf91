"""Folders whose names have another prefix than the causal model's, or none."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from promot_jax.base import trees
from promot_jax.checkpoints.formats import huggingface
from promot_jax.checkpoints.formats import source as sources
from tests.checkpoints import tiny_transformers as tiny

pytestmark = pytest.mark.long


def folder_of(path, model, rename=lambda name: name):
    model.save_pretrained(path)
    weights = load_file(path / "model.safetensors")
    save_file({rename(name): w for name, w in weights.items()}, path / "model.safetensors")
    return path


def agrees(path, model):
    source, module, params = tiny.load(path)
    np.testing.assert_allclose(
        tiny.our_logits(module, params, source.family),
        tiny.their_logits(model),
        atol=1e-4,
        rtol=1e-4,
    )
    return source


@pytest.mark.parametrize("case", ["llama_3", "t5_v1_0", "cohere"])
def test_the_model_without_its_head(tmp_path, case):
    model = tiny.random_model(case)
    path = folder_of(tmp_path / "m", model.base_model if case != "t5_v1_0" else model)
    if case == "t5_v1_0":
        base = transformers.T5Model(model.config)
        base.load_state_dict(model.state_dict(), strict=False)
        path = folder_of(tmp_path / "base", base)
    assert not any(name.startswith("model.") for name in load_file(path / "model.safetensors"))
    about = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(about | {"tie_word_embeddings": True}))
    source = agrees(path, model)
    assert all("model." not in where.split(": ")[1] for where in source.where.values())


@pytest.mark.parametrize("case", ["llama", "qwen2", "t5_v1_1", "mt5"])
@pytest.mark.parametrize("prefix", ["transformer.", "language_model."])
def test_other_prefixes(tmp_path, case, prefix):
    model = tiny.random_model(case, untied_output=case == "t5_v1_1")

    def with_head(name):
        return prefix + name

    def without_head(name):
        return name if name == "lm_head.weight" else prefix + name.removeprefix("model.")

    agrees(folder_of(tmp_path / "a", model, with_head), model)
    agrees(folder_of(tmp_path / "b", model, without_head), model)


def test_a_missing_output_is_named(tmp_path):
    path = folder_of(tmp_path / "m", tiny.random_model("llama").base_model)
    source = huggingface.open_checkpoint(str(path))
    module = tiny.network(source.family, source.config)
    expected = tiny.expected_leaves(module, source.family)
    tiny.fails(r"missing decoder/logits_dense/kernel", sources.match, source, expected)
    assert trees.flatten(expected).keys() - source.leaves.keys() == {"decoder/logits_dense/kernel"}
    assert torch.is_tensor(load_file(path / "model.safetensors")["norm.weight"])


def test_an_encoder_alone_is_not_a_model(tmp_path):
    model = tiny.random_model("t5_v1_0")
    encoder = transformers.T5EncoderModel(model.config)
    source = huggingface.open_checkpoint(str(folder_of(tmp_path / "m", encoder)))
    expected = tiny.expected_leaves(tiny.network(source.family, source.config), "t5")
    tiny.fails("missing decoder/decoder_norm/scale", sources.match, source, expected)
