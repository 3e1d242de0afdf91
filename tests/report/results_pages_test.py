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
RESULTS = ROOT / "docs" / "results"
# The paper's tables in miniature, and the scores of their runs.
PAPER = RESULTS / "paper_mini"
TABLES = sorted(path.stem for path in PAPER.glob("*.md"))
# Runs whose records are here as a whole; of others there is the report alone.
RUNS = sorted(path.parent for path in RESULTS.rglob("run.json") if any(path.parent.glob("seed_*")))


def test_there_are_runs():
    assert RESULTS / "mini" in RUNS


@pytest.mark.parametrize("run", RUNS, ids=lambda run: str(run.relative_to(RESULTS)))
def test_a_report_is_what_its_records_say(run, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "_save", lambda *arguments: None)
    monkeypatch.setattr(build.page, "page", lambda *arguments: "")
    folder = shutil.copytree(run, tmp_path / run.name)
    (folder / "report.md").unlink()
    build.build(folder)
    assert (folder / "report.md").read_text() == (run / "report.md").read_text()


@pytest.mark.parametrize(
    ("page", "run", "numbers"),
    [
        ("README.md", "mini", (0,)),
        ("docs/results.md", "mini", (0, 1, 2)),
        ("docs/results.md", "mini_1shot", (0, 1, 2)),
        ("docs/results.md", "second_base", (2,)),
        ("docs/results.md", "smollm2/vitaminc", (0, 1, 2)),
        ("docs/results.md", "smollm2/enfr", (0, 1, 2)),
    ],
)
def test_a_page_shows_tables_of_reports(page, run, numbers):
    report = (RESULTS / run / "report.md").read_text()
    tables = re.findall(r"(?:^\|.*\n)+", report, re.MULTILINE)
    for number in numbers:
        # Pages leave out that all unseen tasks have one exemplar.
        assert tables[number].replace(", 1-shot |", " |") in (ROOT / page).read_text()


def test_bases_have_the_scores_of_their_records():
    page = (ROOT / "docs" / "results.md").read_text()
    rows = re.findall(r"\[records\]\((results/mini_pretrain/.*)\) \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) == len(list((RESULTS / "mini_pretrain").glob("*/results.jsonl")))
    for path, shown in rows:
        scores = {r["task"]: r["score"] for r in read_jsonl(ROOT / "docs" / path)}
        assert shown == f"{scores['mini_entailment']:.1f}", path


def test_the_controls_are_those_of_their_reports():
    """A row names the method, its report, and three scores of that report's first table."""
    page = (ROOT / "docs" / "results.md").read_text()
    form = r"^\| .* \| \[([^]|]*)\]\((results/[^)]*/report\.md)\) \| (.*) \|$"
    rows = re.findall(form, page, re.MULTILINE)
    assert len(rows) >= 5
    for method, report, shown in rows:
        text = (ROOT / "docs" / report).read_text()
        lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)[0].splitlines()
        heads, _, *scores = [line.strip("| ").split(" | ") for line in lines]
        expected = [
            next(row for row in scores if name in row[0])[heads.index(method)].split("<br>")[0]
            for name in ("fine-tuned on", "Norm. Avg.", "True/False share")
        ]
        assert shown.split(" | ") == expected, report


@pytest.mark.parametrize(("compared", "runs"), [("controls/rates", ("controls/gentle", "mini"))])
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
    page = (ROOT / "docs" / "results.md").read_text()
    summary = re.search(r"^\| Norm\. Avg\. \(target.*\n(?:\|.*\n)+", page, re.MULTILINE)[0]
    shown = re.findall(r"\d+\.\d(?: ± \d+\.\d)? \([^)]*\)", summary)
    assert len(shown) == summary.count("(") - 1
    assert set(shown) <= {score for table in TABLES for score in averages(table)}


def averages(table):
    """Yields the average of each method of a table, in brackets its targets."""
    lines = re.search(r"(?:^\|.*\n)+", (PAPER / f"{table}.md").read_text(), re.MULTILINE)[0]
    rows = [re.findall(r"[^|]+", line) for line in lines.splitlines()[2:]]
    number = next(number for number, row in enumerate(rows) if "Norm. Avg." in row[0])
    for *targets, average in zip(*(row[1:] for row in rows[: number + 1]), strict=True):
        ours = [re.match(r" (.*) \([^)]*\) ", cell)[1] for cell in (*targets, average)]
        yield f"{ours[-1]} ({'; '.join(ours[:-1])})"
        # Without spread where there are several.
        yield f"{ours[-1]} ({'; '.join(score.split(' ')[0] for score in ours[:-1])})"
