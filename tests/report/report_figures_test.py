"""What the figures of a report show, without drawing them."""

import json

import pytest

from promot_jax.report.charts import chart, charts
from promot_jax.report.records import records
from tests.report.report_run import GROUPS, TASKS, about, change_about, write_lines, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that only has means over the unseen tasks."""
    return write_run(tmp_path_factory.mktemp("runs") / "mini")


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """A run with two targets, two numbers of shots, and series of single tasks and gradients."""
    folder = tmp_path_factory.mktemp("runs") / "probed"
    return write_run(folder, (0, 1), targets=("rte", "en_fr"), shots=(1, 4), probes=True)


def drawn(folder):
    return {figure.name: figure for figure in charts.charts(records.read(folder))}


def lines_of(folder, seed, stage):
    text = (folder / f"seed_{seed}" / stage / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_curves_average_only_the_steps_that_all_seeds_reached():
    curve = chart.Curve(chart.Name("A", "a"), {0: {0: 1.0, 10: 3.0, 20: 9.0}, 1: {0: 3.0, 10: 5.0}})
    assert curve.steps() == [0, 10]
    assert curve.values(10) == [3.0, 5.0]


def test_shared_stages_are_drawn_as_the_method_that_they_complete(run):
    found = drawn(run)
    score, share = found["label_share"].panels
    assert [c.name.method for c in share.curves] == [c.name.method for c in score.curves]
    assert [c.name.method for c in share.curves] == ["fine_tuning", "promot"]
    assert [c.name.label for c in found["training_loss-prompt"].panels[0].curves] == [
        "Prompt tuning"
    ]
    assert len(share.curves[0].steps()) == 11


def test_a_stage_that_completes_no_method_is_marked_apart(tmp_path):
    folder = write_run(tmp_path / "run", (0,))
    kept = [m for m in about((0,))["methods"] if m["name"] != "prompt_tuning"]
    change_about(folder, methods=kept)
    names = [curve.name for curve in drawn(folder)["target_score"].panels[0].curves]
    assert names == [
        chart.Name("Standard fine-tuning", "fine_tuning"),
        chart.Name("ProMoT, stage prompt", "promot", is_open=True),
        chart.Name("ProMoT", "promot"),
    ]


def test_label_share_is_that_of_question_answering_with_the_fewest_shots(probed):
    panels = drawn(probed)["label_share"].panels
    assert panels[0].label == "RTE accuracy, validation"
    assert panels[-1].label == "True/False share of outputs, %: Closed-book QA (1-shot)"
    keys = [f"unseen/label_share/{task}_1shot" for task in ("trivia_qa", "web_questions")]
    last = lines_of(probed, 1, "model")[-1]
    expected = sum(last[key] for key in keys) / 2
    assert panels[-1].curves[0].seeds[1][500] == pytest.approx(expected)


def test_unseen_scores_are_drawn_by_family_below_the_targets(probed):
    panels = drawn(probed)["unseen_score"].panels
    labels = [panel.label for panel in panels]
    assert labels == [
        "RTE accuracy, validation",
        "En–Fr BLEU, validation",
        "mean of 8 tasks (1-shot)",
        "NLI, accuracy (1-shot)",
        "Word sense, accuracy (1-shot)",
        "Closed-book QA, exact match (1-shot)",
        "Translation, BLEU (1-shot)",
        "Summarization, ROUGE-2 (1-shot)",
    ]
    line = lines_of(probed, 0, "prompt-model")[0]
    curve = panels[2].curves[1]
    assert curve.name.method == "promot"
    expected = sum(line[f"unseen/score/{task}_1shot"] for task, *_ in TASKS) / 8
    assert curve.seeds[0][0] == pytest.approx(expected)


def test_gradient_cosines_have_a_panel_a_group(run, probed):
    assert "gradient_cosine" not in drawn(run)
    panels = drawn(probed)["gradient_cosine"].panels
    assert len(panels) == len(GROUPS) == 4
    for panel, group in zip(panels, GROUPS, strict=True):
        expected = lines_of(probed, 0, "model")[0][f"cosine/{group}"]
        assert panel.curves[0].seeds[0][0] == expected
        assert [curve.name.method for curve in panel.curves] == ["fine_tuning", "promot"]


def test_trade_off_has_a_point_for_every_evaluation_of_every_seed(probed):
    found = drawn(probed)
    for target, label in (("rte", "RTE accuracy"), ("en_fr", "En–Fr BLEU")):
        figure = found[f"trade_off_checkpoints-{target}"]
        assert figure.x_label == f"{label}, validation"
        assert len(figure.panels) == 6
        for panel in figure.panels:
            assert [len(cloud.points) for cloud in panel.clouds] == [2 * 11, 2 * 11]
        line = lines_of(probed, 0, "model")[-1]
        point = (line[f"validation/score/{target}"], line["unseen/score/cb_1shot"])
        assert point in figure.panels[1].clouds[0].points


def test_final_trade_off_has_a_panel_a_number_of_shots(run, probed):
    assert len(drawn(run)["trade_off"].panels) == 1
    panels = drawn(probed)["trade_off-en_fr"].panels
    assert [panel.label for panel in panels] == ["Norm. Avg., 1-shot", "Norm. Avg., 4-shot"]
    assert [len(cloud.points) for cloud in panels[0].clouds] == [1, 2, 2, 2]
    (_, first), (_, second) = (panel.clouds[0].points[0] for panel in panels)
    assert second - first == pytest.approx(2.5)


def test_a_run_without_metrics_has_points_only(tmp_path):
    folder = write_run(tmp_path / "run", (0,), probes=True)
    for path in folder.glob("seed_*/*/metrics.jsonl"):
        write_lines(path, [])
    assert list(drawn(folder)) == ["trade_off"]


def test_panels_are_told_apart_in_the_alternative_text(probed):
    alt = drawn(probed)["gradient_cosine"].alt
    assert alt.startswith("Line chart with 4 panels. 1: MLP kernel against step of the stage. ")
    assert " 4: attention value against" in alt
