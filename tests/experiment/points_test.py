"""Points of curves in a run: what is scored, when they fit into the time, how they go on."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.base.jsonl import read_jsonl, write_jsonl
from promot_jax.data import batching
from promot_jax.experiment.points import Point
from promot_jax.experiment.runner import Runner
from promot_jax.models.attached import Attached
from promot_jax.models.networks.lora import Lora
from promot_jax.training import afterwards
from promot_jax.training.stages import Method
from tests import tiny

pytestmark = pytest.mark.long

ADAPTED = Lora(".*attention/(query|value)/kernel", 2, 4.0)
CURVE = (0.0, 0.5)
TASKS = ("mini_rte", "mini_triviaqa_1shot")


def methods():
    """Nothing, a prompt, ProMoT with a merge, adapters for every task."""
    short = {"steps": 2, "batches": batching.FixedBatches(4, ((40, 4),))}
    pretrained, _, prompt_tuning, promot = tiny.methods(**short)
    # The encoder is the start's in every point.
    decoder = dataclasses.replace(promot.stages[1], trainable=("decoder/.*",))
    merge = afterwards.Ties(points=(0.5,))
    promot = dataclasses.replace(promot, stages=[promot.stages[0], decoder], after=[merge])
    lora = tiny.stage(name="lora", trainable=(".*/lora_[ab]",), lora=ADAPTED, **short)
    adapted = Method("lora", "LoRA", [lora], unseen=Attached(adapters=ADAPTED))
    return [pretrained, prompt_tuning, promot, adapted]


def settings(**changes):
    return tiny.tiny_experiment(methods=methods(), eval_examples=4, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    Runner(settings(), folder).run("test", CURVE)
    return folder


def points_of(folder):
    """Returns (method, transform, at, task) of the scores, and the tasks whose time is known."""
    lines = read_jsonl(folder / "curves.jsonl")
    scored = [line for line in lines if "score" in line]
    keys = [(r["method"], r["transform"], r["at"], r["task"]) for r in scored]
    ends = [(r["method"], r["task"]) for r in lines if r["transform"] == "end"]
    return keys, ends


def test_every_method_that_trains_the_model_has_its_points_once(finished):
    keys, ends = points_of(finished)
    usual = {"promot": "interpolation", "lora": "adapter_scale"}
    expected = [("promot", "ties", 0.5)]
    expected += [(m, kind, at) for m, kind in usual.items() for at in CURVE]
    assert keys == [(*point, task) for point in expected for task in TASKS]
    assert ends == [(m, task) for m in usual for task in TASKS]
    before = (finished / "curves.jsonl").read_bytes()
    Runner(settings(), finished).run("test", CURVE)
    assert (finished / "curves.jsonl").read_bytes() == before


def test_a_point_at_the_start_has_the_scores_of_the_start(finished):
    lines = [r for r in read_jsonl(finished / "curves.jsonl") if r.get("at") == 0]
    results = {(r["method"], r["task"]): r for r in read_jsonl(finished / "results.jsonl")}
    assert len(lines) == 2 * len(TASKS)
    for line in lines:
        # The prompt stays, and is that of prompt tuning.
        whole = results["prompt_tuning" if line["prompt"] else "pretrained", line["task"]]
        same = whole.keys() - {"method", "seed"}
        assert {name: line[name] for name in same} == {name: whole[name] for name in same}


def test_scores_of_ends_do_not_depend_on_points(finished, tmp_path):
    Runner(settings(only=("lora",), reuse=(str(finished),)), tmp_path).run("test")
    plain, ours = (read_jsonl(folder / "results.jsonl") for folder in (tmp_path, finished))
    assert plain == [line for line in ours if line["method"] == "lora"]
    assert points_of(tmp_path)[0] == []


@pytest.mark.parametrize("name", ["promot", "lora"])
def test_a_point_is_loaded_as_it_was_scored(finished, name):
    runner = Runner(settings(), finished)
    method = runner.experiment.method(name)
    start = jax.device_get(trees.flatten(runner.start.params(0)))
    end = jax.device_get(trees.flatten(runner.trained(method, 0).params))
    found = runner.trained(method, 0, at=0.5).params
    for path, leaf in trees.flatten(found).items():
        expected = end[path]
        if name == "lora" and path.endswith("lora_b"):
            expected = 0.5 * end[path]
        elif path in start:
            expected = 0.5 * start[path] + 0.5 * end[path]
        np.testing.assert_allclose(leaf, expected, atol=1e-7, err_msg=path)
        assert leaf.sharding.memory_kind == "device"
    # What follows has the start again.
    assert tiny.leaves_equal(runner.start.params(0), trees.unflatten(start))
    (line,) = [
        r
        for r in read_jsonl(finished / "curves.jsonl")
        if (r["method"], r.get("at"), r["task"]) == (name, 0.5, TASKS[1])
        and r["transform"] != "ties"
    ]
    task = runner.experiment.tasks[0]
    again = runner.measurements.evaluate(found, task, method.unseen, task.split, 4)
    assert (line["score"], line["count"]) == (round(again.score, 4), 4)


def test_start_and_end_lie_in_the_hosts_memory_but_what_is_frozen(finished):
    runner = Runner(settings(), finished)
    params = runner.trained(runner.experiment.method("promot"), 0).params
    held = trees.flatten(runner.start._params) | trees.flatten(params)
    start, end = map(trees.flatten, runner.start.apart(0, params))
    for path, leaf in end.items():
        if "/prompt/" in path:
            continue
        trained = path.startswith("decoder/")
        assert (start[path] is leaf) != trained, path
        assert held[path].is_deleted() == trained
        assert leaf.sharding.memory_kind == ("pinned_host" if trained else "device")
    end["encoder/prompt/rte/prompt"] = partitioning.to_host(end["encoder/prompt/rte/prompt"])
    sides = (trees.unflatten(tree) for tree in (start, end))
    made = runner.points._apply(Point(afterwards.Interpolation(), 0.5), 0, *sides)
    assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(made)} == {"device"}
    # What the start answered is nobody else's answer.
    assert not runner.start.unchanged_in(params)
    assert not runner.start.unchanged_in(trees.unflatten(end))


def test_a_run_that_was_cut_off_goes_on_with_the_scores_that_are_left(finished, tmp_path):
    whole = read_jsonl(finished / "curves.jsonl")
    for file in ("results.jsonl", "run.json"):
        (tmp_path / file).write_bytes((finished / file).read_bytes())
    (tmp_path / "seed_0").symlink_to(finished / "seed_0")
    # In the middle of a point.
    cut, *_ = [
        place
        for place, line in enumerate(whole)
        if (line["method"], line.get("at"), line["task"]) == ("promot", 0.5, TASKS[1])
    ]
    write_jsonl(tmp_path / "curves.jsonl", [line | {"mark": 1} for line in whole[:cut]])
    with (tmp_path / "curves.jsonl").open("a") as file:
        file.write(json.dumps(whole[cut])[:30])
    Runner(settings(), tmp_path).run("test", CURVE)
    found = read_jsonl(tmp_path / "curves.jsonl")
    assert [line.pop("mark", 0) for line in found] == [1] * cut + [0] * (len(found) - cut)
    without = [line for line in whole[cut:] if line["transform"] != "end"]
    for line, other in zip(found, whole[:cut] + without, strict=True):
        assert line | {"seconds": 0} == other | {"seconds": 0}


@pytest.mark.parametrize(
    ("seconds", "chosen", "said"),
    [
        (7 * 40, afterwards.Interpolation().points, None),
        (6.9 * 40, (0.5, 0.7, 0.3, 0.9, 0.6, 0.8), "0.3, 0.9, 0.6, 0.8, without 0.4"),
        (50, (0.5,), "curve at 0.5, without 0.7, 0.3, 0.9, 0.6, 0.8, 0.4: a point takes 4.0 s, a "
         "tenth of the training was 5.0 s; --curve 0.3,0.4,0.5,0.6,0.7,0.8,0.9 takes all"),
        (39, (), "curve at no point, without 0.5, "),
    ],
)  # fmt: skip
def test_points_take_a_tenth_of_the_training(tmp_path, seconds, chosen, said):
    runner = Runner(settings(initial_checkpoint="model"), tmp_path)
    method = dataclasses.replace(runner.experiment.method("promot"), after=())
    asked = [(task, None, None) for task in TASKS]
    assert runner.points.plan(method, 0, asked, "auto").points == []
    for share, name in zip((0.75, 0.25), method.folders, strict=True):
        folder = runner.folder.stage(0, name)
        folder.path.mkdir(parents=True)
        folder.finish({"seconds": share * seconds})
    # A call that was killed between a score and its time leaves it out.
    runner.points.note(method, 0, TASKS[0], 2.0)
    plan = runner.points.plan(method, 0, asked, "auto")
    assert tuple(point.at for point in plan.points) == chosen
    assert {point.transform.name for point in plan.points} <= {"interpolation"}
    assert said in plan.remark if said else plan.remark is None
    # What a point took does not change what is chosen.
    line = {"method": "promot", "seed": 0, "transform": "interpolation", "at": 0.5}
    for task in TASKS:
        runner.folder.record_point(line | {"task": task, "score": 1.0, "seconds": 900.0})
    plan = runner.points.plan(method, 0, asked, "auto")
    assert tuple(point.at for point in plan.points) == chosen[1:]
    # Between random numbers and an end there is nothing.
    runner = Runner(settings(), tmp_path)
    assert runner.points.plan(method, 0, asked, "auto").points == []


@pytest.mark.parametrize("curve", ["auto", (0.3, 0.6)])
def test_a_method_with_a_curve_of_its_own_has_no_point_twice(tmp_path, curve):
    runner = Runner(settings(initial_checkpoint="model"), tmp_path)
    own = afterwards.Interpolation(points=(0.3, 0.9), name="wise_ft")
    method = dataclasses.replace(runner.experiment.method("promot"), after=(own,))
    for name in method.folders:
        folder = runner.folder.stage(0, name)
        folder.path.mkdir(parents=True)
        folder.finish({"seconds": 1000.0})
    for task in TASKS:
        runner.points.note(method, 0, task, 1.0)
    asked = [(task, None, None) for task in TASKS]
    plan = runner.points.plan(method, 0, asked, curve)
    found = [(point.transform.name, point.at) for point in plan.points]
    more = [] if curve == "auto" else [("interpolation", 0.6)]
    assert found == [("wise_ft", 0.3), ("wise_ft", 0.9), *more]


def test_what_would_do_nothing_is_refused(tmp_path):
    prompted = tiny.methods()[2]
    runner = Runner(tiny.tiny_experiment(methods=[prompted]), tmp_path)
    with pytest.raises(UserError, match="--curve: no method that runs trains the model"):
        runner.run("test", (0.5,))
    with pytest.raises(UserError, match=re.escape("--at 0.5: method 'prompt_tuning' trains")):
        runner.points.made(prompted, 0, {}, 0.5)
    method = methods()[-1]
    other = afterwards.Intruders(Lora(ADAPTED.pattern, 2, 8.0))
    changed = dataclasses.replace(method, after=[other])
    with pytest.raises(UserError, match="'lora': intruders is for other adapters than those"):
        Runner(tiny.tiny_experiment(methods=[changed]), tmp_path)
    for transform in (afterwards.Dare(), afterwards.AdapterScale()):
        method = Method("m", "M", prompted.stages, after=[transform])
        with pytest.raises(
            UserError, match=f"'m': {transform.name} changes {transform.of}, which none"
        ):
            Runner(tiny.tiny_experiment(methods=[method]), tmp_path)
