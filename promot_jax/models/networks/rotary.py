"""Rotary position embedding (Su et al. 2021): queries and keys turn with their position."""

import jax
import jax.numpy as jnp
import numpy as np

# Four numbers are Llama 3's: factor, low_freq_factor, high_freq_factor, original_max_position.
# The others begin with their name: ("linear", factor), ("dynamic", factor, original_max_position)
# and ("yarn", factor, original_max_position, beta_fast, beta_slow, attention_factor, truncate).
Scaling = tuple[str | float | int | bool, ...]


def frequencies(head_dim: int, base: float, scaling: Scaling | None = None) -> np.ndarray:
    """Returns the angles by which the pairs of a head turn from one position to the next.

    Pair i turns by `base ** (-2 i / D)`. A scaling divides frequencies by `factor`, so that a
    context longer than the one of pretraining stays within known angles:

    * linear: all of them (Chen et al. 2023);
    * dynamic: none within `original_max_position` positions, beyond which we do not go;
    * Llama 3: wholly those that turn less than `low_freq_factor` times within
      `original_max_position` positions, not at all those that turn more than `high_freq_factor`
      times, others in between linearly in their turns;
    * YaRN (Peng et al. 2023): the same between `beta_slow` and `beta_fast` turns, linearly in the
      number of the pair, whose bounds are whole numbers if `truncate`.

    Args:
      head_dim: D, even.
      base: of the geometric sequence.
      scaling: see `Scaling`, or None.

    Returns:
      float32 `[D/2]`, in radians.
    """
    turn = base ** (-np.arange(0, head_dim, 2) / head_dim)
    if scaling is None or scaling[0] == "dynamic":
        return turn.astype(np.float32)
    if scaling[0] == "linear":
        return (turn / scaling[1]).astype(np.float32)
    if scaling[0] == "yarn":
        factor, kept = scaling[1], _kept_by_yarn(head_dim, base, *scaling[2:5], scaling[6])
    else:
        factor, low, high, original = scaling
        turns = original * turn / (2 * np.pi)
        kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (turn * (kept + (1.0 - kept) / factor)).astype(np.float32)


def _kept_by_yarn(
    head_dim: int, base: float, original: int, fast: float, slow: float, truncate: bool
) -> np.ndarray:
    """Returns how much of its frequency each pair keeps, from 0 to 1: `[D/2]`."""
    fastest, slowest = (
        head_dim * np.log(original / (turns * 2 * np.pi)) / (2 * np.log(base))
        for turns in (fast, slow)
    )
    if truncate:
        fastest, slowest = np.floor(fastest), np.ceil(slowest)
    first, last = max(fastest, 0), min(slowest, head_dim - 1)
    width = last - first if last != first else 0.001
    return 1.0 - np.clip((np.arange(head_dim // 2) - first) / width, 0.0, 1.0)


def magnitude(scaling: Scaling | None) -> float:
    """Returns the factor of queries and of keys that goes with a scaling; only YaRN has one."""
    return float(scaling[5]) if scaling is not None and scaling[0] == "yarn" else 1.0


def rotation(
    positions: jax.Array, turn: np.ndarray, magnitude: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Returns cosine and sine, times `magnitude`, of the angles at positions int `[B, X]`.

    Both are float32 `[B, X, 1, D/2]`.
    """
    angles = (positions.astype(jnp.float32)[..., None] * turn)[:, :, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return (cos, sin) if magnitude == 1.0 else (magnitude * cos, magnitude * sin)


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns heads `[B, X, N, D]` by `rotation`'s result, in float32; returns the dtype of `x`.

    Feature i is paired with feature i + D/2, as in GPT-NeoX and Hugging Face's Llama.
    """
    cos, sin = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
