"""`promot tune` on the miniature: a promise kept, one that none keeps, and the search continued."""

import json

import pytest

from promot_jax import cli
from promot_jax.base import jsonl
from promot_jax.data import tasks
from promot_jax.tasks import mini  # noqa: F401, whose rows are read

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")

    def write(task, split, name, count, fields):
        found = tasks.task(task).rows(split)
        texts = [(found[i]["inputs"], found[i]["targets"]) for i in range(count)]
        lines = [json.dumps(dict(zip(fields, each, strict=True))) + "\n" for each in texts]
        (folder / name).write_text("".join(lines))

    write("mini_rte", "train", "train.jsonl", 64, ("text", "label"))
    write("mini_rte", "validation", "dev.jsonl", 32, ("text", "label"))
    write("mini_triviaqa", "test", "facts.jsonl", 96, ("input", "target"))
    return folder


def tune(rows, out, *more):
    files = {"train": "train.jsonl", "eval": "dev.jsonl", "unseen": "facts.jsonl"}
    given = [f"--{flag}={rows / file}" for flag, file in files.items()]
    given += ["--template={text}", "--target={label}", f"--gin.MODEL_DIR='{out}'"]
    steps = {"TRAIN_STEPS": 2, "EVAL_PERIOD": 2, "VALIDATION_EXAMPLES": 16}
    given += [f"--gin.{name}={value}" for name, value in steps.items()]
    return cli.main(["tune", *given, "--batch_size=8", *more])


def test_a_promise_that_is_kept(rows, tmp_path, capsys):
    out = tmp_path / "run"
    given = ["--methods=fine_tuning", "--learning_rate=1e-6", "--keep=85"]
    assert tune(rows, out, *given) == 0
    assert "promised 85 %: kept" in capsys.readouterr().out
    found = json.loads((out / "certificate.json").read_text())
    assert (found["verdict"], found["looks"], found["split"]) == ("kept", 1, "test")
    # Half of the rows certify; the other half has steered.
    assert found["kept"]["rows"] == 48
    assert (found["chosen"]["method"], found["chosen"]["at"]) == ("fine_tuning", 1.0)
    page = (out / "tune.md").read_text()
    assert page.startswith("# Kept: 85 % of what the start could do\n")
    assert "| **Standard fine-tuning** | 1 |" in page
    assert (out / "figures/promise.png").is_file()
    card = (out / "model/README.md").read_text()
    assert "| facts | exact_match | 48 | 100.0 |" in card
    # The model is the one that was judged.
    check = ["check", f"--start={found['start']['path']}", f"--model={out / 'model'}"]
    assert cli.main([*check, f"--unseen={rows / 'facts.jsonl'}", "--keep=85"]) == 0
    # Once finished it measures nothing again.
    trials = (out / "trials.jsonl").read_bytes()
    assert tune(rows, out, *given) == 0
    assert (out / "trials.jsonl").read_bytes() == trials
    assert json.loads((out / "certificate.json").read_text())["looks"] == 1


def test_where_none_keeps_it_the_nearest_is_told(rows, tmp_path, capsys):
    out = tmp_path / "run"
    given = ["--methods=fine_tuning", "--learning_rate=0.5", "--keep=90"]
    assert tune(rows, out, *given) == 3
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "promot:" in line)
    trials = jsonl.read_jsonl(out / "trials.jsonl")
    assert [trial["at"] for trial in trials] == [1, 0.5, 0.25, 0.125]
    at = max(trials, key=lambda trial: (trial["low"], trial["target"]))["at"]
    told = f"no candidate surely keeps 90 %; Standard fine-tuning at {at:g} keeps most"
    assert told in line
    assert json.loads((out / "certificate.json").read_text())["verdict"] != "kept"
    assert (out / "tune.md").read_text().startswith("# Not ")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "promot tune needs --keep"),
        (["--keep=90", "--methods=no_method"], "no_method"),
        (["--keep=90", "--confidence=0"], "--confidence"),
    ],
)
def test_bad_input_is_one_line(rows, given, told, tmp_path, capsys):
    assert tune(rows, tmp_path / "run", *given) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line
    assert not (tmp_path / "run").exists()
