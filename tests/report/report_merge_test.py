"""Several runs beside each other: their methods, gaps, and what cannot be compared."""

import json
import re
import shutil

import pytest

from promot_jax.base.errors import UserError
from promot_jax.report import build
from promot_jax.report.numbers import gaps, scores, summary, tables
from promot_jax.report.pages import terminal
from promot_jax.report.records import records
from tests.report.report_run import TARGETS, about, change_about, write_lines, write_run


@pytest.fixture
def pair(tmp_path):
    """Two runs of the same methods with the same pretrained model."""
    return [write_run(tmp_path / name, (0, 1), noise=i) for i, name in enumerate(("a", "b"))]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "compared"


def rewritten(folder, change):
    """Passes every line of results.jsonl through a function."""
    path = folder / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, [row for row in map(change, rows) if row])


def test_methods_stand_beside_each_other_with_equal_pretrained_models_once(pair, out):
    found = build.read(pair, out)
    assert [method.label for method in found.methods] == [
        "Pretrained",
        *(f"{m} · a" for m in ("Standard fine-tuning", "Prompt tuning", "ProMoT")),
        *(f"{m} · b" for m in ("Standard fine-tuning", "Prompt tuning", "ProMoT")),
    ]
    average = tables.score_table(found).blocks[0].average
    single = []
    for run in pair:
        cells = tables.score_table(records.read(run)).blocks[0].average.cells
        single += [(cell.spread.mean, cell.difference) for cell in cells[1:]]
    assert [(c.spread.mean, c.difference) for c in average.cells[1:]] == single
    assert len({mean for mean, _ in single}) > 4
    assert gaps.missing(found) == []


def test_labels_of_one_run_alone_stay_as_they_are(pair, out):
    change_about(
        pair[1], methods=[{"name": "joint", "label": "Joint fine-tuning", "stages": ["model"]}]
    )
    labels = [method.label for method in build.read(pair, out).methods]
    assert labels == ["Pretrained", "Standard fine-tuning", "Prompt tuning", "ProMoT",
                      "Joint fine-tuning"]  # fmt: skip


def test_methods_are_compared_with_the_pretrained_model_of_their_own_run(pair, out):
    lowered = ("pretrained", "cb")
    rewritten(
        pair[1],
        lambda row: row | {"score": 9.0} if (row["method"], row["task"]) == lowered else row,
    )
    found = build.read(pair, out)
    assert [m.label for m in found.methods][:2] == ["Pretrained · a", "Pretrained · b"]
    bases = [scores.normalized_average(found, m).mean for m in found.methods[:2]]
    assert bases == pytest.approx([65.625, 63.625])
    cells = tables.score_table(found).blocks[0].average.cells
    assert [cell.difference for cell in cells[:2]] == [None, None]
    for method, cell in zip(found.methods[2:], cells[2:], strict=True):
        base = bases[0] if method.run == "a" else bases[1]
        assert cell.difference == pytest.approx(cell.spread.mean - base)
    assert (
        "the pretrained models average: Pretrained · a (65.6) and Pretrained · b (63.6)"
        in (summary.sentences(found)[1])
    )


def test_whole_report_of_two_runs(pair, out):
    for path in (p for run in pair for p in run.glob("seed_*/*/metrics.jsonl")):
        # Few figures draw quickly.
        if path.parent.name != "prompt-model":
            write_lines(path, [])
    page = build.build(*pair, out=out)
    text = page.read_text(encoding="utf-8")
    assert page == out / "report.html"
    assert {"report.md", "scores.csv", "scores.json", "figures"} <= {p.name for p in out.iterdir()}
    assert not (pair[0] / "report.html").exists()
    assert "promot report a b --out compared" in text
    assert text.count('<h3 class="run">a</h3>') == 2
    assert "Training loss, stage b/prompt-model" in text
    assert len(re.findall(r"ProMoT · b</dt><dd>montag oder peru", text)) == 3
    lines = terminal.terminal_table(build.read(pair, out)).splitlines()
    assert max(map(len, lines)) <= 110


def test_rows_that_a_run_does_not_have_are_named(pair, out):
    kept = [task for task in about((0, 1))["tasks"] if task["task"] != "xsum"]
    change_about(pair[1], tasks=kept)
    rewritten(pair[1], lambda row: None if row["task"] == "xsum" else row | {"count": 50})
    found = build.read(pair, out)
    notes = gaps.missing(found)
    assert "b does not have XSum: no score there, hence no average." in notes
    assert notes[1].startswith("The number of examples behind a score depends on run or method")
    assert "XSum" not in notes[1]
    averages = tables.score_table(found).blocks[0].average.cells
    assert [bool(cell.spread) for cell in averages] == [m.run == "a" for m in found.methods]


def test_missing_parts_of_one_run_are_said_with_its_name(pair, out):
    change_about(pair[1], finished=None)
    shutil.rmtree(pair[1] / "seed_1")
    notes = gaps.missing(build.read(pair, out))
    assert notes[0].startswith("b: The run is not finished")
    assert "b: No curves for stage model (seed 1)" in notes[1]
    assert len(notes) == 2


def test_a_target_of_one_run_alone_has_a_row(tmp_path, out):
    one = write_run(tmp_path / "one", (0,))
    two = write_run(tmp_path / "two", (0,), targets=("rte", "en_fr"))
    found = build.read([one, two], out)
    assert [target.label for target in found.targets] == ["RTE", "En–Fr"]
    assert "one does not have En–Fr: no score there." in gaps.missing(found)
    row = tables.score_table(found).targets[1]
    assert sum(cell.spread is not None for cell in row.cells) == 4


def test_equal_folder_names_are_told_apart_by_their_parents(tmp_path, out):
    runs = [write_run(tmp_path / name / "mini", (0,)) for name in ("x", "y")]
    assert {method.run for method in build.read(runs, out).methods} == {"x/mini", "y/mini"}


def test_one_run_goes_where_it_is_told(pair, out):
    assert build.read(pair[:1], out).folder == out
    assert build.read(pair[:1]).folder == pair[0]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no out", "give --out FOLDER"),
        ("twice", "is given 2 times"),
        ("out is a run", "is a run folder itself"),
        ("out is a file", "is a file"),
        ("other target", "fine-tuned on en_fr, .* on rte: nothing to compare"),
        ("other metric", "scores cb with bleu, .* with accuracy"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(pair, out, case, words):
    runs, target = list(pair), out
    if case == "no out":
        target = None
    elif case == "twice":
        runs[1] = runs[0] / ".." / "a"
    elif case == "out is a run":
        target = runs[0]
    elif case == "out is a file":
        target.write_text("")
    elif case == "other target":
        label, metric, _ = TARGETS["en_fr"]
        change_about(runs[1], targets=[{"task": "en_fr", "label": label, "metric": metric}])
    elif case == "other metric":
        tasks = about((0, 1))["tasks"]
        change_about(runs[1], tasks=[tasks[0] | {"metric": "bleu"}, *tasks[1:]])
    with pytest.raises(UserError, match=words) as caught:
        build.build(*runs, out=target)
    assert "\n" not in str(caught.value)


# Runs that differ in their seeds


def seeded(folder, seeds, changed="PROMPT_LENGTH = 16"):
    """A run of some seeds; its configuration names them, over two lines."""
    write_run(folder, seeds)
    change_about(folder, experiment=folder.name)
    own = f"MODEL_DIR = '{folder}'\nSEEDS = \\\n    {seeds}\n{changed}\n"
    (folder / "config.gin").write_text(own)
    return folder


def test_runs_that_differ_in_their_seeds_are_one(tmp_path, out):
    parts = [seeded(tmp_path / "a", (0, 1)), seeded(tmp_path / "b", (2,))]
    found = build.read(parts, out)
    assert [method.name for method in found.methods] == [
        *("pretrained", "fine_tuning", "prompt_tuning", "promot")
    ]
    assert (found.seeds, found.runs) == ((0, 1, 2), ())
    single = [records.read(part) for part in parts]
    for key, values in found.results.items():
        if key[0] == "pretrained":
            assert values == single[0].results[key]
        else:
            assert values == single[0].results[key] | single[1].results[key]
            assert len(values) == 3
    assert len(found.stages) == sum(len(one.stages) for one in single)
    assert gaps.missing(found) == []
    assert {method.run for method in found.methods} == {"a, b"}
    text = build.write(found).with_suffix(".md").read_text()
    assert "| Seeds | 0, 1, 2 |" in text
    assert "and so for each seed" in text
    assert "| Time | 10 min 2 s |" in text


@pytest.mark.parametrize("case", ["another setting", "an equal seed", "no configuration"])
def test_runs_that_differ_in_more_stand_beside_each_other(tmp_path, out, case):
    seeds = (1, 2) if case == "an equal seed" else (2, 3)
    changed = "PROMPT_LENGTH = 8" if case == "another setting" else "PROMPT_LENGTH = 16"
    parts = [seeded(tmp_path / "a", (0, 1)), seeded(tmp_path / "b", seeds, changed)]
    if case == "no configuration":
        for part in parts:
            (part / "config.gin").write_text("")
    found = build.read(parts, out)
    assert len(found.runs) == 2
    assert "ProMoT · b" in [method.label for method in found.methods]


def test_seeds_of_several_folders_stand_beside_another_run(tmp_path, out):
    parts = [seeded(tmp_path / name, seeds) for name, seeds in (("a", (0,)), ("b", (1,)))]
    other = seeded(tmp_path / "other", (0, 1), "PROMPT_LENGTH = 8")
    found = build.read([*parts, other], out)
    assert len(found.runs) == 2
    assert [one.seeds for one in found.runs] == [(0, 1), (0, 1)]
