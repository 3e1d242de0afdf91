"""What the models of all families have in common."""

import abc
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning as flax_partitioning

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.data import vocabularies
from promot_jax.models import chunked_loss, decoding, losses
from promot_jax.models.networks import prompt_kinds
from promot_jax.models.networks.lora import Adapters
from promot_jax.models.networks.prompt_kinds import SOFT, Kind
from promot_jax.models.scored import InChunks, Scored, Whole

Batch = dict[str, jax.Array]

# Where the output projection is, unless the embedding serves as one.
HEAD = "decoder/logits_dense/kernel"


@dataclasses.dataclass(frozen=True)
class Model(abc.ABC):
    """A network and its vocabulary; what all families have in common.

    A batch that carries `prompt_ids` [B] runs with soft prompts attached: row i with prompt number
    `prompt_ids[i]` of `network.config.prompt_names`, or with none where it is -1. A batch without
    `prompt_ids` runs without. Adapters act in all rows, or in those whose `adapted` [B] is 1.
    """

    network: nn.Module
    vocabulary: vocabularies.Vocabulary | None
    # Tokens that end an answer as the vocabulary's end of sequence does.
    end_ids: tuple[int, ...] = dataclasses.field(default=(), kw_only=True)

    # The name of the family, whether it reads packed batches, its network, the configuration of it.
    family: ClassVar[str]
    packs: ClassVar[bool] = False
    network_class: ClassVar[type[nn.Module]]
    config_class: ClassVar[type]

    def __post_init__(self):
        object.__setattr__(self, "vocabulary", vocabularies.native(self.vocabulary))

    def with_prompts(self, prompts: Mapping[str, int], kind: Kind = SOFT) -> Self:
        """Returns the model with prompts of the given names and lengths, all of one kind.

        Raises:
          UserError: the lengths differ, so that no batch can mix the prompts.
        """
        if len(lengths := set(prompts.values())) > 1:
            found = ", ".join(f"{name} has {rows} rows" for name, rows in prompts.items())
            raise UserError(f"all prompts of a model must be of one length: {found}")
        length = max(lengths, default=0)
        return self._configured(prompt_names=tuple(prompts), prompt_length=length, prompt_kind=kind)

    def with_prompts_of(self, params: Tree) -> Self:
        """Returns the model with the prompts that a tree of parameters, or of shapes, holds.

        Raises:
          UserError: they differ in length or kind.
        """
        return self.with_prompts(trees.prompts_of(params), prompt_kinds.of_params(params))

    def with_dropout(self, rate: float) -> Self:
        """Returns the model with another dropout rate."""
        return self._configured(dropout_rate=rate)

    def with_lora(self, lora: Adapters | None) -> Self:
        """Returns the model with adapters, low-rank or parallel ones, or without any."""
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
        return _initial(self.network, rng)["params"]

    def shapes_and_axes(self) -> tuple[Tree, Tree]:
        """Returns the shapes of all parameters and their logical axis names, without memory."""
        # They depend on neither, and stages differ in them: one trace serves all.
        plain = self.with_dropout(0.0).with_remat("none")
        shapes, axes = _shapes_and_axes(plain.network)
        return trees.unflatten(shapes), trees.unflatten(axes)

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
    def valid_positions(self, batch: Batch) -> dict[str, jax.Array]:
        """Returns what is no padding of what the `encoder` and the `decoder` read, bool [B, X].

        Args:
          batch: rows of their own, with nothing attached.
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
        found = self.scored(
            params, batch, dropout_rng, label_smoothing=label_smoothing, z_loss=z_loss
        )
        return losses.summed(found.losses, batch["decoder_loss_weights"])

    def score_batch(self, params: Tree, batch: Batch) -> jax.Array:
        """Returns the log-probability of each row's target, float32 [B], in nats."""
        log_probs = -self.scored(params, batch).losses.surprise
        return jnp.sum(log_probs * batch["decoder_loss_weights"], axis=-1)

    def scored(
        self,
        params: Tree,
        batch: Batch,
        dropout_rng: jax.Array | None = None,
        *,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
    ) -> Scored:
        """Returns what the model says of each target, see `Scored`; large logits never exist."""
        targets = batch["decoder_target_tokens"]
        options = {"label_smoothing": label_smoothing, "z_loss": z_loss}
        if not self._projects_in_chunks(targets):
            logits = self.logits(params, batch, dropout_rng)
            return Whole(losses.token_losses(logits, targets, **options), logits)
        config = self.network.config
        hidden = self.logits(params, batch, dropout_rng, project=False)
        hidden = hidden.astype(jnp.float32) * config.logit_scale
        tied = config.logits_via_embedding
        kernel = trees.flatten(params)["token_embedder/embedding" if tied else HEAD]
        head = chunked_loss.Head(kernel, vocab_axis=0 if tied else 1)
        return InChunks(chunked_loss.token_losses(hidden, head, targets, **options), hidden, head)

    def _projects_in_chunks(self, targets: jax.Array) -> bool:
        """Whether the logits would be large; an adapter of the projection needs them whole."""
        config = self.network.config
        adapted = config.lora is not None and config.lora.adapts(HEAD)
        return targets.size * config.vocab_size > chunked_loss.CHUNK and not adapted


# Tracing takes a fraction of a second, and many ask.
@functools.lru_cache(maxsize=64)
def _shapes_and_axes(network: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns {path: shape and dtype} and {path: logical axis names} of all parameters."""
    # The key is made inside: nothing may choose jax's devices before the size is known.
    variables = jax.eval_shape(lambda: _initial(network, jax.random.key(0)))
    axes = trees.flatten(flax_partitioning.get_axis_names(variables["params_axes"]))
    return trees.flatten(variables["params"]), {path: tuple(axes[path]) for path in axes}


def _initial(network: nn.Module, rng: jax.Array) -> Tree:
    # Tokens, targets or segments: each family's protocol begins with three such arrays.
    ones = jnp.ones((1, 2), jnp.int32)
    return network.init(rng, ones, ones, ones, enable_dropout=False)
