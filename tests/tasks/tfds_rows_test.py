"""Rows of tfds from both kinds of files: the same, in the same order, read once or in place."""

import os
import pathlib
import subprocess
import sys

import pytest

from promot_jax.base.errors import UserError
from promot_jax.tasks import tfds_rows
from promot_jax.tasks.tfds_rows import Wanted
from tests.tasks import paper_rows, tiny_tfds

pytestmark = pytest.mark.long

PLAIN = Wanted("tiny_rows:1.0.0", ("text", "answers", "inner"))
LABELLED = Wanted("tiny_rows:1.0.0", ("text",), "label")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}
    for file_format in ("array_record", "tfrecord"):
        found[file_format] = tmp_path_factory.mktemp(file_format)
        tiny_tfds.prepare(found[file_format], file_format)
    return found


@pytest.fixture
def use(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("PROMOT_CACHE", str(tmp_path))

    def use(file_format):
        monkeypatch.setenv("TFDS_DATA_DIR", str(folders[file_format]))
        paper_rows.forget()

    yield use
    paper_rows.forget()


def rows(wanted, split="train", limit=None):
    found = tfds_rows.read(wanted, split, limit)
    return [found[number] for number in range(len(found))]


def test_both_kinds_of_files_give_the_same_rows(use):
    found = {}
    for file_format in ("array_record", "tfrecord"):
        use(file_format)
        parts = [rows(PLAIN, split) for split in ("train", "train[:25%]", "train[25%:]")]
        assert parts[0] == parts[1] + parts[2]
        assert len(parts[1]) == 10
        found[file_format] = parts[0], rows(LABELLED), rows(LABELLED, limit=7)
        assert found[file_format][2] == found[file_format][1][:7]
    assert found["array_record"] == found["tfrecord"]
    plain, labelled, _ = found["tfrecord"]
    by_text = {row["text"]: row for row in map(tiny_tfds.row, range(tiny_tfds.COUNT))}
    for row in plain:
        assert row == {name: by_text[row["text"]][name] for name in PLAIN.fields}
    kept = {text: row["label"] for text, row in by_text.items() if row["label"] >= 0}
    assert {row["text"]: row["label"] for row in labelled} == {
        text: ("yes", "no")[label] for text, label in kept.items()
    }
    # The order of the rows is that of the files, label or not.
    assert [row["text"] for row in labelled] == [r["text"] for r in plain if r["text"] in kept]


def test_what_was_read_is_not_read_again(use, monkeypatch):
    use("tfrecord")
    before = rows(PLAIN), rows(LABELLED)
    use("tfrecord")
    monkeypatch.setattr(tfds_rows, "_stream", lambda *_: pytest.fail("read again"))
    assert (rows(PLAIN), rows(LABELLED)) == before


def test_array_record_needs_no_tensorflow(folders, tmp_path):
    lines = [
        "import sys",
        "from promot_jax.tasks import tfds_rows",
        f"for wanted in (tfds_rows.Wanted(*{tuple(PLAIN)}), tfds_rows.Wanted(*{tuple(LABELLED)})):",
        "    print(len(tfds_rows.read(wanted, 'train')))",
        "print('tensorflow' in sys.modules)",
    ]
    places = {"TFDS_DATA_DIR": str(folders["array_record"]), "PROMOT_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env=os.environ | places,
        cwd=pathlib.Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["40", "32", "False"], done.stderr


def test_a_folder_that_is_named_within_python_counts(use, folders, monkeypatch):
    use("tfrecord")
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")
    paper_rows.forget()
    with pytest.raises(UserError, match="is not in /nowhere; fetch it with `tfds build tiny_rows"):
        rows(PLAIN)
    monkeypatch.setattr(tfds_rows, "_places", [])
    tfds_rows.use_place(str(folders["array_record"]))
    assert len(rows(PLAIN)) == tiny_tfds.COUNT
