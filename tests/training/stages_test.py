"""A stage says what its model is: training, evaluation and plans ask it."""

import dataclasses

import jax
import numpy as np

from promot_jax.base import trees
from promot_jax.models.networks import lora
from promot_jax.models.networks.lora import Lora
from tests import tiny

OURS, THEIRS = (Lora(".*query/kernel", rank, 4.0) for rank in (2, 4))


def test_a_stage_attaches_its_prompts_adapters_and_dropout_to_a_bare_model():
    prompts = {"mini_rte": "rte", "mini_wmt_enfr": "enfr"}
    stage = tiny.prompt_stage(
        mixture="mini_rte_wmt_enfr", prompt=prompts, lora=OURS, dropout_rate=0.25
    )
    config = stage.model(tiny.model()).network.config
    # In the order in which parameters hold them.
    assert (config.prompt_names, config.prompt_length) == (("enfr", "rte"), 3)
    assert (config.lora, config.dropout_rate) == (OURS, 0.25)
    assert stage.model(stage.model(tiny.model())) == stage.model(tiny.model())
    shapes, _ = stage.model(tiny.model()).shapes_and_axes()
    assert list(trees.prompts_of(shapes)) == list(config.prompt_names)


def test_adapters_of_the_model_are_in_force_where_the_stage_brings_none():
    own = tiny.model().with_lora(THEIRS)
    bare, adapted = tiny.stage(), tiny.stage(lora=OURS)
    found = [stage.adapters(model) for stage in (bare, adapted) for model in (tiny.model(), own)]
    assert found == [None, THEIRS, OURS, OURS]
    assert bare.model(own).network.config.lora == THEIRS


def test_what_a_stage_does_not_attach_is_left_out_of_its_parameters():
    model = tiny.model()
    params = lora.add(model.init(jax.random.key(0)), OURS, jax.random.key(1))
    for name in ("rte", "enfr"):
        params = trees.add_prompt(params, name, np.ones((3, 16), np.float32))
    stages = [tiny.stage(), tiny.prompt_stage(), tiny.stage(lora=OURS)]
    found = [stage.params(params, model) for stage in stages]
    assert [list(trees.prompts_of(tree)) for tree in found] == [[], ["rte"], []]
    assert [bool(lora.adapters(tree)) for tree in found] == [False, False, True]
    # They are those that its model has, one for one.
    for stage, tree in zip(stages, found, strict=True):
        shapes, _ = stage.model(model).shapes_and_axes()
        assert trees.flatten(tree).keys() == trees.flatten(shapes).keys()
    assert dataclasses.replace(stages[0], lora=OURS).params(params, model).keys() == params.keys()
