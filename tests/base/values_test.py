"""Values are checked before anything is read: one line that names what a person set."""

import dataclasses
import functools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from promot_jax import configuration
from promot_jax.base import values
from promot_jax.base.errors import UserError
from promot_jax.models.networks.decoder import DecoderConfig
from promot_jax.training import optimizers
from tests import tiny
from tests.commands.cli_test import fails

COUNT = "a whole number of at least 1"
SHARE = "a number from 0 to below 1"
WRONG = [
    ("TRAIN_STEPS=1e3", f"TRAIN_STEPS = 1e3: expected {COUNT}; write 1000"),
    ("TRAIN_STEPS='100'", f"TRAIN_STEPS = '100': expected {COUNT}; write 100 without quotes"),
    ("TRAIN_STEPS=True", "TRAIN_STEPS = True"),
    ("TRAIN_STEPS=@decoding.Beam()", "TRAIN_STEPS = @decoding.Beam()"),
    ("TRAIN_STEPS=%TRAIN_STEPS", "it stands for itself"),
    ("BATCH_SIZE=8.0", f"BATCH_SIZE = 8.0: expected {COUNT}; write 8"),
    ("EVAL_EXAMPLES=0", f"EVAL_EXAMPLES = 0: expected {COUNT} or None"),
    ("SEEDS=1", "SEEDS = 1: expected a tuple of whole numbers, such as (1,); write (1,)"),
    ("SEEDS=()", "give at least one"),
    ("SEEDS=(3,3)", "SEEDS = (3,3): expected"),
    ("SEEDS=(0,-1)", "SEEDS = (0,-1): -1 in it: expected"),
    ("SEEDS=(4294967296,)", "from 0 to 4294967295"),
    ("METHODS='promot'", "write ('promot',)"),
    ("METHODS=('promott',)", "no method 'promott' in this experiment; did you mean 'promot'?"),
    ("LEARNING_RATE='0.001'", "such as @optimizers.warmup_cosine(); write 0.001 without quotes"),
    ("LEARNING_RATE=-0.1", "LEARNING_RATE = -0.1: expected a number above 0"),
    ("LEARNING_RATE=1e999", "LEARNING_RATE = 1e999"),
    ("LEARNING_RATE=@optimizers.warmup_cosine", "did you mean @optimizers.warmup_cosine()?"),
    ("LEARNING_RATE=@optimizers.warmup_cosine()", "optimizers.warmup_cosine.peak has no value"),
    # Read by the prompt's stage through a macro of its own: the one that was set is named.
    ("LABEL_SMOOTHING=1.0", f"LABEL_SMOOTHING = 1.0: expected {SHARE}"),
    ("DROPOUT_RATE=10", f"DROPOUT_RATE = 10: expected {SHARE}"),
    ("TASK_FEATURE_LENGTHS={'inputs': 64}", "such as {'inputs': 64, 'targets': 8}"),
    ("TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 0}", "'targets': 0 in it"),
    ("LENGTH_BUCKETS=(36, 2)", "LENGTH_BUCKETS = (36, 2): 36 in it: expected a tuple"),
    ("FROZEN_DTYPE='bf16'", "did you mean 'bfloat16'?"),
    ("t5.T5Config.remat='minimum'", "t5.T5Config.remat = 'minimum': expected 'none'"),
    ("t5.T5Config.mlp_activations=('rellu',)", "'rellu' in it: expected the name of an activation"),
    ("decoding.Beam.num_beams=0", "decoding.Beam.num_beams = 0"),
    ("experiment.Experiment.decoder='beam'", "that is a Decoder"),
    ("LORA_PATTERN='('", "LORA_PATTERN = '(': expected a regular expression"),
    ("MODEL_DIR=''", "MODEL_DIR = '': expected a text that is not empty"),
    ("INITIAL_CHECKPOINT_PATH='a\\0b'", "INITIAL_CHECKPOINT_PATH = 'a\\x00b' cannot be the name"),
    ("REUSE=('runs/none',)", "REUSE 'runs/none' is no folder"),
    # What does not go together, by the names of the macros.
    ("PROMPT_LENGTH=0", "attaches a prompt, but PROMPT_LENGTH = 0; give at least 1"),
    ("MICROBATCHES=5", "batches of 32 rows, which MICROBATCHES = 5 does not divide"),
]


@pytest.fixture
def nothing_is_read(monkeypatch, tmp_path):
    """Runs in an empty folder, which stays empty; no checkpoint is opened and no row is read."""

    def read(*_, **__):
        raise AssertionError("something was read")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("promot_jax.experiment.preview.needed", read)
    monkeypatch.setattr("promot_jax.checkpoints.formats.known.open_checkpoint", read)
    yield
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("flag", "expected"), WRONG)
def test_a_wrong_value_is_one_line(nothing_is_read, capsys, flag, expected):
    assert expected in fails(capsys, "run", "mini", f"--gin.{flag}")


def test_sizes_that_do_not_go_together_are_named_by_their_macros(nothing_is_read, capsys):
    heads = ["--gin_file=models/palm/tiny.gin", "--gin.decoder.DecoderConfig.num_kv_heads=3"]
    line = fails(capsys, "run", "mini", *heads)
    assert "decoder.DecoderConfig.num_kv_heads = 3 does not divide NUM_HEADS = 4" in line


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("metric='accurracy'", ".metric = 'accurracy': the task mini_rte has no such metric; did"),
        ("split='tests'", ".split = 'tests': the task mini_rte has no such split; did you mean"),
    ],
)
def test_how_a_task_is_evaluated_is_checked(nothing_is_read, capsys, flag, expected):
    line = fails(capsys, "run", "mini", f"--gin.target/evaluation.EvalTask.{flag}")
    assert f"target/evaluation.EvalTask{expected}" in line


COUNTS = ("TRAIN_STEPS", "BATCH_SIZE", "EVAL_PERIOD", "PROMPT_TRAIN_STEPS", "MICROBATCHES")
SHARES = ("DROPOUT_RATE", "LABEL_SMOOTHING", "PROMPT_DROPOUT_RATE")
RATES = ("LEARNING_RATE", "PROMPT_LEARNING_RATE")
SEVERAL = ("SEEDS", "METHODS", "LENGTH_BUCKETS", "TASK_FEATURE_LENGTHS")
NO_NUMBER = st.sampled_from(
    ["'7'", "''", "'x'", "True", "False", "(1,)", "[]", "{}", "None", "b'x'"]
)
WRONG_OF = {
    COUNTS: NO_NUMBER | st.integers(max_value=0).map(repr) | st.floats(0, 1e6).map(repr),
    SHARES: NO_NUMBER
    | (st.floats(1, 1e9) | st.floats(-1e9, -1e-9) | st.integers(1) | st.integers(max_value=-1)).map(
        repr
    ),
    RATES: NO_NUMBER | (st.floats(-1e9, 0) | st.integers(max_value=0)).map(repr),
    SEVERAL: st.integers().map(repr) | st.floats(0, 9).map(repr) | st.sampled_from(["True", "'x'"]),
}
CASES = st.one_of(*(st.tuples(st.sampled_from(names), wrong) for names, wrong in WRONG_OF.items()))
REQUIRED = ["--gin.INITIAL_CHECKPOINT_PATH='x'", "--gin.VOCABULARY='x'"]
# It has stages, and macros, of its own.
EXPERIMENTS = [name for name in configuration.experiments() if name != "mini_pretrain"]


def required(experiment: str) -> list[str]:
    return REQUIRED if "palm" in experiment else []


@hypothesis.settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(st.sampled_from(EXPERIMENTS), CASES)
def test_random_wrong_values_are_one_line(nothing_is_read, capsys, experiment, case):
    name, value = case
    flags = [*required(experiment), f"--gin.{name}={value}"]
    line = fails(capsys, "run", experiment, *flags)
    unused = f"nothing in this experiment uses {name}" in line
    assert unused or (f"{name} = {value}: " in line and "expected" in line)


@pytest.mark.parametrize("experiment", configuration.experiments())
def test_the_values_of_every_experiment_are_allowed(experiment):
    file = configuration.experiment_file(experiment)
    configuration.parse([file], required(experiment))
    configuration.check_all_used([file], required(experiment))
    configuration.check_values()


@pytest.mark.parametrize(
    "flag",
    [
        "SEEDS=[0, 4294967295]",
        "EVAL_EXAMPLES=None",
        "LEARNING_RATE=1",
        "DROPOUT_RATE=0",
        "METHODS=None",
        "PROMPT_TRAIN_STEPS=%TRAIN_STEPS",
        "PROMPT={'mini_rte': 'rte'}",
        "experiment.Experiment.decoder=@decoding.Sample()",
        "experiment.Experiment.decoder=@decoding.huggingface_beam()",
        "decoding.Beam.length_penalty=@decoding.power_penalty",
        "fine_tuning/stages.Stage.optimizer=@optimizers.adamw",
        "prompt_tuning/stages.Stage.prompt_init=@prompt.uniform()",
    ],
)
def test_right_values_pass(flag):
    file = configuration.experiment_file("mini")
    configuration.parse([file], [f"--gin.{flag}"])
    configuration.check_all_used([file], [f"--gin.{flag}"])
    configuration.check_values()


def test_fields_are_checked_in_python_too():
    assert tiny.stage(steps=np.int64(4), dropout_rate=np.float32(0.1)).steps == 4
    for wrong in ({"steps": 4.0}, {"steps": True}, {"dropout_rate": float("nan")}):
        with pytest.raises(UserError, match=f"Stage.{next(iter(wrong))} = "):
            tiny.stage(**wrong)
    with pytest.raises(UserError, match=r"Experiment.seeds = \(1, 1\)"):
        tiny.tiny_experiment(seeds=(1, 1))
    with pytest.raises(UserError, match="head_dim = 7; rotary needs an even one"):
        DecoderConfig(8, 8, 2, 1, 7, 8, 1)


def test_a_hint_says_what_it_allows():
    @dataclasses.dataclass(frozen=True)
    class Settings:
        table: dict[str, values.Count]
        made: functools.partial | None = None

    values.check_fields(Settings({"a": 1}, functools.partial(int)))
    with pytest.raises(UserError, match=r"'a': 0 in it: expected a whole number"):
        values.check_fields(Settings({"a": 0}))
    with pytest.raises(UserError, match=r"Settings\.made = 5: expected an object"):
        values.check_fields(Settings({}, 5))


SCHEDULE = optimizers.Schedule
# What each macro's schedule must last for, by a stage that reads it.
READERS = {
    "LEARNING_RATE": ("fine_tuning", "TRAIN_STEPS"),
    "PROMPT_LEARNING_RATE": ("prompt_tuning", "PROMPT_TRAIN_STEPS"),
    "LORA_LEARNING_RATE": ("promot_lora_r2", "PROMPT_TRAIN_STEPS"),
    "GENTLE_LEARNING_RATE": ("gentle_fine_tuning", "TRAIN_STEPS"),
    "LORA_FINE_TUNING_RATE": ("lora_fine_tuning", "TRAIN_STEPS"),
    "ADAPTER_LEARNING_RATE": ("promot_adapter", "PROMPT_TRAIN_STEPS"),
    "ADAPTER_FINE_TUNING_RATE": ("adapter_fine_tuning", "TRAIN_STEPS"),
}


def _schedule(monkeypatch, method, *flags):
    """Returns the schedule of the first stage of a method."""
    flags = [f"--gin.{flag}" for flag in flags]
    files = [configuration.experiment_file("mini")]
    configuration.parse(files, flags)
    configuration.check_all_used(files, flags)
    configuration.check_values(flags)
    stage = configuration.built()[0].method(method).stages[0]
    made = []
    monkeypatch.setattr(optimizers, "Schedule", lambda *a: made.append(SCHEDULE(*a)) or made[-1])
    stage.optimizer()
    monkeypatch.undo()
    (rate,) = made
    return rate


@pytest.mark.parametrize("recipe", ["warmup_cosine", "warmup_linear"])
@pytest.mark.parametrize("macro", READERS)
def test_a_schedule_lasts_as_long_as_its_stage(monkeypatch, macro, recipe):
    method, steps = READERS[macro]
    rate = _schedule(
        *(monkeypatch, method, "TRAIN_STEPS=30", "PROMPT_TRAIN_STEPS=50"),
        *(
            "GENTLE_LEARNING_RATE=0.1",
            f"{macro}=@optimizers.{recipe}()",
            f"optimizers.{recipe}.peak=0.5",
        ),
        f"{macro}/optimizers.{recipe}.warmup_steps=10",
    )
    assert rate.steps == {"TRAIN_STEPS": 30, "PROMPT_TRAIN_STEPS": 50}[steps]
    np.testing.assert_allclose([rate(5), rate(10)], [0.25, 0.5], rtol=1e-5)
    assert rate(rate.steps) < 0.01


def test_a_schedule_replaces_a_rate_however_it_is_set(monkeypatch, nothing_is_read, capsys):
    """Also by the parameter that the experiment's own macro is for, which then has no reader."""
    recipe = "optimizers.warmup_cosine"
    for name in ("optimizers.model_adafactor.learning_rate", "LEARNING_RATE"):
        settings = [f"{name}=@{recipe}()", f"{recipe}.peak=0.1", f"{recipe}.warmup_steps=2"]
        rate = _schedule(
            monkeypatch, "fine_tuning", "GENTLE_LEARNING_RATE=0.1", *settings, f"{recipe}.steps=4"
        )
        assert (rate.peak, rate.warmup_steps, rate.steps) == (0.1, 2, 4)
    flags = [f"--gin.{flag}" for flag in settings]
    line = fails(capsys, "run", "mini", *flags, f"--gin.{recipe}.steps=2")
    assert "optimizers.warmup_cosine: warmup_steps = 2 must be below steps = 2" in line
    flags[0] = f"--gin.optimizers.model_adafactor.learning_rate=@{recipe}()"
    assert f"{recipe}.steps has no value" in fails(capsys, "run", "mini", *flags)


def test_only_what_a_person_wrote_is_blamed(nothing_is_read, tmp_path_factory, capsys):
    override = "--gin.optimizers.model_adafactor.learning_rate=0.5"
    assert "uses LEARNING_RATE" in fails(capsys, "run", "mini", override, "--gin.LEARNING_RATE=1.0")
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.gin").write_text("include 'experiments/mini.gin'\nTRAIN_STEP = 5\n")
    line = fails(capsys, "run", str(folder / "own.gin"), override)
    assert f"{folder}/own.gin: nothing in this experiment uses TRAIN_STEP; did you mean" in line
    (folder / "own.gin").write_text("optimizers.adafactr.x = 1\nTRAIN_STEP = 5\n")
    line = fails(capsys, "run", "mini", "--gin_file=own.gin", f"--gin_search_paths={folder}")
    assert "own.gin" in line
    for package_file in ("methods/single_task.gin", "experiments/paper/mini/enfr.gin"):
        path = str(configuration.GIN_FOLDER / package_file)
        file = configuration.experiment_file("mini")
        configuration.parse([file, path], [override])
        configuration.check_all_used([file, path, package_file], [override])
