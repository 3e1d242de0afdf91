"""A stage that ends early: when, why, and the same after an interruption."""

import dataclasses
import json

import pytest

from promot_jax.base import jsonl
from promot_jax.experiment.stage_folder import Course
from promot_jax.training import stage_checkpoints
from tests import tiny
from tests.training.train_test import run_stage

pytestmark = pytest.mark.long

# Of the evaluation at step 0, which is no checkpoint, and of those at steps 1 to 8.
SCORES = (99, 10, 30, 20, 30, 25, 40, 50, 60)


def patient(**changes):
    settings = {"steps": 8, "eval_period": 1, "patience": 3}
    return tiny.stage(**settings | changes)


def summary(folder):
    return json.loads((folder / "stage.json").read_text())


def test_a_stage_ends_when_no_checkpoint_was_better_for_so_long(tmp_path, capsys):
    evaluations = []
    params = run_stage(tmp_path, patient(), scores=SCORES, evaluations=evaluations)
    found = summary(tmp_path)
    # An equal score, at step 4, is no better one: a model forgets with each step.
    assert (found["steps"], found["best_step"], len(evaluations)) == (5, 2, 6)
    why = "stopped at step 5 of 8: no evaluation after step 2 was better (patience 3)"
    assert found["stopped"] == why
    assert f"model: {why}" in capsys.readouterr().out
    assert tiny.leaves_equal(params, evaluations[2])
    # A finished stage only loads.
    again = run_stage(tmp_path, patient(), scores=())
    assert tiny.leaves_equal(params, again)


@pytest.mark.parametrize(("patience", "steps"), [(None, 8), (4, 8), (2, 4), (1, 3)])
def test_patience_is_a_number_of_evaluations(patience, steps, tmp_path):
    run_stage(tmp_path, patient(patience=patience), scores=SCORES)
    found = summary(tmp_path)
    assert found["steps"] == steps
    assert (found["stopped"] is None) == (steps == 8)


def test_a_prompt_gains_by_a_lower_loss(tmp_path):
    # `run_stage` lets the loss fall from evaluation to evaluation.
    stage = tiny.prompt_stage(steps=4, eval_period=1, patience=1)
    run_stage(tmp_path, stage, scores=(0, 5, 5, 5, 5))
    assert summary(tmp_path)["steps"] == 4
    run_stage(tmp_path / "worse", stage, scores=(0, 5, 5, 4, 9))
    assert summary(tmp_path / "worse")["steps"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("killed", [1, 3, 4, 5])
def test_a_stage_that_was_killed_ends_as_if_it_had_not(killed, tmp_path):
    whole = run_stage(tmp_path / "whole", patient(), scores=SCORES)
    # As a process that was killed after it had saved a checkpoint leaves them.
    shorter = dataclasses.replace(patient(patience=None), steps=killed)
    run_stage(tmp_path / "parts", shorter, scores=SCORES)
    (tmp_path / "parts" / "stage.json").unlink()
    evaluations = []
    parts = run_stage(
        tmp_path / "parts", patient(), scores=SCORES[killed + 1 :], evaluations=evaluations
    )
    assert tiny.leaves_equal(whole, parts)
    assert len(evaluations) == 5 - killed
    ours, theirs = (summary(tmp_path / name) for name in ("parts", "whole"))
    for name in ("steps", "stopped", "best_step"):
        assert ours[name] == theirs[name], name
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("parts", "whole")]
    assert logs[0] == logs[1]


def test_a_course_counts_what_it_has_just_noted_and_what_it_read(tmp_path):
    path = tmp_path / "course.jsonl"
    course = Course(path)
    assert course.without_gain(0, stage_checkpoints.earlier) == 0
    for step, score in ((10, 5.0), (20, 7.0), (30, 7.0), (40, 1.0)):
        course.note(step=step, score=score, loss=1.0)
        course.note()
    for known in (course, Course(path)):
        counts = [known.without_gain(s, stage_checkpoints.earlier) for s in (10, 20, 30, 40)]
        assert counts == [0, 0, 1, 2]
    course.resume(30)
    assert course.without_gain(40, stage_checkpoints.earlier) == 1
    assert [line["step"] for line in jsonl.read_jsonl(path) if "step" in line] == [10, 20, 30]
