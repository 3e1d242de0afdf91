import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import seqio
import tensorflow as tf

from promot_jax.base.errors import UserError
from promot_jax.data import batching
from tests import tiny


def take(count, **changes):
    settings = {"seed": 1, "batches": batching.FixedBatches(8, ((40, 4),))}
    batches = batching.train_batches("mini_rte", tiny.LENGTHS, **settings | changes)
    return [next(batches) for _ in range(count)]


def same(a, b):
    return all((x[name] == y[name]).all() for x, y in zip(a, b, strict=True) for name in x)


def test_the_order_depends_on_the_seed_alone():
    assert same(take(5), take(5))
    assert not same(take(5), take(5, seed=2))


@pytest.mark.parametrize(
    "batches", [batching.FixedBatches(8), batching.TokenBatches(400, ((32, 4), (40, 4)))]
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


def test_token_batches_bound_the_tokens_and_keep_every_row():
    rows = [(i % 11 + 1, i % 3 + 1) for i in range(330)]
    stream = tf.data.Dataset.from_tensor_slices(
        {
            "encoder_segment_ids": [[1] * i + [0] * (12 - i) for i, _ in rows],
            "decoder_loss_weights": [[1] * t + [0] * (4 - t) for _, t in rows],
        }
    )
    batches = batching.TokenBatches(64, ((4, 2), (8, 4)), multiple=2)
    found = []
    for batch in batches.group(stream, (12, 4)).as_numpy_iterator():
        batch = batching.trim(batch, batches.buckets)
        inputs, targets = batch["encoder_segment_ids"], batch["decoder_loss_weights"]
        found += zip(inputs.sum(axis=1).tolist(), targets.sum(axis=1).tolist(), strict=True)
        assert len(inputs) * (inputs.shape[1] + targets.shape[1]) <= 64
    assert sorted(found) == sorted(rows)


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


def test_a_token_zero_is_no_padding():
    name = "data_test_zeros"
    if name not in seqio.TaskRegistry.names():
        rows = {"inputs": [[0, 5, 0], [0, 0, 7]], "targets": [[0, 1], [3, 0]]}
        feature = seqio.Feature(seqio.PassThroughVocabulary(8), add_eos=False)
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(
                lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(rows),
                splits=["test"],
            ),
            preprocessors=[],
            output_features={"inputs": feature, "targets": feature},
            metric_fns=[],
        )
    lengths = {"inputs": 6, "targets": 4}
    ((batch, _),) = batching.eval_batches(name, lengths, "test", batch_size=2, buckets=[(3, 2)])
    assert batch["encoder_input_tokens"].tolist() == [[0, 5, 0], [0, 0, 7]]
    assert batch["encoder_segment_ids"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert batch["decoder_input_tokens"].tolist() == [[0, 0], [0, 3]]
    assert batch["decoder_loss_weights"].tolist() == [[1, 1], [1, 1]]
