"""Rows on disk: what is written is read, whole or not at all, by whoever asks at the same time."""

import errno
import json
import multiprocessing
import os
import pickle
import threading
import time

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from promot_jax.base.errors import UserError
from promot_jax.data import row_store

ROWS = [{"inputs": "a\nb\u2028 漢", "targets": "1"}, {"inputs": "", "answers": ["x", "y"]}, {}]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv(row_store.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(rows=ROWS, key="rows", calls=None):
    """Returns the rows of a cache; `calls` grows by one for each time that they are written."""

    def write(writer):
        for row in rows:
            writer.add(row)
            writer.append("letters", b"ab")
        assert writer.appended("letters").tobytes() == b"ab" * len(rows)
        writer.save("numbers", np.arange(len(rows)))
        if calls is not None:
            calls.append(key)
        return {"said": "é"}

    return row_store.cached(row_store.fingerprint(key), write)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(JSON, max_size=8))
def test_what_is_written_is_read_in_any_order(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    writer = row_store.Writer(folder)
    for row in rows:
        writer.add(row)
    writer.finish("", {})
    found = row_store.Stored(folder)
    assert len(found) == len(rows)
    assert [found[i] for i in reversed(range(len(rows)))] == rows[::-1]
    assert list(found) == rows
    assert found.many(np.arange(len(rows))[::-1]) == rows[::-1]
    assert all(found[i] == rows[i] for i in range(-len(rows), 0))
    for number in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError):
            found[number]


def test_rows_are_written_once(place):
    calls = []
    first = written(calls=calls)
    second = written(calls=calls)
    assert calls == ["rows"]
    assert list(first) == list(second) == ROWS
    assert second.facts == {"said": "é"}
    assert second.array("numbers").tolist() == [0, 1, 2]
    assert second.bytes_of("letters").tobytes() == b"ababab"
    assert list(written(ROWS[:1], key="other", calls=calls)) == ROWS[:1]
    assert calls == ["rows", "other"]
    assert len(list(place.iterdir())) == 2


def test_many_rows_take_several_writes():
    rows = [{"inputs": "x" * 1000, "number": i} for i in range(3000)]
    found = written(rows)
    assert [found[i]["number"] for i in (0, 1, 1499, 2999)] == [0, 1, 1499, 2999]
    assert list(found) == rows


@pytest.mark.parametrize("name", ["rows.jsonl", "ends.bin", "letters.bin", "about.json"])
@pytest.mark.parametrize("harm", ["cut", "longer", "gone"])
def test_what_is_not_whole_is_written_again(name, harm):
    calls = []
    file = written(calls=calls).folder / name
    if harm == "gone":
        file.unlink()
    else:
        whole = file.read_bytes()
        file.write_bytes(whole[:-2] if harm == "cut" else whole + b"}]")
    with pytest.raises(UserError, match=r"holds no whole rows; remove it"):
        row_store.Stored(file.parent)
    assert list(written(calls=calls)) == ROWS
    assert len(calls) == 2
    assert len(list(file.parent.parent.iterdir())) == 1


def test_a_row_that_is_damaged_is_named():
    found = written()
    file = found.folder / "rows.jsonl"
    file.write_bytes(file.read_bytes().replace(b"{", b"?"))
    with pytest.raises(UserError, match=r"is damaged; remove it, and the rows are read again"):
        found[0]
    with pytest.raises(UserError, match=r"is damaged; remove it"):
        found.many(np.arange(3))


def test_nothing_is_left_of_what_fails(place, monkeypatch):
    def write(writer):
        writer.add({})
        raise UserError("line 7")

    with pytest.raises(UserError, match="line 7"):
        row_store.cached(row_store.fingerprint(1), write)
    assert list(place.iterdir()) == []

    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(row_store, "_write", full)
    with pytest.raises(UserError) as found:
        written()
    message = str(found.value)
    assert message.startswith(str(place))
    assert message.endswith(
        "cannot be written (the disk is full); make room there, or set PROMOT_CACHE to another "
        "folder"
    )
    assert list(place.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(row_store.VARIABLE, str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"file cannot be written \(.*set PROMOT_CACHE"):
        written()


def test_rows_are_read_in_other_processes_and_threads():
    found = written([{"n": i} for i in range(1000)])
    assert found[3] == {"n": 3}
    assert pickle.loads(pickle.dumps(found))[5] == {"n": 5}
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(found.__getitem__, range(1000)) == list(found)
    fresh, seen = pickle.loads(pickle.dumps(found)), []
    threads = [
        threading.Thread(target=lambda: seen.extend(fresh[i]["n"] for i in range(1000)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted(list(range(1000)) * 8)


def _write_slowly(turn):
    def write(writer):
        for i in range(300):
            writer.add({"n": i})
        time.sleep(0.2)
        return {}

    found = row_store.cached(row_store.fingerprint("race"), write)
    return [found[i]["n"] for i in range(300)]


@pytest.mark.parametrize("damaged", [False, True])
def test_processes_that_write_at_the_same_time_do_no_harm(place, damaged):
    if damaged:
        _write_slowly(0)
        (file,) = place.glob("*/about.json")
        file.write_text("{")
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_write_slowly, range(4)) == [list(range(300))] * 4
    assert len(list(place.iterdir())) == 1


def test_what_nobody_opens_for_long_is_removed_and_nothing_else(place):
    old, used = written(key="old"), written(key="used")
    left = place / f"{row_store.fingerprint('left')}.abc.partial"
    mine = place / "mine"
    for folder in (left, mine):
        folder.mkdir()
        (folder / "rows.jsonl").write_text("")
    (place / "note").write_text("")
    for file in place.rglob("*"):
        os.utime(file, (1, 1))
    written(key="used")
    written(key="new")
    assert not old.folder.exists()
    assert not left.exists()
    assert used.folder.exists()
    assert (mine / "rows.jsonl").exists()
    assert (place / "note").exists()


def test_a_fingerprint_is_of_all_that_is_given():
    parts = [("a", 1), ("a", 2), ("a1",), ("a", None), (["a", 1],)]
    assert len({row_store.fingerprint(*given) for given in parts}) == len(parts)
    assert json.dumps(row_store.fingerprint("é")).isascii()
