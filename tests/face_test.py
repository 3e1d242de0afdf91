"""What a person calls from Python: load, attach, generate, run, scores."""

import contextlib
import functools
import io
import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import gin
import promot_jax
from promot_jax import cli
from promot_jax.checkpoints import pretrained
from tests import tiny
from tests.commands.cli_test import FEW

pytestmark = pytest.mark.long

ROOT = pathlib.Path(__file__).parent.parent
# A run of a few steps of a tiny model.
SMALL = {
    "INITIAL_CHECKPOINT_PATH": None,
    **{f"t5.T5Config.{name}": 16 for name in ("emb_dim", "mlp_dim")},
    **{f"t5.T5Config.num_{name}_layers": 1 for name in ("encoder", "decoder")},
    **{"TRAIN_STEPS": 2, "PROMPT_TRAIN_STEPS": 2, "EVAL_PERIOD": 2, "PROMPT_EVAL_PERIOD": 2},
    **{"BATCH_SIZE": 8, "EVAL_EXAMPLES": 4, "VALIDATION_EXAMPLES": 4},
    "experiment.Experiment.eval_batch_size": 4,
    "DROPOUT_RATE": 0.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model of random parameters."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pretrained.save(folder, tiny.model(), tiny.model().init(jax.random.key(0)), {})
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "mini"
    options = {"seeds": (0,), "methods": "promot", "bindings": [FEW], "MODEL_DIR": folder}
    made = promot_jax.run("mini", **options, **SMALL)
    assert made == folder
    return made


def fails(expected, call, *arguments, **options):
    with pytest.raises(promot_jax.UserError, match=re.escape(expected)) as raised:
        call(*arguments, **options)
    assert len(str(raised.value).splitlines()) == 1


def test_importing_it_and_reading_scores_load_nothing_heavy(run):
    program = (
        "import sys, promot_jax\n"
        "assert {'load', 'run', 'scores', 'metrics', 'UserError'} <= set(dir(promot_jax))\n"
        "heavy = {'jax', 'numpy', 'seqio', 'tensorflow', 'flax', 'gin', 'argparse'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from promot_jax import *\n"
        "print(metrics.accuracy(['a'], ['a'])['accuracy'], len(scores(sys.argv[1])))\n"
        "assert not (heavy - {'numpy'}) & set(sys.modules), heavy & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", program, run]
    assert subprocess.check_output(command, text=True).split() == ["100.0", "3"]
    assert not hasattr(promot_jax, "metricks")


def test_a_model_answers_with_a_prompt_and_without(folder, tmp_path, capsys):
    np.save(tmp_path / "own.npy", np.full((2, 16), 3.0, np.float32))
    bare = promot_jax.load(folder)
    prompted = bare.attach(tmp_path / "own.npy")
    assert (bare.prompts, prompted.prompts) == ((), ("own",))
    texts = ["Q: a? A:", "b"]
    with_it, without = prompted.generate(texts, 4), bare.generate(texts, 4)
    assert with_it != without
    assert prompted.with_prompt(None).generate(texts, 4) == without
    assert prompted.attach(tmp_path / "own.npy", "other").prompts == ("own", "other")
    assert bare.generate(texts[0], 4) == without[:1]
    assert bare.generate([]) == []
    # The command gives the same answers.
    flags = ["--checkpoint", str(folder), "--max_length", "4"]
    for more, answers in [
        ([], without),
        (["--adapter", str(tmp_path / "own.npy"), "--prompt", "own"], with_it),
    ]:
        capsys.readouterr()
        assert cli.main(["generate", *flags, *more, *texts]) == 0
        assert capsys.readouterr().out == "\n".join(answers) + "\n"
    sampled = [bare.generate(texts, 4, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_a_model_refuses_bad_input(folder, tmp_path):
    model = promot_jax.load(folder)
    fails("max_tokens = 0: expected a whole number", model.generate, ["x"], 0)
    fails("top_p = 2: expected", model.generate, ["x"], top_p=2)
    fails("give one of them", model.generate, ["x"], beams=2, top_k=3)
    fails("3 is no text", model.generate, ["x", 3])
    fails("is not UTF-8", model.generate, ["\udcff"])
    fails("this model has none such; use none", model.with_prompt, "rte")
    fails("no adapters of a run", model.with_lora)
    fails("lost.npy", model.attach, "lost.npy")
    fails("/nowhere: no such file", promot_jax.load, "/nowhere")
    fails("is no run folder; leave out method, seed and at", promot_jax.load, folder, seed=1)
    fails(f"{tmp_path} is no run folder", promot_jax.scores, tmp_path)


@pytest.mark.slow
def test_a_run_is_what_the_command_makes(run, tmp_path, capsys):
    flags = [f"--gin.{name}={value!r}" for name, value in {**SMALL, "MODEL_DIR": str(run)}.items()]
    flags += [f"--gin.{FEW}"]
    assert cli.main(["run", "mini", "--seeds=0", "--methods=promot", *flags]) == 0
    assert json.loads((run / "run.json").read_text())["command"].startswith("promot run mini --se")
    scores = promot_jax.scores(run)
    assert {(row["method"], row["seed"]) for row in scores} == {("promot", 0)}
    assert scores[0]["task"] == "mini_rte"
    assert scores[0]["metric"] == "accuracy"
    assert 0 <= scores[0]["score"] <= 100
    # Another configuration in the same process: nothing of the first is left.
    other = promot_jax.run(
        *("mini",),
        **{**SMALL, "BATCH_SIZE": 4},
        seeds=1,
        methods=["pretrained"],
        bindings=["experiment.Experiment.decoder=@decoding.Greedy()"],
        MODEL_DIR=str(tmp_path / "other"),
    )
    assert "Greedy" in (other / "config.gin").read_text()
    assert "Greedy" not in (run / "config.gin").read_text()
    assert {row["method"] for row in promot_jax.scores(other)} == {"pretrained"}
    capsys.readouterr()
    question = "Q: what is the capital of mali? A:"
    assert cli.main(["generate", str(run), "--prompt", "rte", "--max_length=4", question]) == 0
    model = promot_jax.load(run, seed=0).with_prompt("rte")
    assert capsys.readouterr().out == model.generate(question, 4)[0] + "\n"


def test_a_preview_runs_nothing(tmp_path, capsys):
    options = {**SMALL, "MODEL_DIR": tmp_path / "run"}
    assert promot_jax.run("mini", preview=True, distributed=False, **options) is None
    assert "oracle 100.0" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_a_run_refuses_what_the_command_refuses(run):
    fails("did you mean 'mini'?", promot_jax.run, "minni")
    fails("expected a whole number of at least 1", promot_jax.run, "mini", TRAIN_STEPS=0)
    fails("unknown argument '--steps=3'", promot_jax.run, "mini", steps=3)
    fails("belongs to another configuration", promot_jax.run, "mini", MODEL_DIR=run)
    fails("no method 'promt'", promot_jax.load, run, method="promt")
    fails("seed 7 is not finished", promot_jax.load, run, seed=7)
    fails("at = 0: expected a number above 0", promot_jax.load, run, at=0)
    fails("'0.5,1': 1 is what a method ends with", promot_jax.run, "mini", curve=(0.5, 1))
    # Nothing stays in gin, which other code of this process may use.
    assert not gin.config._CONFIG


@pytest.mark.slow
def test_the_pages_example_runs_as_it_stands(tmp_path, monkeypatch):
    (example,) = re.findall(
        r"```python\n(.+?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL
    )
    assert len(example.strip().splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(example, "docs/python.md", "exec"), {})
    assert "promot mini_rte accuracy" in printed.getvalue()
    assert printed.getvalue().splitlines()[-2] == "['bamako']"


@pytest.mark.usefixtures("undrawn")
def test_the_front_pages_example_runs(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    # As it stands, but for the size of the model and the numbers of steps and of tasks.
    smaller = functools.partial(promot_jax.run, bindings=[FEW], **SMALL)
    monkeypatch.setattr(promot_jax, "run", smaller)
    exec(compile(example, "README.md", "exec"), {})
    *_, rows, bare, prompted = capsys.readouterr().out.splitlines()
    assert rows.startswith("promot mini_")
    assert all(line.startswith("['") for line in (bare, prompted))
