"""Rotary position embedding (Su et al. 2021): queries and keys turn with their position."""

import jax
import jax.numpy as jnp
import numpy as np

# (factor, low_freq_factor, high_freq_factor, original_max_position)
Scaling = tuple[float, float, float, int]


def frequencies(head_dim: int, base: float, scaling: Scaling | None = None) -> np.ndarray:
    """Returns the angles by which the pairs of a head turn from one position to the next.

    Pair i turns by `base ** (-2 i / D)`. Llama 3's scaling divides slow frequencies by `factor`,
    so that a context longer than the one of pretraining stays within known angles: those that
    turn less than `low_freq_factor` times within `original_max_position` positions wholly, those
    that turn more than `high_freq_factor` times not at all, others in between linearly.

    Args:
      head_dim: D, even.
      base: of the geometric sequence.
      scaling: Llama 3's four numbers, or None.

    Returns:
      float32 `[D/2]`, in radians.
    """
    turn = base ** (-np.arange(0, head_dim, 2) / head_dim)
    if scaling is not None:
        factor, low, high, original = scaling
        turns = original * turn / (2 * np.pi)
        kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
        turn = turn * (kept + (1.0 - kept) / factor)
    return turn.astype(np.float32)


def rotation(positions: jax.Array, turn: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Returns cosine and sine of the angles at positions int `[B, X]`: float32 `[B, X, 1, D/2]`."""
    angles = (positions.astype(jnp.float32)[..., None] * turn)[:, :, None]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns heads `[B, X, N, D]` by `rotation`'s result, in float32; returns the dtype of `x`.

    Feature i is paired with feature i + D/2, as in GPT-NeoX and Hugging Face's Llama.
    """
    cos, sin = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
