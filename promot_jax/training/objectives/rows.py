"""Numbers of rows from those of their targets; rows may share lines, see `Tokens.rows`."""

import jax
import jax.numpy as jnp


def row_sums(numbers: jax.Array, counted: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns for each target the sum over the counted targets of its row, all `[B, U]`."""

    def of_line(numbers, rows):
        return jax.ops.segment_sum(numbers, rows, rows.size + 1)[rows]

    return jax.vmap(of_line)(numbers * counted, rows)


def row_means(numbers: jax.Array, counted: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns for each target the mean over those of its row; 0 for a row without any."""
    counts = row_sums(jnp.ones_like(numbers), counted, rows)
    return row_sums(numbers, counted, rows) / jnp.maximum(counts, 1)


def places(numbers: jax.Array, counted: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns each target's place among the counted ones of its row, the largest first, from 0."""
    # Those that do not count are a row of their own, behind all others.
    groups = jnp.where(counted, rows, rows.shape[1] + 1)
    order = jnp.lexsort((-numbers, groups), axis=1)
    places = jnp.argsort(order, axis=1)

    def first(places, groups):
        return jax.ops.segment_min(places, groups, groups.size + 2)[groups]

    return places - jax.vmap(first)(places, groups)
