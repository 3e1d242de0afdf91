"""What a prompt is made of: rows of the input, or keys and values in front of each layer's own.

A prompt of any kind has a name, and a row of a batch picks one by its number in `prompt_ids`. So
all kinds are attached, mixed in a batch and taken off in the same way. Their leaves stand at
`decoder/prompt/NAME/` or `encoder/prompt/NAME/`, see `trees.PROMPT`.
"""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from promot_jax.base import trees, values
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.models.networks.parameters import Initializer, parameter
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
class Kind:
    """What all kinds share. `config` is that of a network, whose names and length it reads."""

    # Whether it has P rows in the input, of which an encoder then gives as many more.
    in_input: ClassVar[bool] = True
    # What a prompt of this kind is called.
    word: ClassVar[str] = "prompt"

    def __post_init__(self):
        values.check_fields(self)

    @property
    def in_encoder_keys(self) -> bool:
        """Whether an encoder's self-attention has P further keys."""
        return True

    def in_row(
        self,
        config: Any,
        embedded: jax.Array,
        prompt_ids: jax.Array | None,
        prompt_slots: jax.Array | None,
    ) -> tuple[jax.Array, Prefixes | None]:
        """Attaches prompts to the rows of a decoder-only network, in its compact method.

        Args:
          config: of the network.
          embedded: `[B, T, H]`.
          prompt_ids, prompt_slots: see `PromptBank`.

        Returns:
          `[B, P+T, H]`, or `[B, T, H]` without `prompt_ids`, and what takes the place of the keys
          and values of some slots: those in front, or of packed rows all.
        """
        raise NotImplementedError

    def in_encoder(
        self, config: Any, embedded: jax.Array, prompt_ids: jax.Array | None
    ) -> tuple[jax.Array, Prefixes | None]:
        """Attaches prompts to the input of an encoder, in its compact method.

        Returns:
          `[B, P+T, H]` or `[B, T, H]`, and what stands ahead of each layer's keys and values.
        """
        raise NotImplementedError

    def in_decoder(self, config: Any, prompt_ids: jax.Array | None) -> Prefixes | None:
        """Returns what stands ahead of the decoder's own keys and values, in its compact method."""
        del config, prompt_ids
        return None

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
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Soft(Kind):
    """Rows in front of the embedded input (Lester et al. 2021): `prompt` [P, H]."""

    def in_row(self, config, embedded, prompt_ids, prompt_slots):
        """See `Kind`."""
        bank = PromptBank(
            config.prompt_names, config.prompt_length, config.prompt_init, name="prompt"
        )
        return bank(embedded, prompt_ids, prompt_slots), None

    def in_encoder(self, config, embedded, prompt_ids):
        """See `Kind`."""
        return self.in_row(config, embedded, prompt_ids, None)

    def begun(self, network, params, rows, rng):
        """See `Kind`."""
        del network, rng
        return {f"{_side(params)}/prompt": rows}


@dataclasses.dataclass(frozen=True)
class Prefix(Kind):
    """Keys and values in front of those of each layer's self-attention.

    Prefix tuning (Li & Liang 2021) and P-tuning v2 (Liu et al. 2021), without a network that makes
    them: `keys` and `values` [L, P, Nkv*D]. Keys are already rotated. They begin as those of the
    model reading the rows that a soft prompt would begin with: of a causal decoder-only network
    the two compute the same at first.

    Attributes:
      sides: of an encoder-decoder, the stacks that have one; PEFT knows "decoder" alone.
    """

    sides: Literal["both", "encoder", "decoder"] = "both"

    in_input: ClassVar[bool] = False
    word: ClassVar[str] = "prefix"

    @property
    def in_encoder_keys(self) -> bool:
        """See `Kind`."""
        return self.sides != "decoder"

    def in_row(self, config, embedded, prompt_ids, prompt_slots):
        """See `Kind`; its own slots hold nothing, and cost what those of a soft prompt cost."""
        width = config.num_kv_heads * config.head_dim
        found = _bank(config, config.num_layers, width, prompt_ids, prompt_slots)
        if found is None or prompt_slots is not None:
            return embedded, found
        rows, _, features = embedded.shape
        empty = jnp.zeros((rows, config.prompt_length, features), embedded.dtype)
        return jnp.concatenate([empty, embedded], axis=1), found

    def in_encoder(self, config, embedded, prompt_ids):
        """See `Kind`."""
        if self.sides == "decoder":
            return embedded, None
        width = config.num_heads * config.head_dim
        return embedded, _bank(config, config.num_encoder_layers, width, prompt_ids)

    def in_decoder(self, config, prompt_ids):
        """See `Kind`."""
        if self.sides == "encoder":
            return None
        width = config.num_heads * config.head_dim
        return _bank(config, config.num_decoder_layers, width, prompt_ids)

    def begun(self, network, params, rows, rng):
        """See `Kind`."""
        del rng
        found = {}
        for side, known in _activations(network, params, rows).items():
            if self.sides in ("both", side) or "encoder" not in params:
                found |= {f"{side}/keys": known[0], f"{side}/values": known[1]}
        return found


SOFT = Soft()


def of_params(params: Tree) -> Kind:
    """Returns the kind of the prompts in a parameter tree; without any, soft ones.

    Raises:
      UserError: they are of several kinds.
    """
    leaves: dict[str, set[str]] = {}
    for path in trees.flatten(params):
        if match := trees.PROMPT.fullmatch(path):
            leaves.setdefault(match[2], set()).add(f"{match[1]}/{match[3]}")
    kinds = {name: _kind(found) for name, found in leaves.items()}
    if len(different := dict.fromkeys(kinds.values())) > 1:
        found = ", ".join(f"{name} is a {kind.word}" for name, kind in kinds.items())
        raise UserError(f"all prompts of a model must be of one kind: {found}")
    return next(iter(different), SOFT)


def _kind(leaves: set[str]) -> Kind:
    sides = [side for side in ("encoder", "decoder") if f"{side}/keys" in leaves]
    if not sides:
        return SOFT
    return Prefix("both" if len(sides) > 1 else sides[0])


def _side(params: Tree) -> str:
    return "encoder" if "encoder" in params else "decoder"


class _Prefix(nn.Module):
    """One prefix: `keys` and `values`, float32 `[L, P, W]`, replicated on every device."""

    shape: tuple[int, int, int]
    init_fn: Initializer

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        """Returns both."""
        axes = ("layers", "prompt", "prompt_embed")
        keys = parameter(self, "keys", self.init_fn, self.shape, axes)
        return keys, parameter(self, "values", self.init_fn, self.shape, axes)


class _PrefixBank(nn.Module):
    """The named prefixes of a stack of layers."""

    names: tuple[str, ...]
    shape: tuple[int, int, int]
    init_fn: Initializer

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        """Returns keys and values of all, float32 `[L, n*P, W]`."""
        both = [_Prefix(self.shape, self.init_fn, name=name)() for name in self.names]
        keys, known = zip(*both, strict=True)
        return jnp.concatenate(keys, axis=1), jnp.concatenate(known, axis=1)


def _bank(config, layers, width, prompt_ids, prompt_slots=None) -> Prefixes | None:
    """Returns the prefixes of a stack of the calling module, None where none is attached."""
    shape = (layers, config.prompt_length, width)
    bank = _PrefixBank(config.prompt_names, shape, config.prompt_init, name="prompt")
    if prompt_ids is None and prompt_slots is None:
        if bank.parent.is_initializing():
            bank()
        return None
    if prompt_slots is None:
        # Numbers below 0 are those of rows that the masks hide.
        first = prompt_ids[:, None] * config.prompt_length
        prompt_slots = first + jnp.arange(config.prompt_length)
    return Prefixes(*bank(), prompt_slots)


def _activations(
    network: nn.Module, params: Tree, rows: jax.Array
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Returns keys and values of each stack's self-attention as it reads rows `[P, H]`.

    Those of a stack are two float32 `[L, P, Nkv*D]`.
    """

    def read(params, rows):
        _, found = network.apply({"params": params}, rows, method="read", mutable=["intermediates"])
        known = {}
        for path, ((key, value),) in trees.flatten(found["intermediates"]).items():
            known |= {f"{path}/0": key, f"{path}/1": value}
        leaves = trees.flatten(trees.unstack_layers(trees.unflatten(known)))
        stacks = {}
        for path in sorted(leaves, key=_number):
            side, *_, place = path.split("/")
            stacks.setdefault(side, ([], []))[int(place)].append(leaves[path])
        return {side: tuple(map(_joined, both)) for side, both in stacks.items()}

    return jax.jit(read)(params, rows)


def _number(path: str) -> int:
    return int(path.split("/")[1].removeprefix("layers_"))


def _joined(layers: list[jax.Array]) -> jax.Array:
    """Stacks `[1, P, Nkv, D]` of each layer to float32 `[L, P, Nkv*D]`."""
    stacked = jnp.concatenate(layers).astype(jnp.float32)
    return stacked.reshape(*stacked.shape[:2], -1)
