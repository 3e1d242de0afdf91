"""Decomposed prompts: a shorter one, and offsets of the tokens that follow it."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from promot_jax.base import values
from promot_jax.models.networks import prompt
from promot_jax.models.networks.parameters import Initializer, parameter
from promot_jax.models.networks.prompt_kinds.kind import Soft, side_of

# Of the offsets, as their authors have it.
ALPHA = 8.0


@dataclasses.dataclass(frozen=True)
class Decomposed(Soft):
    """A shorter soft prompt, and offsets of the first tokens of the input.

    It is DePT (Shi & Lipani 2024). Token i of the input, from the first real one on, is read as its
    embedding + 8 / sqrt(r) (A B)_i for i < S. A is `offset_a` [S, r], B `offset_b` [r, H], which is
    zero at first; both stand beside `prompt` [P, H].

    Attributes:
      positions: S.
      rank: r.
    """

    positions: values.Count
    rank: values.Count

    in_tokens: ClassVar[bool] = True
    word: ClassVar[str] = "prompt with offsets"

    def in_row(self, config, embedded, prompt_ids, prompt_slots, places):
        """See `Kind`."""
        number = prompt_ids
        if prompt_slots is not None:
            # A row begins with its prompt.
            begins = jnp.arange(places.shape[1]) - places
            first = jnp.take_along_axis(prompt_slots, jnp.maximum(begins, 0), axis=1)
            number = jnp.where(first < 0, -1, first // config.prompt_length)
            places = jnp.where(prompt_slots < 0, places - config.prompt_length, -1)
        elif prompt_ids is not None:
            number = prompt_ids[:, None]
        bank = _DecomposedBank(
            config.prompt_names, config.prompt_length, self, config.prompt_init, name="prompt"
        )
        if number is None and not bank.parent.is_initializing():
            return embedded, None
        prompts, a, b = bank(embedded.shape[-1])
        if number is None:
            return embedded, None
        embedded += self._offsets(a, b, number, places).astype(embedded.dtype)
        return prompt.attach(prompts, embedded, prompt_ids, prompt_slots), None

    def in_encoder(self, config, embedded, prompt_ids):
        """See `Kind`."""
        places = jnp.arange(embedded.shape[1])[None]
        return self.in_row(config, embedded, prompt_ids, None, places)

    def _offsets(self, a, b, number, places):
        """Returns what is added to each token, float32 `[B, T, H]`."""
        offsets = ALPHA * self.rank**-0.5 * jnp.einsum("nsr,nrh->nsh", jnp.stack(a), jnp.stack(b))
        known = (number >= 0) & (places >= 0) & (places < self.positions)
        rows = jnp.where(known, number * self.positions + places, 0)
        rows = jnp.take(offsets.reshape(-1, offsets.shape[-1]), rows, axis=0)
        return jnp.where(known[..., None], rows, 0.0)

    def begun(self, network, params, rows, rng):
        """See `Kind`; A is drawn as a torch `Linear` would be."""
        side, bound = side_of(params), self.rank**-0.5
        shape = (self.positions, self.rank)
        a = jax.random.uniform(rng, shape, minval=-bound, maxval=bound)
        b = jnp.zeros((self.rank, rows.shape[1]))
        soft = super().begun(network, params, rows, rng)
        return soft | {f"{side}/offset_a": a, f"{side}/offset_b": b}


class _Decomposed(nn.Module):
    """`prompt` [P, H], `offset_a` [S, r] and `offset_b` [r, H], float32, on every device."""

    length: int
    kind: Decomposed
    init_fn: Initializer

    @nn.compact
    def __call__(self, features: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the three."""
        positions, rank = self.kind.positions, self.kind.rank
        shapes = {
            "prompt": ((self.length, features), ("prompt", "prompt_embed")),
            "offset_a": ((positions, rank), ("prompt", "lora")),
            "offset_b": ((rank, features), ("lora", "prompt_embed")),
        }
        return tuple(
            parameter(self, name, self.init_fn, *described) for name, described in shapes.items()
        )


class _DecomposedBank(nn.Module):
    """The named prompts of a network and their offsets."""

    names: tuple[str, ...]
    length: int
    kind: Decomposed
    init_fn: Initializer

    @nn.compact
    def __call__(self, features: int) -> list[tuple[jax.Array, ...]]:
        """Returns the prompts, all `offset_a` and all `offset_b`."""
        settings = self.length, self.kind, self.init_fn
        own = [_Decomposed(*settings, name=name)(features) for name in self.names]
        return list(zip(*own, strict=True))
