"""Passes over rows become steps, written down as macros."""

import dataclasses

import pytest

from promot_jax import configuration
from promot_jax.base.errors import UserError
from promot_jax.data import batching
from promot_jax.experiment import epochs
from tests import tiny

pytestmark = pytest.mark.long

MINI = "gin/experiments/mini.gin"


def settled(*flags, file=MINI):
    """Parses an experiment as `promot run` does; returns what its epochs come to."""
    configuration.parse([file], [f"--gin.{flag}" for flag in flags])
    return epochs.settle(configuration.passes())


# `mini_rte` has 4000 rows, and batches 32.
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), {}),
        (("EPOCHS=1",), {"TRAIN_STEPS": 125, "EVAL_PERIOD": 100}),
        (("EPOCHS=2.5", "EVAL_PERIOD=1000"), {"TRAIN_STEPS": 313, "EVAL_PERIOD": 125}),
        (("EPOCHS=0.01", "BATCH_SIZE=7"), {"TRAIN_STEPS": 6, "EVAL_PERIOD": 6}),
        (("PROMPT_EPOCHS=3",), {"PROMPT_TRAIN_STEPS": 375, "PROMPT_EVAL_PERIOD": 125}),
        # What the macros stand for is set.
        (("EPOCHS=1", "TRAIN_STEPS=%MINE", "MINE=9"), {"MINE": 125, "EVAL_PERIOD": 100}),
        # They do not depend on which methods run, so that a folder takes others later.
        (("EPOCHS=1", "METHODS=('prompt_tuning',)"), {"TRAIN_STEPS": 125, "EVAL_PERIOD": 100}),
    ],
)
def test_epochs_are_steps(flags, expected):
    found = settled(*flags)
    assert found.values == expected
    assert len(found.lines) == len(expected) / 2


def test_they_are_said_in_words():
    assert settled("EPOCHS=1").lines == ["EPOCHS = 1: 4000 rows in batches of 32 are 125 steps"]


def passes(**changes):
    return epochs.Passes(tiny.stage(epochs=1.0, **changes), "EPOCHS = 1", "STEPS", "PERIOD")


def test_rows_of_a_mixture_are_those_of_its_tasks():
    rows = [epochs.train_rows(name) for name in ("mini_rte", "mini_wmt_enfr", "mini_rte_wmt_enfr")]
    assert rows[0] + rows[1] == rows[2] > rows[0] > 0


def test_one_number_cannot_be_two():
    found = [passes(), passes(name="other", mixture="mini_rte_wmt_enfr")]
    with pytest.raises(UserError, match=r"'model' has 4000 rows, 'other' .* STEPS is one number"):
        epochs.settle(found)


def test_batches_of_tokens_have_no_number_of_rows():
    with pytest.raises(UserError, match="EPOCHS = 1: stage 'model' has batches of no fixed number"):
        epochs.settle([passes(batches=batching.TokenBatches(900, [(40, 4)]))])


def test_rows_that_cannot_be_read_matter_if_no_stage_has_others():
    missing = passes(mixture="mini_nothing")
    assert epochs.settle([missing, passes()]).values["STEPS"] == 500
    with pytest.raises(UserError, match="mini_nothing"):
        epochs.settle([missing])


def test_a_warm_up_is_checked_by_the_steps_of_the_passes():
    stage = passes(warmup=490)
    assert epochs.settle([stage]).values["STEPS"] == 500
    short = stage._replace(stage=dataclasses.replace(stage.stage, epochs=0.5))
    with pytest.raises(UserError, match="warmup = 490 leaves nothing of steps = 250"):
        epochs.settle([short])


def test_rows_of_one_s_own_are_counted(tmp_path):
    for name, count in (("train", 70), ("dev", 4)):
        rows = [f'{{"text": "box {n}", "label": "yes"}}\n' for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    own = [
        f"{macro}_FILE='{tmp_path / name}.jsonl'"
        for macro, name in zip(("TRAIN", "EVAL"), ("train", "dev"), strict=True)
    ]
    own += ["TEMPLATE='{text}'", "TARGET_TEMPLATE='{label}'", "EPOCHS=2", "PROMPT_EPOCHS=0.5"]
    found = settled(*own, file="gin/experiments/your_data.gin")
    expected = {
        "TRAIN_STEPS": 5,
        "EVAL_PERIOD": 3,
        "PROMPT_TRAIN_STEPS": 2,
        "PROMPT_EVAL_PERIOD": 2,
    }
    assert found.values == expected
