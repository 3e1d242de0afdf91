"""Numbers, words and the terminal table of a run; damaged runs."""

import csv
import io
import itertools
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promot_jax.base.errors import UserError
from promot_jax.report.build import build
from promot_jax.report.charts import charts
from promot_jax.report.numbers import facts, gaps, scores, summary, tables
from promot_jax.report.numbers.scores import Spread
from promot_jax.report.pages import exports, terminal
from promot_jax.report.records import records
from tests.report.report_run import about, change_about, result, write_lines, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole run, only to be read."""
    return write_run(tmp_path_factory.mktemp("runs") / "mini")


@pytest.fixture
def small(tmp_path):
    """A fresh run of one's own to damage, without a report."""
    return write_run(tmp_path / "mini")


def method(found, name):
    return next(m for m in found.methods if m.name == name)


# Numbers


def test_normalized_average_is_the_plain_mean_over_tasks_of_each_seed(run):
    found = records.read(run)
    lines = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    expected = []
    for seed in (0, 1, 2):
        values = [
            line["score"]
            for line in lines
            if (line["method"], line["seed"]) == ("promot", seed) and line["task"] != "rte"
        ]
        assert len(values) == 8
        expected.append(sum(values) / 8)
    spread = scores.normalized_average(found, method(found, "promot"))
    assert spread.values == pytest.approx(expected)
    assert scores.normalized_average(found, found.pretrained).values == pytest.approx([65.625])


def test_spread_is_the_sample_deviation_and_plain_for_one_seed():
    assert str(Spread((1.0, 2.0, 6.0))) == "3.0 ± 2.6"
    assert str(Spread((3.14,))) == "3.1"
    assert Spread((3.14,)).deviation is None


def test_signs_are_typographic_and_zero_has_none():
    assert [scores.signed(x) for x in (-17.24, 2.58, -0.04)] == ["−17.2", "+2.6", "±0.0"]
    assert scores.decimal(-0.01) == "0.0"


def test_share_leaves_out_tasks_that_are_not_generative(run):
    found = records.read(run)
    # CB and WiC are written with a share of 100, the others with none.
    assert scores.label_share(found, found.pretrained).mean == 0.0


def test_a_seed_with_a_task_missing_does_not_enter_the_average(small):
    path = small / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    key = ("promot", 1, "xsum")
    write_lines(path, [r for r in rows if (r["method"], r["seed"], r["task"]) != key])
    found = records.read(small)
    assert len(scores.normalized_average(found, method(found, "promot")).values) == 2
    assert "ProMoT, seed 1: no score for XSum; left out of averages." in gaps.missing(found)


# Several targets and numbers of shots


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    """A run with two targets, whose unseen tasks are there with one and with four shots."""
    folder = tmp_path_factory.mktemp("runs") / "double"
    return write_run(folder, targets=("rte", "en_fr"), shots=(1, 4))


@pytest.mark.parametrize(("shots", "ending"), [(1, "_1shot"), (4, "_4shot"), (None, "shot")])
def test_averages_and_shares_are_over_the_tasks_with_that_many_shots(double, shots, ending):
    found = records.read(double)
    lines = [json.loads(line) for line in (double / "results.jsonl").read_text().splitlines()]
    rows = [r for r in lines if r["method"] == "promot" and r["task"].endswith(ending)]
    assert len(rows) == 3 * 8 * (2 if shots is None else 1)
    free = [row for row in rows if row["label_share"] < 50]
    for value, key, counted in (
        (scores.normalized_average, "score", rows),
        (scores.label_share, "label_share", free),
    ):
        expected = [
            statistics.fmean(row[key] for row in counted if row["seed"] == seed)
            for seed in (0, 1, 2)
        ]
        assert value(found, method(found, "promot"), shots).values == pytest.approx(expected)


def test_table_has_a_row_a_target_and_a_block_a_number_of_shots(double):
    found = records.read(double)
    lines = terminal.terminal_table(found).splitlines()
    order = ["RTE", "En–Fr", "1-shot", "Norm. Avg.", "  CB", "True/False", "4-shot", "Norm. Avg."]
    at = -1
    for start in [*order, "  CB", "True/False"]:
        at = next(i for i, line in enumerate(lines) if i > at and line.startswith(start))
    averages = [line for line in lines if line.startswith("Norm. Avg.")]
    assert ["65.6" in averages[0], "68.1" in averages[1]] == [True, True]
    assert len(found.targets) == 2
    sentences = summary.sentences(found)
    assert [s.split(",")[0] for s in sentences[:2]] == ["On RTE itself", "On En–Fr itself"]
    assert "Over the 8 other 4-shot tasks the pretrained model averages 68.1." in sentences[-1]


def test_a_run_of_before_there_could_be_several_targets_is_read(tmp_path):
    folder = pathlib.Path(__file__).parent.parent.parent / "results" / "mini"
    about = json.loads((folder / "run.json").read_text())
    for name in ("results.jsonl", "config.gin"):
        shutil.copy(folder / name, tmp_path)
    if "targets" in about:
        target = about.pop("targets")[0]
        about["target"] = {key: target[key] for key in ("task", "label", "metric", "labels")}
    (tmp_path / "run.json").write_text(json.dumps(about))
    found = records.read(tmp_path)
    assert [target.label for target in found.targets] == ["RTE"]
    assert found.labels == ("True", "False")
    assert len(found.tasks) == 8
    whole = records.read(folder)
    assert scores.task_score(found, method(found, "promot"), found.targets[0]) == (
        scores.task_score(whole, method(whole, "promot"), whole.targets[0])
    )


def test_without_other_tasks_nothing_is_said_of_them(tmp_path):
    found = records.read(write_run(tmp_path / "bare", shots=()))
    text = " ".join([
        *summary.sentences(found), facts.title(found), facts.scores_caption(found),
        terminal.terminal_table(found), summary.reading(found), *gaps.missing(found),
    ])  # fmt: skip
    assert facts.title(found) == "Fine-tuning on RTE"
    for word in ("other", "unseen", "itself", "Norm. Avg."):
        assert word not in text, word
    assert not [c for c in charts.charts(found) if c.name == "trade_off"]


def test_a_method_that_is_evaluated_on_a_variant_is_named(small):
    path = small / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if (row["method"], row["task"]) == ("promot", "rte"):
            row["evaluated_as"] = "rte_1shot"
    write_lines(path, rows)
    caption = facts.scores_caption(records.read(small))
    assert "RTE as they trained on it, rte_1shot, for ProMoT." in caption


# Numbers for other programs


def test_csv_has_every_result_in_a_line(double):
    found = records.read(double)
    rows = list(csv.DictReader(io.StringIO(exports.scores_csv(found))))
    lines = [json.loads(line) for line in (double / "results.jsonl").read_text().splitlines()]
    assert len(rows) == len(lines) == 10 * (2 + 16)
    key = ("method", "seed", "task", "score", "count", "label_share", "evaluated_as")
    written = {tuple(row[k] for k in key) for row in rows}
    assert written == {
        tuple("" if line[k] is None else str(line[k]) for k in key) for line in lines
    }
    kinds = {(row["task"], row["kind"], row["shots"]) for row in rows}
    assert {("rte", "target", "0"), ("cb_4shot", "unseen", "4")} <= kinds


def test_json_has_every_number_of_the_table(double):
    found = records.read(double)
    rows = json.loads(exports.scores_json(found))["rows"]
    shown = re.findall(r"(?<![\w-])\d+\.\d", terminal.terminal_table(found))
    numbers = [
        scores.decimal(abs(cell[key]))
        for row in rows
        for cell in row["cells"]
        for key in ("mean", "deviation", "difference_to_pretrained")
        if cell[key] is not None
    ]
    assert len(shown) == (2 + 2 * 9 + 2) * 4 + (2 + 2 * 9 + 2) * 3 + 2 * 3
    assert Counter(numbers) == Counter(shown)


# Words


spreads = st.lists(st.floats(0, 100), min_size=1, max_size=3).map(lambda v: Spread(tuple(v)))


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=2), spreads, max_size=6))
def test_tiers_hold_everybody_once_and_never_split_what_overlaps(found):
    tiers = summary.tiers(found)
    assert sorted(label for tier in tiers for label in tier) == sorted(found)
    for above, below in itertools.combinations(tiers, 2):
        for a, b in itertools.product(above, below):
            assert found[a].mean > found[b].mean
            assert not scores.level(found[a], found[b])
    for tier in tiers:
        for a, b in itertools.pairwise(tier):
            assert found[a].mean >= found[b].mean


def rewrite_scores(folder, values):
    """Sets the target's scores: method → one value per seed."""
    path = folder / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["task"] == "rte":
            row["score"] = values[row["method"]][row["seed"] or 0]
    write_lines(path, rows)


def test_of_many_methods_the_sentence_names_the_first_and_the_last(small):
    names = [f"m{i}" for i in range(9)]
    rows = [result(name, 0, "rte", 90.0 - 10 * i, 0.0) for i, name in enumerate(names)]
    change_about(small, methods=[{"name": n, "stages": ["model"]} for n in names])
    write_lines(small / "results.jsonl", rows)
    sentence = summary.sentences(records.read(small))[0]
    assert sentence.endswith(
        "highest with m0 (90.0); next comes m1 (80.0), then m2 (70.0), then 5 others, and last "
        "m8 (10.0)."
    )


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0.0, "m1 (50.0 ± 2.8), m2 (50.0 ± 2.8) and 4 others, equal;"),
        (1.0, "m6 (55.0 ± 2.8), m5 (54.0 ± 2.8) and 4 others (down to 50.0 ± 2.8), level within "
         "the spread;"),
    ],
)  # fmt: skip
def test_of_many_level_methods_the_sentence_names_some(small, step, expected):
    names = ["m0", *(f"m{i}" for i in range(1, 7))]
    rows = [result(name, seed, "rte", 0.0, 0.0) for name in names for seed in (0, 1)]
    for row in rows:
        place = int(row["method"][1])
        row["score"] = 48.0 + 4 * row["seed"] + step * (place - 1) if place else 10.0
    change_about(small, methods=[{"name": n, "stages": ["model"]} for n in names])
    write_lines(small / "results.jsonl", rows)
    sentence = summary.sentences(records.read(small))[0]
    assert sentence == (
        f"On RTE itself, accuracy is highest with {expected} next comes m0 (10.0 ± 0.0)."
    )


@pytest.mark.parametrize(
    ("tuned", "promot", "expected"),
    [
        ((90, 92, 94), (91, 93, 95), "ProMoT (93.0 ± 2.0) and Standard fine-tuning (92.0 ± 2.0), "
         "level within the spread; next comes Prompt tuning (50.0 ± 0.0)"),
        ((90, 90, 90), (80, 80, 80), "Standard fine-tuning (90.0 ± 0.0); next comes ProMoT "
         "(80.0 ± 0.0), then Prompt tuning (50.0 ± 0.0)"),
        ((50, 50, 50), (90, 90, 90), "ProMoT (90.0 ± 0.0); next come Standard fine-tuning "
         "(50.0 ± 0.0) and Prompt tuning (50.0 ± 0.0), equal"),
    ],
)  # fmt: skip
def test_the_summary_follows_the_numbers(small, tuned, promot, expected):
    values = {"pretrained": (3,), "prompt_tuning": (50, 50, 50)}
    rewrite_scores(small, values | {"fine_tuning": tuned, "promot": promot})
    sentence = summary.sentences(records.read(small))[0]
    assert sentence == f"On RTE itself, accuracy is highest with {expected}, then Pretrained (3.0)."


def test_the_summary_tells_changes_from_the_pretrained_average(run):
    sentence = summary.sentences(records.read(run))[1]
    assert "the pretrained model averages 65.6." in sentence
    assert "Prompt tuning (65.6 ± 0.0, unchanged)" in sentence
    assert re.search(r"Standard fine-tuning \(46\.\d ± 0\.\d, down 19\.\d\)", sentence)


def test_a_method_with_one_seed_among_others_is_marked_as_uncertain(small):
    path = small / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert "its spread is unknown" not in summary.reading(records.read(small))
    write_lines(path, [r for r in rows if r["method"] != "promot" or r["seed"] == 0])
    assert "its spread is unknown" in summary.reading(records.read(small))


def test_no_leak_is_said_plainly(small):
    path = small / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, [row | {"label_share": 0.0} for row in rows])
    assert "no method answers True/False" in summary.sentences(records.read(small))[2]


def test_a_whole_run_misses_nothing(run):
    assert gaps.missing(records.read(run)) == []


# The terminal


def test_terminal_table_is_aligned_and_narrow(run):
    text = terminal.terminal_table(records.read(run))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 110
    marks = {tuple(m.start() for m in re.finditer(" ± ", line)) for line in lines}
    assert len(marks - {()}) == 1, "deviations must stand under each other"
    assert len((marks - {()}).pop()) == 3
    points = [line.index(".", 40) for line in lines if "RTE" in line or "  CB" in line]
    assert len(points) == 2
    assert len(set(points)) == 1
    order = ["RTE", "Norm. Avg.", "NLI", "  CB", "Closed-book QA", "Summarization", "True/False"]
    found = [next(i for i, line in enumerate(lines) if line.startswith(o)) for o in order]
    assert found == sorted(found)
    average, change = (
        [m.start() for m in re.finditer(r"\d\.\d", next(line for line in lines if name in line))]
        for name in ("Norm. Avg.", "against pretrained")
    )
    assert change == average[1::2], "differences must stand under the means"
    assert re.search(r"against pretrained +\(−19\.\d\) +\(±0\.0\) +\(−2\.\d\)", text)


def test_numbers_stand_under_each_other_whatever_is_known_of_them(small):
    path = small / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["task"] == "cb" and row["method"] == "promot":
            row["score"] = 40.0 * row["seed"]
    write_lines(path, [r for r in rows if r["task"] != "xsum" or r["seed"] in (None, 0)])
    lines = terminal.terminal_table(records.read(small)).splitlines()
    cb, xsum, wic = (next(line for line in lines if name in line) for name in ("CB", "XSum", "WiC"))
    assert cb.endswith("40.0 ± 40.0")
    assert "±" not in xsum
    cb_ends, wic_ends, xsum_ends = (
        [match.start() for match in re.finditer(r"\d\.", line[40:])] for line in (cb, wic, xsum)
    )
    # Pretrained, then mean and deviation of the three others; a single seed has no deviation.
    assert cb_ends == wic_ends
    assert xsum_ends == [cb_ends[place] for place in (0, 1, 3, 5)]


def test_many_methods_go_into_blocks(small):
    names = [f"ablation number {i}" for i in range(10)]
    change_about(small, methods=[{"name": n, "label": n, "stages": ["model"]} for n in names])
    text = terminal.terminal_table(records.read(small))
    assert max(map(len, text.splitlines())) <= 110
    assert text.count("Norm. Avg.") == text.count("\n\n") + 1 > 1
    assert all(re.search(rf"\b{i}\b", text) for i in range(10))


# Damaged runs


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (["True", "False"], "True/False"),
        (list("abcde"), "a/b/c/d/…"),
        (["account, calm", "account, urgent"], "account, calm/…"),
        (["a label that is longer than twenty-four letters"], None),
    ],
)
def test_many_or_long_labels_are_not_named_one_by_one(small, labels, name):
    target = about((0,))["targets"][0]
    change_about(small, targets=[target | {"labels": labels}])
    assert tables.labels_name(records.read(small)) == (name or labels[0])


def test_a_target_without_labels_has_no_share(small):
    change_about(small, targets=[{"task": "rte", "label": "En–Fr", "metric": "bleu"}])
    found = records.read(small)
    assert "share" not in terminal.terminal_table(found)
    assert "label_share" not in {chart.name for chart in charts.charts(found)}
    assert len(summary.sentences(found)) == 2


def test_numbers_that_are_none_are_left_out(small):
    with (small / "results.jsonl").open("a") as file:
        file.write('{"method": "promot", "seed": 0, "task": "cb", "score": NaN}\n')
        file.write('{"method": "unheard of", "seed": 0, "task": "cb", "score": 1}\n')
        file.write("not json\n{}\n")
    found = records.read(small)
    assert len(found.notes) == 2
    assert "3 lines of results.jsonl" in found.notes[1]
    assert found.results["promot", "cb"][0].score == pytest.approx(29, abs=8)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.floats(0, 1))
def test_results_cut_anywhere_can_be_read(run, tmp_path, part):
    whole = (run / "results.jsonl").read_bytes()
    shutil.copy(run / "run.json", tmp_path)
    (tmp_path / "results.jsonl").write_bytes(whole[: int(part * len(whole))])
    found = records.read(tmp_path)
    assert terminal.terminal_table(found)
    assert gaps.missing(found)
    assert all("nan" not in sentence for sentence in summary.sentences(found))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is no run folder"),
        ('{"target": ', "is not JSON"),
        ("[]", "holds no JSON object"),
        ('{"methods": []}', "KeyError: 'target'"),
        ('{"targets": [{"task": "a"}], "tasks": 3, "methods": []}', "TypeError"),
    ],
)
def test_a_folder_that_is_no_run_is_named_in_one_line(tmp_path, content, words):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        build(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_reading_and_tables_import_neither_jax_nor_matplotlib():
    code = (
        "import sys; from promot_jax.report import build; "
        "from promot_jax.report.pages import terminal; "
        "print([m for m in ('jax', 'tensorflow', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
