"""Network + vocabulary → loss, scores and predictions of a batch; one model for each family.

All families consume the same batches, those of `data.py`. An encoder-decoder encodes the inputs and
decodes the targets; a decoder-only model reads them as one sequence.
"""

import abc
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import seqio
from flax.linen import partitioning as flax_partitioning

from promot_jax import decoding, losses, trees
from promot_jax.errors import UserError
from promot_jax.networks import decoder as decoder_network
from promot_jax.networks import t5
from promot_jax.networks.lora import Lora
from promot_jax.trees import Tree

Batch = dict[str, jax.Array]

PROMPT = re.compile(r"(encoder|decoder)/prompt/([^/]+)/prompt")


@dataclasses.dataclass(frozen=True)
class Model(abc.ABC):
    """A network and its vocabulary; what all families have in common.

    A batch that carries `prompt_ids` [B] runs with soft prompts attached: row i with prompt number
    `prompt_ids[i]` of `network.config.prompt_names`, or with none where it is -1. A batch without
    `prompt_ids` runs without.
    """

    network: nn.Module
    vocabulary: seqio.Vocabulary | None

    # Name of the family, its network and the configuration of that.
    family: ClassVar[str]
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

    def unstacked(self) -> Self:
        """Returns the model whose parameters have a place for each layer."""
        return self._configured(scan_layers=False)

    @property
    def stacked(self) -> bool:
        """Whether the parameters of all layers share a place, see `networks.stack`."""
        return self.network.config.scan_layers

    def _configured(self, **changes) -> Self:
        config = dataclasses.replace(self.network.config, **changes)
        return dataclasses.replace(self, network=self.network_class(config))

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
    def logits(self, params: Tree, batch: Batch, dropout_rng: jax.Array | None = None) -> jax.Array:
        """Returns teacher-forced logits [B, U, V] in float32; dropout needs `dropout_rng`."""

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
        return losses.cross_entropy(
            self.logits(params, batch, dropout_rng),
            batch["decoder_target_tokens"],
            batch["decoder_loss_weights"],
            label_smoothing=label_smoothing,
            z_loss=z_loss,
        )

    def score_batch(self, params: Tree, batch: Batch) -> jax.Array:
        """Returns the log-probability of each row's target, float32 [B], in nats."""
        log_probs = losses.token_log_probs(
            self.logits(params, batch), batch["decoder_target_tokens"]
        )
        return jnp.sum(log_probs * batch["decoder_loss_weights"], axis=-1)


@dataclasses.dataclass(frozen=True)
class EncoderDecoderModel(Model):
    """An encoder-decoder; padding of its inputs and targets has the id 0."""

    network: t5.Transformer

    family = "t5"
    network_class = t5.Transformer
    config_class = t5.T5Config

    def logits(self, params: Tree, batch: Batch, dropout_rng: jax.Array | None = None) -> jax.Array:
        """See `Model`."""
        return self.network.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch["decoder_target_tokens"],
            prompt_ids=batch.get("prompt_ids"),
            enable_dropout=dropout_rng is not None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
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
            eos_id=self.vocabulary.eos_id,
            rng=rng,
        )

    def texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """See `Model`."""
        return [self.vocabulary.decode([int(t) for t in row if t]) for row in tokens]

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
    start_id: int | None = None

    family = "decoder"
    network_class = decoder_network.Transformer
    config_class = decoder_network.DecoderConfig

    def logits(self, params: Tree, batch: Batch, dropout_rng: jax.Array | None = None) -> jax.Array:
        """See `Model`."""
        inputs, valid = self._inputs(batch)
        targets = batch["decoder_target_tokens"]
        # Padding behind the targets is after all that counts, where causal attention never looks.
        following = jnp.ones_like(targets[:, :-1])
        return self.network.apply(
            {"params": params},
            jnp.concatenate([inputs, targets[:, :-1]], axis=1),
            decoder_segment_ids=jnp.concatenate([valid, following], axis=1),
            decoder_causal_attention=self._prefix(jnp.concatenate([valid, 0 * following], axis=1)),
            prompt_ids=batch.get("prompt_ids"),
            enable_dropout=dropout_rng is not None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
            last=targets.shape[1],
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
            eos_id=self.vocabulary.eos_id,
            start_tokens=inputs[:, -1],
            rng=rng,
        )

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
        eos_id = self.vocabulary.eos_id
        rows = [[int(token) for token in row] for row in tokens]
        cut = [row[: row.index(eos_id)] if eos_id in row else row for row in rows]
        return [self.vocabulary.decode(row) for row in cut]

    def input_ids(self, text: str) -> list[int]:
        """See `Model`; the model itself puts its start token before them."""
        return list(self.vocabulary.encode(text))


FAMILIES: Mapping[str, type[Model]] = {
    kind.family: kind for kind in (EncoderDecoderModel, DecoderOnlyModel)
}


def build(
    family: str, config: Mapping[str, Any], vocabulary: seqio.Vocabulary | None, **options: Any
) -> Model:
    """Returns a model from plain values, such as a JSON file holds; inverse of `describe`.

    Args:
      family: a key of `FAMILIES`.
      config: fields of the family's configuration; lists stand for tuples, a dict for `lora`.
      vocabulary: of the tokens, None for a model that sees no texts. A decoder-only model starts
        with the token that its vocabulary puts before texts, its `start_id`, if it has one and
        `options` do not say otherwise.
      **options: further fields of the model: `prefix_lm` and `start_id` of a decoder-only one.

    Raises:
      UserError: an unknown family, or a field that is unknown or missing.
    """
    if family not in FAMILIES:
        raise UserError(f"unknown model family {family!r}; known are {', '.join(sorted(FAMILIES))}")
    kind = FAMILIES[family]
    fields = dataclasses.fields(kind.config_class)
    _only_known(f"{family} configuration", config, [field.name for field in fields])
    given = [field.name for field in dataclasses.fields(kind) if field.name not in RUNTIME]
    _only_known(f"{family} model", options, given)
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in config]:
        raise UserError(f"{family} configuration has no {', '.join(missing)}; add what is missing")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    if isinstance(lora := values.get("lora"), Mapping):
        _only_known("lora", lora, names := [field.name for field in dataclasses.fields(Lora)])
        if missing := [name for name in names if name not in lora]:
            raise UserError(f"lora has no {', '.join(missing)}; add what is missing")
        values["lora"] = Lora(**lora)
    if "start_id" in given:
        options = {"start_id": getattr(vocabulary, "start_id", None)} | options
    return kind(kind.network_class(kind.config_class(**values)), vocabulary, **options)


# Fields of models that are no plain values.
RUNTIME = ("network", "vocabulary")


def _only_known(what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    if unknown := [name for name in given if name not in known]:
        raise UserError(f"{what} has no field {unknown[0]!r}; it has {', '.join(known)}")


def describe(model: Model) -> dict[str, Any]:
    """Returns `family`, `config` and further fields of a model as plain values; see `build`."""
    config = dataclasses.asdict(model.network.config)
    del config["prompt_init"]
    fields = [field.name for field in dataclasses.fields(model) if field.name not in RUNTIME]
    return {
        "family": model.family,
        "config": {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()},
        **{name: getattr(model, name) for name in fields},
    }


def prompts_of(params: Tree) -> dict[str, int]:
    """Returns {name: length} of the soft prompts in a parameter tree."""
    found = {PROMPT.fullmatch(path): leaf for path, leaf in trees.flatten(params).items()}
    return {match[2]: leaf.shape[0] for match, leaf in found.items() if match}


def keep_prompts(params: Tree, names: Sequence[str]) -> Tree:
    """Returns the tree with the named soft prompts only; no names give the bare network's tree."""
    return trees.unflatten(
        {
            path: leaf
            for path, leaf in trees.flatten(params).items()
            if not (match := PROMPT.fullmatch(path)) or match[2] in names
        }
    )


def add_prompt(params: Tree, name: str, prompt: jax.Array) -> Tree:
    """Returns the tree with one more soft prompt [P, H], in the encoder where there is one."""
    side = "encoder" if "encoder" in params else "decoder"
    return trees.combine(params, trees.unflatten({f"{side}/prompt/{name}/prompt": prompt}))
