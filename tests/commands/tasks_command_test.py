"""`promot tasks`: every registered task on a line, rows of one as texts and tokens."""

import json
import re
import shutil

import pytest
import seqio

from promot_jax import checkpoints, cli
from promot_jax.tasks import mini
from tests.commands.cli_test import fails
from tests.commands.your_task_test import write_tokenizer


def printed(capsys, *arguments):
    assert cli.main(["tasks", *arguments]) == 0
    return capsys.readouterr().out


def test_every_task_is_listed(capsys):
    lines = printed(capsys).splitlines()
    start = lines[0].index("SPLITS")
    assert {line[start - 1] for line in lines} == {" "}
    names = [line.split()[0] for line in lines[1:]]
    assert set(names) == seqio.TaskRegistry.names() | seqio.MixtureRegistry.names()
    assert {"mini_rte", "mini_rte_1shot", "rte", "rte_1shot", "wmt14_enfr"} <= set(names)
    found = {line.split()[0]: re.split("  +", line)[1:] for line in lines}
    assert found["mini_rte"] == [
        "the miniature, for RTE",
        "train, validation, test",
        "accuracy",
    ]
    assert found["rte"][0].startswith("tfds super_glue/rte:")
    assert found["rte_wmt14_enfr"] == ["mixture of rte and wmt14_enfr", "train, validation, test"]


def test_rows_are_shown_as_texts_and_tokens(capsys):
    said = printed(
        capsys, "show", "mini_triviaqa", "--shots", "1", "--split", "test", "--count", "2"
    )
    assert said.count("mini_triviaqa_1shot, test\n") == 2
    row = next(
        seqio.TaskRegistry.get("mini_triviaqa_1shot")
        .get_dataset(None, "test", shuffle=False)
        .as_numpy_iterator()
    )
    assert f"  inputs: {row['inputs_pretokenized'].decode()}\n" in said
    target = row["targets_pretokenized"].decode()
    assert f"  accepted: {target}\n" in said
    # The ids are the row's, but for the end of sequence, and the pieces are theirs.
    assert f"    ids: {' '.join(map(str, row['inputs'][:-1]))}\n" in said
    piece = mini.vocabulary().tokenizer.id_to_piece(int(row["inputs"][0]))
    assert re.search(rf"{len(row['inputs']) - 1} pieces: {piece} ", said)


def test_a_file_or_checkpoint_brings_its_vocabulary(tmp_path, capsys):
    write_tokenizer(tmp_path)
    flags = ["--vocabulary", str(tmp_path / "tokenizer.json")]
    said = printed(capsys, "show", "mini_rte", "--count", "1", *flags)
    text = re.search("inputs: (.*)", said)[1]
    assert f"{len(text)} pieces: {text[0]} {text[1]} " in said
    arguments = ("show", "mini_rte", "--count", "1")
    bundled = printed(capsys, *arguments, "--checkpoint", checkpoints.bundled())
    assert bundled == printed(capsys, *arguments)
    wordless = shutil.copytree(checkpoints.bundled(), tmp_path / "wordless")
    about = json.loads((wordless / "model.json").read_text())
    del about["vocabulary"]
    (wordless / "model.json").write_text(json.dumps(about))
    line = fails(capsys, "tasks", *arguments, "--checkpoint", str(wordless))
    assert "wordless has no vocabulary; give one by --vocabulary" in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["show"], "needs the name of a task"),
        (["show", "mini_rtte"], "did you mean 'mini_rte"),
        (["show", "mini_rte", "--shots", "7"], "'mini_rte_7shot'; did you mean 'mini_rte_1shot'"),
        (["show", "mini_rte", "--split", "dev"], "no split 'dev'; it has train, validation, test"),
        (
            ["show", "mini_rte", "--count", "0"],
            "--count = 0: expected a whole number of at least 1",
        ),
        (["show", "rte_wmt14_enfr"], "is a mixture; name one of its tasks: rte, wmt14_enfr"),
        (["show", "mini_rte", "--vocabulary", "lost.json"], "lost.json"),
        (["show", "mini_rte", "--module", "lost_module"], "--module lost_module: No module"),
        (["list", "mini_rte"], "takes no 'mini_rte'"),
        (["--shots", "1"], "--shots goes with `promot tasks show NAME`"),
    ],
)
def test_bad_requests_are_one_line(capsys, arguments, expected):
    assert expected in fails(capsys, "tasks", *arguments)


def test_a_data_set_that_is_elsewhere_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    line = fails(capsys, "tasks", "show", "rte")
    assert f"super_glue/rte:1.0.2 is not in {tmp_path}; fetch it with `tfds build" in line
