"""Greedy search and sampling: one token after the other, never taken back."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from promot_jax.base.errors import UserError
from promot_jax.base.values import Positive, Probability, Seed, Whole
from promot_jax.models.decoding.interface import (
    PAD_ID,
    Cache,
    EndId,
    TokensToLogits,
    first_tokens,
    is_end,
)
from promot_jax.models.decoding.top_k import top_k_in_chunks


class _State(NamedTuple):
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
    eos_id: EndId,
    start_tokens: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Takes the most probable token at every step.

    Args:
      cache: decoding cache for B rows.
      tokens_to_logits: the step function, see `promot_jax.models.decoding`.
      batch_size: B.
      max_length: L, tokens to generate at most.
      eos_id: the end-of-sequence token, or several of which each ends a sequence.
      start_tokens: int32 `[B]`, the token before the first one; 0 when None.

    Returns:
      Tokens int32 `[B, L]` and their log-probabilities float32 `[B]`, in nats, the
      end-of-sequence token included.
    """
    return _token_by_token(
        cache,
        tokens_to_logits,
        lambda log_probs, step: log_probs,
        first_tokens(start_tokens, batch_size),
        max_length,
        eos_id,
    )


def sample(
    cache: Cache,
    tokens_to_logits: TokensToLogits,
    *,
    batch_size: int,
    max_length: int,
    eos_id: EndId,
    rng: jax.Array,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    start_tokens: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Draws every token from the network's distribution, restricted by `keep_probable`.

    Each row draws with its own key, folded from `rng`, its number and the step: what a row gets
    depends neither on the other rows nor on how many there are.

    Args:
      cache, tokens_to_logits, batch_size, max_length, eos_id, start_tokens: see `greedy`.
      rng: a PRNG key.
      temperature, top_k, top_p: see `keep_probable`.

    Returns:
      Tokens int32 `[B, L]` and their log-probabilities float32 `[B]` in the unrestricted
      distribution of temperature 1, in nats, the end-of-sequence token included.
    """
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, jnp.arange(batch_size))

    def perturb(log_probs: jax.Array, step: jax.Array) -> jax.Array:
        noise = jax.vmap(
            lambda key: jax.random.gumbel(jax.random.fold_in(key, step), log_probs.shape[1:])
        )(keys)
        return keep_probable(log_probs, temperature, top_k, top_p) + noise

    return _token_by_token(
        cache,
        tokens_to_logits,
        perturb,
        first_tokens(start_tokens, batch_size),
        max_length,
        eos_id,
    )


def keep_probable(
    logits: jax.Array, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> jax.Array:
    """Restricts distributions to their most probable tokens, in the order of `transformers`.

    Logits are divided by `temperature`; then all but the `top_k` largest fall away (Fan et al.
    2018), then all but the fewest whose probabilities, among the remaining ones, sum to at least
    `top_p` (nucleus sampling, Holtzman et al. 2020). A token that equals the last one kept is kept.

    Args:
      logits: float `[B, V]`.
      temperature: above 0.
      top_k: 0 keeps all; more than V keeps V.
      top_p: in (0, 1]; 1 keeps all. Without `top_k` it sorts the vocabulary.

    Returns:
      Logits float32 `[B, V]`, -inf where a token fell away.
    """
    logits = logits.astype(jnp.float32) / temperature
    vocab_size = logits.shape[-1]
    if top_k:
        largest, _ = top_k_in_chunks(logits, min(top_k, vocab_size))
    elif top_p < 1.0:
        largest = jnp.sort(logits, axis=-1, descending=True)
    else:
        return logits
    last = largest[:, -1]
    if top_p < 1.0:
        # Of each token and all that are less probable: small sums, which float32 holds well.
        rest = jax.lax.cumsum(jax.nn.softmax(largest), axis=largest.ndim - 1, reverse=True)
        # The most probable token stays, however small `top_p` is.
        count = jnp.maximum((rest > 1.0 - top_p).sum(axis=-1), 1)
        last = jnp.take_along_axis(largest, count[:, None] - 1, axis=-1)[:, 0]
    return jnp.where(logits >= last[:, None], logits, -jnp.inf)


def _token_by_token(
    cache: Cache,
    tokens_to_logits: TokensToLogits,
    preference: Callable[[jax.Array, jax.Array], jax.Array],
    start_tokens: jax.Array,
    max_length: int,
    eos_id: EndId,
) -> tuple[jax.Array, jax.Array]:
    """Takes at every step the token with the largest `preference(log_probs [B, V], step)`."""
    batch_size = start_tokens.shape[0]

    def advance(state: _State) -> _State:
        logits, cache = tokens_to_logits(state.last[:, None], state.cache)
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
        choice = jnp.argmax(preference(log_probs, state.step), axis=-1).astype(jnp.int32)
        # A mask instead of a gather: the vocabulary may be spread over devices.
        chosen = jnp.arange(log_probs.shape[-1]) == choice[:, None]
        score = jnp.where(chosen, log_probs, -jnp.inf).max(axis=-1)
        token = jnp.where(state.ended, PAD_ID, choice)
        return _State(
            step=state.step + 1,
            last=token,
            tokens=state.tokens.at[:, state.step].set(token),
            scores=state.scores + jnp.where(state.ended, 0.0, score),
            ended=state.ended | is_end(token, eos_id),
            cache=cache,
        )

    start = _State(
        step=jnp.int32(0),
        last=start_tokens,
        tokens=jnp.full((batch_size, max_length), PAD_ID, jnp.int32),
        scores=jnp.zeros(batch_size),
        ended=jnp.zeros(batch_size, bool),
        cache=cache,
    )
    end = jax.lax.while_loop(
        lambda state: (state.step < max_length) & ~state.ended.all(), advance, start
    )
    return end.tokens, end.scores


@dataclasses.dataclass(frozen=True)
class Greedy:
    """Decodes with `greedy`."""

    num_beams: int = dataclasses.field(default=1, init=False)

    def __call__(self, cache, tokens_to_logits, *, rng=None, **options) -> jax.Array:
        """Returns the sequence of each row, int32 `[B, L]`."""
        del rng
        return greedy(cache, tokens_to_logits, **options)[0]


@dataclasses.dataclass(frozen=True)
class Sample:
    """Decodes with `sample`; see `keep_probable` for the meaning and order of the first three.

    Without a key from the caller every call draws from `seed` anew, so that equal batches get
    equal tokens.

    Raises:
      UserError: a temperature that is not above 0, a negative `top_k`, or a `top_p` that is not
        above 0 and at most 1.
    """

    num_beams: int = dataclasses.field(default=1, init=False)
    temperature: Positive = 1.0
    top_k: Whole = 0
    top_p: Probability = 1.0
    seed: Seed = 0

    def __post_init__(self):
        if self.temperature == 0:
            raise UserError("Sample.temperature = 0 leaves no choice; use decoding.Greedy instead")
        if not 0 < self.temperature < float("inf"):
            raise UserError(
                f"Sample.temperature = {self.temperature}; give a number above 0, such as 1.0"
            )
        if self.top_k < 0 or self.top_k != int(self.top_k):
            raise UserError(f"Sample.top_k = {self.top_k}; give a number of tokens, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise UserError(
                f"Sample.top_p = {self.top_p}; give a probability above 0, or 1.0 for all tokens"
            )

    def __call__(self, cache, tokens_to_logits, *, rng=None, **options) -> jax.Array:
        """Returns a sequence for each row, int32 `[B, L]`."""
        rng = jax.random.key(self.seed) if rng is None else rng
        restriction = {
            "temperature": self.temperature,
            "top_k": int(self.top_k),
            "top_p": self.top_p,
        }
        return sample(cache, tokens_to_logits, rng=rng, **restriction, **options)[0]
