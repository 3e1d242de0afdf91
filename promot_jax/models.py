"""Network + vocabulary → loss, scores and predictions of a batch; one model for each family.

All families consume the same batches, those of `data.py`. An encoder-decoder encodes the inputs and
decodes the targets; a decoder-only model reads them as one sequence.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import seqio
from flax.linen import partitioning as flax_partitioning

from promot_jax import chunked_loss, decoding, losses, packing, trees
from promot_jax.errors import UserError
from promot_jax.networks import decoder as decoder_network
from promot_jax.networks import t5
from promot_jax.networks.lora import Lora
from promot_jax.trees import Tree
from promot_jax.values import Whole

Batch = dict[str, jax.Array]

# Where the output projection is, unless the embedding serves as one.
HEAD = "decoder/logits_dense/kernel"


@dataclasses.dataclass(frozen=True)
class Model(abc.ABC):
    """A network and its vocabulary; what all families have in common.

    A batch that carries `prompt_ids` [B] runs with soft prompts attached: row i with prompt number
    `prompt_ids[i]` of `network.config.prompt_names`, or with none where it is -1. A batch without
    `prompt_ids` runs without.
    """

    network: nn.Module
    vocabulary: seqio.Vocabulary | None
    # Tokens that end an answer as the vocabulary's end of sequence does.
    end_ids: tuple[int, ...] = dataclasses.field(default=(), kw_only=True)

    # The name of the family, whether it reads packed batches, its network, the configuration of it.
    family: ClassVar[str]
    packs: ClassVar[bool] = False
    network_class: ClassVar[type[nn.Module]]
    config_class: ClassVar[type]

    def with_prompts(self, prompts: Mapping[str, int]) -> Self:
        """Returns the model with prompts of the given names and lengths.

        Raises:
          UserError: the lengths differ, so that no batch can mix the prompts.
        """
        if len(lengths := set(prompts.values())) > 1:
            found = ", ".join(f"{name} has {rows} rows" for name, rows in prompts.items())
            raise UserError(f"all prompts of a model must be of one length: {found}")
        length = max(lengths, default=0)
        return self._configured(prompt_names=tuple(prompts), prompt_length=length)

    def with_dropout(self, rate: float) -> Self:
        """Returns the model with another dropout rate."""
        return self._configured(dropout_rate=rate)

    def with_lora(self, lora: Lora | None) -> Self:
        """Returns the model with low-rank adapters, or without any."""
        return self._configured(lora=lora)

    def with_own_output(self) -> Self:
        """Returns the model that scores with a matrix of its own, not with the embedding."""
        return self._configured(logits_via_embedding=False)

    def unstacked(self) -> Self:
        """Returns the model whose parameters have a place for each layer."""
        return self._configured(scan_layers=False)

    def with_remat(self, remat: str) -> Self:
        """Returns the model whose backward pass computes this much again, see `networks.stack`."""
        return self._configured(remat=remat)

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer; training ends targets with the first."""
        eos_id = self.vocabulary.eos_id
        return (eos_id, *(i for i in self.end_ids if i != eos_id))

    @property
    def stacked(self) -> bool:
        """Whether the parameters of all layers share a place, see `networks.stack`."""
        return self.network.config.scan_layers

    def _configured(self, **changes) -> Self:
        config = dataclasses.replace(self.network.config, **changes)
        return dataclasses.replace(self, network=self.network_class(config))

    @property
    def max_positions(self) -> int | None:
        """The longest row that the model was made for; None where that is unknown or unlimited."""
        return getattr(self.network.config, "max_positions", None)

    def init(self, rng: jax.Array) -> Tree:
        """Returns randomly initialised parameters."""
        return self._init(rng)["params"]

    def shapes_and_axes(self) -> tuple[Tree, Tree]:
        """Returns the shapes of all parameters and their logical axis names, without memory."""
        # The key is made inside: nothing may choose jax's devices before the size is known.
        variables = jax.eval_shape(lambda: self._init(jax.random.key(0)))
        axes = flax_partitioning.get_axis_names(variables["params_axes"])
        return variables["params"], trees.unflatten(
            {path: tuple(names) for path, names in trees.flatten(axes).items()}
        )

    def _init(self, rng):
        # Tokens, targets or segments: each family's protocol begins with three such arrays.
        ones = jnp.ones((1, 2), jnp.int32)
        return self.network.init(rng, ones, ones, ones, enable_dropout=False)

    @abc.abstractmethod
    def logits(
        self,
        params: Tree,
        batch: Batch,
        dropout_rng: jax.Array | None = None,
        *,
        project: bool = True,
    ) -> jax.Array:
        """Returns teacher-forced logits [B, U, V] in float32; dropout needs `dropout_rng`.

        Without `project`, the hidden states [B, U, H] that they would be computed from.
        """

    @abc.abstractmethod
    def predict_batch(
        self,
        params: Tree,
        batch: Batch,
        decoder: decoding.Decoder,
        max_length: int,
        rng: jax.Array | None = None,
    ) -> jax.Array:
        """Returns decoded tokens [B, max_length], 0 after the end-of-sequence token.

        Args:
          params: parameters.
          batch: fields of the inputs.
          decoder: greedy, sampling or beam search.
          max_length: tokens at most.
          rng: a PRNG key for a search that draws; see `decoding.Decoder`.
        """

    @abc.abstractmethod
    def texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Returns the text of each row of token ids, up to its end-of-sequence token."""

    @abc.abstractmethod
    def input_ids(self, text: str) -> list[int]:
        """Returns a text as the `encoder_input_tokens` of a row."""

    def loss_fn(
        self,
        params: Tree,
        batch: Batch,
        dropout_rng: jax.Array | None,
        *,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
    ) -> losses.Loss:
        """Returns the summed loss of a batch and the weight to divide it by."""
        targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        if not self._projects_in_chunks(targets):
            return losses.cross_entropy(
                self.logits(params, batch, dropout_rng),
                targets,
                weights,
                label_smoothing=label_smoothing,
                z_loss=z_loss,
            )
        tokens = self._token_losses(params, batch, dropout_rng, label_smoothing, z_loss)
        weights = weights.astype(jnp.float32)
        sums = [jnp.sum(values * weights) for values in tokens]
        return losses.Loss(sums[0], sums[1], jnp.sum(weights), sums[2])

    def score_batch(self, params: Tree, batch: Batch) -> jax.Array:
        """Returns the log-probability of each row's target, float32 [B], in nats."""
        targets = batch["decoder_target_tokens"]
        if self._projects_in_chunks(targets):
            log_probs = -self._token_losses(params, batch, None).loss
        else:
            log_probs = losses.token_log_probs(self.logits(params, batch), targets)
        return jnp.sum(log_probs * batch["decoder_loss_weights"], axis=-1)

    def _projects_in_chunks(self, targets: jax.Array) -> bool:
        """Whether the logits would be large; an adapter of the projection needs them whole."""
        config = self.network.config
        adapted = config.lora is not None and config.lora.adapts(HEAD)
        return targets.size * config.vocab_size > chunked_loss.CHUNK and not adapted

    def _token_losses(self, params, batch, dropout_rng, label_smoothing=0.0, z_loss=0.0):
        config = self.network.config
        hidden = self.logits(params, batch, dropout_rng, project=False)
        tied = config.logits_via_embedding
        kernel = trees.flatten(params)["token_embedder/embedding" if tied else HEAD]
        return chunked_loss.token_losses(
            hidden.astype(jnp.float32) * config.logit_scale,
            chunked_loss.Head(kernel, vocab_axis=0 if tied else 1),
            batch["decoder_target_tokens"],
            label_smoothing=label_smoothing,
            z_loss=z_loss,
        )


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
        _, variables = decode({}, jnp.ones(shape, jnp.int32), mutable=["cache", "cross"])
        cross = {"cross": variables["cross"]}

        def tokens_to_logits(tokens, cache):
            logits, changed = decode({"cache": cache, **cross}, tokens, mutable=["cache"])
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

    def texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """See `Model`."""
        rows = [decoding.until_end(row, self.ends) for row in tokens]
        return [self.vocabulary.decode([token for token in row if token]) for row in rows]

    def input_ids(self, text: str) -> list[int]:
        """See `Model`; the inputs of an encoder end with the end-of-sequence token."""
        return [*self.vocabulary.encode(text), self.vocabulary.eos_id]


@dataclasses.dataclass(frozen=True)
class DecoderOnlyModel(Model):
    """A decoder-only network: inputs and targets are one sequence, the loss is on the targets.

    Inputs are padded on the left, so that every row's last input token stands in one column and the
    logits of the targets in the last U ones. An end-of-sequence token that closes the inputs, as
    tasks for encoder-decoders have it, is dropped: to a language model the text would end there.
    An id 0 is a token like others; `encoder_segment_ids` say what is padding. Inputs without any
    token, to a model without a start token, are the first token of their padding: something must
    stand before the first target.

    Attributes:
      prefix_lm: inputs see each other in both directions (Raffel et al. 2020, section 3.2.1).
      start_id: a token that is put before the inputs, None for none.
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
            fields = packing.network_inputs(batch, self.prefix_lm)
        else:
            fields = self._joined(batch)
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
        targets = batch["decoder_target_tokens"]
        # Padding behind the targets is after all that counts, where causal attention never looks.
        following = jnp.ones_like(targets[:, :-1])
        return {
            "decoder_input_tokens": jnp.concatenate([inputs, targets[:, :-1]], axis=1),
            "decoder_segment_ids": jnp.concatenate([valid, following], axis=1),
            "decoder_causal_attention": self._prefix(
                jnp.concatenate([valid, 0 * following], axis=1)
            ),
            "prompt_ids": batch.get("prompt_ids"),
            "last": targets.shape[1],
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
                mutable=["cache"],
                **options,
            )

        _, variables = decode(
            {},
            inputs,
            decoder_segment_ids=valid,
            decoder_causal_attention=self._prefix(valid),
            prompt_ids=batch.get("prompt_ids"),
            max_decode_length=max_length,
            last=0,
        )

        def tokens_to_logits(tokens, cache):
            logits, changed = decode({"cache": cache}, tokens)
            return logits[:, -1], changed["cache"]

        # The search starts from the last input token, which it feeds once more.
        return decoder(
            decoder_network.step_back(variables["cache"]),
            tokens_to_logits,
            batch_size=inputs.shape[0],
            max_length=max_length,
            eos_id=self.ends,
            start_tokens=inputs[:, -1],
            rng=rng,
        )

    def packer(self, sample: Sequence[packing.Batch], multiple: int) -> packing.Packer:
        """Returns what packs training batches.

        Args:
          sample: host batches as they are to be expected.
          multiple: the lines of a packed batch are a multiple of this.
        """
        eos_id = getattr(self.vocabulary, "eos_id", None)
        length = self.network.config.prompt_length
        return packing.Packer(sample, self.start_id, eos_id, length, multiple)

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
        if starts:
            moved = jnp.where(source == -1, self.start_id, moved)
        return moved.astype(jnp.int32), (source >= -starts).astype(jnp.int32)

    def _prefix(self, marks: jax.Array) -> jax.Array | None:
        return marks if self.prefix_lm else None

    def texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """See `Model`."""
        return [self.vocabulary.decode(decoding.until_end(row, self.ends)) for row in tokens]

    def input_ids(self, text: str) -> list[int]:
        """See `Model`; the model itself puts its start token before them."""
        return list(self.vocabulary.encode(text))
