"""Runs of many methods: a method a line, the frontier, and figures of what stands out."""

import dataclasses

import hypothesis.strategies as st
import pytest
from hypothesis import given

from promot_jax.report import build
from promot_jax.report.charts import charts, palette
from promot_jax.report.numbers import equal_target, frontier, tables
from promot_jax.report.numbers.frontier import Scored
from promot_jax.report.pages import markdown, terminal
from promot_jax.report.records import records
from promot_jax.report.records.records import MethodRecord
from tests.report.report_points_test import run  # noqa: F401, a fixture

METHOD = MethodRecord("any", "Any", ("model",))
SCORES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, unique=True)


@given(SCORES)
def test_the_front_is_what_nothing_beats(scores):
    found = [Scored(METHOD, "end", 1, *map(float, score)) for score in scores]
    front = [(one.target, one.kept) for one in frontier.front(found)]
    for x, y in scores:
        beaten = any(a >= x and b >= y and (a, b) != (x, y) for a, b in scores)
        assert ((x, y) in front) != beaten
    # From the best on the target to the best on the rest.
    assert front == sorted(front, reverse=True)
    assert [y for _, y in front] == sorted(y for _, y in front)


@pytest.fixture
def many(run, monkeypatch):  # noqa: F811
    monkeypatch.setattr(frontier, "MANY", 3)
    return run


def test_the_frontier_has_ends_and_points(many):
    found = records.read(many)
    (table,) = frontier.tables(found)
    assert table.heads == ("Which", "Seeds", "RTE", "Norm. Avg.")
    assert [(method.name, *cells) for method, cells in table.rows] == [
        ("fine_tuning", "end", "2", "91.2", "18.5"),
        ("fine_tuning", "interpolation 0.7", "2", "90.0", "68.8"),
        ("fine_tuning", "interpolation 0.5", "2", "87.2", "81.8"),
        ("fine_tuning", "interpolation 0.4", "2", "80.8", "82.3"),
    ]
    assert [method.name for method in frontier.standing_out(found)] == ["fine_tuning", "promot"]
    assert next(iter(frontier.shown(found))).name == "pretrained"


def test_a_report_of_many_has_a_method_a_line(many):
    page = build.build(many).read_text()
    assert 'id="frontier"' in page
    assert "glance" not in page.partition("</style>")[2]
    text = (many / "report.md").read_text()
    assert "| Method | RTE | Norm. Avg. | True/False share, % | CB | WiC |" in text
    assert "## Frontier" in text
    lines = terminal.terminal_table(records.read(many)).splitlines()
    assert lines[0].split() == ["RTE", "Norm.", "Avg.", "True/False", "share,", "%"]
    assert [line.split("  ")[0] for line in lines[2:]] == [
        *("Pretrained", "Standard fine-tuning", "Prompt tuning", "ProMoT")
    ]
    names = {path.name for path in (many / "figures").iterdir()}
    assert {"frontier.png", "target_score.png"} <= names
    assert "trade_off.png" not in names


def test_figures_of_many_show_what_stands_out(many, monkeypatch):
    found = records.read(many)
    first, *others = charts.charts(found)
    assert first.name == "frontier"
    (panel,) = first.panels
    assert [cloud.name.method for cloud in panel.clouds] == [palette.MUTED, "fine_tuning", "promot"]
    # The prompt's end; of the others every end and point.
    assert [len(cloud.points) for cloud in panel.clouds] == [1, 4, 2]
    assert [len(path.mean()) for path in panel.paths] == [4, 2]
    # Of ProMoT's two stages the first is the prompt's.
    drawn = {name.method for chart in others for name in chart.names}
    assert drawn == {"fine_tuning", "prompt_tuning", "promot"}
    assert all("can be told apart" in chart.caption for chart in others if not chart.small)
    assert {palette.MUTED, "pretrained", "prompt_tuning"} < {*palette.styles(found)}

    monkeypatch.setattr(frontier, "MANY", 2)
    without = tuple(method for method in found.methods if method.name != "promot")
    _, *others = charts.charts(dataclasses.replace(found, methods=without))
    assert {name.method for chart in others for name in chart.names} == {"fine_tuning"}


def test_a_report_of_few_says_nothing_of_it(run):  # noqa: F811
    found = records.read(run)
    assert frontier.tables(found) == []
    assert "Frontier" not in markdown.markdown(found, [])
    assert frontier.shown(found) == [*found.methods]


def test_a_method_made_of_anothers_end_is_not_followed_in_its_place(run):  # noqa: F811
    found = records.read(run)
    (before,) = equal_target.comparisons(found)
    twin = MethodRecord("ties", "TIES", ("model",), "ties", "", "pretrained")
    found = dataclasses.replace(found, methods=(*found.methods, twin))
    (after,) = equal_target.comparisons(found)
    assert after.lines == before.lines
    assert "ties" not in {line.method.name for line in after.lines}


def test_all_tasks_stand_in_the_whole_table_alone(run):  # noqa: F811
    found = records.read(run)
    whole, short = (tables.by_method(found, whole=flag) for flag in (True, False))
    assert len(whole.heads) == len(short.heads) + len(found.tasks)
    assert whole.heads[: len(short.heads)] == short.heads
    for (method, cells), (_, few) in zip(whole.rows, short.rows, strict=True):
        assert cells[: len(few)] == few
        assert len(cells) == len(whole.heads), method
