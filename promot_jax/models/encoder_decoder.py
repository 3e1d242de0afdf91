"""The model of an encoder-decoder: it encodes the inputs and decodes the targets."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from promot_jax.base.trees import Tree
from promot_jax.models import decoding
from promot_jax.models.base import Batch, Model
from promot_jax.models.networks import acting, t5


@dataclasses.dataclass(frozen=True)
class EncoderDecoderModel(Model):
    """An encoder-decoder; padding of its inputs and targets has the id 0.

    Attributes:
      start_id: the token that targets and answers begin behind; batches have T5's, which is 0.
    """

    network: t5.Transformer
    start_id: int = decoding.START_ID

    family = "t5"
    network_class = t5.Transformer
    config_class = t5.T5Config

    def logits(
        self,
        params: Tree,
        batch: Batch,
        dropout_rng: jax.Array | None = None,
        *,
        project: bool = True,
    ) -> jax.Array:
        """See `Model`."""
        with acting.only_in(batch.get("adapted")):
            return self.network.apply(
                {"params": params},
                batch["encoder_input_tokens"],
                decoding.started(batch["decoder_input_tokens"], self.start_id),
                batch["decoder_target_tokens"],
                prompt_ids=batch.get("prompt_ids"),
                enable_dropout=dropout_rng is not None,
                rngs=None if dropout_rng is None else {"dropout": dropout_rng},
                project=project,
            )

    def predict_batch(
        self,
        params: Tree,
        batch: Batch,
        decoder: decoding.Decoder,
        max_length: int,
        rng: jax.Array | None = None,
    ) -> jax.Array:
        """See `Model`."""
        network, inputs = self.network, batch["encoder_input_tokens"]
        prompt_ids = batch.get("prompt_ids")
        encoded = network.apply(
            {"params": params},
            inputs,
            prompt_ids=prompt_ids,
            enable_dropout=False,
            method=network.encode,
        )

        def decode(variables, tokens, **options):
            return network.apply(
                {"params": params, **variables},
                encoded,
                inputs,
                tokens,
                tokens,
                prompt_ids=prompt_ids,
                enable_dropout=False,
                decode=True,
                max_decode_length=max_length,
                method=network.decode,
                **options,
            )

        # The search expands the cache to its beams; keys and values of the cross-attention stay.
        shape = (inputs.shape[0], max_length)
        _, variables = decode({}, jnp.ones(shape, jnp.int32), mutable=["cache", "shared"])

        def tokens_to_logits(tokens, cache):
            logits, changed = decode({**variables, "cache": cache}, tokens, mutable=["cache"])
            return logits[:, -1], changed["cache"]

        return decoder(
            variables["cache"],
            tokens_to_logits,
            batch_size=inputs.shape[0],
            max_length=max_length,
            eos_id=self.ends,
            start_tokens=jnp.full(inputs.shape[0], self.start_id, jnp.int32),
            rng=rng,
        )

    def valid_positions(self, batch: Batch) -> dict[str, jax.Array]:
        """See `Model`."""
        return {
            "encoder": batch["encoder_input_tokens"] > 0,
            "decoder": batch["decoder_target_tokens"] > 0,
        }

    def texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """See `Model`."""
        rows = [decoding.until_end(row, self.ends) for row in tokens]
        return [self.vocabulary.decode([token for token in row if token]) for row in rows]

    def input_ids(self, text: str) -> list[int]:
        """See `Model`; the inputs of an encoder end with the end-of-sequence token."""
        return [*self.vocabulary.encode(text), self.vocabulary.eos_id]
