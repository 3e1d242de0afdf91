"""What a run folder promises: one layout for every command, and a word where it is newer."""

import json
import subprocess
import sys

import pytest

from promot_jax import cli
from promot_jax.experiment.run_folder import SCHEMA, RunFolder

GIN = "--gin.MODEL_DIR='{run}'"


def written(path, **facts):
    path.mkdir(parents=True)
    (path / "config.gin").write_text("MODEL_DIR = 'elsewhere'\n")
    (path / "run.json").write_text(json.dumps(facts))
    return path


@pytest.mark.parametrize(
    "command",
    [
        ("run", "mini", GIN),
        ("run", "mini", "--gin.REUSE=('{run}',)", "--gin.MODEL_DIR='{out}'"),
        ("run", "{run}/config.gin"),
        ("generate", "{run}", "a text"),
        ("export", "{run}", "{out}"),
        ("report", "{run}"),
        ("paper", "table-3", "--model", "mini", "--runs", "{runs}", "--collect"),
        ("paper", "table-3", "--model", "mini", "--runs", "{runs}", "--dry-run"),
        ("plan", "--experiment", "{run}/config.gin", "--topology", "cpu:1"),
    ],
    ids=" ".join,
)
def test_what_a_newer_version_wrote_is_refused_in_one_line(tmp_path, capsys, command):
    run = written(tmp_path / "mini" / "rte", schema=SCHEMA + 1)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    places = {"run": run, "runs": tmp_path, "out": tmp_path / "out"}
    assert cli.main([word.format(**places) for word in command]) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last == (
        f"promot: {run} was written by a newer promot_jax: its run.json has the schema "
        f"{SCHEMA + 1}, this version knows {SCHEMA}; install a newer promot_jax"
    )
    after = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert after == before


@pytest.mark.parametrize("content", ["{}", '{"schema": 1}', '{"schema": 7', "[]", ""])
def test_other_folders_are_known_layouts(tmp_path, content):
    RunFolder(tmp_path).check()
    (tmp_path / "run.json").write_text(content)
    RunFolder(tmp_path).check()


def test_a_run_says_how_it_is_laid_out(tmp_path):
    folder = RunFolder(tmp_path / "new")
    folder.write_about({"seconds": 1.0})
    assert folder.read_about() == {"schema": SCHEMA, "seconds": 1.0}


def test_a_method_is_finished_when_every_summary_can_be_read(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.finished(0, [])
    for name in ("prompt", "prompt-model"):
        assert not folder.finished(0, ["prompt", "prompt-model"])
        folder.stage(0, name).path.mkdir(parents=True)
        folder.stage(0, name).finish({"name": name})
    assert folder.finished(0, ["prompt", "prompt-model"])
    assert not folder.finished(1, ["prompt"])
    assert (folder.seeds, folder.begun) == ([0], True)
    folder.stage(0, "prompt").summary.write_text('{"name": "pro')
    assert not folder.finished(0, ["prompt", "prompt-model"])


def test_reading_a_run_folder_takes_no_jax():
    code = (
        "import sys, promot_jax.experiment.run_folder\n"
        "heavy = {'jax', 'numpy', 'clu', 'tensorflow', 'seqio', 'gin', 'flax'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.stdout, found.returncode) == ("[]\n", 0)
