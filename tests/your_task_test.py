"""docs/your_task.md and docs/your_model.md, typed as they stand."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import jax
import pytest
import tokenizers
from tokenizers import models as tokenizer_models
from tokenizers import pre_tokenizers

from promot_jax import models, pretrained, vocabularies
from promot_jax.networks import decoder
from tests.cli_test import MINI

DOCS = pathlib.Path(__file__).parent.parent / "docs"
FLAGS = {"your_task.md": [flag for flag in MINI if "seeds" not in flag], "your_model.md": []}


def typed(line, folder, flags=()):
    """Runs a line of a page with further flags; returns what it printed."""
    assert line.startswith("promot ")
    program = [sys.executable, "-m", "promot_jax.cli", *shlex.split(line)[1:], *flags]
    return subprocess.check_output(program, cwd=folder, text=True)


def write_page(page, folder):
    """Writes the files of a page, and rows for it; returns its commands."""
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", (DOCS / page).read_text(), re.DOTALL))
    row = {"text": "the box is blue", "label": "yes"}
    assert json.loads(blocks.get("json", json.dumps(row))) == row
    lines = [row, row, {"text": "the box is heavy", "label": "no"}] * 8
    for split in ("train", "validation", "test"):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{split}.jsonl").write_text(text)
    (folder / "my_task.py").write_text(blocks["python"])
    (folder / "my_experiment.gin").write_text(blocks["gin"])
    return blocks["bash"].strip().splitlines()


def write_small_model(folder):
    """What the page's import makes of SmolLM2, at a few thousand random parameters."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    numbers = {letter: number for number, letter in enumerate(letters)}
    tokenizer = tokenizers.Tokenizer(tokenizer_models.BPE(numbers, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = decoder.DecoderConfig(
        vocab_size=len(letters) + 1,
        emb_dim=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        mlp_dim=32,
        num_layers=1,
    )
    vocabulary = vocabularies.Tokenizer(str(folder / "tokenizer.json"), eos_token="</s>")
    model = models.DecoderOnlyModel(decoder.Transformer(config), vocabulary)
    pretrained.save(folder / "models" / "base", model, model.init(jax.random.key(0)), {})


@pytest.mark.parametrize("page", FLAGS)
def test_the_page_runs(tmp_path, page):
    run, *others = write_page(page, tmp_path)
    if page == "your_model.md":
        write_small_model(tmp_path)
    typed(run, tmp_path, FLAGS[page])
    assert (tmp_path / "runs/my_task/report.html").exists()
    assert others
    for line in others:
        # An untrained model may answer nothing.
        assert typed(line, tmp_path).endswith("\n")
    if page == "your_model.md":
        assert (tmp_path / "hf/my_task/my_task/adapter_config.json").exists()
