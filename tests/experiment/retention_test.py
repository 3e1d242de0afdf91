"""What a model kept of its start, against binomial cases that are solved by hand."""

import dataclasses

import numpy as np
import pytest

from promot_jax.base.errors import UserError
from promot_jax.data import metrics
from promot_jax.experiment import retention
from promot_jax.experiment.retention import Given, Kept, Pair


def accuracy(targets, answers):
    return metrics.accuracy(targets, answers)["accuracy"]


def pair(start, model, score=accuracy):
    """Of rows that are right where the arrays say so."""
    targets = [f"answer {number}" for number in range(len(start))]

    def given(right):
        texts = [text if good else "no" for text, good in zip(targets, right, strict=True)]
        return Given(texts, targets)

    return Pair(score, given(start), given(model))


def drawn(rng, rows, right, lost, gained):
    """A start that is right with a probability, and a model that loses and gains some of it."""
    start = rng.random(rows) < right
    return pair(start, np.where(start, rng.random(rows) >= lost, rng.random(rows) < gained))


def test_a_share_is_the_ratio_of_means_over_tasks():
    first = pair([1] * 50 + [0] * 50, [1] * 40 + [0] * 60)
    second = pair([1] * 30, [1] * 27 + [0] * 3)
    found = retention.kept([first, second])
    assert found.share == pytest.approx(100 * (40 + 90) / (50 + 100))
    assert found.rows == 130
    assert found.low < found.share < found.high
    assert first.agreement == 90
    assert first.whole == (50, 40)


@pytest.mark.parametrize("right", [60, 150, 600])
def test_without_a_loss_the_bound_is_that_of_the_rule_of_three(right):
    """With none of r right answers lost, 3 / r may still be lost at 95 %."""
    found = retention.kept([pair([1] * right + [0] * right, [1] * right + [0] * right)])
    assert found.share == found.high == 100
    assert found.low == pytest.approx(100 - 300 / right, abs=60 / right)


@pytest.mark.parametrize(("rows", "lost", "gained"), [(60, 0.05, 0.0), (100, 0.1, 0.05)])
def test_the_bound_holds_as_often_as_it_says(rows, lost, gained):
    rng, rights = np.random.default_rng(1), (0.4, 0.8)
    true = 100 * sum(p * (1 - lost) + (1 - p) * gained for p in rights) / sum(rights)
    lows = []
    for seed in range(100):
        pairs = [drawn(rng, rows, right, lost, gained) for right in rights]
        lows.append(retention.kept(pairs, seed=seed).low)
    # Of 100 bounds that hold at 95 % each, 91 do at the least, in 98 of 100 cases.
    assert np.mean(np.array(lows) <= true) >= 0.91
    # It is not so wide that it would say nothing.
    assert np.median(lows) > true - 600 / rows - 100 * (lost + gained)


def test_what_did_not_change_keeps_its_promise():
    """Answers that flip by rounding alone, as many to right as to wrong, alarm nobody."""
    rng = np.random.default_rng(2)
    alarms = 0
    for seed in range(10):
        pairs = [drawn(rng, 600, right, 0.004, 0.004) for right in (0.3, 0.5, 0.8)]
        alarms += retention.kept(pairs, seed=seed).verdict(98) != "kept"
    assert alarms == 0


def test_equal_rows_are_drawn_in_pairs():
    """Of two models that are wrong about the same rows the bound is narrow."""
    right = np.arange(400) % 2 == 0
    same, shifted = pair(right, right), pair(right, ~right)
    assert retention.kept([same]).low > 98
    assert retention.kept([shifted]).low < 90


def test_a_metric_of_all_rows_together_is_computed_anew_in_each_draw():
    texts = [f"the cat number {n} sat on the mat in the house" for n in range(30)]
    worse = [text.replace("sat on", "stood by") if n % 3 else text for n, text in enumerate(texts)]

    def bleu(targets, answers):
        return metrics.bleu(targets, answers)["bleu"]

    case = Pair(bleu, Given(texts, texts), Given(worse, texts))
    assert case._of_rows() is None
    found = retention.kept([case])
    assert found.share == pytest.approx(bleu(texts, worse))
    assert found.low < found.share < found.high


def test_models_are_judged_by_what_is_right_as_each_writes_it():
    start = Given(["Año"] * 30, ["Año"] * 30)
    found = retention.kept([Pair(accuracy, start, Given(["ano"] * 30, ["ano"] * 30))])
    assert found.share == 100


def test_a_start_that_is_hardly_ever_right_says_nothing():
    with pytest.raises(UserError, match="the start answers 19 of 500 rows right, too few"):
        retention.kept([pair([1] * 19 + [0] * 481, [1] * 500)])


def test_verdicts_and_the_rows_that_would_tell():
    found = Kept(share=99.0, low=97.0, high=99.5, rows=100)
    assert [found.verdict(p) for p in (97, 98, 99.6)] == ["kept", "open", "lost"]
    # Twice as near takes four times as many.
    assert found.rows_for(98) == 400
    assert found.rows_for(98.5) == 1600
    assert found.rows_for(99) is None
    assert dataclasses.replace(found, share=98.001).rows_for(98) is None
