"""What a run folder accepts as its own configuration, and what it refuses."""

import re

import pytest

from promot_jax import configuration
from promot_jax.base.errors import UserError

KEPT = """\
from promot_jax.training import stages

# Macros:
LEARNING_RATE = 0.001
METHODS = ('promot',)
REMAT = 'none'

# Parameters for experiment.Experiment:
experiment.Experiment.eval_examples = 20
experiment.Experiment.methods = \\
    [@fine_tuning/stages.Method(),
     @promot/stages.Method()]

fine_tuning/stages.Method.name = 'fine_tuning'
fine_tuning/stages.Method.stages = [@model_stage/standard/stages.Stage()]
promot/stages.Method.name = 'promot'
unused/stages.Stage.steps = 7
model_stage/stages.Stage.steps = 10
"""
LIST = KEPT[KEPT.index("    [") : KEPT.index("]\n")]
FURTHER = """\
from promot_jax.models.networks import lora
FURTHER_RATE = 0.1
further/stages.Method.name = 'further'
further/stages.Method.stages = [@model_stage/further/stages.Stage()]
model_stage/further/stages.Stage.learning_rate = %FURTHER_RATE
model/stages.Stage.learning_rate = %FURTHER_RATE
"""


def kept(folder, config):
    (folder / "config.gin").write_text(KEPT)
    configuration.keep(folder, config)
    return (folder / "config.gin").read_text()


@pytest.mark.parametrize(
    "config",
    [
        KEPT,
        KEPT.replace(LIST, LIST + ",\n     @further/stages.Method()") + FURTHER,
        KEPT.replace(LIST, "    [@promot/stages.Method(), @fine_tuning/stages.Method()"),
        KEPT.replace("METHODS = ('promot',)", "METHODS = ('fine_tuning', 'promot')"),
        KEPT.replace("REMAT = 'none'", "REMAT = 'full'\nSCAN_LAYERS = True"),
        KEPT + "stages.Stage.pack = False\n",
        KEPT.replace("unused/stages.Stage.steps = 7\n", ""),
        # Nothing in the folder's configuration calls these, in no scope or in one that it has.
        KEPT + "lora.Lora.rank = 2\n",
        KEPT + "fine_tuning/lora.Lora.rank = 2\n",
    ],
)
def test_a_folder_takes_what_changes_nothing_in_it(config, tmp_path):
    assert kept(tmp_path, config) == config


@pytest.mark.parametrize(
    ("config", "difference"),
    [
        (KEPT.replace("0.001", "0.01"), "LEARNING_RATE = 0.01"),
        (KEPT.replace("steps = 10", "steps = 11"), "model_stage/stages.Stage.steps = 11"),
        (KEPT.replace("standard", "further"), "fine_tuning/stages.Method.stages = [@model_stage/f"),
        (KEPT + "stages.Stage.dropout_rate = 0.1\n", "stages.Stage.dropout_rate = 0.1"),
        (KEPT + "model_stage/stages.Stage.seed = 1\n", "model_stage/stages.Stage.seed = 1"),
        (
            KEPT + "model_stage/standard/stages.Stage.seed = 1\n",
            "model_stage/standard/stages.Stage.seed = 1",
        ),
        (
            KEPT.replace("experiment.Experiment.eval_examples = 20\n", ""),
            "experiment.Experiment.eval_examples = 20",
        ),
        (
            KEPT.replace("model_stage/stages.Stage.steps = 10\n", ""),
            "model_stage/stages.Stage.steps = 10",
        ),
        # What the folder has under a name must be what goes by it now.
        (KEPT + "mine/stages.Method.name = 'promot'\n", "mine/stages.Method.name = 'promot'"),
    ],
)
def test_a_folder_refuses_what_changes_its_results(config, difference, tmp_path):
    with pytest.raises(UserError) as caught:
        kept(tmp_path, config)
    assert f"(first difference: {difference}" in str(caught.value)
    assert (tmp_path / "config.gin").read_text() == KEPT


@pytest.mark.parametrize(
    ("further", "difference"),
    [
        ("PATIENCE = None\nmodel_stage/stages.Stage.patience = %PATIENCE\n", None),
        (
            "PATIENCE = 3\nmodel_stage/stages.Stage.patience = %PATIENCE\n",
            "model_stage/stages.Stage",
        ),
        ("CLIP = 1.0\nstages.Stage.gradient_clip = %CLIP\n", "stages.Stage.gradient_clip = %CLIP"),
        ("EPOCHS = 3\nmodel_stage/stages.Stage.epochs = %EPOCHS\n", None),
        # Something else is bound elsewhere, so that this would take its place.
        ("model_stage/stages.Stage.steps = 10\nstages.Stage.steps = 10\n", "stages.Stage.steps"),
    ],
)
def test_a_setting_that_came_later_counts_if_it_is_not_its_default(further, difference, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, texts in ((first, (KEPT, KEPT + further)), (second, (KEPT + further, KEPT))):
        folder.mkdir()
        configuration.keep(folder, texts[0])
        if difference is None:
            configuration.keep(folder, texts[1])
            continue
        with pytest.raises(UserError, match=re.escape(f"first difference: {difference}")):
            configuration.keep(folder, texts[1])


SCHEDULED = """\
LEARNING_RATE = @optimizers.warmup_cosine()
OTHER_RATE = 0.1
standard/optimizers.adafactor.learning_rate = %LEARNING_RATE
optimizers.warmup_cosine.peak = 0.1
stages.Method.optimizer = @optimizers.adafactor
"""


@pytest.mark.parametrize(
    ("further", "refused"),
    [
        ("LEARNING_RATE/optimizers.warmup_cosine.warmup_steps = 2\n", True),
        ("OTHER_RATE/optimizers.warmup_cosine.warmup_steps = 2\n", True),
        ("FURTHER_RATE/optimizers.warmup_cosine.warmup_steps = 2\n", False),
        ("OTHER_RATE/optimizers.warmup_linear.warmup_steps = 2\n", False),
        ("optimizers.adafactor.momentum = 2\n", True),
    ],
)
def test_a_setting_counts_where_the_folder_s_configuration_calls_it(further, refused, tmp_path):
    configuration.keep(tmp_path, SCHEDULED)
    if not refused:
        configuration.keep(tmp_path, SCHEDULED + further)
        return
    with pytest.raises(UserError, match=re.escape(f"first difference: {further.strip()}")):
        configuration.keep(tmp_path, SCHEDULED + further)


def test_a_method_may_be_added_to_an_experiment_of_one_s_own(tmp_path):
    file = tmp_path / "mine.gin"
    first = """
from __gin__ import dynamic_registration
from promot_jax.experiment import experiment
from promot_jax.training import stages

include 'experiments/mini.gin'
METHODS = None
experiment.Experiment.methods = [@fine_tuning/stages.Method(), @promot/stages.Method()]
"""
    configs = []
    further = """
experiment.Experiment.methods = [@promot/stages.Method(), @mine/stages.Method()]
mine/stages.Method.name = 'mine'
mine/stages.Method.label = 'Mine'
mine/stages.Method.stages = [@fine_tuning/mine/stages.Stage()]
fine_tuning/mine/stages.Stage.steps = %MY_STEPS
MY_STEPS = 30
"""
    for text in (first, first + further, first + further + "fine_tuning/stages.Stage.steps = 3\n"):
        file.write_text(text)
        configuration.parse([str(file)])
        configs.append(configuration.built()[2])
    configuration.keep(tmp_path, configs[0])
    configuration.keep(tmp_path, configs[1])
    configuration.keep(tmp_path, configs[0])
    with pytest.raises(UserError, match=r"difference: fine_tuning/stages\.Stage\.steps = 3"):
        configuration.keep(tmp_path, configs[2])


@pytest.mark.parametrize("cut", range(0, len(KEPT), 7))
def test_a_file_that_a_crash_cut_off_is_mended(cut, tmp_path):
    text = KEPT[:cut]
    # Nobody can tell that statements are missing between two lines.
    if text.endswith("\n") and " = " in text.splitlines()[-1]:
        text += "stages.Stage.x"
    (tmp_path / "config.gin").write_text(text)
    changed = KEPT.replace("METHODS = ('promot',)", "METHODS = ('fine_tuning',)")
    configuration.keep(tmp_path, changed)
    assert (tmp_path / "config.gin").read_text() == changed
    assert [path.name for path in tmp_path.iterdir()] == ["config.gin"]


def test_what_a_crash_left_of_another_configuration_is_refused(tmp_path):
    (tmp_path / "config.gin").write_text(KEPT[: KEPT.index("eval_examples = 2") + 20])
    with pytest.raises(UserError, match=r"first difference: LEARNING_RATE = 0\.001"):
        configuration.keep(tmp_path, KEPT.replace("LEARNING_RATE = 0.001", "LEARNING_RATE = 0.1"))
