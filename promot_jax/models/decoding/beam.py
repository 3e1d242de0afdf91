"""Beam search, by the rules of T5X or of Hugging Face's `transformers`.

Both keep the K most probable unfinished and the K best finished sequences. They differ in three
rules, each a function here: how a length is penalised (`gnmt_penalty`, `power_penalty`), which
continuations finish a sequence (`finish_any`, `finish_leading`), and when a row is done
(`stop_settled`, `stop_full`, `stop_estimate`). `Beam()` has T5X's rules; `huggingface_beam()`
returns a `Beam` with those of `transformers`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from promot_jax.base.errors import UserError
from promot_jax.base.values import Count, Weight
from promot_jax.models.decoding.interface import (
    PAD_ID,
    Cache,
    EndId,
    TokensToLogits,
    end_ids,
    first_tokens,
    is_end,
)
from promot_jax.models.decoding.token_by_token import greedy
from promot_jax.models.decoding.top_k import gather, top_k_in_chunks

Length = jax.Array | int
# (length, alpha) -> what the log-probability of a sequence of that many tokens is divided by;
# rises or falls with the length throughout.
LengthPenalty = Callable[[Length, float], jax.Array | float]
# (ends with an end-of-sequence token, bool [B, 2K] or more, best continuation first; whether this
# token is the last one, bool scalar; K) -> which continuations are finished sequences, same shape
Finish = Callable[[jax.Array, jax.Array, int], jax.Array]
# (log-probability of the best unfinished sequence [B], score of the K-th finished one [B], length
# so far, longest length L, penalty of a length) -> which rows are done, bool [B]
Stop = Callable[[jax.Array, jax.Array, Length, int, Callable[[Length], jax.Array]], jax.Array]


def gnmt_penalty(length: Length, alpha: float) -> jax.Array | float:
    """Returns ((5 + length) / 6)^alpha (Wu et al. 2016, eq. 14), the penalty of T5X."""
    return ((5.0 + length) / 6.0) ** alpha


def power_penalty(length: Length, alpha: float) -> jax.Array | float:
    """Returns length^alpha, the penalty of `transformers`."""
    return (1.0 * length) ** alpha


def finish_any(ends: jax.Array, last_step: jax.Array, num_beams: int) -> jax.Array:
    """Every end among the 2K best continuations finishes a sequence (T5X)."""
    del last_step, num_beams
    return ends


def finish_leading(ends: jax.Array, last_step: jax.Array, num_beams: int) -> jax.Array:
    """Ends among the K best continuations finish; in the last step all K do (`transformers`)."""
    leading = jnp.arange(ends.shape[1]) < num_beams
    return (ends | last_step) & leading


def stop_settled(live, ended, length, max_length, penalty) -> jax.Array:
    """A row is done when no unfinished sequence can become better than a finished one."""
    # Log-probabilities only fall; the mildest penalty is that of the shortest or longest length.
    mildest = jnp.maximum(penalty(length + 1), penalty(max_length))
    return ended > live / mildest


def stop_full(live, ended, length, max_length, penalty) -> jax.Array:
    """A row is done when K sequences are finished."""
    del live, length, max_length, penalty
    return jnp.isfinite(ended)


def stop_estimate(live, ended, length, max_length, penalty) -> jax.Array:
    """A row is done when unfinished sequences are worse now; they could have become better."""
    del max_length
    return ended > live / penalty(length)


class _BeamState(NamedTuple):
    """Beams are sorted, best first; a score of -inf marks an empty place."""

    step: jax.Array  # int32 scalar, tokens chosen so far
    last: jax.Array  # int32 [B, K], the newest token of each unfinished sequence
    live: jax.Array  # int32 [B, K, L], unfinished sequences
    live_scores: jax.Array  # float32 [B, K], log-probability
    ended: jax.Array  # int32 [B, K, L], finished sequences
    ended_scores: jax.Array  # float32 [B, K], log-probability over length penalty
    done: jax.Array  # bool [B], nothing may become finished any more
    cache: Cache  # leaves [B*K, ...]


@dataclasses.dataclass(frozen=True)
class _Rules:
    max_length: int
    eos_id: EndId
    penalty: Callable[[Length], jax.Array | float]
    finish: Finish
    stop: Stop


def beam_search(
    cache: Cache,
    tokens_to_logits: TokensToLogits,
    *,
    batch_size: int,
    num_beams: int,
    max_length: int,
    eos_id: EndId,
    alpha: float = 0.6,
    length_penalty: LengthPenalty = gnmt_penalty,
    finish: Finish = finish_any,
    stop: Stop = stop_settled,
    start_tokens: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Keeps the K most probable unfinished and the K best finished sequences at every step.

    The algorithm and its default rules are T5X's (after Wu et al. 2016, section 7): each step
    looks at the 2K best continuations, of which at least K do not end. A sequence's score is its
    log-probability over `length_penalty(length, alpha)`, the end-of-sequence token counted and
    the start not. The search stops when all rows are done. Places that are then still empty,
    behind the finished sequences, get unfinished ones of full length. One beam is greedy search.

    Args:
      cache: decoding cache for B rows; it is expanded to B*K, the beams of a row consecutive.
      tokens_to_logits: the step function, see `promot_jax.models.decoding`; N is B*K.
      batch_size: B.
      num_beams: K.
      max_length: L, tokens to generate at most.
      eos_id: the end-of-sequence token, or E of which each ends a sequence.
      alpha: exponent of the length penalty; 0 prefers no length, below 0 prefers short ones.
      length_penalty, finish, stop: the rules, see the module.
      start_tokens: int32 `[B]`, the token before the first one; 0 when None.

    Returns:
      Sequences int32 `[B, K, L]`, best first but finished before unfinished ones, and their
      scores float32 `[B, K]`.

    Raises:
      ValueError: `num_beams` below 1, or a cache that is not of B rows.
    """
    if num_beams < 1:
        raise ValueError(f"num_beams = {num_beams}; give 1 for greedy search or more")
    penalty = functools.partial(length_penalty, alpha=alpha)
    if num_beams == 1:
        tokens, scores = greedy(
            cache,
            tokens_to_logits,
            batch_size=batch_size,
            max_length=max_length,
            eos_id=eos_id,
            start_tokens=start_tokens,
        )
        return tokens[:, None], (scores / penalty(_lengths(tokens, eos_id)))[:, None]

    rules = _Rules(max_length, eos_id, penalty, finish, stop)
    start = _begin(cache, first_tokens(start_tokens, batch_size), num_beams, max_length)
    end = jax.lax.while_loop(
        lambda state: (state.step < max_length) & ~state.done.all(),
        lambda state: _beam_step(state, tokens_to_logits, rules),
        start,
    )
    return _fill_up(end, penalty(max_length))


def _begin(cache: Cache, first: jax.Array, num_beams: int, max_length: int) -> _BeamState:
    """Returns the state before the first step: one unfinished, empty sequence in each row."""
    batch_size = len(first)

    for leaf in jax.tree.leaves(cache):
        if jnp.ndim(leaf) and leaf.shape[0] != batch_size:
            raise ValueError(
                f"a cache leaf has shape {leaf.shape}; create the cache for batch_size = "
                f"{batch_size} rows, beam search expands it"
            )
    empty = jnp.full((batch_size, num_beams), -jnp.inf)
    blank = jnp.full((batch_size, num_beams, max_length), PAD_ID, jnp.int32)
    return _BeamState(
        step=jnp.int32(0),
        last=jnp.repeat(first[:, None], num_beams, axis=1),
        live=blank,
        live_scores=empty.at[:, 0].set(0.0),
        ended=blank,
        ended_scores=empty,
        done=jnp.zeros(batch_size, bool),
        cache=_map_beams(lambda leaf: jnp.repeat(leaf, num_beams, axis=0), cache),
    )


def _beam_step(state: _BeamState, tokens_to_logits: TokensToLogits, rules: _Rules) -> _BeamState:
    """Extends every unfinished sequence by one token."""
    batch_size, num_beams, _ = state.live.shape
    logits, cache = tokens_to_logits(state.last.reshape(-1, 1), state.cache)
    length = state.step + 1

    # The 2K best of all K*V continuations; with E ends it takes (1 + E) K for K that do not end.
    count = (1 + len(end_ids(rules.eos_id))) * num_beams
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    vocab_size = log_probs.shape[-1]
    scores = state.live_scores[:, :, None] + log_probs.reshape(batch_size, num_beams, vocab_size)
    scores, flat = top_k_in_chunks(scores.reshape(batch_size, -1), count)
    beam, token = flat // vocab_size, flat % vocab_size
    sequences = gather(state.live, beam).at[:, :, state.step].set(token)
    ends = is_end(token, rules.eos_id)

    live_scores, chosen = jax.lax.top_k(jnp.where(ends, -jnp.inf, scores), num_beams)
    source = gather(beam, chosen)

    finished = rules.finish(ends, length == rules.max_length, num_beams) & ~state.done[:, None]
    new_scores = jnp.where(finished, scores, -jnp.inf) / rules.penalty(length)
    ended_scores, best = jax.lax.top_k(
        jnp.concatenate([state.ended_scores, new_scores], axis=1), num_beams
    )
    done = rules.stop(
        live_scores[:, 0], ended_scores[:, -1], length, rules.max_length, rules.penalty
    )
    return _BeamState(
        step=length,
        last=gather(token, chosen),
        live=gather(sequences, chosen),
        live_scores=live_scores,
        ended=gather(jnp.concatenate([state.ended, sequences], axis=1), best),
        ended_scores=ended_scores,
        done=state.done | done,
        cache=_map_beams(lambda leaf: _reorder(leaf, source), cache),
    )


def _fill_up(state: _BeamState, penalty: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """Puts unfinished sequences, best first, behind the finished ones."""
    num_beams = state.ended_scores.shape[1]
    finished = jnp.isfinite(state.ended_scores).sum(axis=1, keepdims=True)
    place = jnp.arange(num_beams)
    source = jnp.where(place < finished, place, num_beams + place - finished)
    sequences = jnp.concatenate([state.ended, state.live], axis=1)
    scores = jnp.concatenate([state.ended_scores, state.live_scores / penalty], axis=1)
    return gather(sequences, source), gather(scores, source)


def _reorder(leaf: jax.Array, source: jax.Array) -> jax.Array:
    """Gives each of the beams the cache of beam `source`, int `[B, K]`: leaf `[B*K, ...]`."""
    return gather(leaf.reshape(*source.shape, *leaf.shape[1:]), source).reshape(leaf.shape)


def _map_beams(function: Callable[[jax.Array], jax.Array], cache: Cache) -> Cache:
    """Applies a function to all leaves but scalars."""
    return jax.tree.map(lambda leaf: function(leaf) if jnp.ndim(leaf) else leaf, cache)


def _lengths(tokens: jax.Array, eos_id: EndId) -> jax.Array:
    """Counts the tokens of `[B, L]` up to the end-of-sequence token: int `[B]`."""
    ends = is_end(tokens, eos_id)
    return jnp.where(ends.any(axis=1), ends.argmax(axis=1) + 1, tokens.shape[1])


@dataclasses.dataclass(frozen=True)
class Beam:
    """Decodes with `beam_search`; the defaults are T5X's (and 4 beams the paper's).

    Raises:
      UserError: `num_beams` below 1.
    """

    num_beams: Count = 4
    alpha: Weight = 0.6
    length_penalty: LengthPenalty = gnmt_penalty
    finish: Finish = finish_any
    stop: Stop = stop_settled

    def __post_init__(self):
        if self.num_beams < 1:
            raise UserError(f"Beam.num_beams = {self.num_beams}; give 1 for greedy search or more")

    def __call__(self, cache, tokens_to_logits, *, rng=None, **options) -> jax.Array:
        """Returns the best sequence of each row, int32 `[B, L]`."""
        del rng
        sequences, _ = beam_search(
            cache,
            tokens_to_logits,
            num_beams=self.num_beams,
            alpha=self.alpha,
            length_penalty=self.length_penalty,
            finish=self.finish,
            stop=self.stop,
            **options,
        )
        return sequences[:, 0]


def huggingface_beam(
    num_beams: Count = 4,
    length_penalty: float = 1.0,
    early_stopping: bool | Literal["never"] = False,
) -> Beam:
    """Returns the beam search of `transformers`' `generate`, with its names and defaults.

    Against T5X's: the penalty is length^length_penalty over the generated tokens, the
    end-of-sequence token counted and the start not; an end outside the K best continuations is
    dropped; at full length unfinished sequences compete with finished ones.

    Args:
      num_beams: K.
      length_penalty: exponent; above 0 prefers long sequences.
      early_stopping: True stops a row at K finished sequences; "never" goes on as long as one
        can improve; False as long as one would at its present length, a guess that misses
        better long sequences when `length_penalty` is above 0.

    Raises:
      UserError: another value of `early_stopping`, or `num_beams` below 1.
    """
    stops = {True: stop_full, False: stop_estimate, "never": stop_settled}
    if early_stopping not in stops:
        raise UserError(
            f'huggingface_beam.early_stopping = {early_stopping!r}; give True, False or "never"'
        )
    return Beam(num_beams, length_penalty, power_penalty, finish_leading, stops[early_stopping])
