"""`promot check`: the miniature beside itself, beside one that is ruined, and bad input."""

import json

import jax
import numpy as np
import pytest

from promot_jax import cli
from promot_jax.base import partitioning
from promot_jax.checkpoints import bundled, pretrained
from promot_jax.data import tasks
from promot_jax.tasks import mini  # noqa: F401, whose rows are asked

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "facts.jsonl"
    rows = tasks.task("mini_triviaqa").rows("test")
    found = [{"input": rows[i]["inputs"], "target": rows[i]["targets"]} for i in range(48)]
    file.write_text("".join(json.dumps(row) + "\n" for row in found))
    return str(file)


@pytest.fixture(scope="module")
def ruined(tmp_path_factory):
    """The miniature with noise in its parameters."""
    folder = tmp_path_factory.mktemp("models") / "ruined"
    model, source = pretrained.open_model(bundled())
    params = pretrained.load(source, model, partitioning.make_mesh())
    rng = np.random.default_rng(0)
    noise = jax.tree.map(lambda leaf: leaf + 0.5 * rng.normal(size=leaf.shape), params)
    pretrained.save(folder, model, noise, {})
    return str(folder)


def test_what_did_not_change_is_kept(facts, tmp_path, capsys):
    file = tmp_path / "kept.json"
    given = ["--start", bundled(), "--model", bundled(), "--unseen", facts]
    code = cli.main(["check", *given, "--keep", "90", "--certificate", str(file)])
    assert code == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line.split() for line in lines if line.startswith("facts"))
    assert row[1:] == ["exact_match", "48", "100.0", "100.0", "100.0", row[6], "100.0"]
    # With none of 48 lost, up to 3 may be.
    assert 92 < float(row[6]) < 95
    assert lines[-1].endswith("promised 90 %: kept")
    found = json.loads(file.read_text())
    assert (found["verdict"], found["promise"], found["agreement"]) == ("kept", 90.0, 100.0)
    assert found["start"]["checksum"] == found["model"]["checksum"]
    assert found["kept"]["rows"] == found["tasks"][0]["rows"] == 48


def test_what_was_ruined_is_not(facts, ruined, capsys):
    given = ["--start", bundled(), "--model", ruined, "--unseen", facts]
    assert cli.main(["check", *given, "--keep", "90"]) == 3
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("promot: kept 0.0 % of the start's scores, at least 0.0 % at 95 %")
    assert line.endswith("promised 90 %: not kept")
    # Without a promise it is told all the same.
    assert cli.main(["check", *given]) == 0
    assert "kept 0.0 %" in capsys.readouterr().out


def test_rows_that_are_too_few_to_tell_keep_no_promise(facts, capsys):
    given = ["--start", bundled(), "--model", bundled(), "--unseen", facts, "--limit", "24"]
    assert cli.main(["check", *given, "--keep", "98"]) == 3
    line = capsys.readouterr().err.strip()
    assert "not shown (about " in line
    rows = int(line.split("about ")[1].split()[0])
    assert 90 < rows < 1000


def test_a_start_that_cannot_answer_says_nothing(facts, ruined, capsys):
    given = ["--start", ruined, "--model", bundled(), "--unseen", facts]
    assert cli.main(["check", *given, "--keep", "98"]) == 2
    assert "the start answers 0 of 48 rows right, too few" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--model", "MODEL"], "is no run; give --start, the model it was tuned from"),
        (["--model", "MODEL", "--start", "MODEL", "--keep", "101"], "expected a per cent above 0"),
        (["--model", "MODEL", "--start", "MODEL", "--lora"], "--lora goes with a run"),
        (["--model", "MODEL", "--start", "nowhere", "--unseen", "FACTS"], "nowhere"),
        (["--model", "MODEL", "--start", "MODEL", "--unseen", "no.jsonl"], "no.jsonl"),
        (
            ["--model", "MODEL", "--start", "MODEL", "--unseen", "FACTS", "--prompt", "rte"],
            "--prompt rte: this model has none such",
        ),
    ],
)
def test_bad_input_is_one_line(given, told, facts, capsys):
    places = {"MODEL": bundled(), "FACTS": facts}
    assert cli.main(["check", *(places.get(word, word) for word in given)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line
