"""A person's own questions as unseen tasks: what becomes of the files, and what is refused."""

import gzip
import json

import pytest

from promot_jax import cli
from promot_jax.base.errors import UserError
from promot_jax.data import tasks
from promot_jax.tasks import mini, unseen_files
from tests.commands.cli_test import MINI, at, fails
from tests.experiment.preview_test import TEMPLATES, previewed, write

pytestmark = pytest.mark.long

QUESTIONS = [
    {"input": "Q: the capital of mali? A:", "target": ["bamako", "Bamako"]},
    {"input": "Q: the pet of emma? A:", "target": "fox"},
]


def scores(name, predictions):
    """Returns what a task makes of the model's texts, in the order of its rows."""
    task = tasks.task(name, mini.vocabulary())
    rows = list(task.rows("test"))
    targets = [task.postprocess(None, example=row, is_target=True) for row in rows]
    said = [task.postprocess(predictions[row["inputs"]], example=row) for row in rows]
    (metric,) = task.metric_fns
    return metric(targets, said)


def test_each_file_is_a_task_whose_splits_have_all_rows(tmp_path):
    capitals = write(tmp_path / "our capitals.jsonl", QUESTIONS)
    news = write(tmp_path / "news.jsonl", QUESTIONS[1:])
    (name, *first), (_, *second) = unseen_files.tasks([capitals, f"rouge2={news}"])
    assert (first, second) == (["our capitals", "exact_match", True], ["news", "rouge2", True])
    for split in ("validation", "test"):
        found = {row["inputs"] for row in tasks.task(name).rows(split)}
        assert found == {row["input"] for row in QUESTIONS}


def test_a_compressed_file_has_the_name_of_what_it_holds(tmp_path):
    packed = tmp_path / "news.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(QUESTIONS[0]).encode()))
    ((_, label, *_),) = unseen_files.tasks([str(packed)])
    assert label == "news"


def test_an_answer_ends_with_its_line_unless_a_target_has_more(tmp_path):
    (name, *_), *_ = unseen_files.tasks([write(tmp_path / "one.jsonl", QUESTIONS)])
    said = {QUESTIONS[0]["input"]: " Bamako\nQ: and", QUESTIONS[1]["input"]: "a fox\nor not"}
    assert scores(name, said) == {"exact_match": 100.0}
    rows = [{"input": "two lines:", "target": "one\ntwo"}]
    (name, *_), *_ = unseen_files.tasks([write(tmp_path / "two.jsonl", rows)])
    assert scores(name, {"two lines:": "one\ntwo"}) == {"exact_match": 100.0}
    assert scores(name, {"two lines:": "one"}) == {"exact_match": 0.0}


def test_fields_of_other_names_take_a_template(tmp_path):
    file = write(tmp_path / "capitals.jsonl", [{"country": "mali", "capital": "bamako"}])
    ((name, *_),) = unseen_files.tasks([file], "Q: {country}? A:", "{capital}")
    assert scores(name, {"Q: mali? A:": "bamako"}) == {"exact_match": 100.0}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "UNSEEN_FILES (--unseen) names no file; give at least one"),
        (
            ("meteor=a.jsonl",),
            "--unseen meteor=a.jsonl: no metric 'meteor'; use accuracy, exact_match, ",
        ),
        (("a.jsonl", "b/a.jsonl"), "--unseen: two files are named 'a'; rename one"),
        (("gone.jsonl",), "gone.jsonl: there is no such file; check the path"),
        (("b/other.jsonl",), "b/other.jsonl, line 1: no field 'input'; it has question"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, monkeypatch, names, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").mkdir()
    for name in ("a.jsonl", "b/a.jsonl"):
        write(tmp_path / name, QUESTIONS)
    write(tmp_path / "b/other.jsonl", [{"question": "?"}])
    with pytest.raises(UserError) as found:
        unseen_files.tasks(names)
    assert str(found.value).startswith(message)
    assert "\n" not in str(found.value)


@pytest.mark.usefixtures("undrawn")
def test_a_run_is_bound_to_its_unseen_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"the box is {i}", "label": "yes" if i % 2 else "no"} for i in range(8)]
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "questions.jsonl", QUESTIONS)
    own = ["--train", "train.jsonl", "--eval", "train.jsonl", *TEMPLATES]
    own += ["--unseen", "questions.jsonl"]
    printed = previewed(capsys, *own)
    assert "questions, unseen: 2 rows; exact_match" in printed
    small = [flag for flag in MINI if "seeds" not in flag]
    command = ["run", "your_data", *own, at(tmp_path / "run"), *small, "--methods", "pretrained"]
    assert cli.main(command) == 0
    recorded = [json.loads(line) for line in (tmp_path / "run/results.jsonl").open()]
    assert [r["count"] for r in recorded[1:]] == [2]
    assert recorded[1]["task"].startswith("unseen_questions_")
    report = (tmp_path / "run/report.md").read_text()
    assert "Over the other task the pretrained model averages" in report
    assert cli.main(command) == 0
    write(tmp_path / "questions.jsonl", QUESTIONS[:1])
    assert "another configuration" in fails(capsys, *command)


def test_an_experiment_with_fixed_unseen_tasks_takes_none(tmp_path, capsys):
    file = write(tmp_path / "questions.jsonl", QUESTIONS)
    said = fails(capsys, "run", "cpu_smoke", "--unseen", file, "--preview")
    assert said.startswith("promot: --unseen: the experiment cpu_smoke does not use ")
