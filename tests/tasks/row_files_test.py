"""What is read from files of rows: the shapes in which people have them, and what is refused."""

import csv
import datetime
import decimal
import gzip
import io
import json
import re

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from pyarrow import parquet

from promot_jax.base.errors import UserError
from promot_jax.tasks import row_files

ROWS = [
    {"text": "the box is red", "label": "yes"},
    {"text": 'he said "no", then\nleft; 你好 مرحبا 🎈\u2028\x85 5" pipe', "label": "ça"},
    {"text": "'quoted'", "label": '"quoted"'},
]


def read(path, content):
    """Returns the rows of a file of a text or bytes."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [record for _, record in row_files.records(str(path))]


def refused(path, content):
    with pytest.raises(UserError) as found:
        read(path, content)
    message = str(found.value)
    assert len(message.splitlines()) == 1
    return message.replace(str(path.parent) + "/", "")


def table(rows, **style):
    """Returns the text of a table, as a writer of CSV writes it."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, rows[0], **style)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


# TSV


def test_quotes_of_a_tsv_are_texts(tmp_path):
    lines = [
        '"the box is red" he said\tyes',
        '"it opens here\tno',
        'and closes here"\tno',
        'a 5" pipe, and 6"\t"no"',
        '"all of it"\tyes',
    ]
    found = read(tmp_path / "a.tsv", "text\tlabel\n" + "\n".join(lines) + "\n")
    assert [f"{row['text']}\t{row['label']}" for row in found] == lines


def test_one_sentence_in_quotes_keeps_them(tmp_path):
    assert read(tmp_path / "a.tsv", 'text\tlabel\n"Hello, you."\tyes\n') == [
        {"text": '"Hello, you."', "label": "yes"}
    ]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_tsv_that_a_csv_writer_wrote_is_read_as_it_was_written(tmp_path, quoting, end):
    rows = [*ROWS, {"text": 'break\nand\ttab, "both"', "label": "no"}]
    for part in (rows, rows[:1], rows[1:2], rows[2:3], rows[3:]):
        text = table(part, delimiter="\t", quoting=quoting, lineterminator=end)
        assert read(tmp_path / "a.tsv", text) == part


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.text('ab" ', min_size=1), st.text('ab" ', min_size=1)).filter(
            lambda cells: "".join(cells).strip()
        ),
        min_size=1,
    )
)
def test_no_row_of_a_tsv_without_quoting_is_lost(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "a.tsv"
    found = read(path, "".join(f"{a}\t{b}\n" for a, b in [("text", "label"), *rows]))
    assert len(found) == len(rows)
    for record, cells in zip(found, rows, strict=True):
        for cell, written in zip(record.values(), cells, strict=True):
            # Only a cell that could be CSV's may have lost its quotes.
            assert cell == written or f'"{cell}"' == written.replace('""', '"')


def test_a_tsv_cell_that_cannot_be_read_is_named(tmp_path):
    name = tmp_path / "a.tsv"
    assert "a.tsv, line 3: 1 columns, the first line names 2 (text, label); a tab or line" in (
        refused(name, "text\tlabel\na\tb\nc\n")
    )
    # Here a line in quotes looks like a row: it is never swallowed.
    inside = 'text\tlabel\n"one\nlike a row\tyes\n""end"""\tno\n'
    assert "a.tsv, line 2: 1 columns" in refused(name, inside)
    assert "a.tsv, line 1: no tab, but ','; name a file that commas separate .csv" in (
        refused(name, "text,label\na,b\n")
    )


# CSV


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_csv_is_read_whatever_ends_its_lines(tmp_path, end, delimiter):
    text = table(ROWS, lineterminator=end, delimiter=delimiter)
    assert read(tmp_path / "a.csv", text) == ROWS
    assert read(tmp_path / "a.csv", f"{end} {end}" + text.rstrip("\r\n")) == ROWS
    assert read(tmp_path / "a.csv", table(ROWS, delimiter=delimiter, quoting=csv.QUOTE_ALL)) == ROWS


def test_blank_lines_and_rows_of_a_csv_are_no_rows(tmp_path):
    text = '\n  \ntext,label\na,b\n\n   \n,\n"c\n\nd",e\n , \n\n'
    assert read(tmp_path / "a.csv", text) == [
        {"text": "a", "label": "b"},
        {"text": "c\n\nd", "label": "e"},
    ]
    assert "a.csv, line 13: 1 columns" in refused(tmp_path / "a.csv", text + "f\n")


def test_long_cells_and_columns_without_name(tmp_path):
    long = "x" * 300_000
    text = f",text , label,,\n0,{long},b,,\n"
    assert read(tmp_path / "a.csv", text) == [{"text": long, "label": "b"}]
    assert read(tmp_path / "b.csv", f'text,label\n"{long}""",b\n')[0]["text"] == long + '"'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('text,label\na,b\n"c\nd",e\n"f,g\nh,i\n', "line 5: the quote that opens here is not"),
        ('text,label\n"a\nb","c\n', "line 3: the quote that opens here is not closed"),
        ('text,label\n"a" b,c\n', "line 2: ' ' follows a closing quote; double"),
        ('text,label\n"a\nb"c,d\n', "line 3: 'c' follows a closing quote"),
        ("text,label,text\na,b,c\n", "line 1: has 'text' twice"),
        ("text,label\na,b,c\n", "line 2: 3 columns, the first line names 2 (text, label); quote"),
        ("text;label\na;b;c\n", "line 2: 3 columns, the first line names 2 (text, label); quote"),
        ("text,label\na,\0\n", "line 2: holds a NUL; save the file as UTF-8 text"),
        (b"text,label\na,b\nc,\xe9\n", "line 3: byte 3 is not UTF-8; save the file in that"),
        (b"text,label\ra,b\rc,\xe9\r", "line 3: byte 3 is not UTF-8"),
        ("text,label\n".encode("utf-16-le"), "line 1: holds a NUL"),
    ],
)
def test_a_bad_csv_is_named(tmp_path, text, expected):
    assert f"a.csv, {expected}" in refused(tmp_path / "a.csv", text)


# Encodings and compression


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, encoding, suffix):
    text = table(ROWS, delimiter="\t" if suffix == "tsv" else ",")
    if suffix.startswith("json"):
        text = json.dumps(ROWS, ensure_ascii=False)
    for name, content in (
        ("a", text.encode(encoding)),
        ("b", gzip.compress(text.encode(encoding))),
    ):
        assert read(tmp_path / f"{name}.{suffix}{'.gz' * (name == 'b')}", content) == ROWS


def test_what_spreadsheets_call_unicode_text_is_a_tsv(tmp_path):
    text = table(ROWS, delimiter="\t").encode("utf-16")
    assert read(tmp_path / "a.csv", text) == read(tmp_path / "a.tsv", text) == ROWS


def test_damaged_gzip_data_are_named(tmp_path):
    packed = gzip.compress(b'{"text": "a"}\n' * 100)
    for content in (packed[:-9], b"text", packed[:20] + b"\xff" * 9 + packed[29:]):
        assert "a.jsonl.gz is not whole gzip data" in refused(tmp_path / "a.jsonl.gz", content)


# JSON


def test_objects_are_read_whatever_stands_between_them(tmp_path):
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    tall = [json.dumps(row, indent=2) for row in ROWS]
    written = ["\n".join(lines), "\r\n".join(lines), "\r".join(lines), "\n\n \n".join(lines)]
    written += ["\n".join(tall), "".join(tall), "\n\n" + "\n".join(lines) + "\n\n"]
    written += [f"[{', '.join(lines)}]", json.dumps(ROWS, indent=1), f" \n[{','.join(tall)}\n]\n"]
    for suffix in ("json", "jsonl"):
        for text in written:
            assert read(tmp_path / f"a.{suffix}", text) == ROWS
    assert read(tmp_path / "a.json", "[]") == read(tmp_path / "a.json", "") == []


def test_one_object_with_a_list_of_rows(tmp_path):
    whole = {"version": "1.1", "data": ROWS, "splits": [1, 2]}
    assert read(tmp_path / "a.json", json.dumps(whole, indent=2)) == ROWS
    assert row_files.records(str(tmp_path / "a.json")).__next__()[0].endswith("a.json, data[0]")
    # A line of JSON lines is a row, and so is an object without such a list.
    chat = {"messages": [{"role": "user", "content": "a"}]}
    assert read(tmp_path / "a.jsonl", json.dumps(chat)) == [chat]
    assert read(tmp_path / "a.json", json.dumps(ROWS[0], indent=2)) == ROWS[:1]


def test_numbers_of_json_are_kept_as_written(tmp_path):
    written = ["1.0", "1.50", "0.00001", "1e5", "-0", "12345678901234567890123", "9" * 5000]
    found = read(tmp_path / "a.jsonl", "".join(f'{{"n": {n}}}\n' for n in written))
    assert [row["n"] for row in found] == written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}\n\n{"a": 1\n{"a": 1}\n', "line 3: not JSON (Expecting"),
        ('{"a": 1\n{"a": 1}\n', "line 1: not JSON (Expecting"),
        ('{"a": 1} {"a": 2}\n', "line 1: not JSON (Extra data"),
        ('{\n"a": 1\n}\n{\n"a" 1\n}\n', "line 4: not JSON (Expecting ':' delimiter: line 5"),
        ('[\n{"a": 1},\n{"a": 1,}\n]', "line 3: not JSON (Expecting"),
        ('[\n{"a": 1},\n1\n]', "line 3: no JSON object"),
        ('["a", "b"]\n["c", "d"]\n', "line 1: no JSON object"),
        ('[\n{"a": 1}\n{"a": 1}\n]', "line 3: the list of rows ends with one ], and commas"),
        ('[\n{"a": 1}\n', "line 3: the list of rows ends with one ]"),
        ('[{"a": 1}]\n[{"a": 1}]\n', "line 2: the list of rows ends with one ]"),
        ('{"a": 1}\n{"a": 1, "a": 2}\n', "line 2: not JSON ('a' twice in an object)"),
        ('{"a": 1}\n' + "[" * 100_000, "line 2: nested too deeply"),
        ("[" * 100_000, "line 1: nested too deeply"),
        ('{"a": 1}\nnull\n', "line 2: no JSON object"),
        ('{"text": ["a", "b"], "label": ["c", "d"]}', "line 1: columns, not rows"),
        ('{"text": {"0": "a"}, "label": {"0": "b"}}', "line 1: columns, not rows; write one JSON"),
    ],
)
def test_bad_json_is_named(tmp_path, text, expected):
    assert f"a.json, {expected}" in refused(tmp_path / "a.json", text)


# Parquet


def test_values_of_parquet_are_kept_as_written(tmp_path):
    short = pa.struct([("en", pa.string()), ("score", pa.float32())])
    columns = {
        "single": pa.array([0.1, None, 1.0], pa.float32()),
        "half": pa.array(np.array([0.1, 2, 3], np.float16)),
        "double": pa.array([0.1, 1e-7, 0.30000000000000004]),
        "inner": pa.array([{"en": "a", "score": 0.3}, None, {"en": "b", "score": None}], short),
        "list": pa.array([[0.7, 0.1], None, []], pa.list_(pa.float32())),
        "long": pa.array([2**64 - 1, 0, 1], pa.uint64()),
        "class": pa.array(["a", "b", "a"]).dictionary_encode(),
        "large": pa.array(["a", "b", None], pa.large_string()),
        "price": pa.array([decimal.Decimal("1.50")] * 3),
        "day": pa.array([datetime.date(2020, 1, 2)] * 3),
        "instant": pa.array([1, 2, 3], pa.timestamp("ns")),
        "translation.en": pa.array(["x", "y", "z"]),
    }
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=2)
    found = [row for _, row in row_files.records(str(tmp_path / "a.parquet"))]
    columns = {name: [row[name] for row in found] for name in found[0]}
    assert columns["single"] == [0.1, None, 1.0]
    assert columns["half"] == [0.1, 2, 3]
    assert columns["double"] == [0.1, 1e-7, 0.30000000000000004]
    assert columns["inner"] == [{"en": "a", "score": 0.3}, None, {"en": "b", "score": None}]
    assert columns["list"] == [[0.7, 0.1], None, []]
    assert columns["long"] == [2**64 - 1, 0, 1]
    assert columns["class"] == ["a", "b", "a"]
    assert columns["large"] == ["a", "b", None]
    assert columns["price"] == [decimal.Decimal("1.50")] * 3
    assert columns["instant"][0] == "1970-01-01 00:00:00.000000001"
    assert columns["translation.en"] == ["x", "y", "z"]


def test_a_column_that_parquet_has_twice_is_named(tmp_path):
    parquet.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"has the column 'text' twice; rename one"):
        list(row_files.records(str(tmp_path / "a.parquet")))


# Round trips

# Without quotes, a carriage return at the end of a line belongs to its end.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0")).map(lambda t: t.rstrip("\r"))
TABLE = st.lists(
    st.fixed_dictionaries({"text": TEXT, "a b.c": TEXT}).filter(
        lambda row: any(cell.strip() for cell in row.values())
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(
    TABLE,
    st.sampled_from([",", ";"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_a_csv_writer_writes_is_read(tmp_path_factory, rows, delimiter, end, quoting):
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    text = table(rows, delimiter=delimiter, lineterminator=end, quoting=quoting)
    assert read(path, text) == rows


@settings(max_examples=100, deadline=None)
@given(TABLE, st.sampled_from([None, 2]), st.booleans())
def test_what_a_json_writer_writes_is_read(tmp_path_factory, rows, indent, ascii_only):
    path = tmp_path_factory.mktemp("rows") / "a.json"
    written = [json.dumps(row, indent=indent, ensure_ascii=ascii_only) for row in rows]
    assert read(path, "\n".join(written)) == rows
    assert read(path, json.dumps(rows, indent=indent, ensure_ascii=ascii_only)) == rows


@settings(max_examples=100, deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float_of_32_bits_has_its_shortest_decimal(tmp_path_factory, number):
    path = tmp_path_factory.mktemp("rows") / "a.parquet"
    parquet.write_table(pa.table({"n": pa.array([number], pa.float32())}), path)
    ((_, row),) = row_files.records(str(path))
    assert np.float32(row["n"]) == np.float32(number)
    digits = re.sub(r"e.*|[-.]|^0\.0*", "", repr(row["n"])).strip("0")
    assert len(digits) <= 9
