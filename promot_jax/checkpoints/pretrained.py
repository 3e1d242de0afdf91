"""From a checkpoint of any format to a model and its parameters, and from a model to a folder."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from promot_jax import models
from promot_jax.base import partitioning, trees, values
from promot_jax.base.errors import UserError, first_line
from promot_jax.base.trees import Tree
from promot_jax.checkpoints.formats import delta, known, native, peft, side_files
from promot_jax.checkpoints.formats import source as sources
from promot_jax.checkpoints.formats.source import Content, Match, Source
from promot_jax.data import vocabularies
from promot_jax.models import architectures
from promot_jax.models.networks import lora, prompt, stack


def open_model(
    path: str, vocabulary: str | None = None, **changes: Any
) -> tuple[models.Model, Source]:
    """Opens a checkpoint and builds the model that it is of, its soft prompts included.

    Args:
      path: a checkpoint of any format that `formats` reads.
      vocabulary: a SentencePiece model or a `tokenizer.json`, for a checkpoint that has none.
      **changes: fields of the network's configuration to set, such as `dtype`.

    Raises:
      UserError: no checkpoint, or one that does not tell its architecture.
    """
    source = known.open_checkpoint(path)
    if source.family is None:
        raise UserError(
            f"{path} does not tell its architecture; name the network in a gin file and give the "
            "checkpoint as INITIAL_CHECKPOINT_PATH"
        )
    _check_sizes(source)
    words = find_vocabulary(source, vocabulary)
    if words is None and (reason := (source.vocabulary or {}).get("unread")):
        raise UserError(f"{path}: {reason}; give the tokenizer.json by --vocabulary")
    check_rows(words, source.config.get("vocab_size"), path)
    with _reporting_configuration(path):
        model = architectures.build(
            source.family, {**source.config, **changes}, words, **source.options
        )
    shapes = trees.unflatten(dict(source.leaves))
    return model.with_prompts_of(shapes), source


# Sizes that a configuration may hold.
SIZES = (
    *("vocab_size", "emb_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim"),
    *("num_layers", "num_encoder_layers", "num_decoder_layers"),
)


def _check_sizes(source: Source) -> None:
    """Raises UserError for sizes with which no network can be built."""
    for name in SIZES:
        value = source.config.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(
                f"{source.path} has {name} = {value!r}, expected a positive integer; correct its "
                "configuration"
            )
        if name.endswith("layers") and value > max(1, len(source.leaves)):
            raise UserError(
                f"{source.path} has {name} = {value}, but only {len(source.leaves)} leaves; "
                "correct its configuration"
            )


@contextlib.contextmanager
def _reporting_configuration(what: str) -> Iterator[None]:
    """Says in one line that a field of a configuration has a value which no network takes."""
    try:
        yield
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{what} has a configuration of which no network can be built ({first_line(error)}); "
            "correct it"
        ) from error


def bare_model(
    path: values.Text,
    vocabulary: values.Text | None = None,
    dtype: values.Dtype = "float32",
    scan_layers: bool = False,
    remat: stack.Remat = "none",
) -> models.Model:
    """Returns the model that a checkpoint is of, without prompts; `load` then reads it.

    Args:
      path, vocabulary: see `open_model`.
      dtype: of activations.
      scan_layers: whether to stack the parameters of equal layers.
      remat: what the backward pass computes again, see `networks.stack`.

    Raises:
      UserError: as `open_model`.
    """
    model, _ = open_model(
        path, vocabulary, dtype=dtype, scan_layers=scan_layers, remat=remat, dropout_rate=0.0
    )
    return model.with_prompts({})


def find_vocabulary(source: Source | None, path: str | None):
    """Returns the vocabulary at `path`, else the checkpoint's own, else None.

    A SentencePiece model that has a token to begin a text is Llama's where the checkpoint is of a
    decoder-only model, else T5's.
    """
    if path is None:
        if source.vocabulary is None or "unread" in source.vocabulary:
            return None
        return vocabularies.load(source.vocabulary, source.path)
    kind = "tokenizers" if path.endswith(".json") else "sentencepiece"
    found = vocabularies.load({"kind": kind, "file": path}, "")
    if kind == "sentencepiece" and source is not None and source.family == "decoder":
        started = vocabularies.load({"kind": "tokenizers", "file": path}, "")
        return found if started.start_id is None else started
    return found


def beside(source: Source, vocabulary) -> dict[str, bytes]:
    """Returns the files that belong beside the weights of a model: {name: content}.

    They are the checkpoint's own. Where the model has another vocabulary, those of the tokenizer
    are that one's.

    Args:
      source: what the model was read from, or what its training started from.
      vocabulary: of the model, None for none.
    """
    own = find_vocabulary(source, None)
    if vocabulary is None or own == vocabulary:
        return dict(source.beside)
    files = side_files.without_tokenizer(source.beside)
    if isinstance(vocabulary, vocabularies.Tokenizer) and os.path.exists(vocabulary.path):
        files |= side_files.find_tokenizer(os.path.dirname(vocabulary.path) or ".")
    if side_files.TOKENIZER[0] not in files and (
        settings := vocabularies.huggingface_settings(vocabulary)
    ):
        files[side_files.TOKENIZER[0]] = side_files.dump(settings)
    return files


def check_rows(vocabulary, rows: int | None, where: str) -> None:
    """Raises UserError for a vocabulary that has ids beyond the rows of the embedding.

    Fewer are usual: many embeddings are padded. The sentinels of T5 may lie beyond too, since no
    text but one that spells them out has them.
    """
    if vocabulary is None or rows is None:
        return
    size = vocabulary.vocab_size - getattr(vocabulary, "extra_ids", 0)
    if size > rows:
        raise UserError(
            f"{where}: its vocabulary has ids up to {size - 1}, its embedding only {rows} rows; "
            "resize the embedding (resize_token_embeddings in transformers) or give the vocabulary "
            "that the model was trained with"
        )


def expected_leaves(model: models.Model, mesh: jax.sharding.Mesh | None) -> Tree:
    """Returns the shapes of all parameters, with their shardings on a mesh."""
    with _reporting_configuration("the model"):
        shapes, axes = model.shapes_and_axes()
    if mesh is None:
        return shapes
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        partitioning.params_sharding(mesh, axes, shapes),
    )


def load(
    source: Source,
    model: models.Model,
    mesh: jax.sharding.Mesh,
    *,
    may_miss: Sequence[str] = (),
    may_skip: Sequence[str] = (),
    seed: int = 0,
) -> Tree:
    """Reads a checkpoint into the parameters of a model, leaf by leaf into their shards.

    Args:
      source: an opened checkpoint.
      model: what it must fill.
      mesh: devices.
      may_miss: patterns of paths that are initialised, from `seed`, where the checkpoint has none.
      may_skip: patterns of names that the checkpoint may have beyond the model.
      seed: of the initialisation.

    Raises:
      UserError: as `formats.source.match`, or a damaged file.
    """
    _check_same_maths(source, model)
    check_rows(model.vocabulary, getattr(model.network.config, "vocab_size", None), source.path)
    expected = expected_leaves(model.unstacked(), mesh)
    matched = sources.match(source, expected, may_miss=may_miss, may_skip=may_skip)
    leaves = dict(sources.stream(source, expected))
    if matched.initialised:
        leaves |= _initialised(model, expected, matched, seed)
    params = trees.unflatten(dict(sorted(leaves.items())))
    if not model.stacked:
        return params
    shardings = jax.tree.map(lambda leaf: leaf.sharding, expected_leaves(model, mesh))
    return trees.stack_and_release(params, shardings)


# Fields of a configuration that no shape shows, and that change what a network computes.
MATHS = (
    *("mlp_activations", "norm", "norm_epsilon", "parallel", "logit_scale"),
    *("rope_base", "rope_scaling", "num_heads", "num_kv_heads", "sliding_window", "full_layers"),
)


def _check_same_maths(source: Source, model: models.Model) -> None:
    if source.family not in (None, model.family):
        raise UserError(
            f"{source.path} is of the family {source.family!r}, the model of {model.family!r}"
        )
    for name in MATHS:
        here, there = getattr(model.network.config, name, None), source.config.get(name)
        if there is not None and here != there:
            raise UserError(
                f"{source.path} has {name} = {there}, the model {here}; change the model's "
                "configuration"
            )


def _initialised(model: models.Model, expected: Tree, matched: Match, seed: int) -> dict[str, Any]:
    """Draws the missing leaves alone; the compiler drops the others."""
    shardings = {path: trees.flatten(expected)[path].sharding for path in matched.initialised}

    def draw(rng):
        leaves = trees.flatten(model.unstacked().init(rng))
        return {path: leaves[path] for path in matched.initialised}

    return jax.jit(draw, out_shardings=shardings)(jax.random.key(seed))


def with_deltas(
    model: models.Model, params: Tree, paths: Sequence[str], by: str = delta.SUM
) -> Tree:
    """Returns the parameters with what deltas add to them, merged as `delta.merged` says.

    Raises:
      UserError: a damaged delta, or one of another model; no such `by`.
    """
    leaves = trees.flatten(trees.unstack_layers(params) if model.stacked else params)
    for path, value in delta.added(leaves, paths, by):
        old = leaves[path]
        leaves[path] = jax.device_put(value.astype(old.dtype), old.sharding)
    found = trees.unflatten(leaves)
    return trees.stack_layers(found) if model.stacked else found


# What the flag --prompt of the command line calls no prompt, and the low-rank adapter.
RESERVED = ("none", "lora")


def attach(model: models.Model, params: Tree, name: str, path: str) -> tuple[models.Model, Tree]:
    """Adds an adapter: a prompt (`.npy` or PEFT folder) under a name, or a PEFT LoRA.

    What a LoRA changes beside kernels, such as the embedding, is merged into the parameters.

    Raises:
      UserError: an adapter of another model, or one of a kind that is not supported.
    """
    if peft.is_format(path):
        adapter = peft.read(path, model.family, architectures.describe(model)["config"])
    else:
        adapter = peft.Adapter("prompt", None, prompt=prompt.read_file(path))
    arrays = {"the prompt": adapter.prompt} if adapter.kind == "prompt" else {}
    arrays |= {**adapter.leaves, **adapter.replaced, **adapter.added}
    for what, array in arrays.items():
        sources.check_finite(array, f"{what} in {path}")
    if adapter.kind != "lora":
        if not re.fullmatch(r"\w[\w.-]*", name) or name in RESERVED:
            raise UserError(
                f"{path}: {name!r} cannot name a prompt (letters, digits and ._- can, "
                f"{' and '.join(RESERVED)} mean something else); give NAME=PATH"
            )
        if name in trees.prompts_of(params):
            raise UserError(f"{path}: the model has a prompt {name!r} already; give NAME={path}")
        if adapter.kind == "prefix":
            leaves = {place: jnp.asarray(leaf) for place, leaf in adapter.leaves.items()}
            params = trees.add_prompt_leaves(params, name, leaves)
            return model.with_prompts_of(params), params
        if not len(adapter.prompt):
            raise UserError(f"{path} holds a prompt without rows; save one with at least one")
        prompt.check_width(adapter.prompt, params["token_embedder"]["embedding"].shape[1], path)
        params = trees.add_prompt(params, name, jnp.asarray(adapter.prompt))
        return model.with_prompts_of(params), params
    if model.network.config.lora is not None:
        raise UserError(f"{path}: the model has a low-rank adapter already; merge that one first")
    model, params = _merged(model, params, adapter, path)
    if not adapter.leaves:
        return model, params
    settings = (adapter.pattern, adapter.rank, adapter.alpha, adapter.scaling, adapter.form)
    model = model.with_lora(lora.Lora(*settings))
    leaves = trees.unflatten(adapter.leaves)
    if lines := trees.difference(lora.adapters(expected_leaves(model, None)), leaves):
        raise UserError(f"{path} belongs to another model: {lines[0]}")
    return model, trees.combine(params, jax.tree.map(jnp.asarray, leaves))


def _merged(
    model: models.Model, params: Tree, adapter: peft.Adapter, path: str
) -> tuple[models.Model, Tree]:
    """Returns the model with what an adapter brings beside its low-rank kernels."""
    leaves = trees.flatten(params)
    if adapter.untied:
        model = model.with_own_output()
        leaves[models.HEAD] = leaves["token_embedder/embedding"].T
    for name, array in [*adapter.replaced.items(), *adapter.added.items()]:
        if (found := leaves[name].shape) != array.shape:
            raise UserError(
                f"{path}: its {name} has shape {array.shape}, the model's {found}; the adapter is "
                "of another model, or of one whose vocabulary was resized"
            )
    leaves |= {name: jnp.asarray(array) for name, array in adapter.replaced.items()}
    for name, array in adapter.added.items():
        leaves[name] = leaves[name] + jnp.asarray(array)
    return model, trees.unflatten(dict(sorted(leaves.items())))


def save(
    folder: pathlib.Path,
    model: models.Model,
    params: Tree,
    origin: Mapping[str, Any],
    beside: Mapping[str, bytes] | None = None,
    dtype: str = "float32",
) -> None:
    """Writes a model folder: `params`, `model.json`, the vocabulary, each soft prompt as `.npy`.

    The parameters are float32.

    Args:
      folder: must not exist.
      model: the model of `params`, its prompts and adapter included; not scanned.
      params: parameters.
      origin: where it comes from, for `model.json`.
      beside: {name: content} of the files that came with the weights, see `interop.side_files`.
      dtype: that they had, for an export.

    Raises:
      UserError: `folder` exists or cannot be written.
    """
    native.save(folder, content(model, params, origin, beside, dtype))


def content(
    model: models.Model,
    params: Tree,
    origin: Mapping[str, Any],
    beside: Mapping[str, bytes] | None = None,
    dtype: str = "float32",
) -> Content:
    """Returns a model as what formats write; arguments are those of `save`."""
    return Content(
        leaves=trees.flatten(params),
        about=architectures.describe(model),
        vocabulary=model.vocabulary,
        start_id=model.start_id,
        end_ids=model.end_ids,
        max_positions=model.max_positions,
        origin=origin,
        beside=beside or {},
        dtype=dtype,
    )
