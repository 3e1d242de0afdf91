"""T5.1.1 / mT5 encoder-decoder with soft prompts (Raffel et al. 2020, Xue et al. 2021).

Parameter paths, shapes and logical axes are T5X's, and so is the call protocol of
`Transformer`, so T5X's model classes can drive it and its checkpoints fit by name.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

from promot_jax.models.networks import layers, masks
from promot_jax.models.networks.t5_layers import Decoder, Encoder, T5Config


class Transformer(nn.Module):
    """The encoder-decoder; `prompt_ids` picks each row's prompt.

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

    def read(self, rows: jax.Array) -> jax.Array:
        """Returns hidden states of embeddings `[P, H]`, read by the encoder and by the decoder.

        With the collection `intermediates` mutable, each self-attention leaves its keys and values.
        """
        rows = rows[None].astype(self.config.dtype)
        seen = jnp.ones((1, 1, 1, rows.shape[1]), bool)
        encoded = self.encoder(rows, seen, None, deterministic=True)
        return self.decoder(
            rows,
            encoded,
            jnp.tri(rows.shape[1], dtype=bool),
            seen,
            None,
            deterministic=True,
            decode=False,
            max_decode_length=None,
            project=False,
        )

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
        project: bool = True,
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
          project: whether to score the hidden states against the vocabulary.

        Returns:
          float32 `[B, U, V]`, or hidden states `[B, U, H]` without `project`.

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
            project=project,
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
        seen = self.config.prompt_kind.in_encoder_keys
        mask = masks.key_mask(self._valid(encoder_input_tokens, prompt_ids if seen else None))
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
        project: bool = True,
    ) -> jax.Array:
        """Computes logits from encoded inputs, teacher-forced or step by step.

        Step by step: one call with `decode` and the collections `cache` and, to compute keys
        and values of the encoder only once, `shared` mutable creates them for
        `decoder_input_tokens` of shape `[B, L]`; each further call takes `[B*K, 1]` tokens,
        `max_decode_length` = L and a cache expanded to `B*K`, while `encoded`,
        `encoder_input_tokens`, `prompt_ids` and `shared` keep their B rows.

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
          project: whether to score the hidden states against the vocabulary.

        Returns:
          float32 logits `[B, U, V]`, or `[B*K, 1, V]` in a decoding step; hidden states
          `[B, U, H]` without `project`.

        Raises:
          ValueError: packed examples with a prompt or with `decode`; `encoded` of another
            length than the tokens and the prompt give; a decoding step without
            `max_decode_length`.
        """
        encodes = self.config.prompt_kind.in_input
        valid = self._valid(encoder_input_tokens, prompt_ids if encodes else None)
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
            prompt_ids,
            deterministic=not enable_dropout,
            decode=decode,
            max_decode_length=max_decode_length,
            project=project,
        )
        return self._scored(logits) if project else logits

    def _scored(self, logits: jax.Array) -> jax.Array:
        """Returns logits; without a matrix for them the decoder gave hidden states."""
        if self.config.logits_via_embedding:
            logits = self.token_embedder.attend(logits) * self.config.logit_scale
        return partitioning.with_sharding_constraint(logits, ("batch", "length", "vocab"))

    def _valid(self, tokens: jax.Array, prompt_ids: jax.Array | None) -> jax.Array:
        """Says which keys hold something: those of the tokens, and of prompts in front."""
        attached = prompt_ids if self.config.has_prompts else None
        return masks.encoder_valid(tokens, attached, self.config.prompt_length)

    def _check_unpacked(self, prompt_ids: jax.Array | None) -> None:
        if prompt_ids is not None and self.config.has_prompts:
            raise ValueError("a prompt needs unpacked examples: leave out the segment ids")
