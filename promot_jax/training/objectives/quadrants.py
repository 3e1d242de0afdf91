"""Q-Tuning: rows that are wrong and sure, or right and unsure, are learnt."""

import dataclasses

import jax
import jax.numpy as jnp

from promot_jax.base import values
from promot_jax.base.trees import Tree
from promot_jax.training.objectives.interface import Objective, Tokens
from promot_jax.training.objectives.rows import places, row_means, row_sums

# The search for thresholds ends after so many halvings, or this near to the share.
HALVINGS, NEAR = 10, 0.01


@dataclasses.dataclass(frozen=True)
class QTuning(Objective):
    """Learns some rows of each microbatch, and of those some targets (Wang et al. 2025).

    Rows are placed by perplexity and by mean entropy of the model that trains, over targets. Those
    high in one and low in the other are learnt: misconceptions and unsure answers. Of
    misconceptions the targets that score highest are left out, by their own perplexity and that of
    their neighbours.

    Attributes:
      rows_kept: share of rows that are learnt.
      share: of the targets of these; only misconceptions lose any.
      neighbours: weight of the two neighbours' perplexities in a target's score.
    """

    rows_kept: values.Probability = 0.5
    share: values.Probability = 0.75
    neighbours: values.Share = 0.5

    def weights(self, tokens: Tokens, measured: Tree) -> jax.Array:
        """See `Objective`."""
        sides = _sorted_out(*_of_rows(tokens), self.rows_kept)
        wrong, kept = (_at_targets(each, tokens) for each in sides)
        counted = tokens.counted
        total = jnp.sum(counted)
        wanted = jnp.round(total * (self.rows_kept * self.share)).astype(jnp.int32)
        # What leaving out rows has not yet come to.
        surplus = jnp.maximum(jnp.sum(kept & counted) - wanted, 0)
        candidates = (wrong & counted).reshape(1, -1)
        scores = self._scores(tokens).reshape(1, -1)
        found = places(scores, candidates, jnp.zeros(scores.shape, jnp.int32))
        dropped = (found < surplus) & candidates if self.share < 1 else jnp.zeros_like(candidates)
        return kept & ~dropped.reshape(kept.shape)

    def _scores(self, tokens: Tokens) -> jax.Array:
        perplexity = jnp.exp(tokens.surprise) * tokens.counted
        beside = [
            jnp.roll(perplexity, by, axis=1)
            * (jnp.roll(tokens.rows, by, axis=1) == tokens.rows)
            * (jnp.arange(perplexity.shape[1]) != edge)
            for by, edge in ((1, 0), (-1, perplexity.shape[1] - 1))
        ]
        return (1 - self.neighbours) * perplexity + self.neighbours * sum(beside)


def _of_rows(tokens: Tokens) -> tuple[jax.Array, jax.Array]:
    """Returns perplexity and entropy of rows, both [N], not numbers for rows that there are not."""
    there = row_sums(jnp.ones_like(tokens.surprise), tokens.counted, tokens.rows) > 0
    numbers = _numbers(tokens)
    size = tokens.surprise.size + len(tokens.surprise)
    found = []
    for each in (tokens.surprise, tokens.scored.entropy()):
        means = jnp.where(tokens.counted & there, row_means(each, tokens.counted, tokens.rows), 0)
        of_row = jax.ops.segment_max(means.reshape(-1), numbers, size)
        is_one = jax.ops.segment_max(tokens.counted.reshape(-1).astype(jnp.int32), numbers, size)
        found.append(jnp.where(is_one > 0, of_row, jnp.nan))
    return jnp.exp(found[0]), found[1]


def _numbers(tokens: Tokens) -> jax.Array:
    """Returns the number of each target's row among those of all lines, int [B * U]."""
    lines, width = tokens.rows.shape
    return (tokens.rows + (width + 1) * jnp.arange(lines)[:, None]).reshape(-1)


def _at_targets(of_rows: jax.Array, tokens: Tokens) -> jax.Array:
    return of_rows[_numbers(tokens)].reshape(tokens.rows.shape)


def _sorted_out(
    perplexity: jax.Array, entropy: jax.Array, share: float
) -> tuple[jax.Array, jax.Array]:
    """Returns which rows are misconceptions, and which are these or unsure answers, bool [N] both.

    Thresholds are equal quantiles from above and below, found by halving. Rows that are missing are
    those whose perplexity and entropy, scaled to one, differ most.

    Args:
      perplexity, entropy: float32 [N], not numbers for rows that there are not.
      share: of the rows.
    """
    there = ~jnp.isnan(perplexity)
    count = jnp.sum(there)

    def sides(alpha):
        low, high = (jnp.nanquantile(perplexity, part) for part in (alpha, 1 - alpha))
        sure, unsure = (jnp.nanquantile(entropy, part) for part in (alpha, 1 - alpha))
        return (perplexity > high) & (entropy <= sure), (perplexity <= low) & (entropy > unsure)

    def halve(_, carry):
        low, high, found, done = carry
        alpha = (low + high) / 2
        wrong, unsure = sides(alpha)
        part = jnp.sum(wrong | unsure) / jnp.maximum(count, 1)
        few = part < share
        found = jnp.where(done, found, alpha)
        low, high = jnp.where(few, alpha, low), jnp.where(few, high, alpha)
        return low, high, found, done | (jnp.abs(part - share) < NEAR)

    begin = jnp.float32(0), jnp.float32(0.49), jnp.float32(0), jnp.zeros((), bool)
    wrong, unsure = sides(jax.lax.fori_loop(0, HALVINGS, halve, begin)[2])
    tilt = _scaled(perplexity) - _scaled(entropy)
    wanted = jnp.maximum(jnp.round(count * share), 1) - jnp.sum(wrong | unsure)
    others = there & ~wrong & ~unsure
    found = places(jnp.abs(tilt)[None], others[None], jnp.zeros((1, len(tilt)), jnp.int32))[0]
    added = others & (found < wanted)
    return wrong | added & (tilt >= 0), wrong | unsure | added


def _scaled(numbers: jax.Array) -> jax.Array:
    low, high = jnp.nanmin(numbers), jnp.nanmax(numbers)
    width = high - low
    return jnp.where(width < 1e-12, 0.0, (numbers - low) / jnp.where(width < 1e-12, 1.0, width))
