import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf

from promot_jax import data
from promot_jax.errors import UserError
from tests import tiny


def take(count, **changes):
    settings = {"seed": 1, "batches": data.FixedBatches(8, ((40, 4),))}
    batches = data.train_batches("mini_rte", tiny.LENGTHS, **settings | changes)
    return [next(batches) for _ in range(count)]


def same(a, b):
    return all((x[name] == y[name]).all() for x, y in zip(a, b, strict=True) for name in x)


def test_the_order_depends_on_the_seed_alone():
    assert same(take(5), take(5))
    assert not same(take(5), take(5, seed=2))


@pytest.mark.parametrize(
    "batches", [data.FixedBatches(8), data.TokenBatches(400, ((32, 4), (40, 4)))]
)
def test_a_resumed_stream_continues_the_order(batches):
    # Across the end of an epoch too: the task has 4,000 training rows.
    for first in (1, 3, 510):
        assert same(
            take(first + 2, batches=batches)[first:], take(2, batches=batches, first_step=first)
        )


def test_buckets_cut_padding_only():
    whole = take(6, batches=data.FixedBatches(8))
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
    batch = data.trim({"encoder_input_tokens": inputs, "decoder_target_tokens": targets}, buckets)
    fitting = [b for b in buckets if b[0] >= max(lengths) and b[1] >= 2]
    shape = (batch["encoder_input_tokens"].shape[1], batch["decoder_target_tokens"].shape[1])
    assert shape == (fitting[0] if fitting else (12, 3))
    assert batch["encoder_input_tokens"].sum() == sum(lengths)


def test_token_batches_bound_the_tokens_and_keep_every_row():
    rows = [(i % 11 + 1, i % 3 + 1) for i in range(330)]
    stream = tf.data.Dataset.from_tensor_slices(
        {
            "encoder_input_tokens": [[1] * i + [0] * (12 - i) for i, _ in rows],
            "decoder_target_tokens": [[1] * t + [0] * (4 - t) for _, t in rows],
        }
    )
    batches = data.TokenBatches(64, ((4, 2), (8, 4)), multiple=2)
    found = []
    for batch in batches.group(stream, (12, 4)).as_numpy_iterator():
        batch = data.trim(batch, batches.buckets)
        inputs, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
        found += zip(inputs.sum(axis=1).tolist(), targets.sum(axis=1).tolist(), strict=True)
        assert len(inputs) * (inputs.shape[1] + targets.shape[1]) <= 64
    assert sorted(found) == sorted(rows)


def test_eval_batches_hold_every_row_once():
    grouped = data.eval_batches("mini_rte", tiny.LENGTHS, "test", batch_size=32, limit=70)
    numbers = np.concatenate([numbers for _, numbers in grouped])
    assert len(grouped) == 3
    assert sorted(numbers[numbers >= 0]) == list(range(70))
    assert (numbers[70:] == -1).all()
    for batch, numbers in grouped:
        assert len(batch["encoder_input_tokens"]) == 32
        assert not batch["encoder_input_tokens"][numbers < 0].any()
        assert not batch["decoder_loss_weights"][numbers < 0].any()


def test_unknown_names_are_clear_errors():
    with pytest.raises(UserError, match="'mini_rtt'; did you mean 'mini_rte'"):
        next(data.train_batches("mini_rtt", tiny.LENGTHS, data.FixedBatches(8), seed=0))
    with pytest.raises(UserError, match="no split 'dev'; it has train, validation, test"):
        data.eval_batches("mini_rte", tiny.LENGTHS, "dev", batch_size=8)
