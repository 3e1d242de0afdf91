"""Configuration, layers and stacks of the T5.1.1 / mT5 encoder-decoder; `t5` is the whole."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from promot_jax.base import values
from promot_jax.models.networks import layers, masks, relative, stack
from promot_jax.models.networks.attention import Attention
from promot_jax.models.networks.lora import Adapters
from promot_jax.models.networks.parameters import Initializer
from promot_jax.models.networks.prompt import DEFAULT_INIT
from promot_jax.models.networks.prompt_kinds import SOFT, Kind, Prefixes


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes and choices of a network.

    Attributes:
      vocab_size: V, rows of the embedding (250112 for mT5, 32128 for T5.1.1).
      emb_dim: H.
      num_heads: N.
      head_dim: D.
      mlp_dim: F.
      num_encoder_layers: layers of the encoder.
      num_decoder_layers: layers of the decoder.
      mlp_activations: names in `flax.linen`, or "linear"; several are multiplied.
      dropout_rate: used throughout when a call enables dropout.
      dtype: of activations; parameters, norms, softmax and logits are always float32.
      logits_via_embedding: score with the embedding in place of `logits_dense` (T5.1.0).
      prompt_names: one prompt each, at `encoder/prompt/<name>`, or that of the decoder.
      prompt_length: P; 0, or no names, is the bare network.
      prompt_init: initialiser of prompts.
      prompt_kind: what prompts are made of.
      scan_layers: whether layers are scanned, their parameters stacked at `layers`, see `stack`.
      remat: "none", or what a layer's backward pass computes again, see `stack.apply_layers`.
      lora: which kernels have a low-rank adapter; its pattern sees paths such as
        `decoder/layers_0/mlp/wo/kernel`, with `layers` for `layers_0` when they are scanned.
    """

    vocab_size: values.Count
    emb_dim: values.Count
    num_heads: values.Count
    head_dim: values.Count
    mlp_dim: values.Count
    num_encoder_layers: values.Count
    num_decoder_layers: values.Count
    mlp_activations: Annotated[Sequence[layers.Activation], values.SOME] = ("gelu", "linear")
    dropout_rate: values.Share = 0.1
    dtype: values.Dtype = "float32"
    logits_via_embedding: bool = False
    prompt_names: tuple[str, ...] = ()
    prompt_length: values.Whole = 0
    prompt_init: Initializer = DEFAULT_INIT
    prompt_kind: Kind = SOFT
    scan_layers: bool = False
    remat: stack.Remat = "none"
    lora: Adapters | None = None

    def __post_init__(self):
        stack.check_remat(self.remat)

    @property
    def has_prompts(self) -> bool:
        """Whether the network holds prompts at all."""
        return bool(self.prompt_names) and self.prompt_length > 0

    @property
    def logit_scale(self) -> float:
        """What multiplies the logits: T5 scales scores against its embedding."""
        return self.emb_dim**-0.5 if self.logits_via_embedding else 1.0


def _norm(config: T5Config) -> layers.RMSNorm:
    return layers.RMSNorm(dtype=config.dtype)


def _dropout(config: T5Config) -> nn.Dropout:
    # T5 drops the same features at every position.
    return nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))


def _attention(config: T5Config) -> Attention:
    return Attention(
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        features=config.emb_dim,
        dropout_rate=config.dropout_rate,
        dtype=config.dtype,
        # In place of a division of the logits by the square root of D.
        query_init=nn.initializers.variance_scaling(1.0 / config.head_dim, "fan_in", "normal"),
        lora=config.lora,
    )


def _mlp(config: T5Config) -> layers.MLP:
    return layers.MLP(
        config.mlp_dim, config.mlp_activations, config.dropout_rate, config.dtype, config.lora
    )


class EncoderLayer(nn.Module):
    """Self-attention and MLP, each normalised before and added after."""

    config: T5Config

    def setup(self):
        """Declares the parts."""
        self.pre_attention_layer_norm = _norm(self.config)
        self.attention = _attention(self.config)
        self.pre_mlp_layer_norm = _norm(self.config)
        self.mlp = _mlp(self.config)
        self.dropout = _dropout(self.config)

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        bias: jax.Array,
        ahead: Prefixes | None,
        *,
        deterministic: bool,
    ) -> jax.Array:
        """Maps `[B, X, H]` to `[B, X, H]`; see `Attention` for the arguments."""
        y = self.pre_attention_layer_norm(x)
        y = self.attention(y, mask, bias=bias, ahead=ahead, deterministic=deterministic)
        x += self.dropout(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic=deterministic)
        return x + self.dropout(y, deterministic=deterministic)


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder, and MLP."""

    config: T5Config

    def setup(self):
        """Declares the parts."""
        self.pre_self_attention_layer_norm = _norm(self.config)
        self.self_attention = _attention(self.config)
        self.pre_cross_attention_layer_norm = _norm(self.config)
        self.encoder_decoder_attention = _attention(self.config)
        self.pre_mlp_layer_norm = _norm(self.config)
        self.mlp = _mlp(self.config)
        self.dropout = _dropout(self.config)

    def __call__(
        self,
        x: jax.Array,
        encoded: jax.Array,
        mask: jax.Array,
        cross_mask: jax.Array,
        bias: jax.Array,
        *,
        deterministic: bool,
        decode: bool,
        index: jax.Array | None,
        layer: jax.Array | None,
        ahead: Prefixes | None,
    ) -> jax.Array:
        """Maps `[B*K, U, H]` to `[B*K, U, H]`; see `Attention` for the arguments."""
        y = self.self_attention(
            self.pre_self_attention_layer_norm(x),
            mask,
            bias=bias,
            deterministic=deterministic,
            slots=x.shape[1] if decode and index is None else None,
            index=index,
            layer=layer,
            ahead=ahead,
        )
        x += self.dropout(y, deterministic=deterministic)
        y = self.encoder_decoder_attention.across(
            self.pre_cross_attention_layer_norm(x),
            encoded,
            cross_mask,
            deterministic=deterministic,
            decode=decode,
        )
        x += self.dropout(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic=deterministic)
        return x + self.dropout(y, deterministic=deterministic)


class Encoder(nn.Module):
    """Prompts, then a stack of layers that share one relative position bias."""

    config: T5Config

    @nn.compact
    def __call__(
        self,
        embedded: jax.Array,
        mask: jax.Array,
        prompt_ids: jax.Array | None,
        *,
        deterministic: bool,
    ) -> jax.Array:
        """Encodes `[B, T, H]` as `[B, P+T, H]`; P is 0 where no prompt has rows in the input.

        The keys of `mask` are those of the input, prompts in front, of whatever kind.
        """
        config = self.config
        x, prefixes = embedded, None
        if config.has_prompts:
            x, prefixes = config.prompt_kind.in_encoder(config, x, prompt_ids)
        x = _dropout(config)(x, deterministic=deterministic)
        queries = jnp.arange(x.shape[1])
        keys = queries if prefixes is None else _behind(prefixes, queries)
        bias = relative.RelativePositionBias(config.num_heads, name="relpos_bias")(
            queries, keys, bidirectional=True
        )
        x = stack.apply_layers(
            functools.partial(EncoderLayer, config),
            lambda layer, x, _, own: layer(
                x, mask, bias, prefixes and prefixes.of_layer(own), deterministic=deterministic
            ),
            x,
            config.num_encoder_layers,
            scan=config.scan_layers,
            remat=config.remat,
            parts=prefixes and prefixes.by_layer,
        )
        x = layers.RMSNorm(dtype=config.dtype, name="encoder_norm")(x)
        return nn.Dropout(config.dropout_rate)(x, deterministic=deterministic)


def _behind(prefixes: Prefixes, positions: jax.Array) -> jax.Array:
    """Puts the positions of a prefix, which end with -1, in front of others: int `[P+S]`."""
    length = prefixes.slots.shape[1]
    return jnp.concatenate([jnp.arange(length) - length, positions])


def _with_prefixes(prefixes: Prefixes, mask: jax.Array, rows: int) -> jax.Array:
    """Puts the keys of prefixes in front of a mask: bool `[rows, 1, Q, P+S]`.

    Args:
      prefixes: of B rows, each the same for so many beams.
      mask: bool, broadcasts to `[rows, 1, Q, S]`.
      rows: B*K.
    """
    mask = jnp.broadcast_to(mask, (rows, 1, *mask.shape[-2:]))
    attached = jnp.repeat(prefixes.slots >= 0, rows // len(prefixes.slots), axis=0)
    shape = (*mask.shape[:3], attached.shape[1])
    front = jnp.broadcast_to(masks.key_mask(attached), shape)
    return jnp.concatenate([front, mask], axis=-1)


class Decoder(nn.Module):
    """A stack of layers that share one relative position bias, and the output projection."""

    config: T5Config

    @nn.compact
    def __call__(
        self,
        embedded: jax.Array,
        encoded: jax.Array,
        mask: jax.Array,
        cross_mask: jax.Array,
        prompt_ids: jax.Array | None,
        *,
        deterministic: bool,
        decode: bool,
        max_decode_length: int | None,
        project: bool,
    ) -> jax.Array:
        """Decodes `[B*K, U, H]`.

        With `decode`, the first call creates the collection `cache` for U positions; each later
        call takes one position (U = 1) of the `max_decode_length` that the cache was made for.

        Returns:
          float32 logits `[B*K, U, V]`, or hidden states `[B*K, U, H]` when the config scores
          with the embedding, or without `project`.
        """
        config = self.config
        index = self._advance(max_decode_length) if decode else None
        if index is None:
            queries = keys = jnp.arange(embedded.shape[1])
        else:
            queries, keys = index[None], jnp.arange(max_decode_length)
            mask = masks.key_mask((keys <= index)[None])
        prefixes = None
        if config.has_prompts:
            prefixes = config.prompt_kind.in_decoder(config, prompt_ids)
        if prefixes is not None:
            keys = _behind(prefixes, keys)
            mask = _with_prefixes(prefixes, mask, len(embedded))
        bias = relative.RelativePositionBias(config.num_heads, name="relpos_bias")(
            queries, keys, bidirectional=False
        )
        x = _dropout(config)(embedded, deterministic=deterministic)
        x = stack.apply_layers(
            functools.partial(DecoderLayer, config),
            lambda layer, x, number, own: layer(
                x,
                encoded,
                mask,
                cross_mask,
                bias,
                deterministic=deterministic,
                decode=decode,
                index=index,
                layer=number,
                ahead=prefixes and prefixes.of_layer(own),
            ),
            x,
            config.num_decoder_layers,
            scan=config.scan_layers,
            remat="none" if decode else config.remat,
            step=index is not None,
            parts=prefixes and prefixes.by_layer,
        )
        x = layers.RMSNorm(dtype=config.dtype, name="decoder_norm")(x)
        x = _dropout(config)(x, deterministic=deterministic)
        if config.logits_via_embedding or not project:
            return x
        return layers.Dense(
            config.vocab_size, ("embed", "vocab"), lora=config.lora, name="logits_dense"
        )(x)

    def _advance(self, max_decode_length: int | None) -> jax.Array | None:
        """Returns the position of this decoding step and counts it; None creates the counter."""
        if not self.has_variable("cache", "cache_index"):
            self.put_variable("cache", "cache_index", jnp.zeros((), jnp.int32))
            return None
        if max_decode_length is None:
            raise ValueError("a decoding step needs max_decode_length, the length of its cache")
        index = self.get_variable("cache", "cache_index")
        self.put_variable("cache", "cache_index", index + 1)
        return index
