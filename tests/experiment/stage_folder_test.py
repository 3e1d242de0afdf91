"""What the folder of a stage promises: whose it is, which checkpoint counts, its time."""

import json
import re
import shutil
import types

import jax
import numpy as np
import pytest

from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.base.jsonl import read_jsonl
from promot_jax.experiment import stage_folder
from promot_jax.experiment.stage_folder import StageFolder
from promot_jax.training import train
from tests import tiny

pytestmark = pytest.mark.long

PROMPT = "encoder/prompt/rte/prompt"
OURS, OTHERS = "2:" + "a" * 16, "2:" + "b" * 16
# At step 0, which is no checkpoint, and at steps 2, 4 and 6: the best is 2, the latest 6.
SCORES = (0.0, 30.0, 20.0, 10.0)


def run(folder, came_from=OURS, scores=SCORES):
    """Trains or opens a stage; an evaluation without a score is where it is interrupted."""
    left = list(scores)

    def evaluate(params):
        if not left:
            raise KeyboardInterrupt
        return {"validation/score": left.pop(0), "validation/loss": 1.0}

    params = trees.add_prompt(tiny.model().init(jax.random.key(0)), "rte", np.ones((3, 16)) / 10)
    stage = tiny.prompt_stage(steps=6, eval_period=2)
    given = train.StageRun(stage, StageFolder(folder), 3, "prompt", evaluate, came_from)
    found = train.train_stage(given, params, tiny.model(), partitioning.make_mesh())
    return np.asarray(trees.flatten(found)[PROMPT])


def summary(folder):
    return json.loads((folder / "stage.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "prompt"
    return folder, run(folder)


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "prompt")


def test_the_checkpoint_of_the_scores_is_handed_on_or_none(copy):
    shutil.move(copy / "checkpoints/2", copy / "kept")
    with pytest.raises(UserError, match=r"no checkpoint .*/2, of which .*stage.json"):
        run(copy)
    # Those of another step and of another run are no stand-ins.
    shutil.copytree(copy / "checkpoints/6", copy / "checkpoints/2")
    with pytest.raises(UserError, match=r"checkpoints/2 is that of step 6; put it back"):
        run(copy)
    shutil.rmtree(copy / "checkpoints/2")
    shutil.copytree(copy / "kept", copy / "checkpoints/2")
    file = copy / "checkpoints/2/frozen/metadata"
    file.write_text(file.read_text().replace(OURS, OTHERS))
    with pytest.raises(UserError, match=r"checkpoints/2 belongs to another stage or run; put it"):
        run(copy)


def refusal(folder, expected) -> str | None:
    """Returns why a stage is not opened, None where it is and gives what is expected."""
    try:
        found = run(folder)
    except UserError as error:
        return str(error)
    assert (found == expected).all()
    return None


def test_a_checkpoint_without_a_file_is_whole_or_refused(finished, copy):
    files = [path for path in (copy / "checkpoints/2").rglob("*") if path.is_file()]
    assert len(files) > 5
    refused = 0
    for path in files:
        content = path.read_bytes()
        path.unlink()
        if error := refusal(copy, finished[1]):
            assert re.fullmatch(rf".*{copy}/checkpoints.* to train the stage anew", error)
            refused += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert refused


def test_a_damaged_summary_is_written_again(finished, copy):
    before = summary(copy)
    (copy / "stage.json").write_text('{"name": "pro')
    assert (run(copy, scores=()) == finished[1]).all()
    after = summary(copy)
    assert after["seconds"] >= before.pop("seconds") - 1
    assert {name: after[name] for name in before} == before
    # While it is not finished the best one so far must be there, too.
    (copy / "stage.json").unlink()
    shutil.rmtree(copy / "checkpoints/2")
    with pytest.raises(UserError, match=r"no checkpoint .*/2, the best one of this stage so far"):
        run(copy, scores=())


def test_an_interrupted_stage_is_nobody_elses(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "new", scores=())
    with pytest.raises(UserError, match="new was trained from another model, data or settings"):
        run(tmp_path / "new", OTHERS)


def test_a_stage_in_another_order_of_rows_is_not_continued(finished, copy):
    kept = json.loads((copy / "lineage.json").read_text())
    assert kept == {"fingerprint": OURS, "data": "grain"}
    # A finished one needs no more rows.
    for lineage in ({"fingerprint": OURS}, {}):
        (copy / "lineage.json").write_text(json.dumps(lineage))
        assert (run(copy, scores=()) == finished[1]).all()
        (copy / "stage.json").rename(copy / "kept.json")
        with pytest.raises(UserError, match="read rows in another order; remove the folder to tra"):
            run(copy, scores=())
        (copy / "kept.json").rename(copy / "stage.json")
    # Nothing of it is trained yet.
    shutil.rmtree(copy / "checkpoints")
    (copy / "stage.json").unlink()
    assert (run(copy) == finished[1]).all()
    assert json.loads((copy / "lineage.json").read_text()) == kept


def test_lineages_of_earlier_versions_are_taken_with_a_word(tmp_path, capsys):
    StageFolder(tmp_path).check("0123456789abcdef", OURS)
    assert "is not checked" in capsys.readouterr().out
    StageFolder(tmp_path).check(OURS, OURS)
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="was trained from another"):
        StageFolder(tmp_path).check(OTHERS, OURS)


def test_the_time_of_all_calls_adds_up(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stage_folder, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    course = StageFolder(tmp_path).course()
    course.resume(0)
    now[0] = 5.0
    course.note(step=2, score=1.0, loss=1.0)
    now[0] = 9.0
    course.note(step=4, score=2.0, loss=1.0)
    # Killed in the middle of a line; what its last checkpoint took is taken, though it is lost.
    with (tmp_path / "course.jsonl").open("a") as file:
        file.write('{"step": 6, "sec')
    now[0] = 100.0
    for _ in range(2):
        course = StageFolder(tmp_path).course()
        course.resume(2)
        assert (course.seconds, course.best(2, lambda line: line["score"])) == (9.0, 2)
    now[0] = 101.5
    assert course.seconds == 10.5
    assert [line.get("step") for line in read_jsonl(tmp_path / "course.jsonl")] == [2, None]
    # A stage that starts anew keeps the time alone.
    StageFolder(tmp_path).course().resume(0)
    assert read_jsonl(tmp_path / "course.jsonl") == [{"seconds": 9.0}]
