"""Attention masks that know about the soft prompt.

Every mask is boolean, true where attention is allowed. Those of encoder-decoders broadcast to
`[B, N, queries, keys]`; their padding has the token id 0. What padding itself attends to does not
matter, so the masks of the encoder and of the attention to it hide keys only; a row without a
prompt then gives the same output at every position whether or not other rows of its batch have one.
"""

import jax
import jax.numpy as jnp


def encoder_valid(
    encoder_input_tokens: jax.Array, prompt_ids: jax.Array | None, prompt_length: int
) -> jax.Array:
    """Says which positions of the encoder hold something.

    Args:
      encoder_input_tokens: int `[B, T]`, 0 is padding.
      prompt_ids: int `[B]`, -1 for a row without a prompt; None when no prompt is attached.
      prompt_length: P, the rows that a prompt puts in front.

    Returns:
      bool `[B, P+T]`, or `[B, T]` when `prompt_ids` is None.
    """
    valid = encoder_input_tokens > 0
    if prompt_ids is None:
        return valid
    attached = jnp.broadcast_to(prompt_ids[:, None] >= 0, (valid.shape[0], prompt_length))
    return jnp.concatenate([attached, valid], axis=1)


def key_mask(key_valid: jax.Array) -> jax.Array:
    """Lets every query attend to valid keys: bool `[B, S]` -> `[B, 1, 1, S]`."""
    return key_valid[:, None, None, :]


def segment_mask(query_segment_ids: jax.Array, key_segment_ids: jax.Array) -> jax.Array:
    """Keeps packed examples apart: int `[B, Q]`, `[B, S]` -> bool `[B, 1, Q, S]`."""
    return (query_segment_ids[:, :, None] == key_segment_ids[:, None, :])[:, None]


def decoder_mask(
    decoder_target_tokens: jax.Array, decoder_segment_ids: jax.Array | None
) -> jax.Array:
    """Causal mask of the decoder's self-attention, as T5X defines it.

    A position is valid when its *target* is not padding: the input of the first position is the
    start token, which has the id of padding.

    Args:
      decoder_target_tokens: int `[B, U]`, 0 is padding.
      decoder_segment_ids: int `[B, U]` for packed examples, or None.

    Returns:
      bool `[B, 1, U, U]`.
    """
    valid = decoder_target_tokens > 0
    causal = jnp.tri(valid.shape[1], dtype=bool)
    mask = (valid[:, :, None] & valid[:, None, :])[:, None] & causal
    if decoder_segment_ids is not None:
        mask &= segment_mask(decoder_segment_ids, decoder_segment_ids)
    return mask


def prefix_mask(segment_ids: jax.Array, prefix: jax.Array | None) -> jax.Array:
    """Mask of a decoder-only network: causal, but for a prefix that sees all of itself.

    Args:
      segment_ids: int `[B, X]`, 0 is padding; equal numbers see each other.
      prefix: int `[B, X]`, above 0 for tokens of the prefix (Raffel et al. 2020, section 3.2.1);
        None is causal attention.

    Returns:
      bool `[B, X, X]`, query before key.
    """
    allowed = jnp.tri(segment_ids.shape[1], dtype=bool)
    if prefix is not None:
        allowed = allowed | ((prefix[:, :, None] > 0) & (prefix[:, None, :] > 0))
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    return allowed & same & (segment_ids[:, None, :] > 0)


def one_segment(tokens: jax.Array, targets: jax.Array | None) -> jax.Array:
    """Returns segment ids: 1 for a token whose target is not 0, or for all without targets."""
    return jnp.ones_like(tokens, jnp.int32) if targets is None else (targets > 0).astype(jnp.int32)


def input_places(
    segment_ids: jax.Array, positions: jax.Array, input_slots: jax.Array | None
) -> jax.Array:
    """Returns the position of each token of an input, -1 for all other tokens: int `[B, S]`.

    Args:
      segment_ids, positions: int `[B, S]`.
      input_slots: int `[B, S]`, above 0 for tokens of the input; None is all that are in a segment.
    """
    own = segment_ids if input_slots is None else input_slots * segment_ids
    return jnp.where(own > 0, positions, -1)


def in_front(
    prompt_length: int,
    prompt_ids: jax.Array,
    segment_ids: jax.Array,
    positions: jax.Array,
    prefix: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Puts the P slots of a prompt in front of segment ids, positions and prefix `[B, S]`."""
    attached = (prompt_ids >= 0).astype(jnp.int32)[:, None]
    slots = (len(segment_ids), prompt_length)
    front = jnp.broadcast_to(attached, slots)
    places = jnp.broadcast_to(jnp.arange(prompt_length), slots)
    segment_ids = jnp.concatenate([front, segment_ids], axis=1)
    positions = jnp.concatenate([places, positions + prompt_length * attached], axis=1)
    if prefix is not None:
        prefix = jnp.concatenate([front, prefix], axis=1)
    return segment_ids, positions, prefix


def within_window(
    mask: jax.Array, query_positions: jax.Array, key_positions: jax.Array, window: int
) -> jax.Array:
    """Hides keys that lie `window` positions or more before their query (Mistral).

    Args:
      mask: bool `[B, Q, S]`.
      query_positions: int `[B, Q]`.
      key_positions: int `[B, S]`.
      window: how many positions a query sees, its own included.

    Returns:
      bool `[B, Q, S]`.
    """
    return mask & (query_positions[:, :, None] - key_positions[:, None, :] < window)
