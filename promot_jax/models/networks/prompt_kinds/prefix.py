"""Prefixes: keys and values in front of those of each layer's self-attention."""

import dataclasses
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from promot_jax.base import trees
from promot_jax.base.trees import Tree
from promot_jax.models.networks.parameters import Initializer, parameter
from promot_jax.models.networks.prompt_kinds.kind import Kind, Prefixes


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

    def in_row(self, config, embedded, prompt_ids, prompt_slots, places):
        """See `Kind`; its own slots hold nothing, and cost what those of a soft prompt cost."""
        del places
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
