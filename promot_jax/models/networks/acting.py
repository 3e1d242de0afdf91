"""In which rows of a batch adapters act, of those whose rows differ in it.

Every projection of a network may have an adapter. What the rows of a batch say to all of them
stands in a context around the network's call, not in the arguments of each module between.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp

_ROWS: contextvars.ContextVar[jax.Array | None] = contextvars.ContextVar("rows", default=None)


@contextlib.contextmanager
def only_in(rows: jax.Array | None) -> Iterator[None]:
    """Within it adapters act where `rows` is 1: int `[B]`, or `[B, S]` by slots; None is all."""
    token = _ROWS.set(rows)
    try:
        yield
    finally:
        _ROWS.reset(token)


@contextlib.contextmanager
def only_at(slots: jax.Array | None) -> Iterator[None]:
    """Within it activations are those of the slots `[B, U]`; None leaves them all."""
    rows = _ROWS.get()
    if slots is None or rows is None or rows.ndim == 1:
        yield
    else:
        with only_in(jnp.take_along_axis(rows, slots, axis=1)):
            yield


def chosen(adapted: jax.Array, plain: jax.Array) -> jax.Array:
    """Returns activations `[B, S, F]` as adapters change them, and plain where these do not act."""
    rows = _ROWS.get()
    if rows is None:
        return adapted
    return jnp.where(jnp.expand_dims(rows, range(rows.ndim, plain.ndim)) > 0, adapted, plain)
