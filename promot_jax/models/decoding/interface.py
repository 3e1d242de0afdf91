"""What a search sees of the network, and what the rest of the program sees of a search."""

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

Cache = Any
TokensToLogits = Callable[[jax.Array, Cache], tuple[jax.Array, Cache]]

EndId = int | Sequence[int]

START_ID = 0
PAD_ID = 0


class Decoder(Protocol):
    """A choice of search. `num_beams` is K, the rows that a step has for each row of the batch."""

    num_beams: int

    def __call__(
        self,
        cache: Cache,
        tokens_to_logits: TokensToLogits,
        *,
        batch_size: int,
        max_length: int,
        eos_id: EndId,
        start_tokens: jax.Array | None = None,
        rng: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the best sequence of each row, int32 `[B, L]`.

        Args:
          cache: decoding cache for B rows.
          tokens_to_logits: the step function, see `promot_jax.models.decoding`.
          batch_size: B.
          max_length: L, tokens to generate at most.
          eos_id: the end-of-sequence token, or several of which each ends a sequence.
          start_tokens: int32 `[B]`, the token before the first one; 0 when None.
          rng: a PRNG key for searches that draw; others ignore it.
        """


def end_ids(eos_id: EndId) -> tuple[int, ...]:
    """Returns the ends of a sequence."""
    return tuple(eos_id) if isinstance(eos_id, Sequence) else (eos_id,)


def is_end(tokens: jax.Array, eos_id: EndId) -> jax.Array:
    """Says which tokens end a sequence: int `[...]` -> bool `[...]`."""
    return functools.reduce(operator.or_, [tokens == end for end in end_ids(eos_id)])


def until_end(row: Sequence[int], eos_id: EndId) -> list[int]:
    """Returns the tokens of a row before the first that ends it."""
    tokens, ends = [int(token) for token in row], end_ids(eos_id)
    return list(itertools.takewhile(lambda token: token not in ends, tokens))


def started(tokens: jax.Array, start_id: int) -> jax.Array:
    """Puts a start token in front of targets [B, U] shifted right, which have `START_ID` there."""
    return tokens if start_id == START_ID else jnp.asarray(tokens).at[:, 0].set(start_id)


def first_tokens(start_tokens: jax.Array | None, batch_size: int) -> jax.Array:
    """Returns the tokens that a search begins with, int32 `[B]`."""
    if start_tokens is None:
        return jnp.full(batch_size, START_ID, jnp.int32)
    return jnp.asarray(start_tokens, jnp.int32)
