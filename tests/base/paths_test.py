"""Paths: the home folder for `~`, and a place that cannot be written is refused at once."""

import os
import pathlib
import subprocess
import sys

import pytest

from promot_jax import configuration
from promot_jax.base import files
from tests.commands.cli_test import fails


@pytest.fixture
def empty(monkeypatch, tmp_path):
    """A folder to work in that nothing may be left in; no experiment may be built."""

    def built():
        raise AssertionError("the experiment was built")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(configuration, "built", built)
    before = sorted(tmp_path.rglob("*"))
    yield tmp_path
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("gs://bucket/run", "MODEL_DIR gs://bucket/run: write to a local folder"),
        ("s3://bucket/run", "MODEL_DIR s3://bucket/run: write to a local folder"),
        ("/proc/run", "MODEL_DIR /proc/run cannot be written"),
        ("/dev/null/run", "/dev/null is a file, not a folder"),
        ("a" * 256, "name too long"),
        ("a" * 250, "a name in it is too long"),
        ("/".join(["a" * 99] * 40), "the path is too long"),
        ("a\\nb", "cannot be the name of a folder"),
        ("a\\0b", "cannot be the name of a folder"),
        ("", "expected a text that is not empty"),
        ("~nobody_of_this_name/run", "there is no home folder ~nobody_of_this_name"),
    ],
)
def test_a_run_folder_that_cannot_be_written_is_refused_at_once(empty, capsys, folder, expected):
    line = fails(capsys, "run", "mini", f"--gin.MODEL_DIR='{folder}'")
    assert "MODEL_DIR" in line
    assert expected in line


WRITERS = [
    ["import", "nowhere", "{}"],
    ["export", "nowhere", "{}"],
    ["report", "nowhere", "--out", "{}"],
    ["paper", "table-3", "--runs", "{}"],
]


@pytest.mark.parametrize("command", WRITERS, ids=[command[0] for command in WRITERS])
@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("gs://bucket/out", "write to a local folder"),
        ("/proc/out", "cannot be written"),
        ("/dev/null/out", "is a file"),
        ("a" * 256, "too long"),
        ("", "is no path"),
    ],
)
def test_every_writer_tries_its_place_first(empty, capsys, command, place, expected):
    assert expected in fails(capsys, *(word.format(place) for word in command))


def test_a_plan_tries_its_file_first(empty, capsys):
    plan = ["plan", "--experiment", "mini", "--topology", "cpu:1", "--json"]
    assert "there is no folder nowhere" in fails(capsys, *plan, "nowhere/plan.json")
    assert "is a folder; name a file" in fails(capsys, *plan, ".")
    assert "write to a local folder" in fails(capsys, *plan, "gs://bucket/plan.json")


def test_names_that_are_only_odd_are_allowed(tmp_path):
    for name in ("it's", "a b", "50 %", "ü", "日本", "#1", "a" * 240, "new/below", "."):
        files.check_writable(tmp_path / name, "MODEL_DIR")
    assert not list(tmp_path.iterdir())


def test_a_folder_without_permission_is_refused(tmp_path):
    program = (
        "import os, pathlib, sys\nfrom promot_jax.base import errors, files\n"
        "os.setuid(65534)\n"
        "try:\n    files.check_writable(pathlib.Path(sys.argv[1], 'run'), 'MODEL_DIR')\n"
        "except errors.UserError as error:\n    print(error)\n"
    )
    if os.geteuid():
        pytest.skip("only the administrator can become somebody without permission")
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True
    )
    assert f"MODEL_DIR {tmp_path}/run cannot be written (Permission denied)" in done.stdout


def test_home_is_expanded_wherever_a_path_is_taken(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, path in [
        ("~/x", f"{tmp_path}/x"),
        ("rouge2=~/x", f"rouge2={tmp_path}/x"),
        ("./~/x", "./~/x"),
        ("a=b/x", "a=b/x"),
        ("hf://owner/name", "hf://owner/name"),
    ]:
        assert files.home(given) == path
    flags = ["TRAIN_FILE='~/t'", "EVAL_FILE='~/e'", "REUSE=('~/a', 'b')", "MODEL_DIR='~/run'"]
    flags += ["INITIAL_CHECKPOINT_PATH='~/model'"]
    flags = [f"--gin.{flag}" for flag in flags]
    configuration.parse([configuration.experiment_file("your_data")], flags)
    import gin

    read = {name: gin.query_parameter(f"%{name}") for name in ("TRAIN_FILE", "EVAL_FILE")}
    assert read == {"TRAIN_FILE": f"{tmp_path}/t", "EVAL_FILE": f"{tmp_path}/e"}
    assert gin.query_parameter("%INITIAL_CHECKPOINT_PATH") == f"{tmp_path}/model"
    assert configuration.reused() == (f"{tmp_path}/a", "b")
    assert configuration.model_dir() == tmp_path / "run"
    for command in (
        ["inspect", "~/model"],
        ["generate", "--checkpoint", "~/model", "text"],
        ["generate", "~/model", "text"],
        ["report", "~/model"],
        ["export", "~/model", "~/out"],
        ["run", "your_data", "--train", "~/model", "--eval", "x", "--template", "x"],
    ):
        more = ["--target", "x"] if command[0] == "run" else []
        assert f"{tmp_path}/model" in fails(capsys, *command, *more)


def test_paths_of_earlier_runs_mean_the_same(tmp_path, monkeypatch):
    """A folder of before `~` was expanded goes on with the same command."""
    monkeypatch.setenv("HOME", "/home/of_mine")
    (tmp_path / "config.gin").write_text("INITIAL_CHECKPOINT_PATH = '~/model'\n")
    configuration.keep(tmp_path, "INITIAL_CHECKPOINT_PATH = '/home/of_mine/model'\n")
    assert "of_mine" in pathlib.Path(tmp_path, "config.gin").read_text()
