"""The ranks of answered tokens: solved by hand, and of the start's own answers."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from promot_jax.experiment.evaluation import Evaluation
from promot_jax.experiment.probes import rank_shift
from promot_jax.experiment.probes.bench import Moment
from promot_jax.experiment.probes.rank_shift import RankShift
from promot_jax.models.attached import BARE
from tests.experiment import benches

pytestmark = pytest.mark.long


def test_ranks_and_shares_by_hand():
    logits = jnp.array([[[0.1, 3.0, 2.0, 1.0], [5.0, 4.0, 4.0, 0.0], [0.0, 1.0, 2.0, 3.0]]])
    model = types.SimpleNamespace(logits=lambda params, batch: logits)
    batch = {"decoder_target_tokens": jnp.array([[1, 2, 0]])}
    found = np.asarray(rank_shift.ranks(model, {}, batch))
    # The second shares its place with a token of the same logit.
    assert found.tolist() == [[1, 2, 4]]
    ranks = np.array([1, 1, 1, 2, 3, 4, 9, 1000])
    assert rank_shift.shares(ranks) == {"unshifted": 37.5, "marginal": 25.0, "shifted": 37.5}


@pytest.mark.parametrize("make", benches.FAMILIES)
def test_greedy_answers_of_the_start_are_unshifted(make):
    start, other = (benches.random_params(make(), seed) for seed in (0, 1))
    bench = benches.bench(make, start)
    measure = RankShift().bind(bench)

    def of(params):
        given = bench.evaluator.evaluate(params, benches.UNSEEN, split="validation", limit=5)
        return measure(Moment(params, BARE, BARE, [(benches.UNSEEN, given)]))

    same = of(start)
    assert same["rank/unshifted"] == same["rank/unshifted/mini_triviaqa"] == 100.0
    moved = of(other)
    assert moved["rank/shifted"] > 50.0
    kinds = ["unshifted", "marginal", "shifted"]
    assert sum(moved[f"rank/{kind}"] for kind in kinds) == pytest.approx(100.0)


def test_an_answer_counts_up_to_the_token_that_ends_it():
    make = benches.decoder_only
    bench = benches.bench(make, benches.random_params(make()), examples=2)
    end = make().vocabulary.eos_id
    tokens = [np.array([7, end, 0, 0], np.int32), np.array([7, 8, 9, 10], np.int32)]
    given = Evaluation(0.0, {}, *([["a", "b"]] * 4), tokens)
    batches = rank_shift.answers_as_targets(bench, benches.UNSEEN, given)
    counted = {}
    for batch, numbers in batches:
        for row, number in enumerate(numbers):
            weights = batch["decoder_loss_weights"][row] > 0
            counted[number] = batch["decoder_target_tokens"][row][weights].tolist()
    assert counted.pop(-1, []) == []
    assert counted == {0: [7, end], 1: [7, 8, 9, 10]}


def test_tasks_of_labels_stay_out_of_the_mean():
    found = [(benches.TARGET, {"a": 1.0}), (benches.UNSEEN, {"a": 5.0})]
    scalars = rank_shift.by_task("rank", found)
    assert scalars == {"rank/a/mini_rte": 1.0, "rank/a/mini_triviaqa": 5.0, "rank/a": 5.0}
    assert rank_shift.by_task("rank", found[:1]) == {"rank/a/mini_rte": 1.0}
