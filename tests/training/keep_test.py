"""Checkpoints under a promise of what is kept."""

import json

import pytest

from promot_jax.base import jsonl, partitioning
from promot_jax.base.errors import UserError
from promot_jax.experiment.runner import Runner
from promot_jax.experiment.stage_folder import StageFolder
from promot_jax.training import stage_checkpoints, train
from promot_jax.training.stages import Method
from tests import tiny
from tests.training.train_test import checkpoints_to_host, params_with_prompt

pytestmark = pytest.mark.long

# Of the evaluation at step 0, which is no checkpoint, and of those at steps 1 to 5.
SCORES = (0, 10, 30, 50, 40, 60)
KEPT = (100, 99, 98, 97, 98.5, 60)


def trained(folder, kept=KEPT, evaluations=None, **changes):
    """Trains a stage whose evaluations say SCORES and `kept`, and returns what it hands on."""
    left, seen = list(zip(SCORES, kept, strict=True))[evaluations or 0 :], []

    def evaluate(params):
        score, low = left.pop(0)
        seen.append(checkpoints_to_host(params))
        return {
            "validation/score": float(score),
            "validation/loss": 1.0,
            "unseen/kept_at_least": float(low),
        }

    stage = tiny.stage(steps=5, eval_period=1, follow_unseen=True, **changes)
    run = train.StageRun(stage, StageFolder(folder), 3, stage.name, evaluate)
    model = tiny.model()
    params = stage.params(params_with_prompt(), model)
    end = train.train_stage(run, params, model, partitioning.make_mesh())
    return end, seen, json.loads((folder / "stage.json").read_text())


@pytest.mark.parametrize(
    ("promise", "step"), [(None, 5), (50, 5), (98, 4), (98.2, 4), (98.7, 1), (97, 3)]
)
def test_the_best_of_those_that_keep_the_promise_is_handed_on(promise, step, tmp_path, capsys):
    end, seen, found = trained(tmp_path, keep=promise)
    assert found["best_step"] == step
    assert found["kept"] == (None if promise is None else KEPT[step])
    assert tiny.leaves_equal(end, seen[step])
    assert "no checkpoint surely keeps" not in capsys.readouterr().out


def test_where_none_keeps_it_the_one_that_keeps_most_is_and_it_is_said(tmp_path, capsys):
    kept = (100, 60, 80, 70, 80, 10)
    _, _, found = trained(tmp_path, kept=kept, keep=98)
    # Of equal ones the first.
    assert (found["best_step"], found["kept"]) == (2, 80)
    said = "model: no checkpoint surely keeps 98 % of the start's scores; that of step 2 keeps most"
    assert f"{said}, 80.0 % at least" in capsys.readouterr().out


def test_a_stage_ends_when_target_and_promise_say_so(tmp_path):
    # After step 2 the target rises, but nothing keeps the promise any more.
    kept = (100, 99, 99, 90, 90, 90)
    _, _, found = trained(tmp_path, kept=kept, keep=98, patience=2)
    assert (found["steps"], found["best_step"]) == (4, 2)


def test_ranks_order_by_promise_then_score_then_step():
    rank = stage_checkpoints.keeping(98, stage_checkpoints.earlier)
    given = [(90, 97, 1), (10, 98, 4), (20, 99, 3), (20, 98, 2), (0, 97.5, 5)]
    measured = [{"score": s, "kept": k, "step": n, "loss": 0.0} for s, k, n in given]
    assert [one["step"] for one in sorted(measured, key=rank, reverse=True)] == [2, 3, 4, 5, 1]


def test_a_stage_that_does_not_look_can_promise_nothing():
    with pytest.raises(UserError, match=r"keep = 98, but it does not follow the unseen tasks"):
        tiny.stage(keep=98)
    with pytest.raises(UserError, match=r"keep = 101: expected a per cent"):
        tiny.stage(keep=101, follow_unseen=True)


def test_a_start_that_answers_nothing_is_told_before_the_first_step(tmp_path):
    method = Method("m", "M", [tiny.stage(keep=98.0, follow_unseen=True, steps=2)])
    runner = Runner(tiny.tiny_experiment(methods=[method]), tmp_path)
    with pytest.raises(UserError, match=r"the start answers 0 of .* rows right, too few to tell"):
        runner.trained(method, 0)
    lines = jsonl.read_jsonl(tmp_path / "seed_0/model/metrics.jsonl")
    assert lines == []
