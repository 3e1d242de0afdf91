"""Soft prompts: trainable rows in front of the embedded input (Lester et al. 2021)."""

import functools
from collections.abc import Sequence
from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from promot_jax.base.errors import UserError
from promot_jax.models.networks.parameters import Initializer, parameter

# Rows of the embedding table that `nearest_tokens` looks at together.
CHUNK = 8192


class Vocabulary(Protocol):
    """What turns a text into token ids."""

    def encode(self, text: str) -> Sequence[int]:
        """Returns the ids of a text, without an end-of-sequence token."""


def uniform(scale: float = 0.5) -> Initializer:
    """Returns an initialiser that draws from the symmetric interval [-scale, scale).

    Prompt tuning (Lester et al. 2021, section 3.2) draws from [-0.5, 0.5]; `jax.nn`'s own
    `uniform` would give [0, scale).
    """

    def init(rng: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(rng, shape, dtype, minval=-scale, maxval=scale)

    return init


DEFAULT_INIT = uniform(0.5)


def symmetric_uniform(
    embedding: jax.Array, length: int, rng: jax.Array, scale: float = 0.5
) -> jax.Array:
    """Draws a prompt, float32 `[P, H]`, from [-scale, scale) (Lester et al. 2021, section 3.2).

    Args:
      embedding: `[V, H]` of the model, which gives the width only.
      length: P, the number of rows to draw.
      rng: a PRNG key.
      scale: half the width of the interval.
    """
    return uniform(scale)(rng, (length, embedding.shape[1]))


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
    return _sampled(embedding, length, rng, min(top, embedding.shape[0]))


# One program in place of a dozen, each of which would be compiled.
@functools.partial(jax.jit, static_argnames=("length", "population"))
def _sampled(embedding: jax.Array, length: int, rng: jax.Array, population: int) -> jax.Array:
    rows = jax.random.choice(rng, population, (length,), replace=length > population)
    return jnp.asarray(embedding[rows], jnp.float32)


def class_labels(
    embedding: jax.Array,
    length: int,
    rng: jax.Array,
    labels: Sequence[str],
    vocabulary: Vocabulary,
    top: int = 5000,
) -> jax.Array:
    """Starts a prompt with the class labels of its task (Lester et al. 2021, section 3.2).

    Row i is the mean embedding of label i's tokens; `sampled_vocabulary` fills the rows behind.

    Args:
      embedding: float `[V, H]`.
      length: P, the rows of the prompt.
      rng: a PRNG key, for the rows behind the labels.
      labels: the texts of the classes. google-research/prompt-tuning drops, with a warning, those
        that find no row; here they are an error.
      vocabulary: gives the token ids of a label.
      top: see `sampled_vocabulary`.

    Returns:
      float32 `[P, H]`.

    Raises:
      UserError: no labels, more than P, or one without tokens or with ids beyond the embedding.
    """
    if isinstance(labels, str) or not labels:
        raise UserError(
            f"class_labels.labels = {labels!r}; give the texts of the classes, such as "
            "['True', 'False']"
        )
    if len(labels) > length:
        raise UserError(
            f"class_labels.labels has {len(labels)} labels for a prompt of {length} rows; set "
            f"prompt_length to {len(labels)} or more, or give fewer labels"
        )
    rows = [_embed(label, embedding, vocabulary).mean(axis=0) for label in labels]
    behind = sampled_vocabulary(embedding, length - len(labels), rng, top)
    return jnp.concatenate([jnp.stack(rows), behind])


def from_text(
    embedding: jax.Array, length: int, rng: jax.Array, text: str, vocabulary: Vocabulary
) -> jax.Array:
    """Starts a prompt with the embedded tokens of a text, such as an instruction for the task.

    A text of more than P tokens is cut, a shorter one repeated, as PEFT does for its `TEXT`
    initialisation.

    Args:
      embedding: float `[V, H]`.
      length: P, the rows of the prompt.
      rng: not used.
      text: the text.
      vocabulary: gives the token ids of the text.

    Returns:
      float32 `[P, H]`.

    Raises:
      UserError: a text without tokens, or ids beyond the embedding.
    """
    del rng
    rows = _embed(text, embedding, vocabulary)
    return rows[np.resize(np.arange(len(rows)), length)]


def _embed(text: str, embedding: jax.Array, vocabulary: Vocabulary) -> jax.Array:
    """Returns the embedding of each token of a text, float32 `[tokens, H]`."""
    ids = np.asarray(vocabulary.encode(text), np.int64)
    if not len(ids):
        raise UserError(f"the text {text!r} for a prompt has no tokens; give some words")
    if ids.min() < 0 or ids.max() >= len(embedding):
        raise UserError(
            f"the vocabulary gives {text!r} the token ids {ids.tolist()}, but the model embeds "
            f"{len(embedding)} tokens; give the vocabulary that the model was trained with"
        )
    return jnp.asarray(embedding[ids], jnp.float32)


def from_file(embedding: jax.Array, length: int, rng: jax.Array, path: str) -> jax.Array:
    """Takes a prompt from a numpy file.

    Such files are written by `promot export`, and by google-research/prompt-tuning as
    `numpy_checkpoints/checkpoint_N/encoder.prompt.prompt.prompt`.

    Args:
      embedding: `[V, H]` of the model, which gives the width.
      length: P, the rows that the prompt must have.
      rng: not used.
      path: a file in the format of `numpy.save`, of any name, with an array `[P, H]`.

    Raises:
      UserError: no such file, or a prompt of another model or length.
    """
    del rng
    prompt = read_file(path)
    check_width(prompt, embedding.shape[1], path)
    if len(prompt) != length:
        raise UserError(
            f"prompt file {path} has {len(prompt)} rows, expected {length}; set prompt_length to "
            f"{len(prompt)} or take another file"
        )
    return jnp.asarray(prompt)


def read_file(path: str) -> np.ndarray:
    """Reads a prompt, float32 `[P, H]`, from a file in the format of `numpy.save`.

    Raises:
      UserError: no such file, or no matrix of floating-point numbers in it.
    """
    try:
        array = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"prompt file {path} cannot be read: {error}") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"prompt file {path} holds several arrays; save one with numpy.save")
    if array.ndim != 2:
        raise UserError(f"prompt file {path} holds an array of shape {array.shape}, not rows")
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"prompt file {path} holds {array.dtype}, expected float32")
    return array.astype(np.float32)


def check_width(prompt: np.ndarray, width: int, path: str) -> None:
    """Raises UserError unless the rows of the prompt at `path` have `width` numbers."""
    if prompt.shape[1] != width:
        raise UserError(
            f"{path} has rows of {prompt.shape[1]} numbers, the model embeds in {width}; it "
            "belongs to another model"
        )


def nearest_tokens(
    prompt: jax.Array, embedding: jax.Array, k: int = 5
) -> tuple[jax.Array, jax.Array]:
    """Finds the tokens whose embeddings point where the rows of a prompt point.

    The way in which Lester et al. (2021, section 7) read a trained prompt. The table is taken in
    chunks of 8192 rows: beside the arguments it needs memory for `8192 * (H + P)` numbers.

    Args:
      prompt: float `[P, H]`.
      embedding: float `[V, H]`.
      k: neighbours of each row.

    Returns:
      Token ids int32 `[P, k]`, nearest first and the smaller of equally near ones first, and their
      cosine similarities float32 `[P, k]`. A row of zeros has similarity 0 with everything.

    Raises:
      UserError: a prompt of another width, or `k` below 1 or above V.
    """
    if prompt.shape[1] != embedding.shape[1]:
        raise UserError(
            f"the prompt has rows of {prompt.shape[1]} numbers, the model embeds in "
            f"{embedding.shape[1]}; it belongs to another model"
        )
    if not 1 <= k <= len(embedding):
        raise UserError(
            f"nearest_tokens.k = {k}; give a number from 1 to the {len(embedding)} tokens"
        )
    directions = _directions(prompt)
    ids = jnp.zeros((len(prompt), k), jnp.int32)
    similarity = jnp.full((len(prompt), k), -jnp.inf)
    for first in range(0, len(embedding), CHUNK):
        rows = jnp.asarray(embedding[first : first + CHUNK])
        ids, similarity = _nearest(ids, similarity, directions, rows, first)
    return ids, similarity


@jax.jit
def _nearest(ids, similarity, directions, rows, first):
    """Updates the k nearest tokens by those with the ids from `first` on."""
    new = jnp.matmul(directions, _directions(rows).T, precision="highest")
    new_ids = jnp.broadcast_to(first + jnp.arange(len(rows), dtype=jnp.int32), new.shape)
    # Smaller ids stand first, and of equal values `top_k` takes the first.
    best, place = jax.lax.top_k(jnp.concatenate([similarity, new], axis=1), ids.shape[1])
    return jnp.take_along_axis(jnp.concatenate([ids, new_ids], axis=1), place, axis=1), best


def _directions(rows: jax.Array) -> jax.Array:
    """Scales rows to length 1, float32; rows of zeros stay."""
    rows = jnp.asarray(rows, jnp.float32)
    norms = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return rows / jnp.where(norms > 0, norms, 1.0)


def combine(prompt_rows: jax.Array, embedded: jax.Array) -> jax.Array:
    """Puts prompts in front of inputs: `[B, P, H]`, `[B, T, H]` -> `[B, P+T, H]`.

    The result has the dtype of `embedded`.
    """
    return jnp.concatenate([prompt_rows.astype(embedded.dtype), embedded], axis=1)


def attach(
    prompts: Sequence[jax.Array],
    embedded: jax.Array,
    prompt_ids: jax.Array | None,
    prompt_slots: jax.Array | None,
) -> jax.Array:
    """Attaches prompts, each `[P, H]`; see `PromptBank` for all else."""
    if prompt_slots is not None:
        rows = jnp.take(jnp.concatenate(prompts), prompt_slots, axis=0)
        return jnp.where(prompt_slots[..., None] >= 0, rows.astype(embedded.dtype), embedded)
    # `take` turns a number that is too large into NaN, where indexing would clamp it.
    rows = jnp.take(jnp.stack(prompts), prompt_ids, axis=0)
    return combine(jnp.where(prompt_ids[:, None, None] >= 0, rows, 0.0), embedded)


class SoftPrompt(nn.Module):
    """One prompt: the parameter `prompt`, float32 `[P, H]`, replicated on every device."""

    length: int
    features: int
    init_fn: Initializer

    @nn.compact
    def __call__(self) -> jax.Array:
        """Returns the parameter, float32 `[P, H]`."""
        shape = (self.length, self.features)
        return parameter(self, "prompt", self.init_fn, shape, ("prompt", "prompt_embed"))


class PromptBank(nn.Module):
    """The named prompts of a network; a row of a batch picks one by its number in `names`."""

    names: tuple[str, ...]
    length: int
    init_fn: Initializer

    @nn.compact
    def __call__(
        self,
        embedded: jax.Array,
        prompt_ids: jax.Array | None,
        prompt_slots: jax.Array | None = None,
    ) -> jax.Array:
        """Puts each row's prompt in front of its embedded input, or into slots kept for it.

        Args:
          embedded: `[B, T, H]`.
          prompt_ids: int `[B]`, the prompt's number in `names`, or -1 for P zero rows, which the
            masks hide; None attaches nothing and needs no prompt parameters.
          prompt_slots: int `[B, T]`, of packed rows, in place of `prompt_ids`: n * P + p for row p
            of prompt n, -1 for what stays as it is.

        Returns:
          `[B, P+T, H]`, or `[B, T, H]` without `prompt_ids`.
        """
        if prompt_ids is None and prompt_slots is None and not self.is_initializing():
            return embedded
        prompts = [
            SoftPrompt(self.length, embedded.shape[-1], self.init_fn, name=name)()
            for name in self.names
        ]
        if prompt_ids is None and prompt_slots is None:
            return embedded
        return attach(prompts, embedded, prompt_ids, prompt_slots)
