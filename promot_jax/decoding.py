"""Greedy and beam search over a step function.

A search sees the network as `tokens_to_logits(tokens, cache)`, which takes the last tokens, int32
`[N, 1]`, and a tree of arrays, and returns logits `[N, V]` and the next cache. Cache leaves have
the batch as their first axis; scalars, such as a position, belong to all rows. Both searches run
under `jit` and stop early. Decoding starts from the token 0, and 0 fills up after the
end-of-sequence token, which is part of the result.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

Cache = Any
TokensToLogits = Callable[[jax.Array, Cache], tuple[jax.Array, Cache]]

START_ID = 0
PAD_ID = 0

# Divides the vocabularies of T5.1.1 and mT5.
CHUNK = 128


class _GreedyState(NamedTuple):
    step: jax.Array  # int32 scalar, tokens chosen so far
    last: jax.Array  # int32 [B], the newest token
    tokens: jax.Array  # int32 [B, L]
    scores: jax.Array  # float32 [B], log-probability
    ended: jax.Array  # bool [B]
    cache: Cache


def greedy(
    cache: Cache,
    tokens_to_logits: TokensToLogits,
    *,
    batch_size: int,
    max_length: int,
    eos_id: int,
) -> tuple[jax.Array, jax.Array]:
    """Takes the most probable token at every step.

    Args:
      cache: decoding cache for B rows.
      tokens_to_logits: the step function, see the module.
      batch_size: B.
      max_length: L, tokens to generate at most.
      eos_id: the end-of-sequence token.

    Returns:
      Tokens int32 `[B, L]` and their log-probabilities float32 `[B]`, in nats, the
      end-of-sequence token included.
    """

    def advance(state: _GreedyState) -> _GreedyState:
        logits, cache = tokens_to_logits(state.last[:, None], state.cache)
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
        token = jnp.where(state.ended, PAD_ID, jnp.argmax(log_probs, axis=-1)).astype(jnp.int32)
        return _GreedyState(
            step=state.step + 1,
            last=token,
            tokens=state.tokens.at[:, state.step].set(token),
            scores=state.scores + jnp.where(state.ended, 0.0, log_probs.max(axis=-1)),
            ended=state.ended | (token == eos_id),
            cache=cache,
        )

    start = _GreedyState(
        step=jnp.int32(0),
        last=jnp.full(batch_size, START_ID, jnp.int32),
        tokens=jnp.full((batch_size, max_length), PAD_ID, jnp.int32),
        scores=jnp.zeros(batch_size),
        ended=jnp.zeros(batch_size, bool),
        cache=cache,
    )
    end = jax.lax.while_loop(
        lambda state: (state.step < max_length) & ~state.ended.all(), advance, start
    )
    return end.tokens, end.scores


def length_penalty(length: jax.Array | int, alpha: float) -> jax.Array:
    """Divides the log-probability of a sequence of `length` tokens (Wu et al. 2016, eq. 14)."""
    return ((5.0 + length) / 6.0) ** alpha


class _BeamState(NamedTuple):
    """Beams are sorted, best first; a score of -inf marks an empty place."""

    step: jax.Array  # int32 scalar, tokens chosen so far
    live: jax.Array  # int32 [B, K, L], unfinished sequences
    live_scores: jax.Array  # float32 [B, K], log-probability
    ended: jax.Array  # int32 [B, K, L], finished sequences
    ended_scores: jax.Array  # float32 [B, K], log-probability over length penalty
    cache: Cache  # leaves [B*K, ...]


def beam_search(
    cache: Cache,
    tokens_to_logits: TokensToLogits,
    *,
    batch_size: int,
    num_beams: int,
    max_length: int,
    eos_id: int,
    alpha: float = 0.6,
) -> tuple[jax.Array, jax.Array]:
    """Keeps the K most probable unfinished and the K best finished sequences at every step.

    The algorithm and its length penalty are T5X's (after Wu et al. 2016, section 7): each step
    looks at the 2K best continuations, of which at least K do not end. A sequence's score is its
    log-probability over `length_penalty(length, alpha)`, the end-of-sequence token counted. The
    search stops when no unfinished sequence can enter the finished ones. Places that are then
    still empty, behind the finished sequences, get unfinished ones of full length. One beam is
    greedy search.

    Args:
      cache: decoding cache for B rows; it is expanded to B*K, the beams of a row consecutive.
      tokens_to_logits: the step function, see the module; N is B*K.
      batch_size: B.
      num_beams: K.
      max_length: L, tokens to generate at most.
      eos_id: the end-of-sequence token.
      alpha: exponent of the length penalty; 0 prefers no length.

    Returns:
      Sequences int32 `[B, K, L]`, best first but finished before unfinished ones, and their
      scores float32 `[B, K]`.

    Raises:
      ValueError: `num_beams` below 1, or a cache that is not of B rows.
    """
    if num_beams < 1:
        raise ValueError(f"num_beams = {num_beams}; give 1 for greedy search or more")
    if num_beams == 1:
        tokens, scores = greedy(
            cache,
            tokens_to_logits,
            batch_size=batch_size,
            max_length=max_length,
            eos_id=eos_id,
        )
        return tokens[:, None], (scores / length_penalty(_lengths(tokens, eos_id), alpha))[:, None]

    def expand(leaf: jax.Array) -> jax.Array:
        if leaf.shape[0] != batch_size:
            raise ValueError(
                f"a cache leaf has shape {leaf.shape}; create the cache for batch_size = "
                f"{batch_size} rows, beam search expands it"
            )
        return jnp.repeat(leaf, num_beams, axis=0)

    empty = jnp.full((batch_size, num_beams), -jnp.inf)
    blank = jnp.full((batch_size, num_beams, max_length), PAD_ID, jnp.int32)
    start = _BeamState(
        step=jnp.int32(0),
        live=blank,
        live_scores=empty.at[:, 0].set(0.0),
        ended=blank,
        ended_scores=empty,
        cache=_map_rows(expand, cache),
    )

    def unsettled(state: _BeamState) -> jax.Array:
        # Log-probabilities only fall, and the longest sequence has the mildest penalty.
        hope = state.live_scores[:, 0] / length_penalty(max_length, alpha)
        settled = state.ended_scores[:, -1] > hope
        return (state.step < max_length) & ~settled.all()

    end = jax.lax.while_loop(
        unsettled, lambda state: _beam_step(state, tokens_to_logits, eos_id, alpha), start
    )
    return _fill_up(end, length_penalty(max_length, alpha))


def _beam_step(
    state: _BeamState, tokens_to_logits: TokensToLogits, eos_id: int, alpha: float
) -> _BeamState:
    """Extends every unfinished sequence by one token."""
    batch_size, num_beams, _ = state.live.shape
    previous = state.live[:, :, jnp.maximum(state.step - 1, 0)]
    last = jnp.where(state.step == 0, START_ID, previous)
    logits, cache = tokens_to_logits(last.reshape(-1, 1), state.cache)

    # The 2K best of all K*V continuations.
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    vocab_size = log_probs.shape[-1]
    scores = state.live_scores[:, :, None] + log_probs.reshape(batch_size, num_beams, vocab_size)
    scores, flat = top_k_in_chunks(scores.reshape(batch_size, -1), 2 * num_beams)
    beam, token = flat // vocab_size, flat % vocab_size
    sequences = _gather(state.live, beam).at[:, :, state.step].set(token)
    ends = token == eos_id

    live_scores, chosen = jax.lax.top_k(jnp.where(ends, -jnp.inf, scores), num_beams)
    source = _gather(beam, chosen)

    new_scores = jnp.where(ends, scores, -jnp.inf) / length_penalty(state.step + 1, alpha)
    ended_scores, best = jax.lax.top_k(
        jnp.concatenate([state.ended_scores, new_scores], axis=1), num_beams
    )
    return _BeamState(
        step=state.step + 1,
        live=_gather(sequences, chosen),
        live_scores=live_scores,
        ended=_gather(jnp.concatenate([state.ended, sequences], axis=1), best),
        ended_scores=ended_scores,
        cache=_map_rows(lambda leaf: _reorder(leaf, source), cache),
    )


def _fill_up(state: _BeamState, penalty: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Puts unfinished sequences, best first, behind the finished ones."""
    num_beams = state.ended_scores.shape[1]
    finished = jnp.isfinite(state.ended_scores).sum(axis=1, keepdims=True)
    place = jnp.arange(num_beams)
    source = jnp.where(place < finished, place, num_beams + place - finished)
    sequences = jnp.concatenate([state.ended, state.live], axis=1)
    scores = jnp.concatenate([state.ended_scores, state.live_scores / penalty], axis=1)
    return _gather(sequences, source), _gather(scores, source)


def top_k_in_chunks(values: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Equals `jax.lax.top_k(values, k)`, ties included, for float `[B, X]` with a large X.

    The k largest values lie in the k chunks with the largest maxima. XLA gathers the operand of
    `top_k` from all devices; this way the operands have `X / 128` and `128 * k` columns.
    """
    batch_size, size = values.shape
    num_chunks = -(-size // CHUNK)
    if num_chunks <= k:
        return jax.lax.top_k(values, k)
    padded = jnp.pad(
        values, ((0, 0), (0, num_chunks * CHUNK - size)), constant_values=-jnp.inf
    ).reshape(batch_size, num_chunks, CHUNK)
    # In ascending order, so that the first of equal values wins below too.
    chunks = jnp.sort(jax.lax.top_k(padded.max(axis=-1), k)[1])
    candidates = _gather(padded, chunks).reshape(batch_size, -1)
    index = (chunks[:, :, None] * CHUNK + jnp.arange(CHUNK)).reshape(batch_size, -1)
    best, place = jax.lax.top_k(candidates, k)
    return best, _gather(index, place)


def _gather(rows: jax.Array, index: jax.Array) -> jax.Array:
    """Picks along axis 1 in each row: `[B, X, ...]`, int `[B, Y]` -> `[B, Y, ...]`.

    Mapped over the batch, so that a sharded batch needs no communication.
    """
    return jax.vmap(lambda row, chosen: row[chosen])(rows, index)


def _reorder(leaf: jax.Array, source: jax.Array) -> jax.Array:
    """Gives each of the beams the cache of beam `source`, int `[B, K]`: leaf `[B*K, ...]`."""
    return _gather(leaf.reshape(*source.shape, *leaf.shape[1:]), source).reshape(leaf.shape)


def _map_rows(function: Callable[[jax.Array], jax.Array], cache: Cache) -> Cache:
    """Applies a function to the leaves that have a batch axis."""
    return jax.tree.map(lambda leaf: function(leaf) if jnp.ndim(leaf) else leaf, cache)


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
        eos_id: int,
    ) -> jax.Array:
        """Returns the best sequence of each row, int32 `[B, L]`; see `greedy`."""


@dataclasses.dataclass(frozen=True)
class Greedy:
    """Decodes with `greedy`."""

    num_beams: int = dataclasses.field(default=1, init=False)

    def __call__(self, cache, tokens_to_logits, **lengths) -> jax.Array:
        """Returns the sequence of each row, int32 `[B, L]`."""
        return greedy(cache, tokens_to_logits, **lengths)[0]


@dataclasses.dataclass(frozen=True)
class Beam:
    """Decodes with `beam_search`; the defaults are T5X's (and 4 beams the paper's)."""

    num_beams: int = 4
    alpha: float = 0.6

    def __call__(self, cache, tokens_to_logits, **lengths) -> jax.Array:
        """Returns the best sequence of each row, int32 `[B, L]`."""
        sequences, _ = beam_search(
            cache, tokens_to_logits, num_beams=self.num_beams, alpha=self.alpha, **lengths
        )
        return sequences[:, 0]


def _lengths(tokens: jax.Array, eos_id: int) -> jax.Array:
    """Counts the tokens of `[B, L]` up to the end-of-sequence token: int `[B]`."""
    ends = tokens == eos_id
    return jnp.where(ends.any(axis=1), ends.argmax(axis=1) + 1, tokens.shape[1])
