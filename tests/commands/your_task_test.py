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
from tokenizers import decoders, pre_tokenizers
from tokenizers import models as tokenizer_models

from promot_jax import cli, models
from promot_jax.checkpoints import pretrained
from promot_jax.data import vocabularies
from promot_jax.models.networks import decoder
from tests.commands.cli_test import MINI

pytestmark = pytest.mark.long

DOCS = pathlib.Path(__file__).parent.parent.parent / "docs"
ROW = {"text": "the box is blue", "label": "yes"}
# A tiny model of the miniature's kind; the experiments' own seeds and methods, two at most.
SMALL = [flag for flag in MINI if "seeds" not in flag]


def typed(line, folder, flags=()):
    """Runs a line of a page with further flags; returns what it printed."""
    assert line.startswith("promot ")
    program = [sys.executable, "-m", "promot_jax.cli", *shlex.split(line)[1:], *flags]
    return subprocess.check_output(program, cwd=folder, text=True)


def blocks(page):
    """Returns the (language, text) of each block of a page, in order."""
    return re.findall(r"```(\w+)\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def write_rows(folder, *names):
    lines = [ROW, {"text": "the box is heavy", "label": "no"}]
    lines += [{"text": f"the box is {i}", "label": "no"} for i in range(14)]
    for name in names:
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_tokenizer(folder):
    """A tokenizer.json whose tokens are bytes; returns how many there are."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    numbers = {letter: number for number, letter in enumerate(letters)}
    tokenizer = tokenizers.Tokenizer(tokenizer_models.BPE(numbers, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return len(letters) + 1


def write_small_model(folder):
    """What the page's import makes of SmolLM2, at a few thousand random parameters."""
    size = write_tokenizer(folder)
    config = decoder.DecoderConfig(
        vocab_size=size,
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


@pytest.mark.slow
def test_your_task_runs(tmp_path, monkeypatch, capsys):
    def typed_here(line, flags=()):
        assert line.startswith("promot ")
        assert cli.main([*shlex.split(line)[1:], *flags]) == 0
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    found = [block for block in blocks("your_task.md") if block[0] != "text"]
    languages, texts = zip(*found, strict=True)
    assert languages == ("json", "bash", "json", "bash", "gin", "bash", "python", "gin", "bash")
    row, command, question, keep, data_gin, run_data, python, task_gin, run_task = texts
    assert json.loads(row) == ROW
    (tmp_path / "questions.jsonl").write_text(question)
    (tmp_path / "news.jsonl").write_text(question)
    write_rows(tmp_path, "train.jsonl", "dev.jsonl")
    (tmp_path / "my_data.gin").write_text(data_gin)
    (tmp_path / "my_task.py").write_text(python)
    (tmp_path / "my_experiment.gin").write_text(task_gin)
    run, generate = command.strip().splitlines()
    printed = typed_here(run, SMALL)
    assert "Gentle fine-tuning, seed 0: " in printed
    assert "classes in train: no 93.8 %, yes 6.2 %" in printed
    assert typed_here(generate).endswith("\n")
    printed = typed_here(run, [*SMALL, "--methods", "gentle_promot,lora_fine_tuning"])
    assert "Gentle ProMoT, seed 0: " in printed
    assert "LoRA fine-tuning, seed 0: " in printed
    printed = typed_here(keep.strip(), [*SMALL, "--methods", "promot"])
    assert "questions, unseen: 1 rows; exact_match" in printed
    assert re.search(r"ProMoT, seed 0: Your data \S+  questions \S+  news \S+\n", printed)
    typed_here(run_data.strip(), SMALL)
    show, run, generate = run_task.strip().splitlines()
    assert "question: the box is blue, is it a colour? answer:" in typed_here(show)
    typed_here(run, [*SMALL, "--methods", "promot"])
    assert typed_here(generate).endswith("\n")
    for folder in ("your_data", "kept", "my_data", "my_task"):
        assert (tmp_path / "runs" / folder / "report.html").exists()


@pytest.mark.slow
def test_your_model_runs(tmp_path):
    texts = dict(blocks("your_model.md"))
    write_rows(tmp_path, "train.jsonl", "dev.jsonl")
    (tmp_path / "questions.jsonl").write_text(texts["json"])
    write_small_model(tmp_path)
    run, *others = texts["bash"].strip().splitlines()
    typed(run, tmp_path)
    assert (tmp_path / "runs/my_model/report.html").exists()
    assert len(others) == 3
    for line in others:
        # An untrained model may answer nothing.
        assert typed(line, tmp_path).endswith("\n")
    assert (tmp_path / "hf/my_model/your_data/adapter_config.json").exists()
