"""Lines of records: what a dying process leaves, and texts that hold other line ends."""

import json

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
