"""The model of a decoder-only network: inputs and targets are one sequence."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from promot_jax.base.trees import Tree
from promot_jax.base.values import Whole
from promot_jax.data import packing
from promot_jax.models import decoding
from promot_jax.models.base import Batch, Model
from promot_jax.models.networks import acting
from promot_jax.models.networks import decoder as decoder_network


@dataclasses.dataclass(frozen=True)
class DecoderOnlyModel(Model):
    """A decoder-only network: inputs and targets are one sequence, the loss is on the targets.

    Inputs are padded on the left, so that every row's last input token stands in one column and the
    logits of the targets in the last U ones. An end-of-sequence token that closes the inputs, as
    tasks for encoder-decoders have it, is dropped: to a language model the text would end there.
    Targets may have weights of 0 between others: these are read, and not learnt.
    An id 0 is a token like others; `encoder_segment_ids` say what is padding. Inputs without any
    token, to a model without a start token, are the first token of their padding: something must
    stand before the first target.

    Attributes:
      prefix_lm: inputs see each other in both directions (Raffel et al. 2020, section 3.2.1).
      start_id: a token that is put before inputs that do not begin with it, None for none.
    """

    network: decoder_network.Transformer
    prefix_lm: bool = False
    start_id: Whole | None = None

    family = "decoder"
    packs = True
    network_class = decoder_network.Transformer
    config_class = decoder_network.DecoderConfig

    def logits(
        self,
        params: Tree,
        batch: Batch,
        dropout_rng: jax.Array | None = None,
        *,
        project: bool = True,
    ) -> jax.Array:
        """See `Model`."""
        if "decoder_tokens" in batch:
            fields, rows = packing.network_inputs(batch, self.prefix_lm), "decoder_adapted"
        else:
            fields, rows = self._joined(batch), "adapted"
        with acting.only_in(batch.get(rows)):
            return self.network.apply(
                {"params": params},
                **fields,
                enable_dropout=dropout_rng is not None,
                rngs=None if dropout_rng is None else {"dropout": dropout_rng},
                project=project,
            )

    def _joined(self, batch: Batch) -> dict[str, Any]:
        """Returns what the network reads of rows of their own."""
        inputs, valid = self._inputs(batch)
        targets = batch["decoder_target_tokens"][:, :-1]
        if "decoder_input_tokens" in batch:
            # As they are read, which is not always as they are.
            targets = batch["decoder_input_tokens"][:, 1:]
        # Padding behind the targets is after all that counts, where causal attention never looks.
        following = jnp.ones_like(targets)
        return {
            "decoder_input_tokens": jnp.concatenate([inputs, targets], axis=1),
            "decoder_segment_ids": jnp.concatenate([valid, following], axis=1),
            "decoder_causal_attention": self._prefix(
                jnp.concatenate([valid, 0 * following], axis=1)
            ),
            "prompt_ids": batch.get("prompt_ids"),
            "input_slots": jnp.concatenate([valid, 0 * following], axis=1),
            "last": batch["decoder_target_tokens"].shape[1],
        }

    def predict_batch(
        self,
        params: Tree,
        batch: Batch,
        decoder: decoding.Decoder,
        max_length: int,
        rng: jax.Array | None = None,
    ) -> jax.Array:
        """See `Model`."""
        inputs, valid = self._inputs(batch)

        def decode(variables, tokens, **options):
            return self.network.apply(
                {"params": params, **variables},
                tokens,
                enable_dropout=False,
                decode=True,
                **options,
            )

        _, variables = decode(
            {},
            inputs,
            mutable=["cache", "shared"],
            decoder_segment_ids=valid,
            decoder_causal_attention=self._prefix(valid),
            prompt_ids=batch.get("prompt_ids"),
            max_decode_length=max_length,
            last=0,
        )

        # The search starts from the last input token, which it feeds once more.
        variables = decoder_network.step_back(variables)

        def tokens_to_logits(tokens, cache):
            logits, changed = decode({**variables, "cache": cache}, tokens, mutable=["cache"])
            return logits[:, -1], changed["cache"]

        return decoder(
            variables["cache"],
            tokens_to_logits,
            batch_size=inputs.shape[0],
            max_length=max_length,
            eos_id=self.ends,
            start_tokens=inputs[:, -1],
            rng=rng,
        )

    def packer(
        self,
        sample: Sequence[packing.Batch],
        multiple: int,
        share: packing.Share = packing.WHOLE,
        labels: packing.Labels = (),
    ) -> packing.Packer:
        """Returns what packs training batches.

        Args:
          sample: host batches as they are to be expected.
          multiple: the lines of a packed batch are a multiple of this.
          share: which part of each batch this process has, see `packing.Packer`.
          labels: what is to be learnt in prompts, likewise.
        """
        eos_id = getattr(self.vocabulary, "eos_id", None)
        length = self.network.config.prompt_length
        return packing.Packer(sample, self.start_id, eos_id, length, multiple, share, labels)

    def _inputs(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns the inputs moved to the right end, and where they are: two int32 [B, W]."""
        tokens = batch["encoder_input_tokens"]
        starts = 0 if self.start_id is None else 1
        length = jnp.sum(batch["encoder_segment_ids"] > 0, axis=1, keepdims=True)
        length = jnp.maximum(length, 1 - starts)
        final = jnp.take_along_axis(tokens, jnp.maximum(length - 1, 0), axis=1)
        if (eos_id := getattr(self.vocabulary, "eos_id", None)) is not None:
            length -= (final == eos_id) & (starts + length > 1)
        width = starts + tokens.shape[1]
        # The place of each column in its row before; -1 is that of a start token.
        source = jnp.arange(width) - (width - length)
        moved = jnp.take_along_axis(tokens, jnp.maximum(source, 0), axis=1)
        first = jnp.zeros_like(length)
        if starts:
            moved = jnp.where(source == -1, self.start_id, moved)
            first -= (length == 0) | (tokens[:, :1] != self.start_id)
        return moved.astype(jnp.int32), (source >= first).astype(jnp.int32)

    def _prefix(self, marks: jax.Array) -> jax.Array | None:
        return marks if self.prefix_lm else None

    def valid_positions(self, batch: Batch) -> dict[str, jax.Array]:
        """See `Model`."""
        _, valid = self._inputs(batch)
        following = batch["decoder_target_tokens"][:, :-1] > 0
        return {"decoder": jnp.concatenate([valid > 0, following], axis=1)}

    def texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """See `Model`."""
        return [self.vocabulary.decode(decoding.until_end(row, self.ends)) for row in tokens]

    def input_ids(self, text: str) -> list[int]:
        """See `Model`; the model itself puts its start token before them."""
        ids = list(self.vocabulary.encode(text))
        # Of two ends, the model drops the one that is not part of the text.
        return [*ids, ids[-1]] if ids and ids[-1] == self.vocabulary.eos_id else ids
