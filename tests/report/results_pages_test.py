"""The numbers of the results pages are those of the records beside them."""

import pathlib
import re
import shutil

import pytest

from promot_jax import cli
from promot_jax.base.jsonl import read_jsonl
from promot_jax.report import build
from promot_jax.report.charts import figures

ROOT = pathlib.Path(__file__).parent.parent.parent
RESULTS = ROOT / "results"
# The paper's tables in miniature, and the scores of their runs.
PAPER = RESULTS / "paper_mini"
TABLES = sorted(path.stem for path in PAPER.glob("table-*.md"))
# Runs whose records are here as a whole; of others there is the report alone.
WHOLE = sorted(path.parent for path in RESULTS.rglob("run.json") if any(path.parent.glob("seed_*")))
# Reports of several runs, some of which have none of their own.
SEEDS = range(10, 15)
COMPARED = {
    "controls/rates": ("controls/gentle", "mini"),
    "parts": [f"parts/{seed}" for seed in SEEDS],
    "parts/replay": [f"parts/{seed}_replay" for seed in SEEDS],
}
RUNS = [run for run in WHOLE if (run / "report.md").exists()]
# What each folder says, and those of its rows that name a method, its report and three scores.
PAGES = [page for page in sorted(RESULTS.rglob("README.md")) if page.parent != RESULTS]
REPORT_ROW = r"^\| .* \| \[([^]|]*)\]\(([^)]*report\.md)\) \| (.*) \|$"


def test_there_are_runs_and_all_are_reported():
    assert RESULTS / "mini" in RUNS
    assert {*WHOLE} == {*RUNS, *(RESULTS / run for runs in COMPARED.values() for run in runs)}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: str(run.relative_to(RESULTS)))
def test_a_report_is_what_its_records_say(run, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "_save", lambda *arguments: None)
    monkeypatch.setattr(build.page, "page", lambda *arguments: "")
    folder = shutil.copytree(run, tmp_path / run.name)
    (folder / "report.md").unlink()
    build.build(folder)
    assert (folder / "report.md").read_text() == (run / "report.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.parent.relative_to(RESULTS)))
def test_a_page_has_the_tables_of_its_reports(page):
    """Tables of scores are whole tables of reports beside the page, or rows that name a report."""
    reports = [table for report in page.parent.rglob("report.md") for table in tables(report)]
    for table in tables(page):
        assert table in reports or not table.startswith(("| Task |", "| Method |"))
        for method, report, shown in re.findall(REPORT_ROW, table, re.MULTILINE):
            assert shown.split(" | ") == scores(page.parent / report, method), (report, method)


def tables(page):
    return re.findall(r"(?:^\|.*\n)+", page.read_text(), re.MULTILINE)


def scores(report, method):
    """Returns three scores of a method in the first table of a report."""
    heads, _, *rows = [line.strip("| ").split(" | ") for line in tables(report)[0].splitlines()]
    return [
        next(row for row in rows if name in row[0])[heads.index(method)].split("<br>")[0]
        for name in ("fine-tuned on", "Norm. Avg.", "True/False share")
    ]


def test_bases_have_the_scores_of_their_records():
    page = RESULTS / "mini_pretrain/README.md"
    rows = re.findall(r"\[records\]\((.*)\) \| (.*) \|$", page.read_text(), re.MULTILINE)
    assert len(rows) == len(list(page.parent.glob("*/results.jsonl")))
    for path, shown in rows:
        found = {r["task"]: r["score"] for r in read_jsonl(page.parent / path)}
        assert shown == f"{found['mini_entailment']:.1f}", path


def test_every_folder_of_records_is_in_the_index():
    index = (RESULTS / "README.md").read_text()
    for page in PAGES:
        assert f"]({page.relative_to(RESULTS)})" in index
    for records in RESULTS.rglob("results.jsonl"):
        assert any(page.parent in records.parents for page in PAGES), records


@pytest.mark.parametrize(("compared", "runs"), COMPARED.items())
def test_a_comparison_is_what_the_records_of_its_runs_say(compared, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "_save", lambda *arguments: None)
    monkeypatch.setattr(build.page, "page", lambda *arguments: "")
    build.build(*(RESULTS / run for run in runs), out=tmp_path)
    assert (tmp_path / "report.md").read_text() == (RESULTS / compared / "report.md").read_text()


@pytest.mark.parametrize("table", TABLES)
def test_a_table_of_the_paper_is_what_its_records_say(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in (path.parent for path in PAPER.glob("*/results.jsonl")):
        shutil.copytree(run, tmp_path / "runs/paper/mini" / run.name)
    assert cli.main(["paper", table, "--model", "mini", "--collect"]) == 0
    for kept in PAPER.glob(f"{table}.*"):
        assert (tmp_path / "runs/paper/mini" / kept.name).read_text() == kept.read_text()


def test_the_summary_of_the_paper_s_tables_has_their_scores():
    summary = next(
        table for table in tables(PAPER / "README.md") if table.startswith("| Norm. Avg.")
    )
    shown = re.findall(r"\d+\.\d(?: ± \d+\.\d)? \([^)]*\)", summary)
    assert len(shown) == summary.count("(") - 1
    assert set(shown) <= {score for table in TABLES for score in averages(table)}


def averages(table):
    """Yields the average of each method of a table, in brackets its targets."""
    lines = tables(PAPER / f"{table}.md")[0].splitlines()
    rows = [re.findall(r"[^|]+", line) for line in lines[2:]]
    number = next(number for number, row in enumerate(rows) if "Norm. Avg." in row[0])
    for *targets, average in zip(*(row[1:] for row in rows[: number + 1]), strict=True):
        ours = [re.match(r" (.*) \([^)]*\) ", cell)[1] for cell in (*targets, average)]
        yield f"{ours[-1]} ({'; '.join(ours[:-1])})"
        # Without spread where there are several.
        yield f"{ours[-1]} ({'; '.join(score.split(' ')[0] for score in ours[:-1])})"
