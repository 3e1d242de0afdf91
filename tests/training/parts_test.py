"""Parts of methods: what `promot+kl` is, what goes together, and that pairs train as they must."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.training import afterwards, objectives, optimizers, parts, selections
from promot_jax.training.parts import Part
from promot_jax.training.replay import Replay
from tests import tiny
from tests.training.train_test import RISING, params_with_prompt, run_stage

REPLAY = functools.partial(dataclasses.replace, replay=Replay("mini_triviaqa", 0.25))
PARTS = {
    part.name: part
    for part in (
        Part("kl", "KL", objective=(objectives.KL(0.5),)),
        Part("flow", "FLOW", objective=(objectives.FLOW(batches=1),)),
        Part("half", "half", selection=selections.Half()),
        Part("few", "few", selection=selections.RandomSparse(0.1)),
        Part("sparse", "sparse", selection=selections.MostChanged(0.1)),
        Part("replay", "replay", rows=REPLAY),
        Part("wise", "WiSE-FT", after=(afterwards.Interpolation(points=(0.5,), name="wise"),)),
    )
}
# Those that change how the last stage trains, and go together.
TRAINING = list(itertools.combinations(["kl", "flow", "half", "replay"], 2))


def composed(name):
    return parts.composed(name, {method.name: method for method in tiny.methods()}, PARTS)


def test_a_part_changes_the_last_stage_alone():
    plain, found = composed("promot"), composed("promot+kl+half")
    first, last = found.stages
    assert first == plain.stages[0]
    assert (last.name, last.objective) == ("model_kl_half", PARTS["kl"].objective)
    assert found.folders == ["prompt", "prompt-model_kl_half"]
    assert found.label == "ProMoT + KL + half"
    changed = {"name": "model", "objective": (), "selection": None}
    assert dataclasses.replace(last, **changed) == plain.stages[-1]


def test_penalties_add_up():
    (stage,) = composed("fine_tuning+kl+flow").stages
    assert stage.objective == (*PARTS["kl"].objective, *PARTS["flow"].objective)


def test_a_part_alone_is_added_to_fine_tuning():
    alone, whole = composed("kl"), composed("fine_tuning+kl")
    assert alone.stages == whole.stages
    assert (alone.name, whole.name) == ("kl", "fine_tuning+kl")


def test_what_is_done_afterwards_shares_the_training():
    assert [*composed("promot+wise").stages] == composed("promot").stages
    assert [t.name for t in composed("promot+wise").after] == ["wise"]


def test_what_goes_by_changes_trains_twice():
    found = composed("sparse")
    assert found.folders == ["model", "model-model_sparse"]
    assert [stage.rewinds for stage in found.stages] == [False, True]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fine_tuning+half+few", "few chooses what moves, and so does a part before it"),
        ("pretrained+kl", "pretrained trains nothing that kl could change"),
        ("fine_tuning+wise+wise", "wise is there twice; name each part once"),
        ("kl+half+kl", "kl is there twice; name each part once"),
    ],
)
def test_what_does_not_go_together_is_one_line(name, told):
    with pytest.raises(UserError, match=told):
        composed(name)


@pytest.mark.parametrize("name", ["nope", "promot+nope", "promot+fine_tuning"])
def test_unknown_names_are_told(name):
    with pytest.raises(KeyError) as caught:
        composed(name)
    assert caught.value.args[0] in ("nope", "fine_tuning")


@pytest.mark.slow
@pytest.mark.parametrize("pair", TRAINING, ids="+".join)
def test_pairs_resume_and_leave_alone_what_is_frozen(pair, tmp_path):
    adamw = functools.partial(optimizers.plain_adamw, 0.01, 0.1)
    changes = {"prompt": "rte", "prompt_length": 3, "optimizer": adamw}
    (_, fine_tuning, *_) = tiny.methods(**changes)
    methods = {"fine_tuning": fine_tuning}
    (stage,) = parts.composed("+".join(["fine_tuning", *pair]), methods, PARTS).stages
    before = stage.params(params_with_prompt(), tiny.model())
    whole = run_stage(tmp_path / "whole", stage, before)
    # It stops while it measures step 4, for want of a score.
    with pytest.raises(IndexError):
        run_stage(tmp_path / "parts", stage, before, RISING[:2])
    assert tiny.leaves_equal(whole, run_stage(tmp_path / "parts", stage, before, RISING[2:]))
    old, new = trees.flatten(before), trees.flatten(whole)
    assert all((old[path] == new[path]).all() for path in old if trees.PROMPT.fullmatch(path))
    still = [bool(np.all(old[path] == new[path])) for path in old if "prompt" not in path]
    assert any(still) == ("half" in pair)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(whole))
