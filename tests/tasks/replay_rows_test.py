"""General rows by a flag: a file or a registered task, their share, what is said and refused."""

import re

import pytest

from promot_jax import configuration
from promot_jax.base.errors import UserError
from promot_jax.data import generated, tasks
from promot_jax.experiment import epochs
from promot_jax.tasks import mini, replay_rows  # noqa: F401
from tests.commands.cli_test import fails
from tests.experiment.preview_test import TEMPLATES, previewed, write

GENERAL = [{"input": f"Q: what is {n} and {n}? A:", "target": f"it is {2 * n}"} for n in range(5)]
DATA = ["run", "your_data", "--preview", *TEMPLATES, "--train", "train.jsonl", "--eval"]


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Files in the working folder."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.jsonl")
    write(tmp_path / "general.jsonl", GENERAL)
    return tmp_path


def test_a_file_is_a_task_of_all_its_rows(rows):
    task, share = replay_rows.rows("general.jsonl:0.25")
    assert share == 0.25
    found = {row["inputs"]: row["targets"] for row in tasks.task(task).rows("train")}
    assert found == {row["input"]: row["target"] for row in GENERAL}
    assert replay_rows.rows("general.jsonl") == (task, 0.1)
    filled = replay_rows.rows("general.jsonl", "{target}?", "{input}")
    assert tasks.task(filled[0]).rows("train")[0]["inputs"].endswith("?")
    # A run that is opened again has no need of the file.
    checksum = tasks.get(task).source.checksum
    (rows / "general.jsonl").unlink()
    assert replay_rows.rows("general.jsonl:0.25", checksum=checksum) == (task, 0.25)


def test_a_registered_task_is_named():
    assert replay_rows.rows("mini_triviaqa:0.5") == ("mini_triviaqa", 0.5)
    assert replay_rows.rows("mini_rte_wmt_enfr") == ("mini_rte_wmt_enfr", 0.1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("general.jsonl:1.5", r"the share 1\.5 is none; give one above 0 and below 1"),
        ("general.jsonl:0", "the share 0 is none"),
        ("general.jsonl:nan", "the share nan is none"),
        ("generall.jsonl:0.2", "there is no file and no registered task 'generall.jsonl'"),
        ("mini_trivia", "there is no file and no registered task 'mini_trivia'"),
        (":0.1", "there is no file and no registered task ''"),
        ("train.jsonl:0.1", "line 1.*input"),
        ("broken.jsonl:0.1", "broken.jsonl.*line 1"),
        ("general.txt", "general.txt"),
        ("self:2", "the share 2 is none"),
        ("self@nowhere.jsonl:0.1", "there is no file and no registered task 'nowhere.jsonl'"),
        ("self@chat.jsonl", "template"),
    ],
)
def test_what_is_no_replay_is_said(rows, capsys, given, expected):
    (rows / "broken.jsonl").write_text("{")
    (rows / "general.txt").write_text("a text")
    turns = [{"role": role, "content": role} for role in ("user", "assistant")]
    write(rows / "chat.jsonl", [{"messages": turns}])
    assert re.search(expected, fails(capsys, *DATA, "train.jsonl", "--replay", given))


def test_the_model_itself_is_asked_for_rows(rows):
    nothing, share = replay_rows.rows("self:0.3", count=7)
    assert (len(tasks.task(nothing).rows("train")), share) == (7, 0.3)
    assert generated.source(nothing).original is None
    # Targets are not read; a file need not have any.
    write(rows / "texts.jsonl", [{"input": row["input"]} for row in GENERAL])
    after, share = replay_rows.rows("self@texts.jsonl")
    assert (len(tasks.task(after).rows("train")), share) == (len(GENERAL), 0.1)
    named, _ = replay_rows.rows("self@mini_triviaqa:0.5", count=9, begin=4)
    assert generated.source(named).original == "mini_triviaqa"
    assert len(tasks.task(named).rows("train")) == 9


@pytest.mark.long
def test_the_preview_says_what_the_model_will_write(rows, capsys):
    given = [*DATA[3:], "train.jsonl", "--replay", "self@general.jsonl:0.25"]
    said = previewed(capsys, *given, "--gin.REPLAY_TOKENS=20")
    assert "Replay: 5 rows that the start model writes after inputs of replay_general" in said
    assert "25 % of the rows of a batch" in said


@pytest.mark.long
def test_the_preview_shows_what_is_replayed(rows, capsys):
    given = [*DATA[3:], "train.jsonl", "--replay", "general.jsonl:0.25"]
    said = previewed(capsys, *given)
    assert re.search("Replay: 5 rows of replay_general_.*, 25 % of the rows of a batch", said)
    assert re.search(r"input   Q: what is .* A:\n  target  it is \d\n", said)
    # Labels have 2 tokens and these targets 5, with what ends them.
    (share,) = map(int, re.findall(r"about (\d+) % of the tokens in targets are of these", said))
    assert share == pytest.approx(100 * 0.25 * 5 / (0.25 * 5 + 0.75 * 2), abs=1)
    cut = previewed(capsys, *given, "--gin.REPLAY_FEATURE_LENGTHS={'inputs': 4, 'targets': 8}")
    assert re.search(r"inputs .* 4 +5\n", cut)


@pytest.mark.long
def test_experiments_take_it_by_name_and_by_flag(capsys):
    def replays(*flags):
        files = ["experiments/mini.gin", "tasks/replay.gin"]
        configuration.parse(files, [f"--gin.{flag}" for flag in flags])
        found = {}
        for method in configuration.built()[0].methods:
            found |= dict(zip(method.folders, method.stages, strict=True))
        return {folder: stage.replay for folder, stage in found.items()}

    found = replays("REPLAY='mini_triviaqa:0.2'")
    assert found["prompt"] is None
    assert found["lora_r2"] is None
    assert {found[name].share for name in ("model", "prompt-model", "lora_model")} == {0.2}
    assert epochs.settle(configuration.passes()).values == {}
    replays("REPLAY='mini_triviaqa:0.2'", "EPOCHS=1")
    # 4000 rows, of which a batch of 32 holds 25.6.
    settled = epochs.settle(configuration.passes())
    assert settled.values == {"TRAIN_STEPS": 157, "EVAL_PERIOD": 100}
    assert "in batches of 32, 20 % of them replay, are 157 steps" in settled.lines[0]
    pretraining = ["run", "mini_pretrain", "--preview", "--replay", "mini_triviaqa"]
    assert "does not use REPLAY" in fails(capsys, *pretraining)


def test_shares_and_splits_are_told_apart():
    assert replay_rows.split_share("folder:train") == ("folder:train", 0.1)
    assert replay_rows.split_share("folder:train:0.3") == ("folder:train", 0.3)
    with pytest.raises(UserError, match="share"):
        replay_rows.split_share("folder:1")
