"""Network + vocabulary → loss, scores and predictions of a batch."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import seqio
from flax.linen import partitioning as flax_partitioning

from promot_jax import decoding, losses, trees
from promot_jax.networks import t5
from promot_jax.trees import Tree

Batch = dict[str, jax.Array]

PROMPTS = "encoder/prompt"


@dataclasses.dataclass(frozen=True)
class EncoderDecoderModel:
    """An encoder-decoder network and its vocabulary.

    A batch that carries `prompt_ids` [B] runs with soft prompts attached: row i with prompt number
    `prompt_ids[i]` of `network.config.prompt_names`, or with none where it is -1. A batch without
    `prompt_ids` runs without.
    """

    network: t5.Transformer
    vocabulary: seqio.Vocabulary

    def with_prompts(self, prompts: dict[str, int]) -> "EncoderDecoderModel":
        """Returns the model with prompts of the given names and lengths (all of one length)."""
        length = max(prompts.values(), default=0)
        return self._configured(prompt_names=tuple(prompts), prompt_length=length)

    def with_dropout(self, rate: float) -> "EncoderDecoderModel":
        """Returns the model with another dropout rate."""
        return self._configured(dropout_rate=rate)

    def _configured(self, **changes) -> "EncoderDecoderModel":
        config = dataclasses.replace(self.network.config, **changes)
        return dataclasses.replace(self, network=t5.Transformer(config))

    def init(self, rng: jax.Array) -> Tree:
        """Returns randomly initialised parameters."""
        return self._init(rng)["params"]

    def shapes_and_axes(self) -> tuple[Tree, Tree]:
        """Returns the shapes of all parameters and their logical axis names, without memory."""
        variables = jax.eval_shape(self._init, jax.random.key(0))
        axes = flax_partitioning.get_axis_names(variables["params_axes"])
        return variables["params"], trees.unflatten(
            {path: tuple(names) for path, names in trees.flatten(axes).items()}
        )

    def _init(self, rng):
        tokens = jnp.ones((1, 2), jnp.int32)
        return self.network.init(rng, tokens, tokens, tokens, enable_dropout=False)

    def logits(self, params: Tree, batch: Batch, dropout_rng: jax.Array | None = None) -> jax.Array:
        """Returns teacher-forced logits [B, U, V] in float32; dropout needs `dropout_rng`."""
        return self.network.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch["decoder_target_tokens"],
            prompt_ids=batch.get("prompt_ids"),
            enable_dropout=dropout_rng is not None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
        )

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

    def predict_batch(
        self, params: Tree, batch: Batch, decoder: decoding.Decoder, max_length: int
    ) -> jax.Array:
        """Returns decoded tokens [B, max_length], 0 after the end-of-sequence token."""
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
        )

    def texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Returns the text of each row of token ids, up to its end-of-sequence token."""
        return [self.vocabulary.decode([int(t) for t in row if t]) for row in tokens]


def prompts_of(params: Tree) -> dict[str, int]:
    """Returns {name: length} of the soft prompts in a parameter tree."""
    bank = params.get("encoder", {}).get("prompt", {})
    return {name: bank[name]["prompt"].shape[0] for name in sorted(bank)}


def keep_prompts(params: Tree, names: Sequence[str]) -> Tree:
    """Returns the tree with the named soft prompts only; no names give the bare network's tree."""
    return trees.unflatten(
        {
            path: leaf
            for path, leaf in trees.flatten(params).items()
            if not path.startswith(PROMPTS + "/") or path.split("/")[2] in names
        }
    )


def add_prompt(params: Tree, name: str, prompt: jax.Array) -> Tree:
    """Returns the tree with one more soft prompt [P, H]."""
    return trees.combine(params, trees.unflatten({f"{PROMPTS}/{name}/prompt": prompt}))
