"""Decoder-only transformers with soft prompts: PaLM-like and Llama-like.

One module family; `DecoderConfig` chooses between the published architectures:

* PaLM (Chowdhery et al. 2022): attention and MLP in parallel behind one norm, one key/value head
  for all queries, SwiGLU, rotary positions, tied embeddings;
* Llama (Touvron et al. 2023) and its kin: RMS norms, grouped queries, SwiGLU, rotary positions;
  Qwen 2.5 adds biases to query, key and value, Qwen 3 norms of query and key.

The call protocol is that of T5X's decoder-only models. The order of tokens in a row is the order of
its slots; what counts for the rotary embedding is the position, the number of valid tokens before.
Padding may therefore stand anywhere in a row.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

from promot_jax.base import trees, values
from promot_jax.base.errors import UserError
from promot_jax.models.networks import acting, layers, masks, rotary, stack
from promot_jax.models.networks.attention import Attention
from promot_jax.models.networks.lora import Adapters
from promot_jax.models.networks.parameters import Initializer
from promot_jax.models.networks.prompt import DEFAULT_INIT
from promot_jax.models.networks.prompt_kinds import SOFT, Kind, Prefixes


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes and choices of a network.

    Attributes:
      vocab_size: V, rows of the embedding.
      emb_dim: H.
      num_heads: N, heads of queries.
      num_kv_heads: heads of keys and values, a divisor of N: 1 is multi-query, N multi-head.
      head_dim: D, even.
      mlp_dim: F.
      num_layers: L.
      mlp_activations: names in `flax.linen`, or "linear"; several are multiplied.
      parallel: attention and MLP read the same norm and are added together (PaLM).
      norm: "rms", or "layer", which subtracts the mean too; neither has a bias.
      norm_epsilon: added to the variance.
      rope_base: base of the rotary frequencies.
      rope_scaling: of the rotary frequencies, see `rotary.Scaling`.
      max_positions: the longest row that the model was made for, where that is known.
      sliding_window: how many positions a query sees, its own included; None is all.
      full_layers: that many first layers have no window.
      qkv_bias: query, key and value have biases (Qwen 2.5).
      out_bias, mlp_bias: the output of attention has a bias, the maps of the MLP have.
      qk_norm: RMS norm of each head of query and key before their rotation (Qwen 3).
      logits_via_embedding: score with the embedding in place of `logits_dense`.
      logit_scale: multiplies the logits.
      dropout_rate: used throughout when a call enables dropout.
      dtype: of activations; parameters, norms, softmax and logits are always float32.
      prompt_names: one prompt each, at `decoder/prompt/<name>`.
      prompt_length: P; 0, or no names, is the bare network.
      prompt_init: initialiser of prompts.
      prompt_kind: what prompts are made of.
      scan_layers: whether layers are scanned, their parameters stacked at `layers`, see `stack`.
      remat: "none", or what a layer's backward pass computes again, see `stack.apply_layers`.
      lora: which kernels have a low-rank adapter, see `lora.Lora`.
    """

    vocab_size: values.Count
    emb_dim: values.Count
    num_heads: values.Count
    num_kv_heads: values.Count
    head_dim: values.Count
    mlp_dim: values.Count
    num_layers: values.Count
    mlp_activations: Annotated[Sequence[layers.Activation], values.SOME] = ("silu", "linear")
    parallel: bool = False
    norm: Literal["rms", "layer"] = "rms"
    norm_epsilon: values.Positive = 1e-6
    rope_base: values.Positive = 10000.0
    rope_scaling: rotary.Scaling | None = None
    max_positions: int | None = None
    sliding_window: int | None = None
    full_layers: int = 0
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    logits_via_embedding: bool = True
    logit_scale: values.Positive = 1.0
    dropout_rate: values.Share = 0.0
    dtype: values.Dtype = "float32"
    prompt_names: tuple[str, ...] = ()
    prompt_length: values.Whole = 0
    prompt_init: Initializer = DEFAULT_INIT
    prompt_kind: Kind = SOFT
    scan_layers: bool = False
    remat: stack.Remat = "none"
    lora: Adapters | None = None

    def __post_init__(self):
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise values.Misfit(
                self,
                "{num_kv_heads} does not divide {num_heads}; choose a divisor",
                *("num_kv_heads", "num_heads"),
            )
        if self.head_dim % 2:
            raise values.Misfit(self, "{head_dim}; rotary needs an even one", "head_dim")
        if self.norm not in ("rms", "layer"):
            raise values.Misfit(self, "{norm}; choose 'rms' or 'layer'", "norm")
        stack.check_remat(self.remat)

    def check_rows(self, slots: int) -> None:
        """Raises UserError for rows that are longer than what the network computes truly."""
        limits = []
        if self.rope_scaling is not None and self.rope_scaling[0] == "dynamic":
            limits.append((self.rope_scaling[2], "its dynamic rotary scaling is the plain one"))
        if self.sliding_window is not None and self.full_layers:
            limits.append((self.sliding_window, "the window of its last layers changes nothing"))
        longest, what = min(limits, default=(slots, ""))
        if slots > longest:
            raise UserError(
                f"rows of {slots} tokens, padding included: this model can be computed up to "
                f"{longest}, as long as {what}; shorten the rows (TASK_FEATURE_LENGTHS) or "
                "--max_length"
            )

    @property
    def has_prompts(self) -> bool:
        """Whether the network holds prompts at all."""
        return bool(self.prompt_names) and self.prompt_length > 0


def _norm(config: DecoderConfig, name: str) -> nn.Module:
    kind = layers.RMSNorm if config.norm == "rms" else layers.LayerNorm
    return kind(config.norm_epsilon, config.dtype, name=name)


class DecoderLayer(nn.Module):
    """Attention and MLP, one after the other or, with `parallel`, side by side."""

    config: DecoderConfig
    deterministic: bool
    cache_slots: int | None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        angles: tuple[jax.Array, jax.Array],
        index: jax.Array | None,
        layer: jax.Array | None,
        placed: Prefixes | None,
    ) -> jax.Array:
        """Maps `[B, X, H]` to `[B, X, H]`; see `Attention` for the arguments."""
        config = self.config
        dropout = nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))
        attention = Attention(
            num_heads=config.num_heads,
            head_dim=config.head_dim,
            features=config.emb_dim,
            dropout_rate=config.dropout_rate,
            dtype=config.dtype,
            num_kv_heads=config.num_kv_heads,
            scale=config.head_dim**-0.5,
            qkv_bias=config.qkv_bias,
            out_bias=config.out_bias,
            qk_norm_epsilon=config.norm_epsilon if config.qk_norm else None,
            lora=config.lora,
            name="self_attention",
        )
        attend = functools.partial(
            attention,
            mask=mask,
            deterministic=self.deterministic,
            angles=angles,
            slots=self.cache_slots,
            keep=self.cache_slots is not None,
            index=index,
            layer=layer,
            placed=placed,
        )
        mlp = layers.MLP(
            config.mlp_dim,
            config.mlp_activations,
            config.dropout_rate,
            config.dtype,
            lora=config.lora,
            use_bias=config.mlp_bias,
            name="mlp",
        )
        if config.parallel:
            y = _norm(config, "layer_norm")(x)
            y = attend(y) + mlp(y, deterministic=self.deterministic)
            return x + dropout(y, deterministic=self.deterministic)
        y = _norm(config, "pre_self_attention_layer_norm")(x)
        y = attend(y)
        x += dropout(y, deterministic=self.deterministic)
        y = mlp(_norm(config, "pre_mlp_layer_norm")(x), deterministic=self.deterministic)
        return x + dropout(y, deterministic=self.deterministic)


class Decoder(nn.Module):
    """Prompts, then a stack of layers, their final norm and the output projection."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self,
        embedded: jax.Array,
        segment_ids: jax.Array,
        positions: jax.Array,
        prefix: jax.Array | None,
        prompt_ids: jax.Array | None,
        prompt_slots: jax.Array | None,
        places: jax.Array,
        target_slots: jax.Array | None,
        *,
        deterministic: bool,
        decode: bool,
        max_decode_length: int | None,
        last: int,
        project: bool,
    ) -> jax.Array:
        """Decodes `[B, S, H]`; see `Transformer` for the arguments.

        Returns:
          float32 logits `[B, last, V]` or `[B, U, V]`, or hidden states, of H in place of V, when
          the config scores with the embedding, or without `project`.
        """
        config, kind = self.config, self.config.prompt_kind
        x, index, cache_slots, prefixes = embedded, None, None, None
        if decode and self.has_variable("cache", "cache_index"):
            index, mask, positions = self._advance()
            # A position is the number of valid tokens before.
            key_positions = jnp.cumsum(mask[:, 0], axis=1) - 1
            x = self._as_attached(x, index)
        else:
            if config.has_prompts:
                x, prefixes = kind.in_row(config, x, prompt_ids, prompt_slots, places)
            if config.has_prompts and prompt_ids is not None:
                segment_ids, positions, prefix = masks.in_front(
                    config.prompt_length, prompt_ids, segment_ids, positions, prefix
                )
            config.check_rows(segment_ids.shape[1] + (max_decode_length or 0))
            mask, key_positions = masks.prefix_mask(segment_ids, prefix), positions
            if decode:
                cache_slots = self._create(segment_ids > 0, positions, max_decode_length)
                if config.has_prompts and kind.in_tokens and prompt_ids is not None:
                    self.put_variable("shared", "last", x[:, -1:])
        if config.sliding_window is not None and not config.full_layers:
            mask = masks.within_window(mask, positions, key_positions, config.sliding_window)
        angles = rotary.rotation(
            positions,
            rotary.frequencies(config.head_dim, config.rope_base, config.rope_scaling),
            rotary.magnitude(config.rope_scaling),
        )
        dropout = nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))
        x = dropout(x, deterministic=deterministic)
        x = stack.apply_layers(
            functools.partial(DecoderLayer, config, deterministic, cache_slots),
            lambda layer, x, number, own: layer(
                x, mask[:, None], angles, index, number, prefixes and prefixes.of_layer(own)
            ),
            x,
            config.num_layers,
            scan=config.scan_layers,
            remat="none" if decode else config.remat,
            step=index is not None,
            parts=prefixes and prefixes.by_layer,
        )
        if target_slots is None:
            x = x[:, x.shape[1] - last :]
        else:
            x = jnp.take_along_axis(x, target_slots[..., None], axis=1)
        x = _norm(config, "decoder_norm")(x)
        x = dropout(x, deterministic=deterministic)
        if config.logits_via_embedding or not project:
            return x
        head = layers.Dense(
            config.vocab_size, ("embed", "vocab"), lora=config.lora, name="logits_dense"
        )
        with acting.only_at(target_slots):
            return head(x)

    def _create(self, valid: jax.Array, positions: jax.Array, max_decode_length: int | None) -> int:
        """Creates what a decoding step needs to know; returns the number of slots."""
        if max_decode_length is None:
            raise ValueError("decoding needs max_decode_length, the tokens that will be decoded")
        following = jnp.max(jnp.where(valid, positions + 1, 0), axis=1, initial=0)
        self.put_variable("shared", "valid", valid)
        self.put_variable("cache", "cache_index", jnp.int32(0))
        self.put_variable("cache", "valid", jnp.zeros((len(valid), max_decode_length), bool))
        self.put_variable("cache", "position", following.astype(jnp.int32))
        return max_decode_length

    def _as_attached(self, x: jax.Array, index: jax.Array) -> jax.Array:
        """Returns a step's token as a prompt has it read, where it is the last input once more."""
        if not self.has_variable("shared", "last"):
            return x
        again = ~self.get_variable("shared", "valid")[:, -1:, None] & (index == 0)
        last, beams = self.get_variable("shared", "last"), len(x) // len(again)
        return jnp.where(*(jnp.repeat(each, beams, axis=0) for each in (again, last)), x)

    def _advance(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Takes the next slot; returns it, the mask `[B*K, 1, S + slots]` and the positions."""
        index = self.get_variable("cache", "cache_index")
        position = self.get_variable("cache", "position")
        valid = self.get_variable("cache", "valid").at[:, index].set(True)
        self.put_variable("cache", "cache_index", index + 1)
        self.put_variable("cache", "position", position + 1)
        self.put_variable("cache", "valid", valid)
        prefix = self.get_variable("shared", "valid")
        prefix = jnp.repeat(prefix, len(valid) // len(prefix), axis=0)
        return index, jnp.concatenate([prefix, valid], axis=1)[:, None], position[:, None]


def step_back(variables: dict) -> dict:
    """Returns fresh `cache` and `shared` without the last token, to give it to a step.

    A search wants a token to start from and the logits that follow it. After a call with the whole
    input this is its last token, which all rows must have in the last slot.
    """
    leaves = trees.flatten(variables)
    leaves["shared/decoder/valid"] = leaves["shared/decoder/valid"].at[:, -1].set(False)
    leaves["cache/decoder/position"] -= 1
    return trees.unflatten(leaves)


class Transformer(nn.Module):
    """The decoder-only network; `prompt_ids` picks each row's prompt.

    `prompt_ids` is None (no prompt, exactly the bare network) or int32 `[B]`: the number of the
    row's prompt in `config.prompt_names`, or -1 for a row without one.
    """

    config: DecoderConfig

    def setup(self):
        """Declares the parts."""
        config = self.config
        self.token_embedder = layers.Embedding(config.vocab_size, config.emb_dim, config.dtype)
        self.decoder = Decoder(config)

    def read(self, rows: jax.Array) -> jax.Array:
        """Reads embeddings `[P, H]`; self-attentions leave what they know in `intermediates`."""
        places, rows = jnp.arange(len(rows))[None], rows[None].astype(self.config.dtype)
        return self.decoder(
            *(rows, jnp.ones_like(places), places, None, None, None, places, None),
            deterministic=True,
            decode=False,
            max_decode_length=None,
            last=rows.shape[1],
            project=False,
        )

    def __call__(
        self,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        decoder_causal_attention: jax.Array | None = None,
        *,
        prompt_ids: jax.Array | None = None,
        prompt_slots: jax.Array | None = None,
        input_slots: jax.Array | None = None,
        target_slots: jax.Array | None = None,
        decode: bool = False,
        enable_dropout: bool = True,
        max_decode_length: int | None = None,
        last: int | None = None,
        project: bool = True,
    ) -> jax.Array:
        """Computes logits, of whole rows or step by step.

        Step by step: the first call with `decode` and the collections `cache` and `shared` mutable
        creates them, `shared` for the P + S slots of the prefix and `cache` for L empty ones. Each
        further call takes `[B, 1]` tokens and both, and writes the next slot of all rows. It needs
        neither segment ids nor positions nor prompts. The batch may have grown to `[B*K, 1]`, the K
        beams of a row consecutive, and `cache` with it; `shared` keeps its B rows.

        Args:
          decoder_input_tokens: int `[B, S]`.
          decoder_target_tokens: int `[B, S]`; only says where padding is, see below.
          decoder_segment_ids: int `[B, S]`; 0 is padding, equal numbers see each other. None
            means one segment of the tokens whose target is not 0, or of all tokens when there
            are no targets. A prompt belongs to segment 1.
          decoder_positions: int `[B, S]`, without the prompt; None numbers the valid tokens of a
            row from 0 on. A prompt shifts them by P.
          decoder_causal_attention: int `[B, S]`, 1 for tokens of a prefix that see each other in
            both directions; a prompt is part of it. None is causal attention.
          prompt_ids: int32 `[B]` or None, see the class.
          prompt_slots: int32 `[B, S]`, in place of `prompt_ids`: n * P + p where a slot is row p of
            prompt n, else -1. Segments and positions count these slots.
          input_slots: int `[B, S]`, above 0 for tokens of the input; None is all.
          target_slots: int32 `[B, U]`, in place of `last`: the slots whose logits to compute.
          decode: uses the decoding cache.
          enable_dropout: needs the PRNG "dropout".
          max_decode_length: L, the tokens that follow; needed by the first call with `decode`.
          last: how many logits to compute, those of the last tokens; None means all.
          project: whether to score the hidden states against the vocabulary.

        Returns:
          float32 `[B, S, V]`, `[B, last, V]` or `[B, U, V]`; there are none for a prompt in front.
          Hidden states, of H in place of V, without `project`.

        Raises:
          ValueError: `decode` without `max_decode_length`, or `last` below 0 or above S.
        """
        tokens = decoder_input_tokens
        if decoder_segment_ids is None:
            decoder_segment_ids = masks.one_segment(tokens, decoder_target_tokens)
        if decoder_positions is None:
            decoder_positions = jnp.maximum(jnp.cumsum(decoder_segment_ids > 0, axis=1) - 1, 0)
        places = masks.input_places(decoder_segment_ids, decoder_positions, input_slots)
        if last is not None and not 0 <= last <= tokens.shape[1]:
            raise ValueError(f"last = {last} logits of rows with {tokens.shape[1]} tokens")
        logits = self.decoder(
            self.token_embedder(tokens),
            decoder_segment_ids,
            decoder_positions,
            decoder_causal_attention,
            *(prompt_ids, prompt_slots, places, target_slots),
            deterministic=not enable_dropout,
            decode=decode,
            max_decode_length=max_decode_length,
            last=tokens.shape[1] if last is None else last,
            project=project,
        )
        if not project:
            return logits
        if self.config.logits_via_embedding:
            logits = self.token_embedder.attend(logits)
        logits *= self.config.logit_scale
        return partitioning.with_sharding_constraint(logits, ("batch", "length", "vocab"))
