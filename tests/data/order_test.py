"""The order of training rows: epochs, rates, and any place at once."""

import time

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from promot_jax.data.order import Order, shuffled

SIZES = st.integers(1, 300)
ORDER = [500, 676, 156, 233, 88, 611]
MIXED = ([0, 1, 1, 0, 1, 1], [7, 674, 483, 8, 515, 184])


@given(SIZES, st.integers(0, 2**40))
def test_an_epoch_holds_every_row_once_in_an_order_of_its_own(size, seed):
    order = Order([size], [1.0], seed)
    whose, rows = order(0, 3 * size)
    assert not whose.any()
    epochs = rows.reshape(3, size)
    assert (np.sort(epochs) == np.arange(size)).all()
    if size > 30:
        assert (epochs[0] != epochs[1]).mean() > 0.5
        assert (epochs[0] != Order([size], [1.0], seed + 1)(0, size)[1]).mean() > 0.5


@settings(deadline=None)
@given(
    st.lists(st.tuples(SIZES, st.floats(0.01, 100)), min_size=1, max_size=6),
    st.integers(0, 10**9),
    st.integers(1, 100),
)
def test_any_place_is_what_it_is_from_the_start(parts, begin, count):
    sizes, rates = zip(*parts, strict=True)
    order = Order(sizes, rates, 3)
    near = begin % 2000
    whole = np.stack(order(0, near + count))
    assert (np.stack(order(near, count)) == whole[:, near:]).all()
    far, wider = np.stack(order(begin, count)), np.stack(order(begin + 1, count + 7))
    assert (far[:, 1:] == wider[:, : count - 1]).all()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(SIZES, st.floats(0.01, 100)), min_size=2, max_size=6))
def test_rates_hold_everywhere_and_no_row_is_left_out(parts):
    sizes, rates = zip(*parts, strict=True)
    whose, rows = Order(sizes, rates, 0)(0, 3000)
    shares = np.array(rates) / sum(rates)
    drawn = np.cumsum(whose[:, None] == np.arange(len(rates)), axis=0)
    due = np.arange(1, 3001)[:, None] * shares
    assert np.abs(drawn - due).max() <= len(rates)
    for task, size in enumerate(sizes):
        mine = rows[whose == task]
        for epoch in np.split(mine, np.arange(size, len(mine), size)):
            assert len(set(epoch.tolist())) == len(epoch) <= size


def test_permutations_are_evenly_drawn():
    """All orders of three and of four numbers, each about as often."""
    for size, orders in ((3, 6), (4, 24)):
        found = [tuple(shuffled(np.arange(size), size, (seed, 0, 0))) for seed in range(2400)]
        counts = [found.count(order) for order in set(found)]
        assert len(counts) == orders
        assert max(counts) < 1.6 * 2400 / orders
    # Neighbours come to lie anywhere.
    rows = np.array([shuffled(np.arange(2), 4000, (seed, 1, 2)) for seed in range(2000)])
    assert np.abs(np.corrcoef(rows.T)[0, 1]) < 0.1
    assert np.abs(rows.mean(axis=0) / 2000 - 1).max() < 0.1


def test_the_order_is_that_of_earlier_versions():
    """Stages that are under way go on in the order in which they were begun."""
    assert shuffled(np.arange(6), 1000, (0, 1, 2)).tolist() == ORDER
    whose, rows = Order([10, 1000], [1, 2], 7)(10**6, 6)
    assert (whose.tolist(), rows.tolist()) == MIXED


def test_no_place_costs_more_than_another():
    order = Order([10**6, 10**7], [0.3, 0.7], 0)

    def seconds(begin):
        started = time.process_time()
        for number in range(50):
            order(begin + 256 * number, 256)
        return time.process_time() - started

    assert min(seconds(10**12) for _ in range(5)) < 3 * min(seconds(0) for _ in range(5))
