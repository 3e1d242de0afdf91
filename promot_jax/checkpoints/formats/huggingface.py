"""Folders of Hugging Face `transformers`: config.json and safetensors, read and written."""

import json
import os
import pathlib
import re
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.base.files import new_folder, read_json
from promot_jax.checkpoints.formats import (
    byt5,
    hub,
    huggingface_config,
    huggingface_kept,
    safetensors_files,
    side_files,
)
from promot_jax.checkpoints.formats import huggingface_names as names
from promot_jax.checkpoints.formats.safetensors_files import Tensor
from promot_jax.checkpoints.formats.source import Content, Source
from promot_jax.data import vocabularies

SHARD_BYTES = 1 << 30
DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
_LARGEST_HALF = float(np.finfo(np.float16).max)
_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_EMBEDDING, _LOGITS = "token_embedder/embedding", "decoder/logits_dense/kernel"
# A T5 is best served by its SentencePiece model, the others by the fast tokenizer.
_TOKENIZERS = {
    "t5": ("spiece.model", "tokenizer.json"),
    "decoder": ("tokenizer.json", "tokenizer.model", "spiece.model"),
}


def is_format(path: str) -> bool:
    """Says whether a folder, or an `hf://` address, has a config.json and weights.

    PyTorch's own weight files count, so that opening them can say what to do.
    """
    if re.match(r"(?!hf:)\w+://", path):
        return _is_remote(path)
    folder = hub.local_folder(path)
    if not (folder / "config.json").is_file():
        return False
    weights = ("*.safetensors", _INDEX, "pytorch_model*.bin")
    # Of the hub's files only the ones to be read were downloaded.
    return path.startswith("hf://") or any(next(folder.glob(name), None) for name in weights)


def _is_remote(path: str) -> bool:
    from etils import epath

    try:
        return (epath.Path(path) / "config.json").exists()
    # No credentials, no such bucket, no support for the scheme: each raises its own.
    except Exception:
        return False


def open_checkpoint(path: str) -> Source:
    """Opens a folder without reading the weights.

    Args:
      path: a local folder, or `hf://OWNER/NAME[@REVISION][/FOLDER]`.

    Raises:
      UserError: files that are missing or damaged, an architecture or a setting that is not
        supported.
    """
    if re.match(r"(?!hf:)\w+://", path):
        raise UserError(
            f"{path}: safetensors are read from local disks; copy the folder first, "
            f"for instance: gcloud storage cp -r {path} ."
        )
    folder = hub.local_folder(path)
    file = folder / "config.json"
    about = read_json(file)
    family, config = huggingface_config.read(about, str(file))
    tensors = _find_tensors(folder)
    huggingface_config.check_depth(config, len(tensors), str(file))
    found, embedding, copies = _match(about, family, config, tensors)

    def read(leaf: str) -> np.ndarray:
        rename, tensor = found[leaf]
        if leaf == _EMBEDDING:
            _check_copies(tensor, [tensors[name] for name in copies], file)
        return rename.to_ours(safetensors_files.read(tensor))

    beside = side_files.find(folder)
    used = {tensor.name for _, tensor in found.values()}
    ignored = dict.fromkeys(copies, f"copy of {embedding}")
    for name in sorted(tensors.keys() - used):
        for pattern, reason in names.IGNORED.items():
            if re.fullmatch(pattern, name):
                ignored[name] = reason
    return Source(
        path=path,
        format="Hugging Face",
        leaves={
            leaf: jax.ShapeDtypeStruct(rename.shape(tensor.shape), tensor.numpy_dtype)
            for leaf, (rename, tensor) in found.items()
        },
        read=read,
        where={leaf: f"{tensor.file}: {tensor.name}" for leaf, (_, tensor) in found.items()},
        family=family,
        config=config,
        unexpected=sorted(tensors.keys() - used - ignored.keys()),
        ignored=ignored,
        options=_options(about, family, beside, str(folder)),
        vocabulary=_find_vocabulary(folder, family),
        beside=beside,
    )


def _options(
    about: Mapping[str, Any], family: str, beside: Mapping[str, bytes], where: str
) -> dict[str, Any]:
    """Returns what the files say of the tokens that begin and end an answer."""
    options: dict[str, Any] = {}
    if ends := side_files.end_ids(beside, where):
        options["end_ids"] = ends
    if family == "t5":
        options["start_id"] = huggingface_kept.decoder_start(
            about, os.path.join(where, side_files.CONFIG)
        )
    return options


def _match(
    about: Mapping[str, Any], family: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, tuple[names.Rename, Tensor]], str, list[str]]:
    """Returns {our path: (rename, tensor)}, the embedding's name and those of its copies."""
    table = names.respelled(names.table(family, config), family, tensors)
    own = names.prefix(family, tensors)
    aliases = [table[_EMBEDDING].theirs, *(own + n for n in names.EMBEDDING_COPIES[family])]
    if _LOGITS not in table:
        aliases.append(names.OUTPUT)
    # Writers that store shared weights once differ in the name that they keep.
    source, *copies = [name for name in aliases if name in tensors] or aliases[:1]
    table[_EMBEDDING] = names.Rename(source)
    tied = huggingface_config.output_is_embedding(about, family)
    if tied and _LOGITS in table and table[_LOGITS].theirs not in tensors:
        # Tied but not scaled, as transformers 5 saves a T5.1.1 whose two matrices are one.
        table[_LOGITS] = names.Rename(source, transpose=True)
    found = {
        leaf: (rename, tensors[rename.theirs])
        for leaf, rename in table.items()
        if rename.theirs in tensors
    }
    for leaf, (rename, tensor) in found.items():
        axes = 2 if rename.transpose else 1
        if rename.head_dim and (len(tensor.shape) != axes or tensor.shape[0] % rename.head_dim):
            raise UserError(
                f"{tensor.file}: {tensor.name} has shape {tensor.shape}, {leaf} expects heads of "
                f"{rename.head_dim} rows"
            )
    return found, source, copies


def _check_copies(embedding: Tensor, copies: list[Tensor], file: pathlib.Path) -> None:
    for copy in copies:
        if not safetensors_files.same(embedding, copy):
            raise UserError(
                f"{copy.file}: {copy.name} differs from {embedding.name}, but {file} says that "
                "they are one (tie_word_embeddings); correct whichever is wrong"
            )


def _find_tensors(folder: pathlib.Path) -> dict[str, Tensor]:
    """Returns {name: tensor} of the single file, or of the files that the index names."""
    if (folder / _FILE).is_file():
        return safetensors_files.read_header(folder / _FILE)
    index = folder / _INDEX
    if not index.is_file():
        pickles = sorted(folder.glob("pytorch_model*.bin"))
        if pickles:
            raise UserError(
                f"{pickles[0]} is a pickle, which is not read; convert it where transformers is "
                f'installed: AutoModel….from_pretrained("{folder}").save_pretrained(NEW_FOLDER)'
            )
        raise UserError(f"{folder} has neither {_FILE} nor {_INDEX}")
    weights = read_json(index).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise UserError(f"{index} has no weight_map")
    headers = {}
    for name, file in weights.items():
        if pathlib.Path(str(file)).name != file or not (folder / file).is_file():
            raise UserError(
                f"{folder / str(file)} is not there, but {index.name} says that it holds {name}; "
                "download it again"
            )
        if file not in headers:
            headers[file] = safetensors_files.read_header(folder / file)
        if name not in headers[file]:
            raise UserError(f"{folder / file} lacks {name}, but {index.name} says that it has it")
    return {name: tensor for header in headers.values() for name, tensor in header.items()}


def _find_vocabulary(folder: pathlib.Path, family: str) -> dict[str, Any] | None:
    for name in _TOKENIZERS[family]:
        file = folder / name
        if not file.is_file() or (name == "spiece.model" and _adds_tokens(folder)):
            continue
        if family == "decoder" or name.endswith(".json"):
            return {"kind": "tokenizers", "file": str(file.absolute())}
        # T5's file lacks the 100 sentinels, which its tokenizer adds; mT5's has them, and says so
        # here.
        settings = folder / "tokenizer_config.json"
        known = read_json(settings) if settings.is_file() else {}
        extra_ids = known.get("extra_ids", 100)
        return {"kind": "sentencepiece", "file": str(file.absolute()), "extra_ids": extra_ids}
    return byt5.vocabulary(folder) if family == "t5" else None


def _adds_tokens(folder: pathlib.Path) -> bool:
    """Says whether a tokenizer.json has tokens beyond those of the SentencePiece model."""
    file = folder / "tokenizer.json"
    added = read_json(file).get("added_tokens", []) if file.is_file() else []
    return any(not re.fullmatch(r"<(pad|unk|/?s|extra_id_\d+)>", t["content"]) for t in added)


def save(folder: pathlib.Path, content: Content) -> None:
    """Writes a model with its tokenizer, see `write`."""
    vocabulary, ids, files = content.vocabulary, {}, dict(content.beside)
    with tempfile.TemporaryDirectory() as scratch:
        if vocabulary is not None and vocabularies.save(vocabulary, scratch):
            files |= side_files.find_tokenizer(scratch)
            # A folder of transformers that has none does without.
            if side_files.CONFIG not in files:
                settings = vocabularies.huggingface_settings(vocabulary)
                files.setdefault(side_files.TOKENIZER[0], side_files.dump(settings))
            own = isinstance(vocabulary, vocabularies.Tokenizer)
            ids = {"eos": vocabulary.eos_id, "pad": vocabulary.eos_id if own else vocabulary.pad_id}
    family = content.about["family"]
    ids["decoder_start" if family == "t5" else "bos"] = content.start_id
    write(
        folder,
        content.leaves,
        family,
        content.about["config"],
        token_ids=ids,
        max_positions=content.max_positions or 4096,
        beside=files,
        dtype=content.dtype,
    )


def write(
    folder: str | os.PathLike,
    leaves: Mapping[str, Any],
    family: str,
    config: Mapping[str, Any],
    *,
    dtype: str = "float32",
    token_ids: Mapping[str, int | None] | None = None,
    max_positions: int = 4096,
    beside: Mapping[str, bytes] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a folder that `transformers` loads with `from_pretrained`.

    T5 and mT5 are both written as `t5`, whose classes compute both.

    Args:
      folder: must not exist.
      leaves: parameters as a tree or as {our path: array}; without prompts and adapters.
      family: `t5` or `decoder`.
      config: fields of that family's configuration; those that are absent have their defaults.
      dtype: of the weights in the files, `float32`, `bfloat16` or `float16`.
      token_ids: any of `bos`, `eos`, `pad`, `decoder_start`, for generation.
      max_positions: longest text of a decoder-only model, for its config.json.
      beside: {name: content} of further files. What a config.json or generation_config.json
        among them says is kept, except what the network decides.
      shard_bytes: largest file, except where a single leaf is larger.

    Raises:
      UserError: the folder exists or cannot be written; leaves that are missing or that the
        format has no place for; a configuration that no architecture of `transformers` computes.
    """
    leaves = trees.flatten(dict(leaves))
    token_ids = {name: i for name, i in (token_ids or {}).items() if i is not None}
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype}: expected one of {', '.join(DTYPES)}")
    beside = dict(beside or {})
    about = huggingface_config.write(family, config, token_ids, max_positions)
    known = side_files.read(beside, side_files.CONFIG, "the model's folder")
    about = huggingface_kept.keep(known, about, family, config)
    # transformers 5 reads both; the older ones know no `dtype`.
    about["dtype" if "dtype" in known else "torch_dtype"] = dtype
    beside[side_files.CONFIG] = side_files.dump(about)
    if token_ids and not known:
        ids = {f"{name}_token_id": number for name, number in token_ids.items()}
        beside.setdefault(side_files.GENERATION, side_files.dump(ids))
    table = names.table(family, config)
    _check_leaves(leaves, table)
    with new_folder(folder) as partial:
        _write_weights(partial, leaves, table, DTYPES[dtype], shard_bytes)
        side_files.write(partial, beside)


def _check_leaves(leaves: Mapping[str, Any], table: Mapping[str, names.Rename]) -> None:
    for leaf in leaves:
        if re.search(r"/(lora_[^/]+|adapter_(down|up))$", leaf):
            raise UserError(f"{leaf}: merge the adapter into the weights, or export it for PEFT")
        if "/prompt/" in leaf:
            raise UserError(f"{leaf}: a soft prompt has no place here; export it for PEFT")
        if leaf not in table:
            raise UserError(f"{leaf} has no name in the architecture that the configuration says")
    if missing := [leaf for leaf in table if leaf not in leaves]:
        raise UserError(f"{missing[0]} is missing, one of {len(missing)} that the model needs")


def _write_weights(
    folder: pathlib.Path,
    leaves: Mapping[str, Any],
    table: Mapping[str, names.Rename],
    dtype: np.dtype,
    shard_bytes: int,
) -> None:
    shapes = {table[leaf].theirs: table[leaf].shape(array.shape) for leaf, array in leaves.items()}
    paths = {table[leaf].theirs: leaf for leaf in leaves}
    sizes = {name: int(np.prod(shape)) * dtype.itemsize for name, shape in shapes.items()}
    limit = max(shard_bytes, *sizes.values())
    shards: list[list[str]] = [[]]
    room = limit
    for name in sorted(shapes):
        if sizes[name] > room:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= sizes[name]

    def fetch(name: str) -> np.ndarray:
        array = table[paths[name]].to_theirs(np.asarray(leaves[paths[name]]))
        if dtype == np.float16 and array.size and np.abs(array).max() > _LARGEST_HALF:
            raise UserError(f"{name} has values beyond {dtype}; give --dtype bfloat16 or float32")
        return array

    files = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else _FILE
        safetensors_files.write(folder / file, {name: shapes[name] for name in shard}, dtype, fetch)
        files |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        metadata = {"total_size": sum(sizes.values())}
        _write_json(folder / _INDEX, {"metadata": metadata, "weight_map": files})


def _write_json(file: pathlib.Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
