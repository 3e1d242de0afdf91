"""What is said of the data before training, and how a run is bound to a person's rows."""

import json
import os
import re

import pytest

from promot_jax import cli, configuration
from promot_jax.base.errors import UserError
from promot_jax.experiment import preview
from promot_jax.tasks import mini
from tests.commands.cli_test import MINI, at, fails
from tests.commands.your_task_test import write_small_model

pytestmark = pytest.mark.long

WORDS = ("red", "blue", "heavy", "green", "long", "short", "old", "new", "cold", "warm")
ROWS = [
    {"text": f"the box is {word}", "label": "yes" if i % 4 else "no"}
    for i, word in enumerate(
        ["red", "blue", "heavy", "green", "long", "short", "old", "new", "cold", "warm"] * 2
    )
]
TEMPLATES = ["--template", "question: {text}, is it a colour? answer:", "--target", "{label}"]


def write(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two files in the working folder; returns the flags that name them."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.jsonl")
    write(
        tmp_path / "dev.jsonl",
        [{**row, "text": f"{row['text']} {i}"} for i, row in enumerate(ROWS)],
    )
    return ["--train", "train.jsonl", "--eval", "dev.jsonl", *TEMPLATES]


def previewed(capsys, *arguments):
    assert cli.main(["run", "your_data", "--preview", *arguments]) == 0
    return capsys.readouterr().out


def test_the_preview_says_what_the_rows_are(files, tmp_path, capsys):
    said = previewed(capsys, *files)
    assert "20 train, 10 validation, 10 test rows; accuracy" in said
    assert "dev.jsonl is dealt to validation" in said
    assert re.search(r"  input   question: the box is .*\n  target  (yes|no)\n", said)
    assert said.count("  input ") == 3
    assert "classes in train: yes 75.0 %, no 25.0 %" in said
    longest = max(
        len(mini.vocabulary().encode(line)) + 1 for line in re.findall("input   (.*)", said)
    )
    rows = re.findall(r"  inputs +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)", said)
    assert longest <= int(rows[0][2]) <= int(rows[0][3]) < longest + 16
    assert "\n  oracle 100.0\n" in said
    assert "XSum, unseen: rouge2, oracle 100.0" in said
    assert "warning" not in said
    assert sorted(os.listdir(tmp_path)) == ["dev.jsonl", "train.jsonl"]
    cut = previewed(capsys, *files, "--gin.TASK_FEATURE_LENGTHS={'inputs': 4, 'targets': 8}")
    assert re.search(r"  inputs .* 4 +40\n", cut)


def test_the_preview_warns(files, tmp_path, capsys):
    rows = [*ROWS[:7], {"text": "☃" * 300, "label": "perhaps"}]
    write(tmp_path / "test.jsonl", rows)
    said = previewed(capsys, *files, "--test", "test.jsonl")
    assert "20 train, 20 validation, 8 test rows" in said
    assert "test is test.jsonl, read once" in said.replace(f"{tmp_path}/", "")
    assert "warning: 7 of 8 test inputs are in train too" in said
    assert "warning: test has labels that train has not: perhaps" in said
    assert re.search(r"warning: \d+\.\d % of the tokens are unknown", said)


def test_the_preview_says_what_perfect_answers_score(files, tmp_path, capsys):
    for name in ("train.jsonl", "dev.jsonl"):
        rows = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        labels = {"yes": "yes，it is", "no": "☃"}
        write(tmp_path / name, [row | {"label": labels[row["label"]]} for row in rows])
    said = previewed(capsys, *files)
    (score,) = map(float, re.findall(r"\n  oracle (.*)\n", said))
    assert score == pytest.approx(75, abs=0.1)
    assert f"warning: oracle {score}: perfect answers" in said
    assert "warning: 5 of 20 targets hold characters that the vocabulary does not know" in said
    write(tmp_path / "keep.jsonl", [{"input": "a", "target": t} for t in ("yes!", "yes", "C++")])
    said = previewed(capsys, *files, "--unseen", "keep.jsonl")
    assert "warning: targets that count as equal by exact_match" in said
    assert "'yes' and 'yes!'" in said


def test_any_experiment_has_a_preview(tmp_path, capsys):
    assert cli.main(["run", "mini", "--preview", at(tmp_path / "run"), *MINI]) == 0
    said = capsys.readouterr().out
    assert "RTE: " in said
    assert "classes in train: " in said
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a tiny model; the flags that made it, and its folder."""
    folder = tmp_path_factory.mktemp("own")
    train, dev = write(folder / "train.jsonl"), write(folder / "dev.jsonl", ROWS[:12])
    # gin writes such a text over several lines.
    template = (
        "question: {text}, 'is' it a \"colour\"? " + "Think of all that you know. " * 6 + "A:"
    )
    flags = ["--train", train, "--eval", dev, "--template", template, "--target", "{label}"]
    flags += [at(folder / "run"), *MINI, "--gin.TASKS=[]"]
    assert cli.main(["run", "your_data", *flags, "--methods", "pretrained,prompt_tuning"]) == 0
    return flags, folder


def test_a_run_holds_all_that_it_needs(run, tmp_path, monkeypatch, capsys):
    _, folder = run
    config = (folder / "run" / "config.gin").read_text()
    assert f"TRAIN_FILE = '{folder}/train.jsonl'" in config
    assert "LABELS = ('no', 'yes')" in config
    results = [json.loads(line) for line in (folder / "run" / "results.jsonl").open()]
    assert {r["method"] for r in results} == {"pretrained", "prompt_tuning"}
    assert len(results) == 2
    # Without its files and from elsewhere.
    monkeypatch.chdir(tmp_path)
    kept = (folder / "train.jsonl").read_text()
    (folder / "train.jsonl").unlink()
    words = ["generate", str(folder / "run"), "--prompt", "your_data", "question: x", "question: x"]
    assert cli.main(words) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    (folder / "train.jsonl").write_text(kept)


def test_a_run_refuses_other_rows(run, capsys):
    flags, folder = run
    kept = (folder / "train.jsonl").read_text()
    (folder / "train.jsonl").write_text(kept + '{"text": "new", "label": "no"}\n')
    line = fails(capsys, "run", "your_data", *flags)
    assert "another configuration (first difference: DATA_CHECKSUM" in line
    configuration.parse([str(folder / "run" / "config.gin")])
    experiment = configuration.built()[0]
    (folder / "train.jsonl").write_text(kept)
    assert preview.needed(experiment)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "mini", "--train", "train.jsonl"], "--train: the experiment mini does not use"),
        (["run", "your_data"], "TRAIN_FILE (--train) is not set"),
        (["run", "your_data", "--train", "lost.jsonl"], "EVAL_FILE (--eval) is not set"),
        (["run", "your_data", "FILES", "--train", "lost.jsonl"], "lost.jsonl: there is no such"),
        (
            ["run", "your_data", "FILES", "--metric", "meteor"],
            "METRIC (--metric) 'meteor' is unknown",
        ),
        (["run", "your_data", "FILES", "--template", "{txt}"], "line 1: no field 'txt'; it has"),
        (
            ["run", "your_data", "FILES", "--methods", "promt"],
            "no method 'promt' in this experiment; did you mean 'promot'?",
        ),
        (["run", "your_data", "FILES", "--methods", "a b"], "expected names such as promot"),
        (["run", "your_data", "FILES", "--checkpoint", "nowhere"], "nowhere"),
    ],
)
def test_bad_flags_are_one_line(files, capsys, arguments, expected):
    flags = [word for a in arguments for word in (files if a == "FILES" else [a])]
    assert expected in fails(capsys, *flags)


def test_another_checkpoint_brings_its_vocabulary(files, tmp_path, capsys):
    write_small_model(tmp_path)
    said = previewed(capsys, *files, "--checkpoint", "models/base")
    # A byte is a token there.
    shown = re.findall(r"  inputs +(\d+) +(\d+) +(\d+) +(\d+)", said)[0]
    longest = max(len(line) for line in re.findall("input   (.*)", said))
    assert int(shown[2]) > longest
    assert "warning: to this decoder-only model input and target are one text" in said
    spaced = previewed(capsys, *files, "--checkpoint", "models/base", "--target", " {label}")
    assert "warning" not in spaced


def test_exemplars_are_asked_for_only_where_a_chosen_method_trains_with_them(files, tmp_path):
    write(tmp_path / "train.jsonl", ROWS[:1])
    macros = {"TRAIN_FILE": files[1], "EVAL_FILE": files[3], "TEMPLATE": files[5]}
    macros["TARGET_TEMPLATE"] = files[7]

    def settled(*methods):
        given = [
            f"--gin.{name}={value!r}" for name, value in (macros | {"METHODS": methods}).items()
        ]
        configuration.parse([configuration.experiment_file("your_data")], given, [])
        return preview.Preview(configuration.built()[0]).settled()

    found = settled("fine_tuning", "promot")
    assert found["TASK_FEATURE_LENGTHS"] == {"inputs": 24, "targets": 8}
    assert "ONE_SHOT_TASK_FEATURE_LENGTHS" not in found
    with pytest.raises(UserError, match=r"too few rows to put 1 other before each .*leave out"):
        settled("fine_tuning", "promot_1shot")
    # Two rows do, for methods that join the run later too.
    write(tmp_path / "train.jsonl", ROWS[:2])
    assert settled("fine_tuning")["ONE_SHOT_TASK_FEATURE_LENGTHS"]["inputs"] > 24
