"""`promot methods`: every method of the catalogue, what it trains, what it costs."""

import re

import pytest

from promot_jax import cli, configuration
from promot_jax.commands import methods

pytestmark = pytest.mark.long


def listed(capsys, *words):
    """Returns {method: its cells}, and the lines of the methods."""
    assert cli.main(["methods", *words]) == 0
    lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    rows = [re.split(r" {2,}", line) for line in lines]
    return {name: cells for name, *cells in rows}, lines


def test_every_method_of_the_catalogue_is_one_line(capsys):
    rows, lines = listed(capsys)
    defined = [
        name
        for file in ("single_task.gin", "adapters.gin", "modules.gin", "multi_task.gin")
        for name in re.findall(
            r"^(\w+)/stages\.Method:",
            (configuration.GIN_FOLDER / "methods" / file).read_text(),
            re.MULTILINE,
        )
    ]
    # It names no general rows and no prompt of another task, which these read.
    needs = {"corda_fine_tuning", "lora_null_fine_tuning", "promot_transfer", "promot_panda"}
    assert [*rows][1:] == [name for name in defined if name not in needs]
    assert rows["method"] == ["label", "cost", "trains", "stages and their steps", "source"]
    assert rows["pretrained"] == ["Pretrained", "0.00", "nothing", "-"]
    # A frozen model costs two thirds of a step: 5 * 2/3 + 1.
    assert rows["promot"][:4] == ["ProMoT", "4.33", "prompt, model", "prompt 5000, model 1000"]
    assert rows["lora_fine_tuning"][:4] == [
        *("LoRA fine-tuning", "0.67", "adapters", "lora_model 1000")
    ]
    assert rows["promot_dora"][1:4] == ["4.33", "adapters, model", "dora 5000, model 1000"]
    assert rows["adapter_fine_tuning"][1:3] == ["0.67", "adapters"]
    source = "Li & Liang 2021, 2101.00190"
    stages = "prefix 5000, model 1000"
    assert rows["promot_prefix"][1:] == ["4.33", "prefix, model", stages, source]
    assert rows["dept"][2] == "offsets and prompt"
    assert rows["joint"][1:3] == ["1.00", "model and prompt"]
    assert rows["sequential_promot"][1] == "8.67"
    pairs = [*zip(lines, rows.values(), strict=True)]
    ends = {line.index(cost) + len(cost) for line, (_, cost, *_) in pairs}
    assert len(ends) == 1
    assert len({line.index(trains, *ends) for line, (_, _, trains, *_) in pairs}) == 1


def test_an_experiment_has_its_own_steps_and_says_what_runs(capsys, tmp_path):
    (tmp_path / "half.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "from promot_jax.training import stages\n"
        "half/stages.Method.name = 'half'\n"
        "half/stages.Method.label = 'Half'\n"
        "half/stages.Method.stages = [@fine_tuning/half/stages.Stage()]\n"
        "fine_tuning/half/stages.Stage.name = 'half'\n"
        "fine_tuning/half/stages.Stage.trainable = ('decoder/.*',)\n"
    )
    own = [f"--gin_file={tmp_path}/half.gin", "--gin.PROMPT_TRAIN_STEPS=100"]
    rows, _ = listed(capsys, "mini", *own)
    assert [name for name in rows if name.endswith(" *")] == [
        *("pretrained *", "fine_tuning *", "prompt_tuning *", "promot *")
    ]
    assert rows["promot *"][1:4] == ["1.07", "prompt, model", "prompt 100, model 1000"]
    label, cost, trains, stages = rows["half"]
    assert (label, stages) == ("Half", "half 1000")
    part = int(trains.removesuffix("% of model")) / 100
    assert 0.2 < part < 0.8
    assert float(cost) == pytest.approx((2 + part) / 3, abs=0.01)
    assert "multi_promot" not in rows


def test_without_standard_fine_tuning_there_is_no_unit(capsys):
    rows, _ = listed(capsys, "cpu_smoke")
    assert rows == {
        "method": ["label", "cost", "trains", "stages and their steps", "source"],
        "promot *": ["ProMoT", "-", "prompt, model", "prompt 4, model 4"],
    }


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["minni"], "no experiment 'minni'; did you mean 'mini'?"),
        (["mini", "--gin.TRAIN_STEP=5"], "nothing in this experiment uses TRAIN_STEP; did you"),
        (["--gin.TRAIN_STEPS=5"], "--gin.TRAIN_STEPS=5: name the EXPERIMENT that it changes"),
        (["your_data"], "TRAIN_FILE (--train) is not set"),
    ],
)
def test_bad_input_is_one_line(words, line, capsys):
    assert cli.main(["methods", *words]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"promot: {line}")


def test_a_share_counts_the_model_s_own_parameters():
    flags = ["--gin.METHODS=('joint', 'promot_lora_r4')"]
    configuration.parse([configuration.experiment_file("mini")], flags)
    experiment, _, _ = configuration.built()
    joint, adapted = experiment.selected
    assert methods.share(joint.stages[0], experiment.model) == 1.0
    assert [methods.share(stage, experiment.model) for stage in adapted.stages] == [0.0, 1.0]


def test_a_run_refuses_what_only_other_methods_read(capsys):
    assert cli.main(["run", "mini", "--preview", "--gin.GENTLE_LEARNING_RATE=0.1"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("promot: no method that runs uses GENTLE_LEARNING_RATE; to run one")


def test_every_part_of_the_catalogue_is_one_line(capsys):
    assert cli.main(["methods", "mini"]) == 0
    _, found = capsys.readouterr().out.split("\n\n")
    head, *rows = [re.split(r" {2,}", line) for line in found.splitlines()]
    assert head == ["part", "adds", "cost", "source"]
    assert all(len(row) == 4 for row in rows)
    costs = {name: cost for name, _, cost, _ in rows}
    # A forward pass more, two, none, training twice, none at all.
    assert [costs[name] for name in ("kl", "on_policy", "l2_sp", "sparse", "wise_ft")] == [
        *("1.33", "1.67", "1.00", "2.00", "1.00")
    ]


def test_rows_beside_those_of_the_stage_cost_as_they_do(capsys):
    flags = ["--gin.KL_ROWS='mini_triviaqa'", "--gin.KL_ROWS_IN_A_STEP=8"]
    assert cli.main(["methods", "mini", *flags]) == 0
    _, found = capsys.readouterr().out.split("\n\n")
    (row,) = (line for line in found.splitlines() if line.startswith("lwf "))
    # A quarter as many rows, which pass once more than the stage's own.
    assert " 1.33 " in row
