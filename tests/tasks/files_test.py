"""Rows of a person's own files: what becomes of them, and what is said of what is wrong."""

import csv
import json
import os
import pickle
import time

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from pyarrow import parquet

from promot_jax.base.errors import UserError
from promot_jax.data import tasks
from promot_jax.data.metrics import METRICS
from promot_jax.tasks import files, mini, own_rows, row_files, row_sets

ROWS = [{"text": f"thing {i}", "label": "yes" if i % 3 else "no"} for i in range(12)]


def write(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def splits(train, evaluation, **changes):
    settings = {"template": "is {text}? answer:", "target": "{label}"}
    settings |= {"metric": METRICS["accuracy"], "test": None} | changes
    found = files.Data(train, evaluation, **settings).splits()
    return {split: list(rows) for split, rows in found.items()}


def fails(path, **changes):
    with pytest.raises(UserError) as found:
        splits(str(path), str(path), **changes)
    assert len(str(found.value).splitlines()) == 1
    return str(found.value)


def texts(rows):
    return sorted((row["inputs"], row["targets"]) for row in rows)


EXPECTED = sorted((f"is {row['text']}? answer:", row["label"]) for row in ROWS)


def test_the_rows_of_a_file_are_dealt_to_validation_and_test(tmp_path):
    one, other = write(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl", ROWS[:5])
    found = splits(one, one)
    assert texts(found["train"]) == EXPECTED
    assert [len(rows) for rows in found.values()] == [12, 6, 6]
    assert texts([*found["validation"], *found["test"]]) == EXPECTED
    apart = splits(one, one, test=other)
    assert texts(apart["validation"]) == EXPECTED
    assert texts(apart["test"]) == sorted(texts(splits(other, other)["train"]))
    assert len(apart["test"]) == 5


def test_a_file_that_is_sorted_by_label_is_mixed(tmp_path):
    rows = [{"text": f"x{i}", "label": str(i >= 40)} for i in range(80)]
    found = splits(*[write(tmp_path / "a.jsonl", rows)] * 2)
    for part in (found["train"][:20], found["validation"][:20], found["test"]):
        assert 4 <= sum(row["targets"] == "True" for row in part) < len(part) - 4
    reversed_rows = splits(*[write(tmp_path / "b.jsonl", rows[::-1])] * 2)
    assert reversed_rows == found


@pytest.mark.parametrize("suffix", ["json", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    rows = [*ROWS, {"text": 'a "b", c\nd\té', "label": "no"}]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "json":
        write(path, rows)
    elif suffix == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(
                file, ["text", "label"], delimiter="\t" if suffix == "tsv" else ","
            )
            writer.writeheader()
            writer.writerows(rows)
    assert splits(str(path), str(path)) == splits(*[write(tmp_path / "a.jsonl", rows)] * 2)


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip),
    label=st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
)
def test_any_text_and_number_is_kept(tmp_path_factory, text, label):
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    found = splits(*[write(path, [{"text": text, "label": label}] * 2)] * 2, template="{{{text}}}")
    assert {row["inputs"] for row in found["train"]} == {"{" + text + "}"}
    assert {row["targets"] for row in found["train"]} == {json.dumps(label)}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"txt": "a", "label": "b"}', "line 3: no field 'text'; it has txt, label"),
        (b'{"text": "a" "label": "b"}', "line 3: not JSON (Expecting"),
        (b'["a", "b"]', "line 3: no JSON object"),
        (b'{"text": null, "label": "b"}', "line 3: field 'text' is null"),
        (b'{"text": "a", "label": NaN}', "line 3: field 'label' is nan"),
        (b'{"text": "a", "label": {}}', "line 3: field 'label' is an object"),
        (b'{"text": ["a"], "label": "b"}', "line 3: field 'text' is a list"),
        (b'{"text": "a", "label": ["b"]}', "line 3: field 'label' is a list; only exact_match"),
        (b'{"text": " ", "label": "b"}', "line 3: text empty"),
        (b'{"text": "a", "label": ""}', "line 3: label empty"),
        (
            b'{"text": "a", "text": "b", "label": "b"}',
            "line 3: not JSON ('text' twice in an object",
        ),
        (b'{"text": "\xe9", "label": "b"}', "line 3: byte 11 is not UTF-8"),
        (b'{"text": "\\ud800", "label": "b"}', "line 3: field 'text' holds half a character"),
        (b"[" * 100_000, "line 3: nested too deeply"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, expected):
    path = tmp_path / "data.jsonl"
    write(path)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:2], line, *lines[2:]]))
    assert f"{path}, {expected}" in fails(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("text,label\na,b\na,b,c\n", "line 3: 3 columns, the first line names 2 (text, label)"),
        ('text,label\n"a\nb",c\nd\n', "line 4: 1 columns"),
        ("text,text\na,b\n", "line 1: has 'text' twice"),
        ('text,label\n"a,b\n', "line 2: the quote that opens here is not closed"),
        ("text,label\n", "holds no row"),
        ("", "holds no row"),
    ],
)
def test_a_bad_table_is_named(tmp_path, text, expected):
    (tmp_path / "data.csv").write_text(text)
    assert expected in fails(tmp_path / "data.csv")


def test_a_bad_file_is_named(tmp_path):
    assert "there is no such file" in fails(tmp_path / "lost.jsonl")
    assert "is a folder without rows" in fails(tmp_path)
    (tmp_path / "a.xlsx").write_text("x")
    assert "no reader for .xlsx; use .jsonl, .json, .csv, .tsv, .parquet, .arrow" in fails(
        tmp_path / "a.xlsx"
    )
    (tmp_path / "a.parquet").write_text("no parquet")
    assert "holds no Parquet rows" in fails(tmp_path / "a.parquet")
    parquet.write_table(
        pa.table({"text": ["a", None], "label": ["b", "c"]}), tmp_path / "n.parquet"
    )
    assert "n.parquet, row 2: field 'text' is null" in fails(tmp_path / "n.parquet")
    write(tmp_path / "one.jsonl", ROWS[:1])
    assert "needs 2 rows at least" in fails(tmp_path / "one.jsonl")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{text.x}", "no field 'text.x'; text is a text"),
        ("{text[0]}", "no field 'text[0]'; text is a text"),
        ("{0}", "no field '0'; it has text, label"),
        ("{}", "{} is no field"),
        ("{text!r}", "{text!r} is no field"),
        ("{text:>9}", "{text:>9} is no field"),
        ("text", "has no field"),
        ("{{text}}", "has no field"),
        ("{text} }", "write {{ and }} for braces"),
        ("{text", "write {{ and }} for braces"),
        ("{text}\udcff", "is not UTF-8"),
    ],
)
def test_a_bad_template_is_named(tmp_path, template, expected):
    path = write(tmp_path / "a.jsonl")
    for which in ("template", "target"):
        assert expected in fails(path, **{which: template})


def register(path, **changes):
    given = {"template": "is {text}? answer:", "target": "{label}"} | changes
    return files.task(str(path), str(path), **given)


def processed(name, split="test"):
    """Returns the task, and its rows as metrics get them."""
    task = tasks.task(name)
    return task, list(task.rows(split))


def test_equal_rows_are_one_task_and_others_another(tmp_path):
    path, copy = write(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl")
    name = register(path)
    assert name.startswith("your_data_")
    assert register(path) == register(copy) == name
    assert register(path, metric="bleu") != name
    assert register(write(tmp_path / "c.jsonl", ROWS[1:])) != name
    assert files.labels(name) == ("no", "yes")
    assert files.labels(register(path, metric="exact_match")) == ()


def test_equal_rows_keep_the_checksum_that_runs_hold(tmp_path):
    rows = [*ROWS, {"text": 'a "b", c\nd\té 漢', "label": 0.5}, {"text": 7, "label": True}]
    one = str(write(tmp_path / "a.jsonl", rows))
    assert register(one) == "your_data_741be5e6"


def test_one_row_to_train_on_and_one_of_each_other_split_will_do(tmp_path):
    one = write(tmp_path / "one.jsonl", ROWS[:1])
    assert [len(rows) for rows in splits(one, one, test=one).values()] == [1, 1, 1]
    message = fails(one)
    assert "one.jsonl needs 2 rows at least: for validation and for test; add one, or" in message
    assert message.endswith("--test (TEST_FILE)")


def test_a_changed_file_is_noticed(tmp_path):
    path = write(tmp_path / "a.jsonl")
    checksum = tasks.get(register(path)).source.checksum
    name = register(path, checksum=checksum)
    assert len(processed(name, "train")[1]) == 12
    # The same rows at another time, and in another order, are the same rows.
    write(tmp_path / "a.jsonl", ROWS[::-1])
    assert len(processed(name, "train")[1]) == 12
    write(tmp_path / "a.jsonl", [*ROWS[1:], {"text": "new", "label": "no"}])
    with pytest.raises(UserError, match="have changed since the run began"):
        processed(name)
    # A run opens without its files.
    os.remove(path)
    assert register(path, checksum=checksum) == name


def test_an_output_is_cut_by_the_strictest_rule_that_keeps_all_targets(tmp_path):
    def judged(output, *labels, **changes):
        rows = [{"text": "a", "label": label} for label in labels] * 2
        task, _ = processed(register(write(tmp_path / "a.jsonl", rows), **changes))
        return task.postprocess(output, is_target=False)

    assert judged("yes. The box", "yes", "no") == "yes"
    assert judged("not at all", "not at all", "yes") == "not at all"
    assert judged("a fox Q: b", "yes", metric="exact_match") == "a fox"
    assert judged(" what Q: b ", "what Q: b", metric="exact_match") == "what Q: b"


def test_the_rule_is_chosen_once_for_each_vocabulary(tmp_path, monkeypatch):
    # As the miniature's vocabulary writes it, this label has a space.
    rows = [{"text": f"{i}", "label": label} for i, label in enumerate(["ye\u3000s", "no"] * 2)]
    name = register(write(tmp_path / "a.jsonl", rows), metric="exact_match")
    first = tasks.task(name, mini.vocabulary()).postprocess
    assert first("no\nyes", example={}) == "no"
    monkeypatch.setattr(files.RowSource, "checked", lambda self: pytest.fail("read again"))
    again = tasks.task(name, mini.vocabulary()).postprocess
    assert again("no\nyes", example={}) == "no"


@pytest.mark.parametrize("metric", ["accuracy", "exact_match"])
def test_the_rule_holds_for_targets_as_the_vocabulary_writes_them(tmp_path, metric):
    # Written with plain characters, it would be cut at the second "Q:".
    rows = [{"text": f"{i}", "label": "so \uff31\uff1a it"} for i in range(4)]
    task = tasks.task(register(write(tmp_path / "a.jsonl", rows), metric=metric), mini.vocabulary())
    assert task.postprocess("so Q: it", example={}) == "so Q: it"
    plain = tasks.task(task.name)
    assert plain.postprocess("so Q: it", example={}) == "so"


@settings(max_examples=200, deadline=None)
@given(
    st.text() | st.sampled_from(["Q: a Q: b", "a.", "<extra_id_0> x", "a b", "a\nb", "Article:"])
)
def test_what_a_strict_rule_keeps_those_behind_it_keep(answer):
    answer = answer.strip()
    kept = [rule(answer) == answer for rule in own_rows.RULES]
    assert kept == sorted(kept)
    assert own_rows.strictest([answer]) == kept.index(True)


def test_digests_that_begin_alike_are_told_apart_by_the_rest():
    digests = np.zeros((6, own_rows.DIGEST), np.uint8)
    digests[:, 0] = [2, 1, 2, 0, 255, 2]
    digests[:, 20] = [3, 0, 1, 0, 0, 2]
    assert own_rows.in_order(digests).tolist() == [3, 1, 2, 5, 0, 4]
    assert own_rows.in_order(digests[:, :][[1, 3, 4]]).tolist() == [1, 0, 2]


def test_rows_are_read_from_the_disk_the_second_time(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl")
    os.utime(path, (1, 1))
    monkeypatch.setattr(own_rows, "_COARSE", -1)
    name = register(path)
    before = {split: list(tasks.task(name).rows(split)) for split in files.SPLITS}
    files._read.cache_clear()
    monkeypatch.setattr(row_files, "records", lambda path: pytest.fail("read again"))
    assert register(path) == name
    assert {split: list(tasks.task(name).rows(split)) for split in files.SPLITS} == before


def test_a_file_that_changed_a_moment_ago_is_known_by_its_content(tmp_path, monkeypatch):
    stamp = {"stamp": ["the same"], "changed": time.time()}
    for name, value in stamp.items():
        monkeypatch.setattr(row_sets, name, lambda path, value=value: value)
    first = own_rows._settled_stamp(write(tmp_path / "a.jsonl"))
    assert own_rows._settled_stamp(write(tmp_path / "a.jsonl", ROWS[1:])) != first
    assert own_rows._settled_stamp(write(tmp_path / "a.jsonl")) == first


def test_many_rows_are_the_rows_one_by_one_and_travel(tmp_path):
    task = tasks.task(register(write(tmp_path / "a.jsonl")))
    for split in files.SPLITS:
        rows = task.rows(split)
        whole = [rows[i] for i in range(len(rows))]
        assert rows.many(0, len(rows)) == whole
        assert rows.many(2, 5) == whole[2:5]
        assert rows.at(np.array([4, 0, 2])) == [whole[4], whole[0], whole[2]]
        assert list(pickle.loads(pickle.dumps(rows))) == whole
        assert rows[-1] == whole[-1]
        with pytest.raises(IndexError):
            rows[len(rows)]


@pytest.mark.parametrize("chunk", [1, 3, 4096])
@pytest.mark.parametrize(
    ("fourth", "sixth", "expected"),
    [
        ('{"text": "a"}', "no JSON", "line 4: no field 'label'"),
        ("no JSON", '{"text": "a"}', "line 4: not JSON"),
    ],
)
def test_of_several_wrong_lines_the_first_is_named(
    tmp_path, monkeypatch, chunk, fourth, sixth, expected
):
    monkeypatch.setattr(own_rows, "_CHUNK", chunk)
    lines = [*map(json.dumps, ROWS[:3]), fourth, json.dumps(ROWS[4]), sixth]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    assert expected in fails(path)


def test_chunks_change_no_row(tmp_path, monkeypatch):
    rows = [
        *ROWS,
        {"text": 1.5, "label": ["a", "b"]},
        {"text": "a", "label": 1},
        {"text": "b", "label": "\u2028ç "},
    ]
    found = []
    for number, chunk in enumerate((4096, 5, 1)):
        monkeypatch.setattr(own_rows, "_CHUNK", chunk)
        path = write(tmp_path / f"{number}.jsonl", rows)
        data = files.Data(path, path, "is {text}?", "{label}", METRICS["f1"], None)
        found.append((data.checksum(), list(data.splits()["train"])))
    assert found[0] == found[1] == found[2]


def test_a_list_holds_several_right_answers(tmp_path):
    rows = [{"text": "a", "label": ["the UK", "Britain"]}, {"text": "b", "label": "Peru"}]
    name = register(write(tmp_path / "a.jsonl", rows), metric="exact_match", target=" {label}")
    task, examples = processed(name, "train")
    right = [task.postprocess("", example=row, is_target=True) for row in examples]
    assert sorted(right) == [["Peru"], ["the UK", "Britain"]]
    assert {row["targets"] for row in examples} == {" the UK", " Peru"}
    assert task.metric_fns[0](right, ["britain" if len(r) > 1 else "Peru" for r in right]) == {
        "exact_match": 100.0
    }


def test_an_exemplar_is_another_row_of_train(tmp_path):
    path = write(tmp_path / "a.jsonl")
    plain, shot = processed(register(path))[1], processed(register(path, shots=1))[1]
    assert len(plain) == len(shot) == 6
    known = dict(EXPECTED)
    for one, other in zip(plain, shot, strict=True):
        before, inputs = other["inputs"].split("\n\n")
        assert inputs == one["inputs"]
        asked, answer = before.rsplit(" ", 1)
        assert known[asked] == answer
        assert asked != inputs


@pytest.mark.parametrize("shots", [1, 3, 14])
def test_many_rows_behind_exemplars_are_those_one_by_one(tmp_path, shots):
    # Some rows meet themselves, or a row that is their equal, on the circle.
    task = tasks.task(register(write(tmp_path / "a.jsonl", [*ROWS, *ROWS[:4]]), shots=shots))
    for split in files.SPLITS:
        rows = task.rows(split)
        assert rows.many(0, len(rows)) == [rows[i] for i in range(len(rows))]
        assert rows.many(2, 5) == [rows[i] for i in range(2, 5)]


@pytest.mark.parametrize("shots", [12, 13])
def test_too_few_exemplars_are_said_of_many_rows_too(tmp_path, shots):
    rows = tasks.task(register(write(tmp_path / "a.jsonl"), shots=shots)).rows("train")
    with pytest.raises(UserError, match=f"too few rows to put {shots} other before each"):
        rows.many(0, 2)


def test_what_is_missing_is_named(tmp_path):
    path = write(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=r"EVAL_FILE \(--eval\) is not set"):
        files.task(path, None, "{text}", "{label}")
    with pytest.raises(UserError, match="'meteor' is unknown; use accuracy, exact_match, "):
        register(path, metric="meteor")
