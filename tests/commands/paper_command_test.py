"""`promot paper`: plans, runs in order, and our scores beside the paper's, on invented runs."""

import csv
import inspect
import json
import os
import pathlib
import statistics
import subprocess
import sys

import pytest

from promot_jax import cli
from promot_jax.commands import paper as command
from promot_jax.paper import catalog, results
from promot_jax.report.numbers import scores

pytestmark = pytest.mark.long

UNSEEN = {
    "mini_cb_1shot": False,
    "mini_wic_1shot": False,
    "mini_triviaqa_1shot": True,
    "mini_web_questions_1shot": True,
    "mini_wmt_ende_1shot": True,
    "mini_wmt_enro_1shot": True,
    "mini_xsum_1shot": True,
    "mini_wikilingua_1shot": True,
}
# Method → (target score, score of every unseen task), and the noise of a seed on each.
SCORES = {
    "pretrained": (3.0, 62.0),
    "prompt_tuning": (50.0, 62.0),
    "fine_tuning": (95.0, 50.0),
    "promot": (95.2, 56.0),
    "promot_1shot": (97.0, 40.0),
}
NOISE = {0: -1.0, 1: 0.0, 2: 1.0}
RTE = ["table-5.2-rte", "--model", "mini"]


def write_run(folder, seeds=(0, 1, 2), methods=tuple(SCORES)):
    """Writes what `promot run paper/mini/rte` leaves, as far as `promot paper` reads it."""
    folder.mkdir(parents=True)
    stages = {"promot": ["prompt", "prompt-model"], "prompt_tuning": ["prompt"], "pretrained": []}
    run = {
        "experiment": "paper/mini/rte",
        "targets": [{"task": "mini_rte", "label": "RTE", "metric": "accuracy", "labels": []}],
        "tasks": [
            {"task": task, "label": task, "metric": "any", "generative": free, "shots": 1}
            for task, free in UNSEEN.items()
        ],
        "methods": [
            {"name": name, "label": name, "stages": stages.get(name, ["model"])} for name in methods
        ],
        "seeds": list(seeds),
    }
    (folder / "run.json").write_text(json.dumps(run))
    rows = []
    for method in methods:
        for seed in seeds if method != "pretrained" else [None]:
            target, unseen = SCORES[method]
            noise = NOISE.get(seed, 0.0)
            for task in ("mini_rte", *UNSEEN):
                score = target + noise if task == "mini_rte" else unseen + noise
                row = {"method": method, "seed": seed, "task": task, "metric": "any"}
                rows.append(row | {"score": score, "count": 10, "label_share": 0.0})
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "report.html").write_text("")
    return folder


def says(capsys, *arguments):
    """Runs a command line that must succeed; returns what it prints."""
    assert cli.main(["paper", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def fails(capsys, *arguments):
    """Runs a command line that must fail; returns its one line."""
    assert cli.main(["paper", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("promot: ")
    return lines[0]


def test_the_list_has_every_item_and_model(capsys):
    lines = says(capsys).splitlines()
    shown = {line.split()[0]: line for line in lines[1 : 1 + len(catalog.ITEMS)]}
    assert set(shown) == {item.id for item in catalog.ITEMS}
    assert shown["table-5.2"].endswith("rte, enfr, snli, openbookqa")
    assert "palm_8b" in shown["table-10"]
    assert "promot tasks" in shown["table-4"]
    columns = {line.index(catalog.item(name).title) for name, line in shown.items()}
    assert len(columns) == 1
    assert any(line.startswith("  mt5_xl") and "enfr" in line for line in lines)


def test_a_dry_run_shows_stages_and_writes_nothing(tmp_path, capsys):
    folder = tmp_path / "mini" / "enfr" / "seed_1" / "prompt"
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    arguments = ["table-11", "--model", "mini", "--runs", tmp_path, "--seeds", "0,1"]
    text = says(capsys, *arguments, "--dry-run", "--gin.TRAIN_STEPS=700")
    assert sorted(tmp_path.rglob("*")) == before
    lines = [line.split() for line in text.splitlines()]
    assert ["prompt", "5000", "1", "of", "2", "seeds", "promot"] in lines
    assert ["prompt-model", "700", "0", "of", "2", "seeds", "promot"] in lines
    assert ["lora_r2-model", "700", "0", "of", "2", "seeds", "promot_lora_r2"] in lines
    # 4 stages of 700 steps and 3 of 5000, two seeds, one of them done.
    assert "scores: 0 of 81 recorded; 30600 steps are left" in text
    methods = "pretrained,fine_tuning,promot_lora_r2,promot_lora_r4,promot"
    assert f"promot run paper/mini/enfr --methods {methods} --seeds 0,1" in text


def test_shared_stages_are_marked(capsys):
    text = says(capsys, "table-5.2", "--dry-run")
    assert text.count("shared by prompt_tuning, promot") == 4
    assert "5000  0 of 1 seeds    shared by prompt_tuning, promot" in text
    runs = [line for line in text.splitlines() if line.startswith("  promot run")]
    order = [line.split()[2].removeprefix("paper/mt5_xxl/") for line in runs]
    assert order == ["rte", "enfr", "snli", "openbookqa"]


def test_a_plan_touches_no_device_and_no_network():
    program = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "from promot_jax import cli\n"
        "assert cli.main(['paper', 'table-2', '--dry-run']) == 0\n"
        "import jax\n"
        "assert not jax._src.xla_bridge._backends\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "multi_promot_1shot" in done.stdout


def test_help_and_list_import_nothing_heavy():
    program = (
        "import sys\n"
        "from promot_jax import cli\n"
        "assert cli.main(['paper']) == 0\n"
        "heavy = {'jax', 'tensorflow', 'seqio', 'flax', 'orbax', 'gin', 'numpy', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def calls(monkeypatch):
    """Stands in for `promot run`: records each call and leaves the run that it would."""
    made = []

    def run(words):
        made.append(words[3:])
        assert words[:3] == [sys.executable, "-m", "promot_jax.cli"]
        folder = next(w for w in words if w.startswith("--gin.MODEL_DIR=")).split("'")[1]
        code = run.codes.get(words[4], 0)
        if not code and words[4] == "paper/mini/rte" and not pathlib.Path(folder).exists():
            write_run(pathlib.Path(folder))
        return subprocess.CompletedProcess(words, code)

    run.codes = {}
    monkeypatch.setattr(command.subprocess, "run", run)
    return made, run.codes


def test_runs_go_in_order_and_end_with_the_table(tmp_path, capsys, calls):
    made, _ = calls
    text = says(capsys, *RTE, "--runs", tmp_path, "--seeds", "0,1,2", "--gin.TRAIN_STEPS=700")
    folder = tmp_path / "mini" / "rte"
    methods = "pretrained,fine_tuning,promot,promot_1shot"
    expected = ["run", "paper/mini/rte", "--methods", methods, "--seeds", "0,1,2"]
    assert made == [[*expected, f"--gin.MODEL_DIR='{folder}'", "--gin.TRAIN_STEPS=700"]]
    assert "Norm. Avg., 1-shot" in text
    assert (tmp_path / "mini" / "table-5.2-rte.md").exists()
    # Everything is recorded now, so that nothing is called again.
    text = says(capsys, *RTE, "--runs", tmp_path, "--seeds", "0,1,2")
    assert "finished, will be skipped" in text
    assert len(made) == 1
    # Another value may be another run: `promot run` itself must say.
    says(capsys, *RTE, "--runs", tmp_path, "--gin.TRAIN_STEPS=800")
    assert len(made) == 2


def test_a_run_that_fails_ends_it_with_one_line(tmp_path, capsys, calls):
    made, codes = calls
    codes["paper/mini/enfr"] = 3
    line = fails(capsys, "table-6", "--model", "mini", "--runs", tmp_path)
    assert "paper/mini/enfr stopped with exit code 3" in line
    assert "promot paper table-6 --model mini" in line
    assert [words[1] for words in made] == ["paper/mini/rte", "paper/mini/enfr"]
    assert not list(tmp_path.rglob("table-6.*"))


@pytest.fixture
def collected(tmp_path, capsys):
    write_run(tmp_path / "mini" / "rte")
    text = says(capsys, *RTE, "--collect", "--runs", tmp_path)
    files = {path.suffix: path.read_text() for path in (tmp_path / "mini").glob("table-*")}
    return text, files


def test_our_scores_stand_beside_the_papers(collected):
    text, files = collected
    assert set(files) == {".md", ".json", ".csv"}
    rows = {line.split("|")[1].strip(): line for line in files[".md"].splitlines() if "|" in line}
    assert "95.0 ± 1.0 (92.06)" in rows["RTE, 0-shot"]
    assert "50.0 ± 1.0 (15.43)" in rows["Norm. Avg., 1-shot"]
    assert "−12.0 (−2.10)" in rows["against pretrained"]
    assert "56.0 ± 1.0 (17.64)" in rows["TriviaQA, 1-shot"]
    assert "in brackets the paper's figure for mT5 XXL" in files[".md"]
    assert "for their orderings only" in files[".md"]
    assert "no unseen tasks with 4 exemplars" in files[".md"]
    assert "4-shot" not in rows
    assert "(rte/report.md)" in files[".md"]
    for piece in ("95.0 ± 1.0 (92.06)", "−12.0 (−2.10)", "for their orderings only"):
        assert piece in text
    folder = str(text.splitlines()[-1]).removesuffix("table-5.2-rte.csv")
    assert max(len(line) for line in text.splitlines() if folder not in line) <= 110


def test_csv_and_json_hold_full_figures(collected):
    _, files = collected
    rows = list(csv.DictReader(files[".csv"].splitlines()))
    content = json.loads(files[".json"])
    # Four methods: a target, an average and eight tasks.
    assert len(rows) == len(content["cells"]) == 4 * 10
    row = next(r for r in rows if (r["method"], r["task"]) == ("promot", "average"))
    assert (row["shots"], row["paper"], row["paper_change"]) == ("1", "20.1", "2.58")
    assert [float(value) for value in row["values"].split()] == [55.0, 56.0, 57.0]
    assert float(row["deviation"]) == statistics.stdev([55, 56, 57])
    assert float(row["change"]) == -6.0
    cell = next(c for c in content["cells"] if (c["method"], c["task"]) == ("pretrained", "rte"))
    assert (cell["mean"], cell["deviation"], cell["values"]) == (3.0, None, [3.0])
    assert content["model"] == "mini"
    assert content["paper_model"] == "mt5_xxl"


def test_orderings_say_where_we_agree_and_how_clearly(collected):
    text, files = collected
    found = {
        (o["task"], o["above"], o["below"]): (o["agrees"], o["beyond_spread"])
        for o in json.loads(files[".json"])["orderings"]
    }
    # Six pairs on the target, six on the average.
    assert len(found) == 12
    assert found["average", "promot", "fine_tuning"] == (True, True)
    assert found["rte", "promot", "fine_tuning"] == (True, False)
    assert found["average", "promot", "pretrained"] == (False, True)
    assert found["average", "pretrained", "fine_tuning"] == (True, True)
    assert found["average", "promot_1shot", "fine_tuning"] == (False, True)
    # Agree: all six of the target (three by less than the spread), and on average pretrained and
    # ProMoT above fine-tuning.
    words = " ".join(text.split())
    assert "8 of 12 measured orderings are the paper's, 5 of them beyond the seeds' spread" in words
    assert "4 are not, 4 of them beyond it" in words
    sentence = "RTE, 0-shot: ProMoT above Standard fine-tuning, paper +0.72, ours +0.2 "
    assert f"- agrees: {sentence}(within the seeds' spread)" in files[".md"]
    assert f"agrees {sentence}(within the seeds' spread)" in words


def test_one_seed_has_no_spread(tmp_path, capsys):
    write_run(tmp_path / "mini" / "rte", seeds=(1,))
    text = says(capsys, *RTE, "--collect", "--runs", tmp_path)
    assert "(one seed)" in text
    assert "0 of them beyond the seeds' spread" in text
    assert "±" not in text.split("measured orderings")[0].split("pretrained")[0]


def test_a_trained_method_with_one_seed_has_no_spread():
    def cell(method, *values, paper):
        return results.Cell("rte", method, "rte", 0, scores.Spread(values), paper)

    cells = [
        cell("pretrained", 10.0, paper=1.0),
        cell("fine_tuning", 20.0, 20.0, paper=2.0),
        cell("promot", 30.0, paper=3.0),
    ]
    found = {(o.above, o.below): o.beyond for o in results.orderings(cells)}
    assert found == {
        ("fine_tuning", "pretrained"): True,
        ("promot", "pretrained"): None,
        ("promot", "fine_tuning"): None,
    }


def test_what_is_not_measured_is_a_dash_and_a_note(tmp_path, capsys):
    folder = write_run(tmp_path / "mini" / "rte", methods=("pretrained", "fine_tuning"))
    text = says(capsys, *RTE, "--collect", "--runs", tmp_path)
    assert "– (20.10)" in text
    assert "10 are not measured" in text
    # A mean of other tasks than the paper's eight is not its average.
    about = json.loads((folder / "run.json").read_text())
    about["tasks"] = about["tasks"][1:]
    (folder / "run.json").write_text(json.dumps(about))
    says(capsys, *RTE, "--collect", "--runs", tmp_path)
    content = json.loads((tmp_path / "mini" / "table-5.2-rte.json").read_text())
    averages = [cell["mean"] for cell in content["cells"] if cell["task"] == "average"]
    assert averages == [None] * 4


def test_a_table_of_targets_has_a_row_for_each_run(tmp_path, capsys):
    write_run(tmp_path / "mini" / "rte")
    text = says(capsys, "table-5.2", "--model", "mini", "--collect", "--runs", tmp_path)
    rows = [line.split("  ")[0] for line in text.splitlines() if line.rstrip().endswith(")")]
    assert rows[:2] == ["RTE, 0-shot", "WMT14 En-Fr, 0-shot"]
    assert "the miniature has no experiment on SNLI." in text
    assert "mini/enfr has not been run" in " ".join(text.split())


def test_a_figure_points_at_the_report(tmp_path, capsys):
    folder = write_run(tmp_path / "mini" / "rte")
    figure = ["figure-2", "--model", "mini", "--collect", "--runs", tmp_path]
    assert f"{folder} has no report with figure-2" in fails(capsys, *figure)
    (folder / "figures").mkdir()
    (folder / "figures" / "label_share.png").write_bytes(b"")
    text = says(capsys, *figure)
    assert f"{folder}/figures/label_share.png of {folder}/report.html" in text
    outputs = ["table-1", "--model", "mini", "--collect", "--runs", tmp_path]
    assert f"section 'Outputs' of {folder}/report.html" in says(capsys, *outputs)
    # Without a long run of its own the miniature shows its ordinary one.
    line = fails(capsys, "figure-5", "--model", "mini", "--collect", "--runs", tmp_path)
    assert f"{tmp_path}/mini/enfr has no report" in line


def test_reports_have_what_the_catalog_points_at():
    from promot_jax.report.charts import curves, trade_offs

    code = "".join(inspect.getsource(module) for module in (curves, trade_offs))
    files = {item.shown for item in catalog.ITEMS if item.shown.startswith("figures/")}
    assert len(files) == 4
    for file in files:
        assert f'"{pathlib.PurePath(file).stem}"' in code


def test_a_run_is_stopped_with_its_parent(tmp_path):
    program = (
        "import os, signal, sys, threading\n"
        "from promot_jax.commands import paper\n"
        "stop = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))\n"
        "stop.start()\n"
        "run = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'\n"
        "paper._call([sys.executable, '-c', run])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tabel-3"], "did you mean 'table-3'?"),
        (["table-3", "--model", "minni"], "did you mean 'mini'?"),
        (["table-7", "--model", "mini"], "models that do: mt5_xxl"),
        (["table-4"], "see `promot tasks`"),
        (["table-10"], """--gin.INITIAL_CHECKPOINT_PATH="'PATH'\""""),
        (["table-10", "--gin.INITIAL_CHECKPOINT_PATH='x'"], """ by --gin.VOCABULARY="'PATH'\""""),
        (["table-3", "--collect"], "has no run of table-3"),
        (["table-3", "--collect", "--dry-run"], "--dry-run does nothing with --collect"),
        (["table-3", "--collect", "--gin.A=1"], "--gin.A=1 does nothing with --collect"),
        (["table-3", "--seeds", "a"], "expected numbers such as 0,1,2"),
        (["table-3", "--dry-run", "--gin.TRAIN_STEP=1"], "did you mean TRAIN_STEPS?"),
        (["table-3", "--gin.MODEL_DIR='x'"], "is chosen by --runs here"),
        (["--model", "mini"], "--model needs a table or figure"),
        (["--gin.A=1"], "--gin.A=1 needs a table or figure"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    assert expected in fails(capsys, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ours", "papers"),
    [
        ("mini_wmt_ende_1shot", "wmt16_ende"),
        ("mini_wmt_enfr", "wmt14_enfr"),
        ("mini_web_questions_1shot", "web_questions"),
        ("web_questions_span_4shot", "web_questions"),
        ("wmt14_enfr_span", "wmt14_enfr"),
        ("rte", "rte"),
    ],
)
def test_our_tasks_are_the_papers(ours, papers):
    assert results.paper_task(ours) == papers
