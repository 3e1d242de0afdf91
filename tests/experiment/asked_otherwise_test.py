"""Forgotten or only suppressed: shares by hand, and what is asked of whom."""

import dataclasses
import types

import pytest

from promot_jax.base.errors import UserError
from promot_jax.experiment.probes import asked_otherwise
from promot_jax.experiment.probes.asked_otherwise import AskedOtherwise
from promot_jax.experiment.probes.bench import Bench, Moment
from promot_jax.models.attached import BARE, Attached
from tests.experiment import benches

TASK = dataclasses.replace(benches.UNSEEN, variants=("mini_triviaqa_1shot", "mini_web_questions"))
PROBE = AskedOtherwise({"inputs": 96, "targets": 4})


def scored(score):
    return types.SimpleNamespace(score=score)


def bench_of(tasks, tuned, start, asked):
    def evaluate(params, task, *, split, limit, attached):
        asked.append((params, task.name, split, limit, attached, task.task_feature_lengths))
        return scored(tuned[task.name])

    rows = types.SimpleNamespace(rows=[types.SimpleNamespace(inputs=[0] * 95)])
    bench = Bench(
        model=None,
        mesh=None,
        evaluator=types.SimpleNamespace(evaluate=evaluate),
        targets=[],
        tasks=tasks,
        examples=4,
        seed=lambda: 0,
        start=lambda: None,
        answers_of_start=lambda task: scored(start[task.name]),
    )
    object.__setattr__(bench, "rows", lambda task, split, examples: rows)
    return bench


def test_each_variant_is_compared_with_the_start_on_that_variant():
    start = {"mini_triviaqa": 80.0, "mini_triviaqa_1shot": 90.0, "mini_web_questions": 50.0}
    tuned = {"mini_triviaqa": 20.0, "mini_triviaqa_1shot": 60.0, "mini_web_questions": 50.0}
    asked, adapters = [], Attached("shared")
    bench = bench_of([benches.TARGET, TASK], tuned, start, asked)
    answers = [(benches.TARGET, scored(3.0)), (TASK, scored(tuned["mini_triviaqa"]))]
    found = PROBE.bind(bench)(Moment("params", BARE, adapters, answers))
    # 60 points are lost, 30 of them on one variant and none on the other: 15 on average.
    expected = {"lost": 60.0, "still_lost": 15.0, "recovered": 75.0}
    for kind, value in expected.items():
        assert found[f"otherwise/{kind}/mini_triviaqa"] == found[f"otherwise/{kind}"] == value
    assert len(found) == 6
    settings = ("validation", 4, adapters, PROBE.task_feature_lengths)
    assert asked == [("params", name, *settings) for name in TASK.variants]


def test_where_nothing_was_lost_nothing_is_recovered():
    scalars = {"otherwise/lost": 0.5, "otherwise/still_lost": -3.0}
    assert asked_otherwise.with_recovered(scalars) == scalars
    assert asked_otherwise.recovered(10.0, -3.0) == 100.0
    assert asked_otherwise.recovered(10.0, 12.0) == 0.0


def test_probes_that_would_measure_nothing_true_are_errors():
    with pytest.raises(UserError, match=r"AskedOtherwise asks variants .* and none has any"):
        PROBE.bind(bench_of([benches.UNSEEN], {}, {}, []))
    short = dataclasses.replace(PROBE, task_feature_lengths={"inputs": 95, "targets": 4})
    with pytest.raises(UserError, match="'mini_triviaqa_1shot' fill all 95 tokens"):
        short.bind(bench_of([TASK], {}, {}, []))
