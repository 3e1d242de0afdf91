"""Windows of rows: sorted or not, every row once, in batches that any number of processes share."""

import collections
import dataclasses
import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from promot_jax.data import batching, tasks, windows
from promot_jax.data.order import Order
from promot_jax.data.tasks import Tokens
from promot_jax.tasks import mini

LONGEST = (64, 16)
BUCKETS = ((8, 4), (16, 8), (32, 8))
BOUNDS = (*BUCKETS, LONGEST)


def lengths(count, seed=0):
    """T and U of rows, most of them short."""
    rng = np.random.default_rng(seed)
    inputs = np.minimum(rng.geometric(0.08, count), LONGEST[0])
    targets = np.minimum(rng.geometric(0.4, count), LONGEST[1])
    return list(zip(inputs.tolist(), targets.tolist(), strict=True))


class Rows:
    """Rows whose first token is their number, in the order of a stream."""

    def __init__(self, count):
        self.lengths, self.order = lengths(count), Order([count], [1.0], 5)

    def at(self, whose, numbers):
        rows = []
        for number in numbers.tolist():
            inputs, targets = (np.ones(length, int) for length in self.lengths[number])
            inputs[0] = number
            rows.append(Tokens(inputs, targets))
        return rows

    def read(self, begin, count):
        return self.at(*self.order(begin, count))

    def sample(self):
        return self.lengths


def batches_of(kind, rows, share, count=3):
    """The rows of the batches of the first windows, as numbers; -1 for an empty one."""
    layout = kind.layout(BOUNDS, rows.sample)
    read = windows.Windows(rows, layout, 9, share)
    found = [batch for number in range(count) for batch in read(number)]
    return [[-1 if row is None else int(row.inputs[0]) for row in batch.rows] for batch in found]


KINDS = st.one_of(
    st.builds(batching.FixedBatches, st.integers(1, 40)),
    st.builds(batching.SortedBatches, st.integers(1, 40), st.just(BUCKETS)),
    st.builds(batching.TokenBatches, st.integers(100, 900), st.just(BUCKETS), st.integers(1, 8)),
)


@settings(deadline=None, max_examples=60)
@given(KINDS, st.integers(1, 5))
def test_processes_read_disjoint_rows_that_are_the_batch_of_one(kind, count):
    rows = Rows(3000)
    whole = batches_of(kind, rows, batching.WHOLE)
    parts = [batches_of(kind, rows, (number, count)) for number in range(count)]
    for batch, *own in zip(whole, *parts, strict=True):
        assert len({len(rows) for rows in own}) == 1
        joined = list(itertools.chain.from_iterable(own))
        # Empty rows at the end alone, fewer than there are processes.
        assert joined[: len(batch)] == batch
        assert set(joined[len(batch) :]) <= {-1}
        assert len(joined) - len(batch) < count


@settings(deadline=None, max_examples=30)
@given(KINDS)
def test_a_window_holds_the_rows_of_its_places(kind):
    rows = Rows(3000)
    layout = kind.layout(BOUNDS, rows.sample)
    found = batches_of(kind, rows, batching.WHOLE, count=2)
    unit = kind.multiple if isinstance(kind, batching.TokenBatches) else kind.size
    assert all(len(batch) % unit == 0 for batch in found)
    expected = rows.order(0, 2 * layout.rows)[1].tolist()
    found = list(itertools.chain.from_iterable(found))
    assert collections.Counter(found) == collections.Counter(expected)
    if isinstance(kind, batching.FixedBatches):
        assert found == expected


def padded(kind, rows, count=4):
    """The shape of each batch, and the lengths of its rows."""
    for batch in batches_of(kind, rows, batching.WHOLE, count):
        inside = [rows.lengths[number] for number in batch]
        need = np.max(inside, axis=0)
        yield BOUNDS[windows.first_holding(need, BOUNDS)], inside


def test_batches_of_tokens_have_about_as_many():
    rows = Rows(20_000)
    kind = batching.TokenBatches(4096, BUCKETS)
    found = list(padded(kind, rows, 6))
    tokens = np.array([len(inside) * sum(shape) for shape, inside in found])
    assert (tokens <= 4096).mean() > 0.97
    assert tokens.mean() > 0.7 * 4096
    assert {shape for shape, _ in found} == set(BOUNDS)


def test_sorted_batches_need_less_padding_and_come_in_any_order():
    rows = Rows(20_000)

    def share_of_padding(kind):
        found = list(padded(kind, rows))
        real = sum(sum(map(sum, inside)) for _, inside in found)
        return 1 - real / sum(len(inside) * sum(shape) for shape, inside in found), found

    plain, _ = share_of_padding(batching.FixedBatches(32, BUCKETS))
    less, found = share_of_padding(batching.SortedBatches(32, BUCKETS))
    assert plain > 0.75
    assert less < 0.55
    widths = [shape[0] for shape, _ in found]
    # Sorted would be a few runs.
    assert np.count_nonzero(np.diff(widths)) > len(widths) / 3


@pytest.mark.parametrize(("room", "expected"), [(2**20, [5]), (0, [5, 5])])
def test_rows_are_tokenised_once_as_long_as_there_is_room(monkeypatch, room, expected):
    monkeypatch.setattr(windows, "MOST", room)
    seen = []

    def encode(texts, *arguments):
        seen.append(len(texts))
        return tasks.encode_texts(texts, *arguments)

    task = dataclasses.replace(tasks.task("mini_rte"), encode=encode)
    texts, lengths = task.rows("train"), {"inputs": 40, "targets": 4}
    order, words = Order([len(texts)], [1.0], 0), mini.vocabulary()
    rows = windows.Rows([task], [texts], order, [lengths], words)
    numbers = np.array([3, 1, 4, 1, 5])
    found = [rows.at(np.zeros(5, int), numbers) for _ in range(2)]
    assert seen == expected
    right = tasks.encode_texts([texts[number] for number in numbers.tolist()], words, lengths)
    for row, other in zip([*found[0], *found[1]], [*right, *right], strict=True):
        assert row.inputs.tolist() == other.inputs.tolist()
        assert row.targets.tolist() == other.targets.tolist()


@pytest.mark.parametrize("other", [(2, 1), (31, 1), (9, 4), (9, 5), (35, 6)])
def test_a_batch_is_as_long_as_the_rows_of_all_processes(monkeypatch, other):
    # The second bucket holds longer inputs than the third, but not its targets.
    buckets, lengths = [(30, 3), (32, 4), (28, 5)], {"inputs": 40, "targets": 8}
    monkeypatch.setattr(batching, "agreed", lambda need, share: [need, other])

    def scale(row, tokens, words):
        return np.full(len(tokens.targets), 2.0, np.float32)

    def stream(kind, share):
        given = {"seed": 1, "vocabulary": mini.vocabulary(), "weights": {"mini_rte": scale}}
        return batching.train_batches("mini_rte", lengths, kind, share=share, **given)

    whole = stream(batching.FixedBatches(8), batching.WHOLE)
    part = stream(batching.FixedBatches(8, buckets), (0, 2))
    for batch, own in itertools.islice(zip(whole, part, strict=True), 5):
        longest = [
            int(np.count_nonzero(batch[name][:4], axis=1).max())
            for name in ("encoder_segment_ids", "decoder_loss_weights")
        ]
        need = np.maximum(longest, other)
        fits = (bound for bound in [*buckets, (40, 8)] if all(need <= bound))
        inputs, targets = next(fits)
        for name, array in own.items():
            width = inputs if name.startswith("encoder_") else targets
            assert (array == batch[name][:4, :width]).all(), name
            assert array.shape == (4, width)
