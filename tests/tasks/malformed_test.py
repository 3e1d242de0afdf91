"""Malformed files of rows: each gives one line that names the file, its line or row, and the field.

A file that is odd but whole stands in `WHOLE`: its rows are read as they are meant. Others are
refused before anything else starts.
"""

import gzip
import io
import json

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from promot_jax.base.errors import UserError
from promot_jax.data import tasks
from promot_jax.tasks import files

GOOD = b'{"text": "a", "label": "b"}\n'
TABLE = pa.table({"text": ["a", "b", "c"] * 99, "label": ["x", "y", "z"] * 99})


def packed(content=GOOD * 100):
    return gzip.compress(content)


def columns(**values):
    """Returns a Parquet file of columns."""
    file = io.BytesIO()
    parquet.write_table(pa.table(values), file)
    return file.getvalue()


def twice():
    """Returns a Parquet file with a column that it has twice."""
    file = io.BytesIO()
    parquet.write_table(pa.table([["a"], ["b"], ["c"]], names=["text", "label", "text"]), file)
    return file.getvalue()


def whole_parquet():
    return columns(**TABLE.to_pydict())


def arrow():
    """Returns a file of Arrow batches."""
    file = io.BytesIO()
    with ipc.new_stream(file, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return file.getvalue()


# Suffix, content, what is said behind the path.
REFUSED = {
    "an empty file": ("jsonl", b"", " holds no row; give it at least one"),
    "blank lines alone": ("jsonl", b"\n \n\r\n", " holds no row"),
    "a mark alone": ("jsonl", b"\xef\xbb\xbf", " holds no row"),
    "an empty list": ("json", b"[]", " holds no row"),
    "a header alone": ("csv", b"text,label\n", " holds no row"),
    "an empty table of Parquet": ("parquet", columns(text=[], label=[]), " holds no row"),
    "one row to evaluate on": ("jsonl", GOOD, " needs 2 rows at least"),
    "a word that is not JSON": ("jsonl", GOOD + b"{'text': 1}\n", ", line 2: not JSON (Expect"),
    "an object that is not closed": ("jsonl", GOOD + GOOD[:-2], ", line 2: not JSON (Expect"),
    "a comma too many": ("jsonl", GOOD + b'{"text": "a",}\n', ", line 2: not JSON ("),
    "two objects in a line": ("jsonl", GOOD + GOOD.strip() * 2, ", line 2: not JSON (Extra"),
    "a log behind rows": ("jsonl", GOOD * 2 + b"3 rows written\n", ", line 3: not JSON (Extra"),
    "a control character": ("jsonl", GOOD + b'{"text": "a\x01b"}', ", line 2: not JSON (Invalid"),
    "a list in place of a row": ("jsonl", GOOD + b'["a", "b"]\n', ", line 2: no JSON object"),
    "a list of lists": ("json", b'[["a", "b"], ["a", "b"]]', ", line 1: no JSON object"),
    "a number in place of a row": ("jsonl", GOOD + b"7\n", ", line 2: no JSON object"),
    "columns, not rows": ("json", b'{"text": ["a", "b"], "label": ["a", "b"]}', ", line 1: colu"),
    "a list that is not closed": ("json", b"[" + GOOD, ", line 2: the list of rows ends"),
    "brackets without end": ("jsonl", GOOD + b"[" * 10**6, ", line 2: nested too deeply"),
    "a long line that is cut": (
        "jsonl",
        GOOD + b'{"text": "' + b"x" * 50_000_000,
        ", line 2: not JSON (Unterminated",
    ),
    "a key twice": ("jsonl", GOOD + b'{"text": "a", "text": "b"}\n', ", line 2: not JSON ('text'"),
    "a field that is missing": ("jsonl", GOOD + b'{"text": "a"}\n', ", line 2: no field 'label'; "),
    "an empty object": ("jsonl", GOOD + b"{}\n", ", line 2: no field 'text'; it is an empty"),
    "a field in other letters": ("jsonl", b'{"Text": "a"}\n', ", line 1: no field 'text'; it has"),
    "null": ("jsonl", GOOD + b'{"text": null, "label": "b"}\n', ", line 2: field 'text' is null"),
    "NaN": ("jsonl", GOOD + b'{"text": NaN, "label": "b"}\n', ", line 2: field 'text' is nan"),
    "infinity": ("jsonl", b'{"text": "a", "label": -Infinity}', ", line 1: field 'label' is -inf"),
    "an object in a field": (
        "jsonl",
        GOOD + b'{"text": {"en": "a"}, "label": "b"}\n',
        ", line 2: field 'text' is an object; name one of its fields, such as {text.en}",
    ),
    "a list in a field": (
        "jsonl",
        GOOD + b'{"text": ["a"], "label": "b"}\n',
        ", line 2: field 'text' is a list",
    ),
    "several targets": (
        "jsonl",
        GOOD + b'{"text": "a", "label": ["b", "c"]}\n',
        ", line 2: field 'label' is a list; only",
    ),
    "an empty input": ("jsonl", GOOD + b'{"text": "", "label": "b"}\n', ", line 2: text empty"),
    "a blank target": ("jsonl", GOOD + b'{"text": "a", "label": " "}', ", line 2: label empty"),
    "half a character": (
        "jsonl",
        GOOD + b'{"text": "\\ud83c", "label": "b"}\n',
        ", line 2: field 'text' holds half a character",
    ),
    "half a character in a target": (
        "jsonl",
        b'{"text": "a", "label": "\\udf88 \\ud83c"}\n',
        ", line 1: field 'label' holds half a character",
    ),
    "Latin-1": ("jsonl", GOOD + b'{"text": "\xe7a"}\n', ", line 2: byte 11 is not UTF-8"),
    "a character that is cut": ("jsonl", GOOD + "ç".encode()[:1], ", line 2: byte 1 is not UTF-8"),
    "UTF-8 behind a mark of UTF-16": ("jsonl", b"\xff\xfe" + GOOD + b"x", ", line 1: byte 29 is"),
    "UTF-16 without a mark": ("jsonl", GOOD.decode().encode("utf-16-le"), ", line 1: holds a NUL"),
    "a NUL": ("jsonl", GOOD + b'{"text": "a\0"}', ", line 2: holds a NUL"),
    "a NUL far behind": ("csv", b"text,label\n" + b"a,b\n" * 10**6 + b"\0", ", line 1000002"),
    "half a gzip": ("jsonl.gz", packed()[:-9], " is not whole gzip data"),
    "half a gzip, far behind": ("jsonl.gz", packed(GOOD * 10**5)[:-9], " is not whole gzip data"),
    "no gzip": ("csv.gz", b"text,label\na,b\n", " is not whole gzip data"),
    "gzip under a plain name": ("jsonl", packed(), ", line 1: byte 2 is not UTF-8"),
    "a cell too few": ("tsv", b"text\tlabel\na\tb\nc\n", ", line 3: 1 columns, the first line n"),
    "a cell too many": ("csv", b"text,label\na,b\na,b,c\n", ", line 3: 3 columns"),
    "no tab": ("tsv", b"text,label\na,b\n", ", line 1: no tab, but ','"),
    "a column twice": ("csv", b"text,label,text\na,b,c\n", ", line 1: has 'text' twice"),
    "a column that is missing": ("csv", b"text,labels\na,b\n", ", line 2: no field 'label'; it"),
    "a quote that stays open": ("csv", b'text,label\na,b\n"c,d\ne,f\n', ", line 3: the quote that"),
    "a word behind a quote": ("csv", b'text,label\n"a"b,c\n', ", line 2: 'b' follows a closing"),
    "an empty cell": ("csv", b"text,label\na,b\nc,\n", ", line 3: label empty"),
    "no Parquet": ("parquet", b"PAR1 text PAR1", " holds no Parquet rows ("),
    "half a Parquet": ("parquet", whole_parquet()[:400], " holds no Parquet rows ("),
    "a Parquet without its end": ("parquet", whole_parquet()[:-1], " holds no Parquet rows ("),
    "an empty Parquet": ("parquet", b"", " holds no Parquet rows ("),
    "a column of Parquet twice": ("parquet", twice(), " has the column 'text' twice; rename one"),
    "null in Parquet": (
        "parquet",
        columns(text=["a", None], label=["b", "c"]),
        ", row 2: field 'text' is null",
    ),
    "bytes in Parquet": (
        "parquet",
        columns(text=[b"a"], label=["b"]),
        ", row 1: field 'text' is binary",
    ),
    "half an Arrow file": ("arrow", arrow()[:-300], " holds no Arrow rows ("),
    "a table of a spreadsheet": ("xlsx", b"PK\3\4", ": no reader for .xlsx; use .jsonl"),
    "no suffix": ("", GOOD, ": no reader for no suffix"),
}  # fmt: skip

# Suffix and content; the rows are a → b, c → d.
LINES = '{"text": "a", "label": "b"}\n{"text": "c", "label": "d"}\n'
WHOLE = {
    "CRLF": ("jsonl", LINES.replace("\n", "\r\n").encode()),
    "CR": ("jsonl", LINES.replace("\n", "\r").encode()),
    "CRLF in a CSV": ("csv", b"text,label\r\na,b\r\nc,d\r\n"),
    "a mark of UTF-8": ("jsonl", b"\xef\xbb\xbf" + LINES.encode()),
    "a mark in each line": ("jsonl", LINES.replace("{", "\ufeff{").encode()),
    "UTF-16": ("jsonl", LINES.encode("utf-16")),
    "UTF-16 of a big machine": ("csv", b"\xfe\xff" + "text,label\na,b\nc,d".encode("utf-16-be")),
    "no line end at the end": ("jsonl", LINES.strip().encode()),
    "blank lines between": ("jsonl", LINES.replace("\n", "\n\n \n").encode()),
    "one list": ("json", json.dumps([json.loads(line) for line in LINES.splitlines()]).encode()),
    "objects over several lines": ("json", LINES.replace(",", ",\n").encode()),
    "two gzips in one": ("jsonl.gz", packed(LINES[:28].encode()) + packed(LINES[28:].encode())),
    "other fields in each row": (
        "jsonl",
        b'{"text": "a", "label": "b", "n": NaN}\n{"label": "d", "x": {"y": [1]}, "text": "c"}\n',
    ),
    "numbers among texts": ("csv", b"id,text,label\n1,a,b\n,c,d\n"),
    "quotes around all": ("tsv", b'"text"\t"label"\n"a"\t"b"\n"c"\t"d"\n'),
}


def task(folder, suffix, content):
    path = folder / (f"rows.{suffix}" if suffix else "rows")
    path.write_bytes(content)
    return path, lambda: files.task(str(path), str(path), "{text}", "{label}")


@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_file_is_one_line(tmp_path, name):
    suffix, content, said = REFUSED[name]
    path, registered = task(tmp_path, suffix, content)
    with pytest.raises(UserError) as found:
        registered()
    message = str(found.value)
    assert message.startswith(f"{path}{said}")
    assert message.isprintable()
    assert len(message) < 600


@pytest.mark.parametrize("name", WHOLE)
def test_an_odd_file_that_is_whole_is_read(tmp_path, name):
    _, registered = task(tmp_path, *WHOLE[name])
    rows = tasks.task(registered()).rows("train")
    assert sorted((row["inputs"], row["targets"]) for row in rows) == [("a", "b"), ("c", "d")]


def test_a_line_of_50_mb_is_a_row(tmp_path):
    long = "x" * 50_000_000
    line = json.dumps({"text": long, "label": "b"}) + "\n"
    _, registered = task(tmp_path, "jsonl", line.encode() + GOOD)
    rows = tasks.task(registered()).rows("train")
    assert sorted(len(row["inputs"]) for row in rows) == [1, len(long)]
