"""Curves of points that were made without training, in tables and figures, solved by hand."""

import json

import pytest

from promot_jax.report import build
from promot_jax.report.charts import charts
from promot_jax.report.numbers import equal_points, points, scores, summary
from promot_jax.report.pages import markdown, terminal
from promot_jax.report.records import merge, records
from tests.report.report_run import result, write_lines, write_run

# method → coefficient → seed → target, kept, share; the last is the end.
CURVES = {
    "fine_tuning": {
        0.4: {0: (80.5, 82.2, 0.0), 1: (81.0, 82.4, 0.0)},
        0.5: {0: (88.5, 81.3, 0.8), 1: (86.0, 82.3, 0.2)},
        0.7: {0: (92.0, 60.8, 20.3), 1: (88.0, 76.9, 6.0)},
        1.0: {0: (92.5, 11.8, 97.2), 1: (90.0, 25.2, 69.7)},
    },
    "promot": {
        0.5: {0: (93.0, 82.3, 0.0), 1: (80.0, 80.0, 0.0)},
        1.0: {0: (93.5, 64.1, 21.8), 1: (85.0, 60.0, 20.0)},
    },
}


def lines_of(tasks, method, seed, values):
    target, kept, share = values
    yield result(method, seed, "rte", target, 0.0)
    for place, task in enumerate(tasks):
        # The tasks differ, their mean is what the curve says.
        yield result(method, seed, task["task"], kept + place - 3.5, share)


@pytest.fixture
def run(tmp_path):
    """The end of a curve is in results.jsonl, its other points in curves.jsonl."""
    folder = write_run(tmp_path / "run", (0, 1))
    tasks = json.loads((folder / "run.json").read_text())["tasks"]
    kept = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    kept, found = [line for line in kept if line["method"] not in CURVES], []
    for method, curve in CURVES.items():
        for at, seeds in curve.items():
            for seed, values in seeds.items():
                lines = list(lines_of(tasks, method, seed, values))
                if at == 1:
                    kept += lines
                    ended = {"method": method, "seed": seed, "transform": "end"}
                    found += [ended | {"task": line["task"], "seconds": 1.0} for line in lines]
                else:
                    made = {"transform": "interpolation", "at": at, "seconds": 1.0}
                    found += [line | made for line in lines]
    write_lines(folder / "results.jsonl", kept)
    write_lines(folder / "curves.jsonl", found)
    return folder


def curves_of(folder):
    found = records.read(folder)
    return points.curves(found, found.targets[0], 0)


def test_curves_are_the_points_and_the_end(run):
    found = {curve.method.name: curve for curve in curves_of(run)}
    assert list(found) == ["fine_tuning", "promot"]
    for name, curve in CURVES.items():
        assert list(found[name].points) == list(curve)
        for at, seeds in curve.items():
            for seed, values in seeds.items():
                one = found[name].points[at][seed]
                assert (one.target, one.kept, one.share) == pytest.approx(values)


def test_a_point_counts_when_all_its_tasks_are_scored(run):
    lines = (run / "curves.jsonl").read_text().splitlines()
    wanted = [line for line in lines if json.loads(line).get("at") == 0.7]
    (run / "curves.jsonl").write_text("\n".join(set(lines) - {wanted[-1]}) + "\n" + lines[0][:30])
    (curve, _) = curves_of(run)
    assert set(curve.points[0.7]) == {0}
    (note,) = [note for note in records.read(run).notes if "curves.jsonl" in note]
    assert note == "The last line of curves.jsonl is incomplete and was left out."


@pytest.mark.usefixtures("undrawn")
def test_the_table_has_a_row_a_point_on_page_markdown_and_terminal(run):
    found = records.read(run)
    table = points.table(found)
    assert table.heads[:5] == ("Made by", "At", "Seeds", "Target score", "Norm. Avg.")
    rows = [(method.name, *cells[1:]) for method, cells in table.rows]
    assert rows[1] == ("fine_tuning", "0.5", "2", "87.2 ± 1.8", "81.8 ± 0.7", "0.5 ± 0.4")
    assert [row[1] for row in rows] == ["0.4", "0.5", "0.7", "1 (the end)", "0.5", "1 (the end)"]
    line = "| Standard fine-tuning | interpolation | 0.5 | 2 | 87.2 ± 1.8 | 81.8 ± 0.7 |"
    assert "## Between start and end" in (text := markdown.markdown(found, []))
    assert line in text
    printed = terminal.points_table(found).splitlines()
    assert len(printed) == 2 + 6
    assert printed[2].startswith("Standard fine-tuning  interpolation")
    assert printed[3].split()[:3] == ["interpolation", "0.5", "2"]
    page = build.build(run).read_text()
    assert '<section id="points"' in page
    assert "<td>1 (the end)</td>" in page


def test_at_equal_skill_each_method_is_taken_where_it_kept_most(run):
    found = records.read(run)
    table = equal_points.table(found, found.targets[0], 1.0)
    rows = {method.name: cells for method, cells in table.rows}
    # Fine-tuning must reach 91.5 and 89: at 0.7 with the first seed, at its end with the second.
    assert rows["fine_tuning"][:2] == ["2 of 2", "0.7, end"]
    assert rows["fine_tuning"][3].startswith("43.0 (")
    assert rows["promot"] == ["1 of 2", "0.5", "93.0", "82.3", "0.0"]
    assert rows["prompt_tuning"] == ["0 of 2", *["–"] * 4]
    assert "| ProMoT | 1 of 2 | 0.5 | 93.0 | 82.3 | 0.0 |" in markdown.markdown(found, [])


def test_what_is_made_of_anothers_end_has_its_own_scores_everywhere(run):
    """As TIES of fine-tuning: the run scores its end again, which is fine-tuning's."""
    about = json.loads((run / "run.json").read_text())
    about["methods"].append({"name": "ties", "label": "TIES", "stages": ["model"]})
    (run / "run.json").write_text(json.dumps(about))
    for file in ("results.jsonl", "curves.jsonl"):
        lines = [json.loads(line) for line in (run / file).read_text().splitlines()]
        twin = [line | {"method": "ties"} for line in lines if line["method"] == "fine_tuning"]
        if file == "curves.jsonl":
            values = {0: (70.0, 80.0, 5.0), 1: (60.0, 70.0, 5.0)}
            for at, by in ((1.0, 0.0), (2.0, 30.0)):
                for seed, (target, kept, share) in values.items():
                    made = {"transform": "ties", "at": at, "seconds": 1.0}
                    scored = target - by, kept, share
                    found = lines_of(about["tasks"], "ties", seed, scored)
                    twin += [line | made for line in found]
        write_lines(run / file, lines + twin)
    found = records.read(run)
    target = found.targets[0]
    label = {m.name: m for m in found.methods}
    assert scores.task_score(found, label["ties"], target).mean == 65.0
    assert scores.normalized_average(found, label["ties"], 0).mean == 75.0
    assert scores.task_score(found, label["fine_tuning"], target).mean == 91.25
    assert "TIES (65.0 ± 7.1)" in summary.sentences(found)[0]
    by_point = {method.name: row for method, row in equal_points.table(found, target, 1.0).rows}
    assert by_point["ties"][0] == "0 of 2"
    made = [(curve.method.name, curve.transform, [*curve.points]) for curve in curves_of(run)]
    assert made == [
        ("fine_tuning", "interpolation", [0.4, 0.5, 0.7, 1.0]),
        ("promot", "interpolation", [0.5, 1.0]),
        ("ties", "ties", [1.0, 2.0]),
    ]
    # With the same stages it is asked otherwise, and one point is another.
    lines = [json.loads(line) for line in (run / "curves.jsonl").read_text().splitlines()]
    (place,) = (
        i for i, line in enumerate(lines)
        if (line["method"], line.get("at"), line["seed"], line["task"]) == ("ties", 0.5, 0, "rte")
    )  # fmt: skip
    lines[place]["score"] += 1
    write_lines(run / "curves.jsonl", lines)
    assert ("ties", "interpolation") in {(c.method.name, c.transform) for c in curves_of(run)}


def test_the_figure_draws_the_curves(run):
    figure = next(f for f in charts.charts(records.read(run)) if f.name == "trade_off")
    (panel,) = figure.panels
    tuned, promot = panel.paths
    assert (tuned.name.method, promot.name.method) == ("fine_tuning", "promot")
    assert tuned.seeds[1][0.7] == pytest.approx((88.0, 76.9))
    assert promot.mean()[0.5] == pytest.approx((86.5, 81.15))
    assert list(tuned.mean()) == [0.4, 0.5, 0.7, 1.0]
    assert "ProMoT, interpolation: at 0.5 (86.5; 81.2), at 1 (89.2; 62.0)." in figure.alt
    assert "without training" in figure.caption


def test_runs_beside_each_other_keep_their_curves(run, tmp_path):
    other = write_run(tmp_path / "other", (0, 1))
    found = merge.merge([records.read(run), records.read(other)], tmp_path)
    curves = points.curves(found, found.targets[0], 0)
    assert [curve.method.name for curve in curves] == ["run/fine_tuning", "run/promot"]
    assert [len(curve.points) for curve in curves] == [4, 2]


def test_a_run_without_points_says_nothing_of_them(run):
    (run / "curves.jsonl").unlink()
    found = records.read(run)
    assert points.table(found) is None
    assert terminal.points_table(found) == ""
    assert "Between start and end" not in markdown.markdown(found, [])
    figure = next(f for f in charts.charts(found) if f.name == "trade_off")
    assert "without training" not in figure.caption
