"""Our own model folders: `params`, an orbax tree, and `model.json`, which says what it is."""

import collections
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from promot_jax.base import trees
from promot_jax.base.errors import UserError, cause
from promot_jax.base.files import new_folder, read_json
from promot_jax.base.trees import Tree
from promot_jax.checkpoints.formats import orbax_leaves, side_files, stores, t5x
from promot_jax.checkpoints.formats.source import Content, Source
from promot_jax.data import vocabularies

FORMAT = "promot_jax"
# Fields of models, besides their network's configuration, that `model.json` may have.
OPTIONS = ("prefix_lm", "start_id", "end_ids")


def is_format(path: str) -> bool:
    """Returns whether `path` is a model folder of ours."""
    return (stores.absolute(path) / "params" / "_METADATA").exists()


def open_checkpoint(path: str) -> Source:
    """Opens a model folder; its leaves are read one at a time.

    Family and configuration are what `model.json` says under `family` and `config`. Where it says
    nothing about them, a T5 is recognised by its shapes. The file of a vocabulary is made absolute.

    Raises:
      UserError: no model folder of ours, or a damaged one.
    """
    folder = stores.absolute(path)
    if not is_format(path):
        raise UserError(f"{path} is no model folder of promot_jax: params/_METADATA is missing")
    about = _about(folder / "model.json")
    leaves, read = orbax_leaves.open_tree(folder / "params")
    inferred = t5x.t5_config(leaves)
    return Source(
        path=path,
        format=FORMAT,
        leaves=leaves,
        read=read,
        where={},
        family=about.get("family") or ("t5" if inferred else None),
        config=_with_tuples(about.get("config")) or inferred or {},
        options=_with_tuples({name: about[name] for name in OPTIONS if name in about}),
        vocabulary=_vocabulary(about.get("vocabulary"), folder),
        beside=side_files.find(folder),
        kept_dtype=about.get("dtype", ""),
    )


def _about(file: epath.Path) -> Mapping[str, Any]:
    if not file.exists():
        return {}
    about = read_json(file)
    kinds = {"family": str, "config": dict, "vocabulary": dict, "dtype": str, "end_ids": list}
    for name, kind in kinds.items():
        if about.get(name) is not None and not isinstance(about[name], kind):
            raise UserError(f"{file}: {name} is {about[name]!r}, expected a {kind.__name__}")
    named = (about.get("vocabulary") or {}).get("file", "")
    if not isinstance(named, str):
        raise UserError(f"{file}: the vocabulary's file is {named!r}, expected its name")
    return about


def _with_tuples(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """JSON has no tuples, and configurations of networks must be hashable."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in (config or {}).items()
    }


def _vocabulary(named: Mapping[str, Any] | None, folder: epath.Path) -> Mapping[str, Any] | None:
    if not named or "file" not in named or "://" in named["file"]:
        return named
    return {**named, "file": str(folder / named["file"])}


def save(folder: pathlib.Path, content: Content) -> None:
    """Writes a model folder: `params`, `model.json`, the vocabulary, each soft prompt as `.npy`.

    The parameters are float32; `model.json` notes the dtype that they had.

    Raises:
      UserError: the folder exists or cannot be written.
    """
    with new_folder(folder) as partial:
        _save_params(partial / "params", trees.unflatten(dict(content.leaves)))
        matches = {path: trees.PROMPT.fullmatch(path) for path in content.leaves}
        parts = collections.Counter(match[2] for match in matches.values() if match)
        for path, match in matches.items():
            # A prompt of another kind is more than one array.
            if match and match[3] == "prompt" and parts[match[2]] == 1:
                np.save(partial / f"{match[2]}.npy", content.leaves[path])
        about = {**content.about, "origin": dict(content.origin), "dtype": content.dtype}
        if content.end_ids:
            about["end_ids"] = list(content.end_ids)
        if content.max_positions is not None:
            about["config"] = {**about["config"], "max_positions": content.max_positions}
        if content.vocabulary is not None:
            about["vocabulary"] = vocabularies.save(content.vocabulary, partial)
        side_files.write(partial, content.beside)
        (partial / "model.json").write_text(json.dumps(about, indent=1) + "\n")


def _save_params(folder: pathlib.Path, params: Tree) -> None:
    # Only writing needs it, and its import takes longer than reading a small model.
    import orbax.checkpoint as ocp

    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder.absolute(), params)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} cannot be written: {cause(error)}") from error
