"""The catalogue of methods: experiments have those that they can set up, and pick by name."""

import re

import numpy as np
import pytest

from promot_jax import configuration
from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.configuration import methods
from promot_jax.data import tasks
from promot_jax.data.token_weights import ByPattern, Given
from promot_jax.models.attached import Attached
from promot_jax.training import objectives

HALF = """
half_fine_tuning/stages.Method:
    name = 'half_fine_tuning'
    label = 'Decoder fine-tuning'
    stages = [@fine_tuning/half/stages.Stage()]

fine_tuning/half/stages.Stage:
    name = 'model_half'
    trainable = ('decoder/.*',)
"""
ALONE = """
from __gin__ import dynamic_registration
from promot_jax.training import stages
"""
CATALOGUE = configuration.GIN_FOLDER / "methods"


def parsed(*flags, files=(), name="mini", searched=()):
    """Returns the experiment, as `promot run` reads it."""
    read = [configuration.experiment_file(name), *files]
    flags = [f"--gin.{flag}" for flag in flags]
    usual = configuration.parse(read, flags, searched)
    configuration.check_all_used(read, flags)
    configuration.check_values(flags)
    configuration.check_methods_read(flags, usual)
    return configuration.built()[0]


def names(methods):
    return [method.name for method in methods]


@pytest.mark.parametrize("where", ["a file beside the experiment", "the catalogue's own file"])
def test_a_method_of_parts_that_there_are_is_one_gin_file(where, tmp_path):
    if where.endswith("experiment"):
        (tmp_path / "half.gin").write_text(ALONE + HALF)
        given = {"files": [str(tmp_path / "half.gin")]}
    else:
        (tmp_path / "methods").mkdir()
        whole = (CATALOGUE / "single_task.gin").read_text() + HALF
        (tmp_path / "methods/single_task.gin").write_text(whole)
        given = {"searched": [str(tmp_path)]}
    experiment = parsed("METHODS=('fine_tuning', 'half_fine_tuning')", **given)
    assert names(experiment.selected) == ["fine_tuning", "half_fine_tuning"]
    assert names(experiment.methods)[-1] == "half_fine_tuning"
    whole, half = (method.stages[0] for method in experiment.selected)
    assert (half.name, half.trainable) == ("model_half", ("decoder/.*",))
    assert (half.steps, half.batches, half.mixture) == (whole.steps, whole.batches, whole.mixture)
    assert "half_fine_tuning" not in names(parsed().methods)


@pytest.mark.parametrize("name", ["mini", "your_data", "smollm2/enfr", "paper/mt5_xl/enfr"])
def test_experiments_with_one_target_share_one_list(name):
    configuration.parse([configuration.experiment_file(name)])
    files = [CATALOGUE / f"{file}.gin" for file in ("single_task", "adapters", "modules")]
    text = "".join(file.read_text() for file in files)
    # What reads general rows is there where the experiment names some; none names another prompt.
    needs = {"promot_transfer", "promot_panda"}
    needs |= set() if name == "mini" else {"corda_fine_tuning", "lora_null_fine_tuning"}
    defined = re.findall(r"^(\w+)/stages\.Method:", text, re.MULTILINE)
    assert methods.listed() == [method for method in defined if method not in needs]


def test_the_miniature_runs_what_it_did_and_takes_others():
    assert names(parsed().selected) == ["pretrained", "fine_tuning", "prompt_tuning", "promot"]
    chosen = ("promot_1shot", "lora_fine_tuning", "gentle_fine_tuning")
    found = parsed(f"METHODS={chosen}").selected
    # In the order of the catalogue, not of the command line.
    assert names(found) == [*reversed(chosen)]
    gentle, adapted, shot = found
    assert gentle.stages[0].name == "model_gentle"
    assert adapted.unseen.adapters == adapted.stages[0].lora
    assert [stage.mixture for stage in shot.stages] == ["mini_rte_1shot"] * 2


def test_an_experiment_with_two_targets_has_what_needs_no_prompt_of_one():
    found = names(parsed(name="paper/mini/multitask").methods)
    assert {"sequential_promot", "gentle_fine_tuning", "lora_fine_tuning"} <= {*found}
    assert not {"promot", "prompt_tuning"} & {*found}
    with pytest.raises(UserError, match="no method 'promot' in this experiment; it needs PROMPT;"):
        parsed("METHODS=('promot',)", name="paper/mini/multitask")
    both = ["PROMPT='both'", "METHODS=('promot',)"]
    assert names(parsed(*both, name="paper/mini/multitask").selected) == ["promot"]


def test_an_unknown_method_is_one_line_with_the_nearest_name_and_all_of_them():
    with pytest.raises(UserError) as caught:
        parsed("METHODS=('promt', 'fine_tuning')")
    line = str(caught.value)
    assert line.startswith("METHODS = ('promt', 'fine_tuning'): no method 'promt' in this")
    assert "did you mean 'promot'? It has pretrained, fine_tuning, gentle_fine_tuning," in line
    assert line.endswith("half_reset")
    assert "\n" not in line


def test_parts_are_added_by_plus():
    chosen = ("promot", "promot+kl+half_fine_tuning", "kl")
    experiment = parsed("KL_WEIGHT=0.5", f"METHODS={chosen}")
    assert names(experiment.selected) == [*chosen]
    both, alone = experiment.selected[1:]
    assert [stage.name for stage in both.stages] == ["prompt", "model_kl_half_fine_tuning"]
    assert alone.stages[0].objective[0].weight == both.stages[1].objective[0].weight == 0.5
    # Whoever opens a run may name others than the last call ran.
    assert experiment.method("fine_tuning+dare").after
    with pytest.raises(UserError, match="no method 'nope' in this run"):
        experiment.method("promot+nope")


def test_a_prompt_teaches_by_methods_and_by_parts():
    chosen = ("prompt_distillation", "on_policy_distillation", "promot+on_policy+bare")
    given, drawn, attached = parsed("DISTILLATION_WEIGHT=0.5", f"METHODS={chosen}").selected
    for method in (given, drawn):
        first, last = method.stages
        assert (first.name, last.prompt, last.teacher) == ("prompt", None, Attached("rte"))
        assert last.prompts == first.prompts
    assert given.stages[1].objective == (objectives.Distillation(0.5),)
    assert drawn.stages[1].objective == (objectives.OnPolicy(0.5),)
    (_, last), targets = attached.stages, attached.targets
    assert (last.prompt, last.teacher, targets) == ("rte", None, Attached())


def test_words_stand_in_front_of_exemplars():
    chosen = "METHODS=('in_context',)", "IN_CONTEXT_SHOTS=1", "IN_CONTEXT_PREAMBLE='Two\\nlines.'"
    found = parsed(*chosen, files=["methods/in_context.gin"])
    (method,) = found.selected
    (asked,) = method.asked
    row = tasks.get(asked.task).source.rows("test")[0]
    assert row["inputs"].startswith("Two\nlines.\n\n")
    bare = parsed("METHODS=('in_context',)", "IN_CONTEXT_SHOTS=1", files=["methods/in_context.gin"])
    (plain,) = bare.selected[0].asked
    assert asked.task_feature_lengths["inputs"] == plain.task_feature_lengths["inputs"] + 10


def test_parts_that_read_rows_of_their_own_or_weights_in_rows_need_to_be_told_which():
    chosen = ("lwf", "pattern_weights", "given_weights")
    given = ["KL_ROWS='mini_triviaqa'", "KEY_PATTERN='True'", "TOKEN_WEIGHTS_COLUMN='weights'"]
    found = [
        method.stages[-1].objective[0] for method in parsed(*given, f"METHODS={chosen}").selected
    ]
    assert found == [
        objectives.KL(0.1, rows="mini_triviaqa"),
        objectives.RowWeights(ByPattern("True")),
        objectives.RowWeights(Given("weights")),
    ]
    with pytest.raises(UserError, match="no method 'lwf' in this experiment; it needs KL_ROWS;"):
        parsed("METHODS=('lwf',)")


def test_a_prompt_of_another_task_begins_and_teaches_the_first_stage():
    path = "SOURCE_PROMPT_FILE='source.npy'"
    transfer, panda = parsed(path, "METHODS=('promot_transfer', 'promot_panda')").selected
    for method in (transfer, panda):
        first, last = method.stages
        with pytest.raises(UserError, match=r"prompt file source\.npy cannot be read"):
            first.prompt_init(np.zeros((9, 4), np.float32), first.prompt_length, None)
        assert last.prompt == first.prompt
        assert last.teacher is None
    first = panda.stages[0]
    assert first.objective == (objectives.Distillation(0.1, gold="all"),)
    assert first.teacher.prompt == "source"
    places = [f"encoder/prompt/{name}/prompt" for name in ("source", first.prompt)]
    assert trees.select(places, first.trainable) == {places[1]}
    with pytest.raises(UserError, match="'promot_panda' in this experiment; it needs SOURCE_PRO"):
        parsed("METHODS=('promot_panda',)")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("promot+klx", "no method 'klx' in this experiment; did you mean 'kl'?"),
        ("kl+promot", "'promot' is a method, which comes first; parts follow it: kl, reverse_kl,"),
        ("promot+located", "no method 'located' in this experiment; it needs LOCATED_PATTERNS;"),
        ("mofo", "choose one that does, such as OPTIMIZER = 'adamw'"),
    ],
)
def test_parts_that_there_are_not_are_one_line(name, told):
    with pytest.raises(UserError) as caught:
        parsed(f"METHODS=('{name}',)")
    assert told in str(caught.value)


def test_a_value_that_only_parts_read_is_an_error():
    with pytest.raises(UserError) as caught:
        parsed("KL_WEIGHT=0.5")
    assert str(caught.value) == (
        "no method that runs uses KL_WEIGHT; to run one that does, name it in --methods: "
        "kl, reverse_kl"
    )


def test_a_list_of_one_s_own_is_left_alone():
    only = "experiment.Experiment.methods=[@promot/stages.Method()]"
    assert names(parsed(only, "METHODS=None").methods) == ["promot"]


def test_a_value_that_only_other_methods_read_is_an_error():
    with pytest.raises(UserError) as caught:
        parsed("GENTLE_LEARNING_RATE=0.1")
    assert str(caught.value) == (
        "no method that runs uses GENTLE_LEARNING_RATE; to run one that does, name it in "
        "--methods: gentle_fine_tuning, gentle_promot"
    )
    gentle = "METHODS=('gentle_promot',)"
    assert parsed("GENTLE_LEARNING_RATE=0.1", gentle)
    # What runs by default may be set for a call that runs a part of it.
    assert parsed("PROMPT_TRAIN_STEPS=7", "METHODS=('fine_tuning',)")
    assert parsed("LORA_FINE_TUNING_RANK=2", "METHODS=None")


def test_later_definitions_replace_a_method(tmp_path):
    (tmp_path / "mine.gin").write_text(ALONE + "promot/stages.Method.label = 'Mine'\n")
    experiment = parsed(files=[str(tmp_path / "mine.gin")])
    assert experiment.method("promot").label == "Mine"
    assert names(experiment.methods) == names(parsed().methods)
