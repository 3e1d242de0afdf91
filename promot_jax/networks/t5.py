"""T5.1.1 / mT5 encoder-decoder with soft prompts (Raffel et al. 2020, Xue et al. 2021).

Parameter paths, shapes and logical axes are T5X's, and so is the call protocol of
`Transformer`, so T5X's model classes can drive it and its checkpoints fit by name.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

from promot_jax.networks import layers, masks
from promot_jax.networks.prompt import DEFAULT_INIT, Initializer, PromptBank


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
      prompt_names: one soft prompt each, at `encoder/prompt/<name>/prompt`.
      prompt_length: P; 0, or no names, is the bare network.
      prompt_init: initialiser of prompts.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: float = 0.1
    dtype: str = "float32"
    logits_via_embedding: bool = False
    prompt_names: tuple[str, ...] = ()
    prompt_length: int = 0
    prompt_init: Initializer = DEFAULT_INIT

    @property
    def has_prompts(self) -> bool:
        """Whether the network holds soft prompts at all."""
        return bool(self.prompt_names) and self.prompt_length > 0


def _norm(config: T5Config) -> layers.RMSNorm:
    return layers.RMSNorm(dtype=config.dtype)


def _dropout(config: T5Config) -> nn.Dropout:
    # T5 drops the same features at every position.
    return nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))


def _attention(config: T5Config, kind: type[layers.Attention]) -> layers.Attention:
    return kind(
        config.num_heads, config.head_dim, config.emb_dim, config.dropout_rate, config.dtype
    )


def _mlp(config: T5Config) -> layers.MLP:
    return layers.MLP(config.mlp_dim, config.mlp_activations, config.dropout_rate, config.dtype)


class EncoderLayer(nn.Module):
    """Self-attention and MLP, each normalised before and added after."""

    config: T5Config

    def setup(self):
        """Declares the parts."""
        self.pre_attention_layer_norm = _norm(self.config)
        self.attention = _attention(self.config, layers.SelfAttention)
        self.pre_mlp_layer_norm = _norm(self.config)
        self.mlp = _mlp(self.config)
        self.dropout = _dropout(self.config)

    def __call__(
        self, x: jax.Array, mask: jax.Array, bias: jax.Array, *, deterministic: bool
    ) -> jax.Array:
        """Maps `[B, P+T, H]` to `[B, P+T, H]`."""
        y = self.pre_attention_layer_norm(x)
        y = self.attention(y, mask, bias, deterministic=deterministic)
        x += self.dropout(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic=deterministic)
        return x + self.dropout(y, deterministic=deterministic)


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder, and MLP."""

    config: T5Config

    def setup(self):
        """Declares the parts."""
        self.pre_self_attention_layer_norm = _norm(self.config)
        self.self_attention = _attention(self.config, layers.SelfAttention)
        self.pre_cross_attention_layer_norm = _norm(self.config)
        self.encoder_decoder_attention = _attention(self.config, layers.CrossAttention)
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
    ) -> jax.Array:
        """Maps `[B*K, U, H]` to `[B*K, U, H]`; see the attention layers for the arguments."""
        y = self.self_attention(
            self.pre_self_attention_layer_norm(x),
            mask,
            bias,
            deterministic=deterministic,
            decode=decode,
            index=index,
        )
        x += self.dropout(y, deterministic=deterministic)
        y = self.encoder_decoder_attention(
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
    """Soft prompts, then a stack of layers that share one relative position bias."""

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
        """Encodes `[B, T, H]` as `[B, P+T, H]` (P = 0 when `prompt_ids` is None)."""
        config = self.config
        x = embedded
        if config.has_prompts:
            x = PromptBank(
                config.prompt_names, config.prompt_length, config.prompt_init, name="prompt"
            )(x, prompt_ids)
        x = _dropout(config)(x, deterministic=deterministic)
        positions = jnp.arange(x.shape[1])
        bias = layers.RelativePositionBias(config.num_heads, name="relpos_bias")(
            positions, positions, bidirectional=True
        )
        for number in range(config.num_encoder_layers):
            layer = EncoderLayer(config, name=f"layers_{number}")
            x = layer(x, mask, bias, deterministic=deterministic)
        x = layers.RMSNorm(dtype=config.dtype, name="encoder_norm")(x)
        return nn.Dropout(config.dropout_rate)(x, deterministic=deterministic)


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
        *,
        deterministic: bool,
        decode: bool,
        max_decode_length: int | None,
    ) -> jax.Array:
        """Decodes `[B*K, U, H]`.

        With `decode`, the first call creates the collection `cache` for U positions; each later
        call takes one position (U = 1) of the `max_decode_length` that the cache was made for.

        Returns:
          float32 logits `[B*K, U, V]`, or hidden states `[B*K, U, H]` when the config scores
          with the embedding.
        """
        config = self.config
        index = self._advance(max_decode_length) if decode else None
        if index is None:
            queries = keys = jnp.arange(embedded.shape[1])
        else:
            queries, keys = index[None], jnp.arange(max_decode_length)
            mask = masks.key_mask((keys <= index)[None])
        bias = layers.RelativePositionBias(config.num_heads, name="relpos_bias")(
            queries, keys, bidirectional=False
        )
        x = _dropout(config)(embedded, deterministic=deterministic)
        for number in range(config.num_decoder_layers):
            x = DecoderLayer(config, name=f"layers_{number}")(
                x,
                encoded,
                mask,
                cross_mask,
                bias,
                deterministic=deterministic,
                decode=decode,
                index=index,
            )
        x = layers.RMSNorm(dtype=config.dtype, name="decoder_norm")(x)
        x = _dropout(config)(x, deterministic=deterministic)
        if config.logits_via_embedding:
            return x
        return layers.Dense(config.vocab_size, ("embed", "vocab"), name="logits_dense")(x)

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


class Transformer(nn.Module):
    """The encoder-decoder; `prompt_ids` picks each row's soft prompt.

    `prompt_ids` is None (no prompt, exactly the bare network) or int32 `[B]`: the number of the
    row's prompt in `config.prompt_names`, or -1 for a row without one.
    """

    config: T5Config

    def setup(self):
        """Declares the parts."""
        config = self.config
        self.token_embedder = layers.Embedding(config.vocab_size, config.emb_dim, config.dtype)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def __call__(
        self,
        encoder_input_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array,
        encoder_segment_ids: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        encoder_positions: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        *,
        prompt_ids: jax.Array | None = None,
        decode: bool = False,
        enable_dropout: bool = True,
    ) -> jax.Array:
        """Computes teacher-forced logits.

        Args:
          encoder_input_tokens: int `[B, T]`, 0 is padding.
          decoder_input_tokens: int `[B, U]`, the targets shifted right by one.
          decoder_target_tokens: int `[B, U]`, 0 is padding; only for masks.
          encoder_segment_ids: int `[B, T]` for packed examples.
          decoder_segment_ids: int `[B, U]` for packed examples.
          encoder_positions: unused; positions are relative. Part of T5X's protocol.
          decoder_positions: unused, likewise.
          prompt_ids: int32 `[B]` or None, see the class.
          decode: creates the decoding cache for U positions.
          enable_dropout: needs the PRNG "dropout".

        Returns:
          float32 `[B, U, V]`.

        Raises:
          ValueError: packed examples with a prompt.
        """
        encoded = self.encode(
            encoder_input_tokens,
            encoder_segment_ids,
            prompt_ids=prompt_ids,
            enable_dropout=enable_dropout,
        )
        return self.decode(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            decoder_target_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            prompt_ids=prompt_ids,
            enable_dropout=enable_dropout,
            decode=decode,
        )

    def encode(
        self,
        encoder_input_tokens: jax.Array,
        encoder_segment_ids: jax.Array | None = None,
        *,
        prompt_ids: jax.Array | None = None,
        enable_dropout: bool = True,
    ) -> jax.Array:
        """Encodes int `[B, T]` as `[B, P+T, H]` (P = 0 without a prompt); see `__call__`."""
        valid = self._encoder_valid(encoder_input_tokens, prompt_ids)
        mask = masks.key_mask(valid)
        if encoder_segment_ids is not None:
            self._check_unpacked(prompt_ids)
            mask = mask & masks.segment_mask(encoder_segment_ids, encoder_segment_ids)
        embedded = self.token_embedder(encoder_input_tokens)
        return self.encoder(embedded, mask, prompt_ids, deterministic=not enable_dropout)

    def decode(
        self,
        encoded: jax.Array,
        encoder_input_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array,
        encoder_segment_ids: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        *,
        prompt_ids: jax.Array | None = None,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
    ) -> jax.Array:
        """Computes logits from encoded inputs, teacher-forced or step by step.

        Step by step: one call with `decode` and the collections `cache` and, to compute keys
        and values of the encoder only once, `cross` mutable creates them for
        `decoder_input_tokens` of shape `[B, L]`; each further call takes `[B*K, 1]` tokens,
        `max_decode_length` = L and a cache expanded to `B*K`, while `encoded`,
        `encoder_input_tokens`, `prompt_ids` and `cross` keep their B rows.

        Args:
          encoded: `[B, P+T, H]` from `encode` with the same `prompt_ids`.
          encoder_input_tokens: int `[B, T]`, only for masks.
          decoder_input_tokens: int `[B, U]`, or `[B*K, 1]` in a decoding step.
          decoder_target_tokens: int, of the same shape; only for masks, and not when decoding.
          encoder_segment_ids: int `[B, T]` for packed examples.
          decoder_segment_ids: int `[B, U]` for packed examples.
          decoder_positions: unused; positions are relative. Part of T5X's protocol.
          prompt_ids: int32 `[B]` or None, see the class.
          enable_dropout: needs the PRNG "dropout".
          decode: uses the decoding cache.
          max_decode_length: L, the length of the cache; needed by a decoding step.

        Returns:
          float32 logits `[B, U, V]`, or `[B*K, 1, V]` in a decoding step.

        Raises:
          ValueError: packed examples with a prompt or with `decode`; `encoded` of another
            length than the tokens and the prompt give; a decoding step without
            `max_decode_length`.
        """
        valid = self._encoder_valid(encoder_input_tokens, prompt_ids)
        if encoded.shape[1] != valid.shape[1]:
            raise ValueError(
                f"encoded has {encoded.shape[1]} positions, its tokens and prompt have "
                f"{valid.shape[1]}: give encode and decode the same prompt_ids"
            )
        cross_mask = masks.key_mask(valid)
        if decode:
            # Nothing is padding yet. The decoder itself masks what a step may not see.
            mask = jnp.tri(decoder_input_tokens.shape[1], dtype=bool)
        else:
            mask = masks.decoder_mask(decoder_target_tokens, decoder_segment_ids)
        if encoder_segment_ids is not None:
            self._check_unpacked(prompt_ids)
            if decode:
                raise ValueError("decoding needs unpacked examples: leave out the segment ids")
            cross_mask = cross_mask & masks.segment_mask(decoder_segment_ids, encoder_segment_ids)
        logits = self.decoder(
            self.token_embedder(decoder_input_tokens),
            encoded,
            mask,
            cross_mask,
            deterministic=not enable_dropout,
            decode=decode,
            max_decode_length=max_decode_length,
        )
        if self.config.logits_via_embedding:
            logits = self.token_embedder.attend(logits) * self.config.emb_dim**-0.5
        return partitioning.with_sharding_constraint(logits, ("batch", "length", "vocab"))

    def _encoder_valid(self, tokens: jax.Array, prompt_ids: jax.Array | None) -> jax.Array:
        attached = prompt_ids if self.config.has_prompts else None
        return masks.encoder_valid(tokens, attached, self.config.prompt_length)

    def _check_unpacked(self, prompt_ids: jax.Array | None) -> None:
        if prompt_ids is not None and self.config.has_prompts:
            raise ValueError("a prompt needs unpacked examples: leave out the segment ids")
