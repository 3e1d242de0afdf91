"""The program where TensorFlow, seqio and their companions are not installed."""

import json
import pathlib
import subprocess
import sys

import pytest

from promot_jax.tasks import mini_rows

pytestmark = [pytest.mark.long, pytest.mark.slow]

NAMES = ("tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio", "clu", "t5x", "torch")
# A module that is None in `sys.modules` is one that is not installed: `import` raises, and
# `importlib.util.find_spec` finds nothing.
PROGRAM = f"""
import sys
sys.modules |= dict.fromkeys({NAMES!r})
from promot_jax import cli
code = cli.main(sys.argv[1:])
loaded = [name for name, module in sys.modules.items() if module is not None]
assert not [name for name in loaded if name.partition(".")[0] in {NAMES!r}]
sys.exit(code)
"""
FEW = {"BATCH_SIZE": 8, "EVAL_EXAMPLES": 8, "VALIDATION_EXAMPLES": 8}
FEW |= dict.fromkeys(("TRAIN_STEPS", "EVAL_PERIOD", "PROMPT_TRAIN_STEPS", "PROMPT_EVAL_PERIOD"), 2)
GIN = [f"--gin.{name}={value}" for name, value in FEW.items()]


def promot(*words: object) -> str:
    """Runs a command without the modules; returns what it said."""
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("runs") / "mini"
    # Without unseen tasks, whose every shape would be compiled.
    settings = [*GIN, f"--gin.MODEL_DIR='{folder}'", "--gin.TASKS=()"]
    said = promot("run", "mini", "--methods=fine_tuning,promot", *settings)
    assert f"report: {folder}/report.html" in said
    return folder


def test_a_preview() -> None:
    said = promot("run", "mini", "--preview")
    assert "WikiLingua, unseen: rouge2, oracle 100.0" in said


def test_a_run_is_reported_and_answers(run) -> None:
    results = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert {result["method"] for result in results} == {"fine_tuning", "promot"}
    assert list(run.glob("seed_*/*/events.out.tfevents.*"))
    before = (run / "report.md").read_text()
    (run / "report.md").unlink()
    promot("report", run)
    assert (run / "report.md").read_text() == before
    assert promot("generate", run, "Q: what is the capital of mali? A:").strip()
    attached = promot("generate", run, "--prompt=rte", "an input", "--method=promot")
    assert attached.endswith("\n")


def test_a_model_goes_out_and_comes_back(run, tmp_path) -> None:
    promot("export", run, tmp_path / "out", "--format=huggingface", "--method=fine_tuning")
    assert (tmp_path / "out/model.safetensors").exists()
    promot("import", tmp_path / "out", tmp_path / "back")
    said = [promot("inspect", tmp_path / name) for name in ("out", "back")]
    assert all("family       t5 (encoder-decoder)" in text for text in said)
    text = "Q: what is the capital of mali? A:"
    answers = [
        promot("generate", run, text, "--method=fine_tuning"),
        promot("generate", text, f"--checkpoint={tmp_path / 'back'}", "--beams=4"),
    ]
    assert answers[0] == answers[1]


def test_rows_of_ones_own(tmp_path) -> None:
    rows = mini_rows.zero_shot_splits("rte")["train"][:64]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": t, "label": a}) + "\n" for t, a in rows))
    unseen = tmp_path / "unseen.jsonl"
    unseen.write_text('{"input": "Q: what is the capital of mali? A:", "target": "bamako"}\n' * 2)
    files = [f"--train={file}", f"--eval={file}", f"--unseen={unseen}"]
    folder = tmp_path / "run"
    settings = [*GIN, f"--gin.MODEL_DIR='{folder}'", "--methods=prompt_tuning"]
    promot("run", "your_data", *files, "--template={text}", "--target={label}", *settings)
    assert promot("generate", folder, "--prompt=your_data", rows[0][0]).strip()


def test_a_plan(tmp_path) -> None:
    words = ("--experiment=mini", "--topology=cpu:2", "--stage=prompt", f"--json={tmp_path / 'p'}")
    promot("plan", *words)
    assert (tmp_path / "p").exists()
