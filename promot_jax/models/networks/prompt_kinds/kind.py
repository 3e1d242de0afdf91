"""What all kinds of prompts share, and the usual one: rows in front of the input."""

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax

from promot_jax.base import values
from promot_jax.base.trees import Tree
from promot_jax.models.networks.prompt import PromptBank


class Prefixes(NamedTuple):
    """Keys and values of all prefixes of a stack, and which row or slot has which.

    Attributes:
      keys, values: float32 `[L, n*P, Nkv*D]`, row n * P + p is row p of prefix n; without the axis
        of layers for a layer of its own.
      slots: int `[B, F]`, numbers of such rows; below 0 for none.
    """

    keys: jax.Array
    values: jax.Array
    slots: jax.Array

    @property
    def by_layer(self) -> tuple[jax.Array, jax.Array]:
        """What each layer has its own part of."""
        return self.keys, self.values

    def of_layer(self, own: tuple[jax.Array, jax.Array]) -> "Prefixes":
        """Returns those of a layer, given its part of `by_layer`."""
        return Prefixes(*own, self.slots)


@dataclasses.dataclass(frozen=True)
class Kind(abc.ABC):
    """What all kinds share. `config` is that of a network, whose names and length it reads."""

    # Whether it has P rows in the input, of which an encoder then gives as many more.
    in_input: ClassVar[bool] = True
    # Whether it changes how tokens of the input are read.
    in_tokens: ClassVar[bool] = False
    # What a prompt of this kind is called.
    word: ClassVar[str] = "prompt"

    def __post_init__(self):
        values.check_fields(self)

    @property
    def in_encoder_keys(self) -> bool:
        """Whether an encoder's self-attention has P further keys."""
        return True

    @abc.abstractmethod
    def in_row(
        self,
        config: Any,
        embedded: jax.Array,
        prompt_ids: jax.Array | None,
        prompt_slots: jax.Array | None,
        places: jax.Array,
    ) -> tuple[jax.Array, Prefixes | None]:
        """Attaches prompts to the rows of a decoder-only network, in its compact method.

        Args:
          config: of the network.
          embedded: `[B, T, H]`.
          prompt_ids, prompt_slots: see `PromptBank`.
          places: int `[B, T]`, the position of each token of the input in its row, below 0 for all
            other tokens; of packed rows the slots of their prompts count.

        Returns:
          `[B, P+T, H]`, or `[B, T, H]` without `prompt_ids`, and what takes the place of the keys
          and values of some slots: those in front, or of packed rows all.
        """

    @abc.abstractmethod
    def in_encoder(
        self, config: Any, embedded: jax.Array, prompt_ids: jax.Array | None
    ) -> tuple[jax.Array, Prefixes | None]:
        """Attaches prompts to the input of an encoder, in its compact method.

        Returns:
          `[B, P+T, H]` or `[B, T, H]`, and what stands ahead of each layer's keys and values.
        """

    def in_decoder(self, config: Any, prompt_ids: jax.Array | None) -> Prefixes | None:
        """Returns what stands ahead of the decoder's own keys and values, in its compact method."""
        del config, prompt_ids
        return None

    @abc.abstractmethod
    def begun(
        self, network: nn.Module, params: Tree, rows: jax.Array, rng: jax.Array
    ) -> dict[str, jax.Array]:
        """Returns the leaves of a new prompt, {SIDE/LEAF: array}.

        Args:
          network: without prompts.
          params: its parameters.
          rows: float32 `[P, H]`, embeddings to begin with.
          rng: a PRNG key, for what these do not decide.
        """


@dataclasses.dataclass(frozen=True)
class Soft(Kind):
    """Rows in front of the embedded input (Lester et al. 2021): `prompt` [P, H]."""

    def in_row(self, config, embedded, prompt_ids, prompt_slots, places):
        """See `Kind`."""
        del places
        bank = PromptBank(
            config.prompt_names, config.prompt_length, config.prompt_init, name="prompt"
        )
        return bank(embedded, prompt_ids, prompt_slots), None

    def in_encoder(self, config, embedded, prompt_ids):
        """See `Kind`."""
        return self.in_row(config, embedded, prompt_ids, None, None)

    def begun(self, network, params, rows, rng):
        """See `Kind`."""
        del network, rng
        return {f"{side_of(params)}/prompt": rows}


def side_of(params: Tree) -> str:
    """Returns the stack whose input prompts stand in."""
    return "encoder" if "encoder" in params else "decoder"
