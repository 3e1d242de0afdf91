"""Rows beyond the length that a model was made for."""

import json

import jax
import numpy as np
import pytest
import transformers

from promot_jax import cli, models
from promot_jax.checkpoints import pretrained
from promot_jax.data import context, vocabularies
from promot_jax.models.networks import decoder
from tests.checkpoints.gguf_tokenizer_test import trained
from tests.experiment.preview_test import TEMPLATES, write


def test_rows_are_counted_with_their_prompt():
    assert context.warnings(None, [10**9]) == []
    assert context.warnings(10, [10, 3]) == []
    (said,) = context.warnings(10, [10, 3, 9], 2)
    assert said.startswith("2 of 3 rows have more tokens (input, target and prompt; up to 12)")
    assert "than the 10 of the model's context" in said
    (said,) = context.warnings(9, np.array([10, 3]))
    assert said.startswith("1 of 2 rows have more tokens (input and target; up to 10)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that was made for 64 tokens."""
    words = vocabularies.Tokenizer.from_json(trained().to_str(), "<s>")
    config = decoder.DecoderConfig(words.vocab_size, 8, 2, 2, 4, 8, 1, max_positions=64)
    model = models.DecoderOnlyModel(decoder.Transformer(config), words)
    folder = tmp_path_factory.mktemp("models") / "m"
    pretrained.save(folder, model, model.init(jax.random.key(0)), {})
    return str(folder)


def test_generate_warns(folder, capsys):
    text = "the capital of France " * 30
    assert cli.main(["generate", "--checkpoint", folder, "--max_length", "2", text]) == 0
    assert "warning: 1 of 1 rows have more tokens" in capsys.readouterr().err
    assert cli.main(["generate", "--checkpoint", folder, "--max_length", "2", "the"]) == 0
    assert "warning" not in capsys.readouterr().err


def test_the_preview_warns(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"text": "a b " * (40 if i else 2), "label": " yes" if i % 2 else " no"} for i in range(8)
    ]
    files = [
        "--train",
        write(tmp_path / "t.jsonl", rows),
        "--eval",
        write(tmp_path / "d.jsonl", rows),
    ]
    flags = [*files, *TEMPLATES, "--checkpoint", folder]
    assert cli.main(["run", "your_data", "--preview", *flags]) == 0
    said = capsys.readouterr().out
    assert "than the 64 of the model's context" in said


def test_the_length_goes_from_transformers_and_back(folder, tmp_path):
    _, source = pretrained.open_model(folder)
    assert source.config["max_positions"] == 64
    out = tmp_path / "out"
    assert cli.main(["export", folder, str(out), "--format", "huggingface"]) == 0
    assert transformers.AutoConfig.from_pretrained(out).max_position_embeddings == 64
    assert json.loads((out / "config.json").read_text())["max_position_embeddings"] == 64
    model, _ = pretrained.open_model(str(out))
    assert model.max_positions == 64
