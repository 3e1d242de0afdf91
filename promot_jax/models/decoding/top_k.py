"""The largest values of long rows."""

import jax
import jax.numpy as jnp

# Divides the vocabularies of T5.1.1 and mT5.
CHUNK = 128


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
    candidates = gather(padded, chunks).reshape(batch_size, -1)
    index = (chunks[:, :, None] * CHUNK + jnp.arange(CHUNK)).reshape(batch_size, -1)
    best, place = jax.lax.top_k(candidates, k)
    return best, gather(index, place)


def gather(rows: jax.Array, index: jax.Array) -> jax.Array:
    """Picks along axis 1 in each row: `[B, X, ...]`, int `[B, Y]` -> `[B, Y, ...]`.

    Mapped over the batch, so that a sharded batch needs no communication.
    """
    return jax.vmap(lambda row, chosen: row[chosen])(rows, index)
