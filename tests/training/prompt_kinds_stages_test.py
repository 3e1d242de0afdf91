"""Stages that train modules of other kinds than soft prompts, and those after them."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.checkpoints import pretrained
from promot_jax.data import batching
from promot_jax.experiment import attachments
from promot_jax.experiment.runner import Runner
from promot_jax.models.attached import Attached
from promot_jax.models.networks.prompt_kinds import Decomposed, Prefix
from promot_jax.training import optimizers, train
from promot_jax.training.stages import Method
from tests import tiny
from tests.models.models_test import decoder_model, params_of
from tests.training.combinations_test import trained
from tests.training.train_test import RISING, run_stage

pytestmark = pytest.mark.long

SLOW = [pytest.mark.slow, pytest.mark.long]
KINDS = {"prefix": Prefix(), "dept": Decomposed(8, 2)}
OPTIMIZER = functools.partial(optimizers.adamw, 0.05, 0.0)


def module_stage(kind, **changes):
    settings = {"trainable": ("(encoder|decoder)/prompt/.*",), "optimizer": OPTIMIZER}
    return tiny.prompt_stage(
        **{**settings, "name": "module", "prompt_kind": KINDS[kind], **changes}
    )


def model_stage(kind, **changes):
    attached = {"prompt": "rte", "prompt_length": 3, "prompt_kind": KINDS[kind]}
    return tiny.stage(trainable=("(?!.*/prompt/).*",), **{**attached, **changes})


def changed(before, after):
    before, after = trees.flatten(before), trees.flatten(after)
    assert before.keys() <= after.keys()
    return {path for path in before if (np.asarray(before[path]) != np.asarray(after[path])).any()}


@pytest.mark.parametrize("kind", ["prefix", pytest.param("dept", marks=SLOW)])
def test_a_method_trains_the_module_then_the_model_beside_it(kind, tmp_path, monkeypatch):
    method = Method("both", "Both", [module_stage(kind), model_stage(kind)])
    experiment = tiny.tiny_experiment(methods=[method], seeds=(0,))
    seen = []

    def recorded(run, params, model, mesh, train_stage=train.train_stage):
        before = jax.tree.map(np.array, params)
        seen.append((before, jax.device_get(train_stage(run, params, model, mesh))))
        return seen[-1][1]

    monkeypatch.setattr("promot_jax.experiment.runner.train_stage", recorded)
    Runner(experiment, tmp_path / "run").run("test")
    (first, module), (second, model) = seen
    own = {path for path in trees.flatten(first) if trees.PROMPT.fullmatch(path)}
    assert own
    assert changed(first, module) == own
    assert tiny.leaves_equal(second, module)
    assert changed(second, model) == trees.flatten(second).keys() - own
    scores = (tmp_path / "run/results.jsonl").read_text()
    assert scores.count('"prompt": "rte"') == 1

    # Off it comes like a soft prompt, and a model folder has it.
    bare = experiment.model
    batch = next(batching.train_batches("mini_rte", tiny.LENGTHS, batching.FixedBatches(2), seed=0))
    on, off = Attached("rte"), Attached()
    found = [
        each.model(bare, tree).score_batch(tree, each.batch(batch))
        for each in (on, off)
        for tree in [each.params(bare, model)]
    ]
    assert abs(found[0] - found[1]).min() > 0
    pretrained.save(tmp_path / "model", bare.with_prompts_of(model), model, {})
    again, source = pretrained.open_model(str(tmp_path / "model"))
    assert again.network.config.prompt_kind == KINDS[kind]
    assert tiny.leaves_equal(
        {path: source.read(path) for path in source.leaves}, trees.flatten(model)
    )
    assert not list((tmp_path / "model").glob("*.npy"))


@pytest.mark.parametrize("kind", [pytest.param("prefix", marks=SLOW), "dept"])
def test_a_packed_stage_of_a_scanned_decoder_resumes_where_it_was(kind, tmp_path):
    model = decoder_model(num_layers=2, scan_layers=True)
    stage = module_stage(kind)
    params = attachments.add(params_of(model), stage, 0, model)
    whole = run_stage(tmp_path / "whole", stage, params, model=model)
    half = dataclasses.replace(stage, steps=2)
    run_stage(tmp_path / "parts", half, params, model=model)
    (tmp_path / "parts" / "stage.json").unlink()
    rest = run_stage(tmp_path / "parts", stage, params, RISING[2:], model=model)
    assert tiny.leaves_equal(whole, rest)
    assert all(map(trees.PROMPT.fullmatch, changed(params, whole)))


def test_a_name_is_of_one_kind():
    model = tiny.model()
    params = attachments.add(params_of(model), tiny.prompt_stage(), 0, model)
    with pytest.raises(UserError, match=r"'rte' is a prompt already, .* attaches a prefix; give"):
        attachments.add(params, module_stage("prefix"), 0, model)


def test_a_prefix_and_adapters_train_together_and_stand_still_together(tmp_path):
    _, seen, _ = trained("promot_mam", tmp_path, model=tiny.model())
    (first, before, after), (second, *model) = seen
    added = {path for path in before if re.search("/prompt/|/adapter_(down|up)$", path)}
    assert {path.split("/")[-1] for path in added} == {
        *("keys", "values", "adapter_down", "adapter_up")
    }
    assert changed(before, after) == added
    assert changed(*model) == before.keys() - added
    assert first.stage.prompt_kind == second.stage.prompt_kind == Prefix()
    assert first.stage.lora == second.stage.lora
    # Adapters add nothing at first: it begins as the prefix alone.
    batch = next(batching.train_batches("mini_rte", tiny.LENGTHS, batching.FixedBatches(2), seed=0))
    params = trees.unflatten(before)
    scores = [
        each.model(tiny.model(), own).score_batch(own, each.batch(batch))
        for adapters in (first.stage.lora, None)
        for each in [Attached("rte", adapters)]
        for own in [each.params(tiny.model(), params)]
    ]
    assert (scores[0] == scores[1]).all()
