"""Scalars of a stage, and lines of records: what a dying process leaves."""

import json
import subprocess
import sys

import pytest

from promot_jax.base import files, metric_writers
from promot_jax.base.jsonl import append_jsonl, read_jsonl

MARKS = ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\n", "ü中")
RECORDS = [{"text": f"a{mark}b"} for mark in MARKS]


def test_records_are_lines_whatever_they_hold(tmp_path):
    path = tmp_path / "a.jsonl"
    append_jsonl(path, RECORDS[:4])
    append_jsonl(path, RECORDS[4:])
    assert read_jsonl(path) == RECORDS


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_record_is_whole_or_not_there(tmp_path, cut):
    """Wherever the second line was cut off, in the middle of a letter too."""
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in ({"a": 1}, {"ü中": "é"})]
    path.write_bytes(b"".join(lines)[: len(lines[0]) + cut])
    before = read_jsonl(path)
    append_jsonl(path, [{"c": 3}])
    assert read_jsonl(path) == [*before, {"c": 3}]
    assert before == [{"a": 1}] + [{"ü中": "é"}] * (cut >= len(lines[1]) - 1)


def test_a_damaged_line_hides_no_other(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"b": {"c\n[2]\n\0\0\n\n{"d": 4}\n')
    assert read_jsonl(tmp_path / "a.jsonl") == [{"a": 1}, {"d": 4}]


def test_the_lines_of_a_stage_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    writer = metric_writers.JsonlWriter(path, -1)
    for step in range(5):
        writer.write_scalars(step, {"a": step})
    writer.close()
    before = path.read_bytes()

    def dies(file):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", dies)
        with pytest.raises(KeyboardInterrupt):
            metric_writers.JsonlWriter(path, 2)
    assert path.read_bytes() == before
    metric_writers.JsonlWriter(path, 2).close()
    assert [line["step"] for line in read_jsonl(path)] == [0, 1, 2]


# TensorBoard's own reader, which takes what it needs of TensorFlow from a stub.
READ = """
import json, sys
sys.modules["tensorflow"] = None
from tensorboard.backend.event_processing import event_accumulator
read = event_accumulator.EventAccumulator(sys.argv[1])
read.Reload()
print(json.dumps({
    name: [(event.step, event.value) for event in read.Scalars(name)]
    for name in read.Tags()["scalars"]
}))
"""


def events(folder) -> dict[str, list]:
    """Returns what TensorBoard shows of a folder: {name: [[step, value], …]}."""
    command = [sys.executable, "-c", READ, str(folder)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.long
def test_tensorboard_shows_what_was_written(tmp_path):
    writer = metric_writers.create(tmp_path / "metrics.jsonl", -1)
    writer.write_scalars(0, {"validation/score": 50})
    writer.write_scalars(20, {"train/loss": 0.5, "validation/score": 75.25})
    # It is there before the writer is closed.
    shown = events(tmp_path)
    writer.close()
    assert shown == {
        "validation/score": [[0, 50.0], [20, 75.25]],
        "train/loss": [[20, 0.5]],
    }
    lines = read_jsonl(tmp_path / "metrics.jsonl")
    assert lines == [
        {"step": 0, "validation/score": 50.0},
        {"step": 20, "train/loss": 0.5, "validation/score": 75.25},
    ]


@pytest.mark.long
def test_tensorboard_shows_a_step_once_after_a_resumption(tmp_path):
    dies = metric_writers.create(tmp_path / "metrics.jsonl", -1)
    for step in (0, 10, 20, 30):
        dies.write_scalars(step, {"a": step})
    again = metric_writers.create(tmp_path / "metrics.jsonl", 10)
    again.write_scalars(20, {"a": 21})
    again.close()
    assert events(tmp_path) == {"a": [[0, 0.0], [10, 10.0], [20, 21.0]]}
    assert [line["a"] for line in read_jsonl(tmp_path / "metrics.jsonl")] == [0, 10, 21]


def test_writing_events_loads_neither_tensorflow_nor_torch(tmp_path):
    program = (
        "import pathlib, sys\n"
        "from promot_jax.base import metric_writers\n"
        "metric_writers.EventWriter(pathlib.Path(sys.argv[1]), -1).write_scalars(1, {'a': 2})\n"
        "print([name for name in ('tensorflow', 'torch', 'clu') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == "[]\n"
