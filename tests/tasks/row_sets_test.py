"""Folders and data sets of the hub as rows: which files are a split, and that no row differs."""

import json
import sys

import datasets
import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from promot_jax.base.errors import UserError
from promot_jax.data import tasks
from promot_jax.tasks import files, row_sets, unseen_files

ROWS = [
    {"text": f"thing {i} ça", "label": i % 2, "score": 0.1 * i, "answers": {"text": ["a", "b"][:i]}}
    for i in range(7)
]
SPLITS = {"train": ROWS, "validation": ROWS[:3], "test": ROWS[3:]}


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()


def read(path, wanted=row_sets.TRAIN):
    return [row for _, row in row_sets.records(row_sets.chosen(str(path), wanted))]


def refused(path, wanted=row_sets.TRAIN):
    with pytest.raises(UserError) as found:
        read(path, wanted)
    assert len(str(found.value).splitlines()) == 1
    return str(found.value)


def saved(folder, shards=1):
    whole = datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in SPLITS.items()})
    whole.save_to_disk(str(folder), num_shards=dict.fromkeys(SPLITS, shards))
    return whole


def repository(folder, kind="parquet", below="data"):
    (folder / below).mkdir(parents=True)
    for split, rows in SPLITS.items():
        half = len(rows) // 2
        for number, part in enumerate((rows[:half], rows[half:])):
            name = folder / below / f"{split}-{number:05}-of-00002.{kind}"
            if kind == "parquet":
                parquet.write_table(pa.Table.from_pylist(part), name)
            else:
                name.write_text("".join(json.dumps(row) + "\n" for row in part))
    (folder / "README.md").write_text("---\n")
    (folder / "dataset_infos.json").write_text("{}")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "train.jsonl").write_text("no rows")


@pytest.mark.parametrize("shards", [1, 3])
def test_what_datasets_saves_is_read_as_it_loads_it(tmp_path, shards):
    saved(tmp_path / "all", shards)
    whole = datasets.load_from_disk(str(tmp_path / "all"))
    assert read(tmp_path / "all") == whole["train"].to_list() == ROWS
    assert read(tmp_path / "all", row_sets.EVALUATION) == whole["validation"].to_list()
    assert read(tmp_path / "all", row_sets.TEST) == read(f"{tmp_path}/all:test") == ROWS[3:]
    # One split alone, and rows that were chosen and sorted before they were saved.
    part = whole["train"].filter(lambda row: row["label"] == 1).sort("text", reverse=True)
    part.save_to_disk(str(tmp_path / "one"))
    assert read(tmp_path / "one") == part.to_list()
    assert len(part) == 3


def test_a_repository_of_files_is_read_as_datasets_loads_it(tmp_path):
    repository(tmp_path / "a")
    whole = datasets.load_dataset(str(tmp_path / "a"), cache_dir=str(tmp_path / "cache"))
    for split in SPLITS:
        assert read(f"{tmp_path}/a:{split}") == whole[split].to_list() == SPLITS[split]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train.jsonl", "dev.jsonl"], {"train": 1, "validation": 1}),
        (["d/training.jsonl", "d/valid.jsonl.gz", "d/eval.jsonl"], dict.fromkeys(SPLITS, 1)),
        (["test/0.csv", "test/1.csv", "train/0.csv"], {"test": 2, "train": 1}),
        (["a.jsonl", "b.jsonl"], {"train": 2}),
        (["my-train-set.jsonl", "notes.json"], {"train": 1}),
        (["train_sft-00000-of-00001.parquet", "test_sft-00000-of-00001.parquet"],
         {"train_sft": 1, "test_sft": 1}),
        (["train.jsonl", "_old/train.jsonl", ".git/test.jsonl"], {"train": 1}),
    ],
)  # fmt: skip
def test_names_of_files_say_the_split(tmp_path, names, expected):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = row_sets._splits(str(tmp_path))
    assert {split: len(files) for split, files in found.items()} == expected


def test_the_obvious_split_is_taken_else_one_is_asked_for(tmp_path):
    for name in ("train_sft", "test_sft", "train_gen"):
        (tmp_path / f"{name}-00000-of-00001.jsonl").write_text(json.dumps({"name": name}))
    assert "has the splits test_sft, train_gen, train_sft; name one: " in refused(tmp_path)
    assert read(tmp_path, row_sets.TEST) == [{"name": "test_sft"}]
    assert read(f"{tmp_path}:train_gen") == [{"name": "train_gen"}]
    assert "has no split 'dev'; it has test_sft, train_gen" in refused(f"{tmp_path}:dev")
    # A file whose name has a colon is a file.
    (tmp_path / "a:b.jsonl").write_text(json.dumps({"name": "colon"}))
    assert read(tmp_path / "a:b.jsonl") == [{"name": "colon"}]


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    assert "is a folder without rows; name a file" in refused(tmp_path)
    repository(tmp_path / "two", below="sst2")
    repository(tmp_path / "two/more", below="cola")
    assert "the split test has" in refused(tmp_path / "two")
    assert read(tmp_path / "two/sst2") == ROWS
    repository(tmp_path / "kinds", kind="jsonl")
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "kinds/data/train.parquet")
    assert "which may be the same rows; name a file" in refused(tmp_path / "kinds")
    saved(tmp_path / "saved")
    (tmp_path / "saved/train/data-00000-of-00001.arrow").unlink()
    assert "data-00000-of-00001.arrow: there is no such file; copy" in refused(tmp_path / "saved")
    (tmp_path / "saved/dataset_dict.json").write_text("{")
    assert "dataset_dict.json cannot be read (" in refused(tmp_path / "saved")
    assert "there is no such file" in refused(f"{tmp_path}/gone:train")


def test_arrow_files_of_both_kinds_are_read(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    for name, new in (("a.arrow", ipc.new_stream), ("b.arrow", ipc.new_file)):
        with new(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
        assert read(tmp_path / name) == ROWS
    (tmp_path / "a.arrow").write_bytes((tmp_path / "a.arrow").read_bytes()[:-200])
    assert "a.arrow" in refused(tmp_path / "a.arrow")


def test_a_data_set_of_the_hub_is_read_by_name(tmp_path, monkeypatch):
    repository(tmp_path / "a")
    asked = []

    def load(name, config, revision):
        asked.append((name, config, revision))
        return load_dataset(str(tmp_path / "a"), cache_dir=str(tmp_path / "cache"))

    load_dataset = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", load)
    row_sets._hub.cache_clear()
    address = "hf://datasets/owner/name"
    assert read(address) == ROWS
    assert read(f"{address}@main/config:test") == ROWS[3:]
    assert read(address, row_sets.EVALUATION) == ROWS[:3]
    assert asked == [("owner/name", None, None), ("owner/name", "config", "main")]
    assert row_sets.chosen(address, row_sets.TRAIN) == f"{address}:train"
    assert row_sets.absolute(f"{address}:train") == f"{address}:train"
    assert row_sets.base_name(f"{address}.v1:train") == "name.v1"
    assert "has no split 'dev'; it has train, validation, test" in refused(f"{address}:dev")
    assert "expected hf://datasets/OWNER/NAME, with" in refused("hf://datasets/name")
    name = files.task(address, f"{address}:validation", "{text}", "{label}")
    assert len(tasks.task(name).rows("train")) == 7
    row_sets._hub.cache_clear()


def test_a_data_set_of_the_hub_that_cannot_be_read_is_named(monkeypatch):
    def load(*_, **__):
        raise ConnectionError("no route\nto the hub")

    row_sets._hub.cache_clear()
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert "hf://datasets/a/b cannot be read (no route); check" in refused("hf://datasets/a/b")
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = refused("hf://datasets/a/b")
    assert message.endswith("needs datasets; run `pip install 'promot_jax[datasets]'`")


def test_a_task_takes_folders_and_keeps_their_splits(tmp_path):
    saved(tmp_path / "all")
    folder = str(tmp_path / "all")
    name = files.task(folder, folder, "{text}", "{label}")
    source = tasks.get(name).source
    assert source.data.train == f"{folder}:train"
    assert source.data.evaluation == f"{folder}:validation"
    assert {row["inputs"] for row in source.rows("train")} == {row["text"] for row in ROWS}
    # A file of the same rows is the same task.
    for split, rows in SPLITS.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    again = files.task(
        f"{tmp_path}/train.jsonl", f"{tmp_path}/validation.jsonl", "{text}", "{label}"
    )
    assert again == name
    ((name, label, *_),) = unseen_files.tasks([f"accuracy={folder}"], "{text}", "{label}")
    assert label == "all"
    assert {row["inputs"] for row in tasks.get(name).source.rows("validation")} == {
        row["text"] for row in ROWS[3:]
    }
