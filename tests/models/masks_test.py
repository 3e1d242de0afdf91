import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from promot_jax.models.networks import masks


def test_a_prompt_is_valid_in_the_rows_that_have_one():
    tokens = jnp.array([[5, 6, 0], [7, 0, 0]])
    valid = masks.encoder_valid(tokens, jnp.array([1, -1]), 2)
    expected = [[1, 1, 1, 1, 0], [0, 0, 1, 0, 0]]
    np.testing.assert_array_equal(valid, np.array(expected, bool))


def test_without_prompt_ids_only_tokens_count():
    tokens = jnp.array([[5, 6, 0]])
    np.testing.assert_array_equal(masks.encoder_valid(tokens, None, 2), [[True, True, False]])


def test_key_mask_hides_keys_from_every_query():
    mask = masks.key_mask(jnp.array([[True, False]]))
    np.testing.assert_array_equal(mask, [[[[True, False]]]])


def test_decoder_mask_is_causal_and_hides_padded_targets():
    mask = masks.decoder_mask(jnp.array([[4, 1, 0]]), None)
    expected = [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    np.testing.assert_array_equal(mask, np.array([[expected]], bool))


def test_segments_do_not_see_each_other():
    mask = masks.decoder_mask(jnp.array([[4, 1, 5, 1, 0]]), jnp.array([[1, 1, 2, 2, 0]]))
    expected = [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(mask, np.array([[expected]], bool))


def test_segment_mask_compares_queries_with_keys():
    mask = masks.segment_mask(jnp.array([[1, 2]]), jnp.array([[1, 1, 2]]))
    np.testing.assert_array_equal(mask, [[[[True, True, False], [False, False, True]]]])


ROWS = arrays.arrays(np.int32, (2, 5), elements=st.integers(0, 2))


def sees(rule):
    """What `rule(row, query, key)` says of every pair: bool [2, 5, 5]."""
    return np.array([[[rule(b, q, k) for k in range(5)] for q in range(5)] for b in range(2)], bool)


@settings(deadline=None, max_examples=50)
@given(targets=ROWS, segments=st.none() | ROWS)
def test_decoder_mask_by_its_definition(targets, segments):
    def rule(b, q, k):
        same = segments is None or segments[b, q] == segments[b, k]
        return k <= q and targets[b, q] and targets[b, k] and same

    found = masks.decoder_mask(targets, segments)
    np.testing.assert_array_equal(found[:, 0], sees(rule))


@settings(deadline=None, max_examples=50)
@given(segments=ROWS, prefix=st.none() | ROWS)
def test_prefix_mask_by_its_definition(segments, prefix):
    def rule(b, q, k):
        both = prefix is not None and prefix[b, q] and prefix[b, k]
        return (k <= q or both) and segments[b, k] and segments[b, q] == segments[b, k]

    np.testing.assert_array_equal(masks.prefix_mask(segments, prefix), sees(rule))


@settings(deadline=None, max_examples=50)
@given(
    tokens=ROWS,
    prompt_ids=arrays.arrays(np.int32, 2, elements=st.integers(-1, 3)),
    length=st.integers(0, 3),
)
def test_a_row_holds_its_prompt_and_its_tokens(tokens, prompt_ids, length):
    valid = masks.encoder_valid(tokens, prompt_ids, length)
    assert valid.shape == (2, length + 5)
    for row, number in enumerate(prompt_ids):
        np.testing.assert_array_equal(valid[row, :length], number >= 0)
        np.testing.assert_array_equal(valid[row, length:], tokens[row] > 0)
