"""Whole runs: methods share stages, results are recorded once, a killed run ends the same."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.base.jsonl import append_jsonl, read_jsonl
from promot_jax.experiment.runner import Runner
from promot_jax.models.networks import prompt
from promot_jax.training import stage_checkpoints
from promot_jax.training.stages import Method
from tests import tiny

pytestmark = pytest.mark.long

KILLED = """
import os, pathlib, signal, sys
from promot_jax.training import train
from promot_jax.training.stage_checkpoints import StageCheckpoints
from promot_jax.experiment.runner import Runner
from tests import tiny

where, folder = sys.argv[1], pathlib.Path(sys.argv[2])
stage_name, moment, step = where.split()
die = lambda: os.kill(os.getpid(), signal.SIGKILL)

if moment == "step":
    mean = train._mean
    def interrupted(pending, run, at):
        if run.folder.path.name == stage_name and at == int(step):
            die()
        return mean(pending, run, at)
    train._mean = interrupted
else:
    save = StageCheckpoints.save
    def interrupted(self, state, metrics):
        save(self, state, metrics)
        if self._folder.parent.name == stage_name and int(state.step) == int(step):
            die()
    StageCheckpoints.save = interrupted
Runner(tiny.tiny_experiment(methods=tiny.methods()[3:]), folder).run("test")
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    Runner(tiny.tiny_experiment(), folder).run("promot run test")
    return folder


def test_methods_share_the_stages_they_begin_with(finished):
    stages = {p.parent.name for p in finished.glob("seed_0/*/stage.json")}
    assert stages == {"model", "prompt", "prompt-model"}
    lineage = json.loads((finished / "seed_0/prompt-model/stage.json").read_text())["lineage"]
    assert lineage == ["prompt", "model"]


def test_stage_two_starts_from_the_best_of_stage_one(finished):
    runner = Runner(tiny.tiny_experiment(), finished)
    base = jax.device_get(runner.start.params(0))
    prompted, both = (
        jax.device_get(runner.trained(runner.experiment.method(name), 0).params)
        for name in ("prompt_tuning", "promot")
    )
    kept = json.loads((finished / "seed_0/prompt/stage.json").read_text())
    store = stage_checkpoints.StageCheckpoints(finished / "seed_0/prompt/checkpoints", base)
    assert store.best() == kept["best_step"]
    store.close()
    path = "encoder/prompt/rte/prompt"
    assert (trees.flatten(both)[path] == trees.flatten(prompted)[path]).all()
    assert tiny.leaves_equal(trees.keep_prompts(prompted, ()), base)
    assert not tiny.leaves_equal(trees.keep_prompts(both, ()), base)


OPENED = """
import pathlib, sys
from promot_jax.experiment.runner import Runner
from tests import tiny
runner = Runner(tiny.tiny_experiment(), pathlib.Path(sys.argv[1]))
runner.trained(runner.experiment.method("promot"), 0)
assert not {"orbax", "grain", "matplotlib"} & set(sys.modules)
"""


def test_a_finished_method_is_opened_without_what_only_training_needs(finished):
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", OPENED, str(finished)]
    subprocess.run(command, check=True, env=environment)


def test_a_starting_point_is_loaded_again_when_a_stage_has_taken_it_over(finished):
    runner = Runner(tiny.tiny_experiment(), finished)
    fine_tuning, prompt_tuning = (
        runner.experiment.method(name) for name in ("fine_tuning", "prompt_tuning")
    )
    base = runner.start.params(0)
    expected = jax.device_get(base)
    runner.trained(prompt_tuning, 0)
    assert runner.start.params(0) is base
    runner.trained(fine_tuning, 0)
    assert base["token_embedder"]["embedding"].is_deleted()
    assert tiny.leaves_equal(runner.start.params(0), expected)


def test_every_method_and_task_is_recorded_once(finished):
    results = read_jsonl(finished / "results.jsonl")
    keys = [(r["method"], r["seed"], r["task"]) for r in results]
    assert len(keys) == len(set(keys)) == 4 * 2
    assert {r["seed"] for r in results if r["method"] == "pretrained"} == {None}
    Runner(tiny.tiny_experiment(), finished).run("promot run test")
    assert read_jsonl(finished / "results.jsonl") == results
    description = json.loads((finished / "run.json").read_text())
    assert description["finished"]
    assert description["methods"][3]["stages"] == ["prompt", "prompt-model"]


def test_prompt_tuning_without_its_prompt_is_the_pretrained_model(finished):
    scores = {
        (r["method"], r["task"]): (r["score"], r["label_share"])
        for r in read_jsonl(finished / "results.jsonl")
    }
    task = "mini_triviaqa_1shot"
    assert scores["prompt_tuning", task] == scores["pretrained", task]


@pytest.mark.parametrize(
    "where",
    [
        "prompt-model save 4",
        *(
            pytest.param(where, marks=pytest.mark.slow)
            for where in ("prompt step 4", "prompt-model step 4", "prompt save 2")
        ),
    ],
)
def test_a_killed_run_continues_to_the_same_bits(finished, tmp_path, where):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, where, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert killed.returncode == -signal.SIGKILL
    stage = where.split()[0]
    assert not (tmp_path / "seed_0" / stage / "stage.json").exists()
    settings = tiny.tiny_experiment(methods=tiny.methods()[3:])
    Runner(settings, tmp_path).run("test")
    for name in ("prompt", "prompt-model"):
        files = [pathlib.Path(f, "seed_0", name, "metrics.jsonl") for f in (finished, tmp_path)]
        whole, resumed = (file.read_text() for file in files)
        assert whole == resumed
    method = settings.methods[0]
    whole, resumed = (
        runner.trained(method, 0).params
        for runner in (Runner(settings, finished), Runner(settings, tmp_path))
    )
    assert tiny.leaves_equal(whole, resumed)
    ours, theirs = (
        [r for r in read_jsonl(folder / "results.jsonl") if r["method"] == "promot"]
        for folder in (finished, tmp_path)
    )
    assert ours == theirs


def test_different_stages_of_one_name_are_an_error():
    method = Method("other", "Other", [tiny.stage(steps=9)])
    with pytest.raises(UserError, match="different stages of the name 'model'"):
        tiny.tiny_experiment(methods=[*tiny.methods(), method])


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3, 20), "rows of 20 numbers, the model embeds in 16"), ((4, 16), "4 rows, expected 3")],
)
def test_a_prompt_of_another_shape_is_a_clear_error(tmp_path, shape, message):
    np.save(tmp_path / "prompt.npy", np.ones(shape, np.float32))
    init = functools.partial(prompt.from_file, path=str(tmp_path / "prompt.npy"))
    settings = tiny.tiny_experiment(methods=tiny.methods(prompt_init=init)[2:3])
    with pytest.raises(UserError, match=message):
        Runner(settings, tmp_path / "run").run("test")


def test_a_half_written_line_is_dropped(tmp_path):
    file = tmp_path / "results.jsonl"
    append_jsonl(file, [{"a": 1}, {"a": 2}])
    file.write_text(file.read_text() + '{"a": 3')
    assert read_jsonl(file) == [{"a": 1}, {"a": 2}]
    append_jsonl(file, [{"a": 4}])
    assert read_jsonl(file) == [{"a": 1}, {"a": 2}, {"a": 4}]
