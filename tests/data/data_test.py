import collections
import itertools
import multiprocessing
import threading
import time
import types

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from promot_jax.base.errors import UserError
from promot_jax.data import batching, tasks
from promot_jax.tasks import mini
from tests import tiny


def take(count, **changes):
    settings = {"seed": 1, "batches": batching.FixedBatches(8, ((40, 4),))}
    batches = batching.train_batches("mini_rte", tiny.LENGTHS, **settings | changes)
    found = [next(batches) for _ in range(count)]
    batches.close()
    return found


def same(a, b):
    return all((x[name] == y[name]).all() for x, y in zip(a, b, strict=True) for name in x)


def test_the_order_depends_on_the_seed_alone():
    assert same(take(5), take(5))
    assert not same(take(5), take(5, seed=2))


@pytest.mark.parametrize(
    "batches",
    [
        batching.FixedBatches(8),
        batching.SortedBatches(8, ((28, 4), (32, 4))),
        batching.TokenBatches(400, ((28, 4), (32, 4))),
    ],
)
def test_a_resumed_stream_continues_the_order(batches):
    # Across the end of an epoch too: the task has 4,000 training rows.
    for first in (1, 3, 510):
        assert same(
            take(first + 2, batches=batches)[first:], take(2, batches=batches, first_step=first)
        )


def test_buckets_cut_padding_only():
    whole = take(6, batches=batching.FixedBatches(8))
    cut = take(6)
    lengths = {batch["encoder_input_tokens"].shape[1] for batch in cut}
    assert lengths == {40}
    for long, short in zip(whole, cut, strict=True):
        for name, array in short.items():
            assert (long[name][:, : array.shape[1]] == array).all()
            assert not long[name][:, array.shape[1] :].any()


@hypothesis.given(
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 3)), max_size=4),
)
def test_trim_takes_the_first_bucket_that_holds_all(lengths, buckets):
    inputs = np.zeros((len(lengths), 12), int)
    for row, length in zip(inputs, lengths, strict=True):
        row[:length] = 1
    targets = np.array([[1, 1, 0]] * len(lengths))
    batch = {"encoder_input_tokens": 5 - 5 * inputs, "encoder_segment_ids": inputs}
    batch |= {"decoder_target_tokens": 0 * targets, "decoder_loss_weights": targets}
    batch = batching.trim(batch, buckets)
    fitting = [b for b in buckets if b[0] >= max(lengths) and b[1] >= 2]
    shape = (batch["encoder_input_tokens"].shape[1], batch["decoder_target_tokens"].shape[1])
    assert shape == (fitting[0] if fitting else (12, 3))
    assert batch["encoder_segment_ids"].sum() == sum(lengths)
    assert batch["encoder_segment_ids"].shape == batch["encoder_input_tokens"].shape


def registered(name, rows, monkeypatch):
    """Registers a task whose train split is these rows."""
    source = types.SimpleNamespace(splits=("train",), origin="a test", rows=lambda split: rows)
    given = tasks.Task(name, source, str, (), mini.vocabulary)
    monkeypatch.setitem(tasks._registered, name, given)
    return name


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.long)])
def test_what_is_wrong_with_a_row_is_said_in_a_line(monkeypatch, workers):
    class Wrong(list):
        def __getitem__(self, number):
            if number == 7:
                raise UserError("rows.jsonl:8: 'label' is missing; add it")
            return super().__getitem__(number)

    rows = Wrong([{"inputs": "one", "targets": "two"}] * 40)
    name = registered("data_test_wrong", rows, monkeypatch)
    batches = batching.FixedBatches(4)
    stream = batching.train_batches(name, tiny.LENGTHS, batches, seed=0, workers=workers)
    with pytest.raises(UserError, match=r"^rows.jsonl:8: 'label' is missing; add it$"):
        collections.deque(itertools.islice(stream, 11), maxlen=0)


@pytest.mark.long
def test_worker_processes_read_what_a_thread_reads():
    fixed, by_length = batching.FixedBatches(8, ((40, 4),)), batching.SortedBatches(8, ((28, 4),))
    assert same(take(70, batches=fixed), take(70, batches=fixed, workers=2))
    expected = take(70, batches=by_length)
    assert same(expected[65:], take(5, batches=by_length, workers=1, first_step=65))
    for _ in range(100):
        if not multiprocessing.active_children():
            break
        time.sleep(0.1)
    assert not multiprocessing.active_children()


def test_nothing_reads_ahead_once_a_stream_is_closed():
    stream = batching.train_batches("mini_rte", tiny.LENGTHS, batching.FixedBatches(8), seed=0)
    next(stream)
    assert reading()
    stream.close()
    for _ in range(100):
        if not reading():
            break
        time.sleep(0.1)
    assert not reading()


def reading():
    return [thread for thread in threading.enumerate() if "grain" in thread.name]


def test_a_start_costs_the_same_at_any_step_and_any_number_of_rows(monkeypatch):
    class Many:
        asked = 0

        def __len__(self):
            return self.count

        def __getitem__(self, number):
            Many.asked += 1
            return {"inputs": str(number), "targets": "yes"}

    asked = []
    for count, first_step in ((10**3, 0), (10**9, 0), (10**9, 10**8)):
        rows, Many.asked = Many(), 0
        rows.count = count
        name = registered(f"data_test_{count}", rows, monkeypatch)
        batches = batching.FixedBatches(8)
        stream = batching.train_batches(name, tiny.LENGTHS, batches, seed=0, first_step=first_step)
        next(stream)
        stream.close()
        asked.append(Many.asked)
    # The window that the step is in, and those that are read ahead.
    assert max(asked) <= 3 * batching.GROUP


def test_an_epoch_holds_every_row_once():
    count = 4000 // 8
    rows = [row.tobytes() for batch in take(count) for row in batch["encoder_input_tokens"]]
    again = [
        row.tobytes()
        for batch in take(count, first_step=count)
        for row in batch["encoder_input_tokens"]
    ]
    assert collections.Counter(rows) == collections.Counter(again)
    assert rows != again


def test_eval_batches_hold_every_row_once():
    grouped = batching.eval_batches("mini_rte", tiny.LENGTHS, "test", batch_size=32, limit=70)
    numbers = np.concatenate([numbers for _, numbers in grouped])
    assert len(grouped) == 3
    assert sorted(numbers[numbers >= 0]) == list(range(70))
    assert (numbers[70:] == -1).all()
    for batch, numbers in grouped:
        assert len(batch["encoder_input_tokens"]) == 32
        assert not batch["encoder_segment_ids"][numbers < 0].any()
        assert not batch["decoder_loss_weights"][numbers < 0].any()


def test_unknown_names_are_clear_errors():
    with pytest.raises(UserError, match="'mini_rtt'; did you mean 'mini_rte'"):
        next(batching.train_batches("mini_rtt", tiny.LENGTHS, batching.FixedBatches(8), seed=0))
    with pytest.raises(UserError, match="no split 'dev'; it has train, validation, test"):
        batching.eval_batches("mini_rte", tiny.LENGTHS, "dev", batch_size=8)


# Targets of 8 tokens, cut or padded; inputs of 25 to 30, some of which are cut.
@pytest.mark.parametrize("longest", [6, 12])
def test_fields_are_those_of_seqio_and_the_segment_ids(longest):
    seqio = pytest.importorskip("seqio")
    from promot_jax.data import seqio_tasks  # noqa: F401, shows it our tasks

    task, lengths = "mini_wikilingua", {"inputs": 27, "targets": longest}
    theirs = seqio.EncDecFeatureConverter(pack=False)(
        seqio.get_mixture_or_task(task).get_dataset(lengths, "test", shuffle=False), lengths
    )
    theirs = list(theirs.take(40).as_numpy_iterator())
    ((batch, numbers),) = batching.eval_batches(task, lengths, "test", batch_size=40, limit=40)
    assert sorted(numbers) == list(range(40))
    assert set(batch) == {*theirs[0], "encoder_segment_ids"}
    for name in theirs[0]:
        assert batch[name].dtype == np.int32
        assert (batch[name] == np.stack([theirs[i][name] for i in numbers])).all()
    assert (batch["encoder_segment_ids"] == (batch["encoder_input_tokens"] > 0)).all()
    assert 0 < batch["encoder_segment_ids"].all(axis=1).sum() < 40
    assert batch["decoder_loss_weights"].all() == (longest == 6)


def test_a_token_zero_is_no_padding_and_a_weight_may_be_zero():
    rows = [
        tasks.Tokens(np.array([0, 5, 0]), np.array([0, 1])),
        None,
        tasks.Tokens(np.array([0, 0]), np.array([3, 0, 4]), np.array([1, 0, 1])),
    ]
    batch = batching.fields(rows, (3, 3))
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}
    assert batch["encoder_input_tokens"].tolist() == [[0, 5, 0], [0, 0, 0], [0, 0, 0]]
    assert batch["encoder_segment_ids"].tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 0]]
    assert batch["decoder_target_tokens"].tolist() == [[0, 1, 0], [0, 0, 0], [3, 0, 4]]
    assert batch["decoder_input_tokens"].tolist() == [[0, 0, 1], [0, 0, 0], [0, 3, 0]]
    assert batch["decoder_loss_weights"].tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 1]]


def test_examples_are_the_first_rows():
    rows = tasks.task("mini_rte").rows("test")
    assert batching.examples("mini_rte", "test", 7) == [rows[number] for number in range(7)]
    assert len(batching.examples("mini_rte", "test")) == len(rows)
