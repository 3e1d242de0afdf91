"""Weights that rows of files bring."""

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from promot_jax import cli
from promot_jax.base.errors import UserError
from promot_jax.data import metrics, tasks
from promot_jax.data.token_weights import Given
from promot_jax.tasks import files, mini

PAIRS = [["the answer", 0.5], ["7", 3], ["!", 0]]
ROWS = [{"q": f"what is {n}?", "a": f"the answer is {n}7!", "w": PAIRS} for n in range(4)]


def written(folder, kind, rows):
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        with open(path, "w", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(row | {"w": json.dumps(row["w"])} for row in rows)
    else:
        objects = [
            row | {"w": [{"by": float(weight), "text": text} for text, weight in row["w"]]}
            for row in rows
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(objects), path)
    return str(path)


def split(path, evaluation, name="train"):
    data = files.Data(
        path, evaluation, "{q}", "{a}", metrics.METRICS["exact_match"], None, weights="w"
    )
    return data, data.splits()[name]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_rows_of_every_kind_of_file_bring_their_weights(tmp_path, kind):
    bare = [{name: row[name] for name in ("q", "a")} for row in ROWS]
    evaluation = tmp_path / "eval.jsonl"
    evaluation.write_text("".join(json.dumps(row) + "\n" for row in bare))
    data, rows = split(written(tmp_path, kind, ROWS), str(evaluation))
    assert len(rows) == 4
    (row,) = (row for row in rows.many(0, 4) if row["targets"] == "the answer is 17!")
    assert list(map(list, row["w"])) == PAIRS
    assert "w" not in data.splits()["test"][0]
    words = mini.vocabulary()
    (tokens,) = tasks.encode_texts([row], words, {"inputs": 32, "targets": 32})
    weights = Given("w")(row, tokens, words)
    # "the", "answer", "is", "17", "!" may be several tokens each; the end of the sequence is one.
    pieces = [words.decode([one]).strip() for one in tokens.targets[:-1].tolist()]
    assert weights[-1] == 1
    assert len(weights) == len(pieces) + 1
    told = dict(zip(pieces, weights, strict=False))
    assert (told["the"], told["answer"], told["is"], told["!"]) == (0.5, 0.5, 1, 0)
    assert max(weights) == 3
    same, _ = split(written(tmp_path, "jsonl", ROWS), str(evaluation))
    assert data.checksum() == same.checksum()


def test_rows_without_the_column_are_as_without_the_setting(tmp_path):
    path = written(tmp_path, "jsonl", [{"q": "a", "a": "b"}, {"q": "c", "a": "d"}])
    plain = files.Data(path, path, "{q}", "{a}", metrics.METRICS["exact_match"], None)
    assert split(path, path)[0].checksum() == plain.checksum()


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("", "no field 'w', unlike the rows before it; give it to all rows or to none"),
        (None, "no field 'w', unlike the rows before it; give it to all rows or to none"),
        ("[[1", "field 'w' is no JSON; give pairs of a text of the target"),
        ({"7": 1}, "field 'w' is no list; give pairs"),
        ([["7"]], """field 'w' has ["7"]; give pairs"""),
        (["the"], """field 'w' has "the"; give pairs"""),
        ([[7, 1]], """field 'w' has "7" for a text; give pairs"""),
        ([["", 1]], """field 'w' has "" for a text; give pairs"""),
        ([["7", -1]], "the weight of '7' is -1; give a number, at least 0"),
        ([["7", True]], "the weight of '7' is True; give a number"),
        ([["7", "2"]], "the weight of '7' is 2; give a number"),
        ([["7", float("nan")]], "the weight of '7' is"),
        ([["!", 1], ["7", 1]], "'7' does not stand in the target 'the answer is 17!' behind"),
        ([["8", 1]], "'8' does not stand in the target 'the answer is 17!'"),
    ],
)
def test_weights_that_are_none_are_one_line(tmp_path, value, line):
    path = written(tmp_path, "jsonl", [ROWS[0], ROWS[1] | {"w": value}])
    with pytest.raises(UserError) as caught:
        split(path, path)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_all_rows_are_kept_in_order_of_their_rows(tmp_path):
    rows = [{"q": f"{n}", "a": f"answer {n}", "w": [[f"{n}", n]]} for n in range(1, 60)]
    _, found = split(written(tmp_path, "jsonl", rows), written(tmp_path, "csv", rows))
    for row in found.many(0, len(found)):
        ((text, weight),) = row["w"]
        assert (row["targets"], weight) == (f"answer {text}", float(text))


def test_the_preview_says_what_targets_weigh_or_that_a_row_does_not(tmp_path, capsys):
    path = written(tmp_path, "jsonl", ROWS)
    given = ["run", "your_data", "--train", path, "--eval", path, "--template", "{q}", "--preview"]
    given += ["--target", "{a}", "--metric", "exact_match", "--methods", "given_weights"]
    assert cli.main([*given, "--gin.TOKEN_WEIGHTS_COLUMN='w'"]) == 0
    assert "weights of targets in the first 4 rows: 0 to 3, mean" in capsys.readouterr().out
    assert cli.main(given) == 2
    assert "a row has no column 'token_weights'" in capsys.readouterr().err
