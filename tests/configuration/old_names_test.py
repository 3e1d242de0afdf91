"""Gin files of earlier versions: they are read by the names of today, wherever they come from."""

import json
import re
import shutil

import pytest

import gin
from promot_jax import cli, configuration
from promot_jax.commands import run
from promot_jax.configuration import old_names
from tests.commands import your_task_test

ROOT = configuration.PACKAGE.parent
KEPT = [
    file
    for folder in (ROOT / "results", ROOT / "docs" / "results")
    for file in sorted(folder.rglob("config.gin"))
]
OLD_BATCHES = r"\bdata\.FixedBatches"
OLD = """
from __gin__ import dynamic_registration
from promot_jax import data
from promot_jax import evaluation
from promot_jax import experiment
from promot_jax import optimizers
from promot_jax import stages
from promot_jax.networks import lora
from promot_jax.probes import gradient_cosine

include 'experiments/mini.gin'
include 'methods/baselines.gin'

model_stage/data.FixedBatches.size = 4
experiment.Experiment.probes = [@gradient_cosine.GradientCosine()]
gradient_cosine.GradientCosine:
    task = %MIXTURE_OR_TASK_NAME
    randomized = 'mini_rte_randomized'
    task_feature_lengths = %TASK_FEATURE_LENGTHS
"""


def stage():
    return configuration.built()[0].method("fine_tuning").stages[0]


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """A tiny model with a vocabulary, in place of checkpoints that are not here."""
    folder = tmp_path_factory.mktemp("model")
    your_task_test.write_small_model(folder)
    return folder / "models" / "base"


@pytest.mark.parametrize("how", ["a file", "an included file"])
def test_files_are_read(how, tmp_path):
    file = tmp_path / "old.gin"
    file.write_text(OLD)
    if how == "an included file":
        (tmp_path / "mine.gin").write_text(f"include '{file}'\nEVAL_PERIOD = 7\n")
        file = tmp_path / "mine.gin"
    configuration.parse([str(file)])
    configuration.check_all_used([str(file)], [])
    configuration.check_values()
    assert stage().batches.size == 4
    (probe,) = configuration.built()[0].probes
    assert probe.task == "mini_rte"


@pytest.mark.parametrize(
    ("flag", "size"),
    [
        ("data.FixedBatches.size=4", 32),
        ("model_stage/data.FixedBatches.size=4", 4),
        ("fine_tuning/stages.Stage.batches=@data.FixedBatches()", 5),
    ],
)
def test_flags_are_read(flag, size):
    flags = [f"--gin.{flag}", "--gin.data.FixedBatches.size=5"] if size == 5 else [f"--gin.{flag}"]
    configuration.parse([configuration.experiment_file("mini")], flags)
    configuration.check_all_used([], flags)
    configuration.check_values(flags)
    # What a scope sets stands before what none sets.
    assert stage().batches.size == size


@pytest.mark.parametrize("old", old_names.MODULES)
def test_every_old_name_has_a_module(old):
    named = {".networks import": " lora", ".probes import": " gradient_cosine"}.get(old, "")
    old = f"from promot_jax {old}".replace(" .", ".") + named
    assert old_names.translated(old) != old
    exec(old_names.translated(old))


def test_names_of_today_stay_as_they_are():
    for file in configuration.GIN_FOLDER.rglob("*.gin"):
        text = file.read_text()
        assert old_names.translated(text) == text, file


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.parent.name)
def test_kept_configurations_build(file, small_model):
    configuration.parse([str(file)], [f"--gin.INITIAL_CHECKPOINT_PATH='{small_model}'"])
    configuration.check_values()
    experiment, _, text = configuration.built()
    assert experiment.selected
    assert not re.search(OLD_BATCHES, text)


# What earlier versions did not have to set is missing in the others. Newer ones list parts, whose
# settings may change before a version has them.
COMPLETE = [
    file
    for file in KEPT
    if "RELATIVE_PROMPT_RATE" in (text := file.read_text())
    and "DROPOUT_RATE" in text
    and re.search(OLD_BATCHES, text)
]


@pytest.mark.parametrize("file", COMPLETE, ids=lambda file: file.parent.name)
def test_the_command_of_a_kept_run_goes_on_in_its_folder(file, tmp_path):
    words = json.loads((file.parent / "run.json").read_text())["command"].split()[1:]
    arguments, flags = cli._parser().parse_known_args(words)
    flags = [*run._chosen(arguments).values(), *flags]
    experiment = [configuration.experiment_file(arguments.experiment)]
    usual = configuration.parse(experiment, flags)
    configuration.check_all_used(experiment, flags)
    configuration.check_methods_read(flags, usual)
    shutil.copy(file, tmp_path)
    configuration.keep(tmp_path, gin.config_str(max_line_length=99))


def test_there_are_kept_configurations():
    assert sum(bool(re.search(OLD_BATCHES, file.read_text())) for file in KEPT) == 13
    assert len(COMPLETE) >= 4
