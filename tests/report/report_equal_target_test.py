"""What methods kept at equal skill, against curves that are solved by hand."""

import json

import pytest

from promot_jax.report.numbers import equal_target
from promot_jax.report.numbers.scores import Spread
from promot_jax.report.pages import markdown
from promot_jax.report.records import records
from tests.report.report_run import write_lines, write_run

# seed → stage → (step, target, kept, share) of the followed steps.
CURVES = {
    0: {
        "model": [(0, 0, 80, 0), (100, 90, 60, 20), (200, 96, 50, 10), (300, 95.5, 40, 5)],
        "prompt-model": [(0, 96, 80, 0), (100, 94, 79, 0), (200, 95, 78, 0), (300, 99, 70, 0)],
    },
    1: {
        "model": [(0, 0, 80, 0), (100, 97.5, 56, 30), (200, 98, 50, 20), (300, 92, 40, 5)],
        "prompt-model": [(0, 60, 80, 0), (100, 90, 75, 0), (200, 96.9, 74, 0)],
    },
}


def write_curve(folder, seed, stage, points):
    names = [task["task"] for task in json.loads((folder / "run.json").read_text())["tasks"]]
    lines = []
    for step, target, kept, share in points:
        # The tasks differ, their mean is what the curve says.
        tasks = {f"unseen/score/{n}": kept + i - 3.5 for i, n in enumerate(names)}
        shares = {f"unseen/label_share/{n}": share for n in names}
        lines.append({"step": step, "validation/score": target, **tasks, **shares})
    write_lines(folder / f"seed_{seed}" / stage / "metrics.jsonl", lines)


@pytest.fixture
def run(tmp_path):
    folder = write_run(tmp_path / "run", (0, 1), probes=True)
    for seed, stages in CURVES.items():
        for stage, points in stages.items():
            write_curve(folder, seed, stage, points)
    return folder


def test_first_steps_at_the_level(run):
    (comparison,) = equal_target.comparisons(records.read(run))
    tuned, promot = comparison.lines
    assert [line.method.name for line in comparison.lines] == ["fine_tuning", "promot"]
    # Levels: 95 and 97, one point below the best of fine-tuning.
    assert tuned.steps.values == (200, 100)
    assert tuned.kept.values == pytest.approx((50, 56))
    assert tuned.share.values == pytest.approx((10, 30))
    # The second seed of ProMoT never gets there.
    assert promot.steps.values == (200,)
    assert promot.target.values == (95,)
    assert promot.kept.values == pytest.approx((78,))
    assert promot.cells()[0] == "1 of 2"


def test_a_step_without_unseen_scores_is_no_place(run):
    path = run / "seed_1" / "model" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1] = {"step": 100, "validation/score": 97.5}
    write_lines(path, lines)
    (comparison,) = equal_target.comparisons(records.read(run))
    assert comparison.lines[0].steps.values == (200, 200)


def test_pairs_meet_at_the_level_that_both_reach(run):
    (comparison,) = equal_target.comparisons(records.read(run))
    (pair,) = comparison.pairs
    # Below the best of fine-tuning (96) and of ProMoT (96.9).
    assert pair.level.values == pytest.approx((95, 95.9))
    assert pair.first_kept.values == pytest.approx((50, 56))
    assert pair.kept.values == pytest.approx((78, 74))
    assert pair.difference.values == pytest.approx((28, 18))


def test_what_a_stage_started_from_sets_no_level(run):
    write_curve(run, 1, "prompt-model", [(0, 99, 80, 0), (100, 91, 75, 0)])
    (comparison,) = equal_target.comparisons(records.read(run))
    assert comparison.pairs[0].level.values == pytest.approx((95, 90))
    assert comparison.pairs[0].kept.values == pytest.approx((78, 75))


def test_a_seed_of_one_method_is_no_pair(run):
    (run / "seed_1" / "model" / "metrics.jsonl").unlink()
    (comparison,) = equal_target.comparisons(records.read(run))
    assert comparison.pairs[0].difference.values == pytest.approx((28,))


def test_one_method_is_no_comparison(run):
    for seed in CURVES:
        (run / f"seed_{seed}" / "prompt-model" / "metrics.jsonl").unlink()
    assert equal_target.comparisons(records.read(run)) == []


def test_the_report_has_the_table(run):
    text = markdown.markdown(records.read(run), [])
    assert "## At equal RTE score" in text
    assert "| ProMoT | 1 of 2 | 200 | 95.0 | 78.0 | 0.0 |" in text
    assert "| ProMoT | 2 | 95.5 (89.7 to 101.2) | 53.0 (14.9 to 91.1) | 76.0 (" in text


def test_the_interval_is_students_t():
    # Quantile of the table: 12.706 for one degree of freedom, 2.776 for four.
    low, high = Spread((10.0, 12.0)).interval
    assert (low, high) == pytest.approx((11 - 12.706, 11 + 12.706), abs=1e-3)
    low, high = Spread((1.0, 2.0, 3.0, 4.0, 5.0)).interval
    assert high - 3 == pytest.approx(2.7764 * 1.5811388 / 5**0.5, abs=1e-4)
    assert low + high == pytest.approx(6)
    assert Spread((1.0, 1.0)).with_interval == "1.0 (1.0 to 1.0)"
    assert Spread((1.0,)).with_interval == "1.0"
