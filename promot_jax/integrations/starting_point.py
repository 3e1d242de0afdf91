"""What a trainer other than ours starts a stage from: a checkpoint of any format.

The checkpoint tells the architecture, so a recipe names no model: `network` and `vocabulary` come
from it, and `load` reads its parameters into whatever tree and shardings the trainer has.
"""

import dataclasses
import functools
import importlib
import os
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import seqio
from absl import logging

from promot_jax import models
from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.checkpoints import pretrained
from promot_jax.checkpoints.formats import known, orbax_leaves, stores
from promot_jax.checkpoints.formats import source as sources
from promot_jax.checkpoints.formats.source import Source
from promot_jax.data import foreign, tasks, written
from promot_jax.data.seqio_vocabularies import seqio_vocabulary
from promot_jax.data.vocabularies import Vocabulary
from promot_jax.models.networks import t5
from promot_jax.models.networks.prompt_kinds import SOFT
from promot_jax.training.stages import PromptInit

# A checkpoint that counts as many steps was pretrained, not made by a stage.
PRETRAINED_STEPS = 100_000


class PromptedTransformer(t5.Transformer):
    """The encoder-decoder for callers that know no prompts: every row has the network's first one.

    Without prompts in its configuration it is exactly the bare network.
    """

    def encode(self, encoder_input_tokens, encoder_segment_ids=None, **options) -> jax.Array:
        """See `networks.t5.Transformer`.

        Raises:
          UserError: packed rows, which a prompt cannot stand in front of.
        """
        if encoder_segment_ids is not None and self.config.has_prompts:
            raise UserError("a prompt needs unpacked rows; set DatasetConfig.pack = False")
        options = _attach(encoder_input_tokens, options)
        return super().encode(encoder_input_tokens, encoder_segment_ids, **options)

    def decode(self, encoded, encoder_input_tokens, *others, **options) -> jax.Array:
        """See `networks.t5.Transformer`."""
        options = _attach(encoder_input_tokens, options)
        return super().decode(encoded, encoder_input_tokens, *others, **options)


def _attach(tokens: jax.Array, options: dict) -> dict:
    if options.get("prompt_ids") is not None:
        return options
    return options | {"prompt_ids": jnp.zeros(tokens.shape[0], jnp.int32)}


@functools.cache
def _opened(path: str | None, vocabulary: str | None = None) -> tuple[models.Model, Source]:
    if not path:
        raise UserError(
            "no checkpoint to start from; give --gin.INITIAL_CHECKPOINT_PATH (to train) or "
            "--gin.CHECKPOINT_PATH (to evaluate) \"'PATH'\""
        )
    return pretrained.open_model(path, vocabulary)


def network(
    checkpoint: str | None,
    prompt: str | None = None,
    prompt_length: int | None = None,
    dropout_rate: float = 0.0,
    dtype: str = "float32",
    remat: str = "none",
) -> PromptedTransformer:
    """Returns the network that a checkpoint is of, with one soft prompt or with none.

    Args:
      checkpoint: a model of the T5 family in any format that `interop` reads.
      prompt: name of the soft prompt that every row gets, None for none.
      prompt_length: its rows; None takes those of the checkpoint's prompt.
      dropout_rate: of calls that enable dropout.
      dtype: of activations.
      remat: what the backward pass computes again, see `networks.stack`.

    Raises:
      UserError: no checkpoint, one of another family or with a low-rank adapter; no prompt of this
        name, or one of another length.
    """
    model, source = _opened(checkpoint)
    if model.family != "t5":
        raise UserError(
            f"{checkpoint} is a decoder-only model; the recipes for T5X train encoder-decoders, "
            "promot run trains both"
        )
    if model.start_id != 0:
        raise UserError(
            f"{checkpoint} begins answers with token {model.start_id} (decoder_start_token_id), "
            "T5X with 0; promot run trains both"
        )
    if model.network.config.lora is not None:
        raise UserError(
            f"{checkpoint} has adapters; add them to the kernels first: promot export --merge_lora "
            "(of low-rank ones)"
        )
    kind = model.network.config.prompt_kind
    if prompt is not None and kind != SOFT:
        raise UserError(
            f"{checkpoint} has a {kind.word}; the recipes for T5X know soft prompts alone, promot "
            "run knows both"
        )
    config = dataclasses.replace(
        model.network.config,
        prompt_names=() if prompt is None else (prompt,),
        prompt_length=0 if prompt is None else _length(source, prompt, prompt_length),
        dropout_rate=dropout_rate,
        dtype=dtype,
        scan_layers=False,
        remat=remat,
    )
    return PromptedTransformer(config)


def _length(source: Source, prompt: str, asked: int | None) -> int:
    """Returns the rows of a prompt that the checkpoint has, or that are asked for."""
    found = _prompts(source).get(prompt)
    if found is None and asked is None:
        raise _no_prompt(source, prompt)
    if asked is not None and (asked < 1 or found not in (None, asked)):
        has = f", but {prompt!r} in {source.path} has {found} rows" if found else ""
        mend = f"give --gin.PROMPT_LENGTH={found}" if found else "give 1 or more"
        raise UserError(f"PROMPT_LENGTH = {asked}{has}; {mend}")
    return found or asked


def _prompts(source: Source) -> dict[str, int]:
    return trees.prompts_of(trees.unflatten(dict(source.leaves)))


def _no_prompt(source: Source, prompt: str) -> UserError:
    has = f"it has {', '.join(_prompts(source))}" if _prompts(source) else "it has none"
    return UserError(
        f"{source.path} has no prompt {prompt!r} ({has}); give a checkpoint of stage 1, or the "
        "name of its prompt as PROMPT, or None as PROMPT for no prompt at all"
    )


def vocabulary(
    checkpoint: str | None,
    mixture: str,
    module: str | None = None,
    path: str | None = None,
) -> seqio.Vocabulary:
    """Returns the vocabulary of a checkpoint, and makes the tasks of a mixture use it.

    T5X takes tokens from the task, so a task is registered anew, under its name, with a vocabulary
    that is not its own.

    Args:
      checkpoint: see `network`.
      mixture: registered task or mixture.
      module: is imported first, to register the tasks; None if that has happened.
      path: a SentencePiece model or a `tokenizer.json`; None takes the checkpoint's own, and the
        task's where the checkpoint has none, as those of T5X.

    Raises:
      UserError: no such module, mixture or file, or a vocabulary with more tokens than the model.
    """
    if module is not None:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"MIXTURE_OR_TASK_MODULE = {module!r}: {error}") from error
    model, _ = _opened(checkpoint, path)
    if model.vocabulary is None:
        found = _registered(mixture).output_features["targets"].vocabulary
    else:
        found = seqio_vocabulary(model.vocabulary)
        _register_again(mixture, model.vocabulary)
    if found.vocab_size > (rows := model.network.config.vocab_size):
        raise UserError(
            f"the vocabulary of {mixture!r} has {found.vocab_size} tokens, {checkpoint} embeds "
            f"{rows}; give the vocabulary that it was trained with as VOCABULARY"
        )
    return found


def _registered(name: str) -> seqio.Task | seqio.Mixture:
    tasks.get(name)
    return seqio.get_mixture_or_task(name)


def _register_again(name: str, vocabulary: Vocabulary) -> None:
    registered = _registered(name)
    if isinstance(registered, seqio.Mixture):
        rates = dict(registered.rate_per_task_name)
        for part in rates:
            _register_again(part, vocabulary)
        # seqio has no public view of how a mixture draws.
        again = seqio.Mixture(name, list(rates.items()), sample_fn=registered._sample_fn)
        seqio.MixtureRegistry.remove(name)
        seqio.MixtureRegistry.add_provider(name, again)
        return
    again = foreign.with_vocabulary(registered, vocabulary)
    if hasattr(again.postprocessor, "written_by"):
        told = again.postprocessor.written_by(written.Writer(vocabulary))
        again = again.replace(postprocess_fn=told)
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add_provider(name, again)


def load(
    checkpoint: str,
    expected: Tree,
    *,
    prompt_init: PromptInit | None = None,
    rng: jax.Array | None = None,
) -> Tree:
    """Reads a checkpoint into a tree of parameters, leaf by leaf into their shards.

    Only what the checkpoint has not is initialised: the soft prompt, from the embedding that was
    read. That is logged, and so are prompts of the checkpoint that the tree has no place for.

    Args:
      checkpoint: see `network`.
      expected: shapes and shardings of all parameters of a `network` of this checkpoint.
      prompt_init: initialises a prompt that the checkpoint has not; None makes that an error.
      rng: a PRNG key for it.

    Raises:
      UserError: a missing or unexpected leaf, one of another shape, or a damaged file.
    """
    source = known.open_checkpoint(checkpoint)
    wanted = trees.flatten(expected)
    missing = [p for p in wanted if trees.PROMPT.fullmatch(p) and p not in source.leaves]
    if missing and prompt_init is None:
        raise _no_prompt(source, trees.PROMPT.fullmatch(missing[0])[2])
    planned = sources.match(
        source, expected, may_miss=list(map(re.escape, missing)), may_skip=(trees.PROMPT.pattern,)
    )
    leaves = dict(sources.stream(source, expected))
    for path in planned.initialised:
        leaves[path] = _drawn(leaves["token_embedder/embedding"], wanted[path], prompt_init, rng)
        logging.warning("%s is not in %s: initialised", path, checkpoint)
    for name in planned.skipped:
        if name not in source.ignored:
            logging.warning("%s of %s is left out: it is not attached", name, checkpoint)
    return trees.unflatten(dict(sorted(leaves.items())))


def _drawn(embedding: jax.Array, leaf, prompt_init: PromptInit, rng: jax.Array) -> jax.Array:
    draw = jax.jit(
        lambda embedding, rng: prompt_init(embedding, leaf.shape[0], rng),
        out_shardings=leaf.sharding,
    )
    return draw(embedding, rng)


def step_of(checkpoint: str) -> int:
    """Returns the step that a path `…/checkpoint_N` names, 0 for any other path."""
    found = re.search(r"checkpoint_(\d+)/*$", checkpoint)
    return int(found[1]) if found else 0


def check_steps(checkpoint: str, total_steps: int) -> None:
    """Refuses a number of steps that counts those of pretraining, as T5X's own recipes do.

    A stage begins at step 0. Adafactor, for one, weighs a new gradient by its step: at step
    1,000,000 its fresh slots would move at a rate of 1.6e-5.

    Raises:
      UserError: `total_steps` is more than a pretrained checkpoint has done.
    """
    done = step_of(checkpoint)
    if total_steps > done >= PRETRAINED_STEPS:
        raise UserError(
            f"TRAIN_STEPS = {total_steps} counts the {done} steps of {checkpoint}, but a stage "
            f"begins at step 0; give --gin.TRAIN_STEPS={total_steps - done}"
        )


def check_continues(model_dir: str, expected: Mapping[str, Mapping]) -> None:
    """Refuses a folder whose newest checkpoint, which T5X continues from, is of another stage.

    Args:
      model_dir: where T5X keeps its checkpoints, absolute or `gs://`.
      expected: shapes of what a checkpoint of this stage holds, `target` and `state`.

    Raises:
      UserError: a checkpoint with other leaves or shapes, or a relative path.
    """
    if "://" not in model_dir and not os.path.isabs(model_dir):
        raise UserError(
            f"MODEL_DIR = {model_dir!r} is relative, which T5X cannot save to; give "
            f"{os.path.abspath(model_dir)!r}"
        )
    folder = stores.absolute(model_dir)
    steps = [
        int(found[1])
        for inner in (folder.iterdir() if folder.exists() else ())
        if (found := re.fullmatch(r"checkpoint_(\d+)", inner.name))
    ]
    newest = folder / f"checkpoint_{max(steps, default=0)}" / "state"
    if not newest.exists():
        return
    found = trees.unflatten(orbax_leaves.open_tree(newest)[0])
    if lines := trees.difference(dict(expected), found):
        raise UserError(
            f"MODEL_DIR = {model_dir} has checkpoints of another stage or model ({lines[0]}); "
            "give a new MODEL_DIR"
        )
