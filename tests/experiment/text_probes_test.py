"""The loss on neutral text: what it is read with, and what it is compared with."""

import dataclasses
import types

from promot_jax.experiment.probes.answer_form import AnswerForm
from promot_jax.experiment.probes.bench import Bench, Moment
from promot_jax.experiment.probes.neutral_loss import NeutralLoss
from promot_jax.models.attached import BARE, Attached
from tests.experiment import benches

LENGTHS = {"inputs": 16, "targets": 16}


def bench_of(evaluator):
    return Bench(
        model=None,
        mesh=None,
        evaluator=evaluator,
        targets=[benches.TARGET],
        tasks=[],
        examples=4,
        seed=lambda: 0,
        start=lambda: "start",
        answers_of_start=lambda task: None,
    )


def test_it_is_compared_with_the_start_of_its_seed_and_ignores_what_the_stage_attaches():
    asked, seeds = [], [0]

    def loss(params, task, *, split, limit, attached=BARE):
        asked.append((params, task.name, split, limit, attached))
        return float(len(asked))

    bench = bench_of(types.SimpleNamespace(loss=loss))
    bench = dataclasses.replace(bench, seed=lambda: seeds[-1])
    measure = NeutralLoss("mini_pretrain", LENGTHS, examples=3).bind(bench)
    adapters = Attached("rte")
    first = measure(Moment("one", adapters, BARE, ()))
    second = measure(Moment("two", adapters, adapters, ()))
    seeds.append(1)
    third = measure(Moment("one", adapters, BARE, ()))
    assert [found["neutral/loss"] for found in (first, second, third)] == [2.0, 3.0, 5.0]
    assert [found["neutral/loss_of_start"] for found in (first, second, third)] == [1.0, 1.0, 4.0]
    assert asked[0] == asked[3] == ("start", "mini_pretrain", "validation", 3, BARE)
    assert [given[-1] for given in asked] == [BARE, BARE, adapters, BARE, BARE]


def test_form_is_measured_against_training_targets_and_answers_of_the_start():
    def answered(*texts):
        return types.SimpleNamespace(answers=list(texts))

    bench = bench_of(types.SimpleNamespace(written=lambda texts: texts))
    before = answered("Paris", "Rom")
    bench = dataclasses.replace(bench, answers_of_start=lambda task: before)
    measure = AnswerForm(targets=8).bind(bench)
    moment = Moment({}, BARE, BARE, [(benches.UNSEEN, answered("True", "False"))])
    found = measure(moment)
    assert found["form/target_likeness"] == found["form/target_likeness/mini_triviaqa"] > 90.0
    assert found["form/other_script"] == 0.0
    still = dataclasses.replace(moment, answers=[(benches.UNSEEN, before)])
    assert measure(still)["form/target_likeness"] == 0.0
