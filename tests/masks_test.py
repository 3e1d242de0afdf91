import jax.numpy as jnp
import numpy as np

from promot_jax.networks import masks


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
