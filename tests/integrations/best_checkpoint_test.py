"""The choice of a checkpoint from the scores that T5X wrote."""

import json
import subprocess
import sys

import pytest

from promot_jax.base.errors import UserError
from promot_jax.integrations import best_checkpoint


def write(folder, kept, **tasks):
    """Writes scores as seqio's JSONLogger does: a line for each evaluation."""
    (folder / "inference_eval").mkdir(parents=True)
    for step in kept:
        (folder / f"checkpoint_{step}").mkdir()
    for task, rows in tasks.items():
        lines = [json.dumps({"step": step, **scores}) + "\n" for step, scores in rows]
        (folder / "inference_eval" / f"{task}-metrics.jsonl").write_text("".join(lines))
    return str(folder)


def rows(metric, **scores):
    return [(int(step[1:]), {metric: score}) for step, score in scores.items()]


def best(*arguments):
    return best_checkpoint.best_checkpoint(*arguments).rsplit("/", 1)[-1]


def test_the_highest_score_wins_and_the_last_of_equal_ones(tmp_path):
    folder = write(tmp_path, (0, 1, 2, 3, 4), rte=rows("accuracy", s1=9, s2=70.5, s3=70.5, s4=60))
    assert best(folder) == best(folder, "accuracy") == "checkpoint_3"
    assert best_checkpoint.best_checkpoint(folder).startswith(folder)


def test_what_is_not_kept_or_no_number_does_not_count(tmp_path):
    scores = rows("accuracy", s1=float("nan"), s2=50, s3=float("inf"), s4=90)
    assert best(write(tmp_path, (1, 2, 3), rte=scores)) == "checkpoint_2"


def test_a_later_evaluation_of_a_step_replaces_the_first(tmp_path):
    scores = [*rows("accuracy", s1=90, s2=50), *rows("accuracy", s1=10)]
    assert best(write(tmp_path, (1, 2), rte=scores)) == "checkpoint_2"


def test_tasks_count_the_same(tmp_path):
    two = {"rte": rows("accuracy", s1=80, s2=60), "enfr": rows("bleu", s1=10, s2=40)}
    folder = write(tmp_path, (1, 2), **two)
    assert best(folder) == best(folder, "bleu") == "checkpoint_2"


def test_one_of_several_metrics_has_to_be_named(tmp_path):
    scores = [(1, {"f1": 10.0, "em": 9.0}), (2, {"f1": 8.0, "em": 11.0})]
    folder = write(tmp_path, (1, 2), qa=scores)
    assert (best(folder, "f1"), best(folder, "em")) == ("checkpoint_1", "checkpoint_2")
    with pytest.raises(UserError, match=r"metric of qa \(it has f1, em\); give it as --gin.BEST_"):
        best(folder)
    with pytest.raises(UserError, match="has no metric 'bleu'; it has em, f1"):
        best(folder, "bleu")


def test_folders_without_a_choice(tmp_path):
    for nothing in (None, ""):
        with pytest.raises(UserError, match=r"no checkpoint to start from.*--gin.BEST_OF="):
            best(nothing)
    with pytest.raises(UserError, match="inference_eval has no scores of T5X"):
        best(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="keeps no checkpoint of a step that has a score"):
        best(write(tmp_path / "none", (), rte=rows("accuracy", s1=80)))
    folder = write(tmp_path / "bad", (1,), rte=rows("accuracy", s1=80))
    (tmp_path / "bad/inference_eval/rte-metrics.jsonl").write_text('{"step": 1}\nno json\n')
    with pytest.raises(UserError, match="line 2: no scores of T5X"):
        best(folder)


def test_the_command_prints_the_path(tmp_path, capsys):
    folder = write(tmp_path, (1,), rte=rows("accuracy", s1=80))
    assert best_checkpoint.main([folder]) == 0
    assert capsys.readouterr().out == f"{folder}/checkpoint_1\n"
    assert best_checkpoint.main([folder, "bleu"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    module = "promot_jax.integrations.best_checkpoint"
    done = subprocess.run([sys.executable, "-m", module, folder], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{folder}/checkpoint_1\n")
