"""Soft prompts: trainable rows in front of the embedded input (Lester et al. 2021)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import partitioning

from promot_jax.errors import UserError

Initializer = Callable[..., jax.Array]


def uniform(scale: float = 0.5) -> Initializer:
    """Returns an initialiser that draws from the symmetric interval [-scale, scale).

    Prompt tuning (Lester et al. 2021, section 3.2) draws from [-0.5, 0.5]; `jax.nn`'s own
    `uniform` would give [0, scale).
    """

    def init(rng: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(rng, shape, dtype, minval=-scale, maxval=scale)

    return init


DEFAULT_INIT = uniform(0.5)


def sampled_vocabulary(
    embedding: jax.Array, length: int, rng: jax.Array, top: int = 5000
) -> jax.Array:
    """Draws a prompt from the most frequent rows of an embedding table (Lester et al. 2021).

    Args:
      embedding: float `[V, H]`, ordered by frequency as SentencePiece vocabularies are.
      length: P, the number of rows to draw.
      rng: a PRNG key.
      top: how many leading rows to draw from (all of them when V is smaller).

    Returns:
      float32 `[P, H]`, distinct rows unless P is larger than the population.
    """
    population = min(top, embedding.shape[0])
    rows = jax.random.choice(rng, population, (length,), replace=length > population)
    return jnp.asarray(embedding[rows], jnp.float32)


def from_file(embedding: jax.Array, length: int, rng: jax.Array, path: str) -> jax.Array:
    """Takes a prompt from a numpy file, such as `promot export` writes.

    Args:
      embedding: `[V, H]` of the model, which gives the width.
      length: P, the rows that the prompt must have.
      rng: not used.
      path: a `.npy` file with an array `[P, H]`.

    Raises:
      UserError: no such file, or a prompt of another model or length.
    """
    del rng
    try:
        array = np.load(path)
    except (OSError, ValueError) as error:
        raise UserError(f"prompt file {path} cannot be read: {error}") from None
    width = embedding.shape[1]
    if array.ndim != 2:
        raise UserError(f"prompt file {path} holds an array of shape {array.shape}, not rows")
    if array.shape[1] != width:
        raise UserError(
            f"prompt file {path} has rows of {array.shape[1]} numbers, the model embeds in "
            f"{width}; it belongs to another model"
        )
    if len(array) != length:
        raise UserError(f"prompt file {path} has {len(array)} rows, expected {length}")
    return jnp.asarray(array, jnp.float32)


def combine(prompt_rows: jax.Array, embedded: jax.Array) -> jax.Array:
    """Puts prompts in front of inputs: `[B, P, H]`, `[B, T, H]` -> `[B, P+T, H]`.

    The result has the dtype of `embedded`.
    """
    return jnp.concatenate([prompt_rows.astype(embedded.dtype), embedded], axis=1)


class SoftPrompt(nn.Module):
    """One prompt: the parameter `prompt`, float32 `[P, H]`, replicated on every device."""

    length: int
    features: int
    init_fn: Initializer

    @nn.compact
    def __call__(self) -> jax.Array:
        """Returns the parameter, float32 `[P, H]`."""
        return partitioning.param_with_axes(
            "prompt",
            self.init_fn,
            (self.length, self.features),
            jnp.float32,
            axes=("prompt", "prompt_embed"),
        )


class PromptBank(nn.Module):
    """The named prompts of a network; a row of a batch picks one by its number in `names`."""

    names: tuple[str, ...]
    length: int
    init_fn: Initializer

    @nn.compact
    def __call__(self, embedded: jax.Array, prompt_ids: jax.Array | None) -> jax.Array:
        """Puts each row's prompt in front of its embedded input.

        Args:
          embedded: `[B, T, H]`.
          prompt_ids: int `[B]`, the prompt's number in `names`, or -1 for P zero rows, which the
            masks hide; None attaches nothing and needs no prompt parameters.

        Returns:
          `[B, P+T, H]`, or `embedded` itself when `prompt_ids` is None.
        """
        if prompt_ids is None and not self.is_initializing():
            return embedded
        prompts = [
            SoftPrompt(self.length, embedded.shape[-1], self.init_fn, name=name)()
            for name in self.names
        ]
        if prompt_ids is None:
            return embedded
        # `take` turns a number that is too large into NaN, where indexing would clamp it.
        rows = jnp.take(jnp.stack(prompts), prompt_ids, axis=0)
        return combine(jnp.where(prompt_ids[:, None, None] >= 0, rows, 0.0), embedded)
