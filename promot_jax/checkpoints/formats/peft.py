"""Adapters of Hugging Face's PEFT, read and written without it: soft prompts, prefixes and LoRA.

A folder has adapter_config.json and adapter_model.safetensors.
"""

import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.base.files import new_folder, read_json
from promot_jax.checkpoints.formats import hub, peft_lora, peft_prefix, safetensors_files
from promot_jax.checkpoints.formats import huggingface_names as names
from promot_jax.checkpoints.formats.peft_lora import Adapter
from promot_jax.checkpoints.formats.source import Content

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PROMPT = "prompt_embeddings"
_TASKS = {"t5": "SEQ_2_SEQ_LM", "decoder": "CAUSAL_LM"}


def is_format(path: str) -> bool:
    """Says whether a folder, or an `hf://` address, is an adapter of PEFT."""
    return (hub.local_folder(path) / _CONFIG).is_file()


def read(path: str, family: str | None = None, config: Mapping[str, Any] | None = None) -> Adapter:
    """Reads an adapter.

    Args:
      path: a local folder, or `hf://OWNER/NAME[@REVISION][/FOLDER]`.
      family: `t5` or `decoder`, of the base model. A soft prompt does not need it.
      config: fields of the base model's configuration, likewise.

    Raises:
      UserError: a damaged folder, an adapter that we cannot express, or one of another model.
    """
    folder = hub.local_folder(path)
    about = read_json(folder / _CONFIG)
    kind = about.get("peft_type")
    if kind == "PROMPT_TUNING":
        return _read_prompt(folder, about)
    if kind not in ("LORA", "PREFIX_TUNING"):
        raise UserError(
            f"{folder / _CONFIG}: peft_type is {kind}; supported are PROMPT_TUNING, PREFIX_TUNING "
            "and LORA"
        )
    if family is None or config is None:
        raise UserError(f"{path} is a {kind}, whose names need the base model: name that one too")
    if kind == "PREFIX_TUNING":
        return _read_prefix(folder, about, family, config)
    return peft_lora.read(folder / _CONFIG, about, _tensors(folder), family, config)


def describe(path: str) -> dict[str, Any]:
    """Returns facts of an adapter that need no base model, by name in the order to show them.

    Raises:
      UserError: a damaged folder.
    """
    folder = hub.local_folder(path)
    about = read_json(folder / _CONFIG)
    tensors = _tensors(folder)
    facts = {
        "peft_type": about.get("peft_type"),
        "base model": about.get("base_model_name_or_path"),
    }
    if facts["peft_type"] == "LORA":
        modules = {re.sub(r"\.lora_.*", "", name).split(".")[-1] for name in tensors}
        facts |= {"rank": about.get("r"), "alpha": about.get("lora_alpha")}
        facts["modules"] = ", ".join(sorted(modules))
    if _PROMPT in tensors:
        facts["prompt length"] = about.get("num_virtual_tokens")
        facts["embedding dimension"] = tensors[_PROMPT].shape[-1]
    return facts


def _tensors(folder: pathlib.Path) -> dict[str, safetensors_files.Tensor]:
    if not (folder / _WEIGHTS).is_file() and (folder / "adapter_model.bin").is_file():
        raise UserError(
            f"{folder / 'adapter_model.bin'} is a pickle, which is not read; load the adapter with "
            f"PEFT and save it again, which writes {_WEIGHTS}"
        )
    return safetensors_files.read_header(folder / _WEIGHTS)


def _read_prefix(folder, about, family, config) -> Adapter:
    rows = _rows(folder, about)
    leaves = peft_prefix.to_ours(rows, about, family, config, str(folder / _WEIGHTS))
    return Adapter("prefix", about.get("base_model_name_or_path"), leaves=leaves)


def _read_prompt(folder: pathlib.Path, about: Mapping[str, Any]) -> Adapter:
    prompt = _rows(folder, about).astype(np.float32)
    return Adapter("prompt", about.get("base_model_name_or_path"), prompt=prompt)


def _rows(folder: pathlib.Path, about: Mapping[str, Any]) -> np.ndarray:
    """Returns the matrix of a soft prompt or a prefix, a row for each of its virtual tokens."""
    tensors, length = _tensors(folder), about.get("num_virtual_tokens")
    if _PROMPT not in tensors:
        raise UserError(f"{folder / _WEIGHTS} has no {_PROMPT}")
    if not isinstance(length, int) or length < 1:
        raise UserError(f"{folder / _CONFIG}: num_virtual_tokens is {length}, expected a number")
    rows = safetensors_files.read(tensors[_PROMPT])
    if rows.ndim != 2 or len(rows) < length:
        raise UserError(
            f"{folder / _WEIGHTS}: {_PROMPT} has shape {rows.shape}, expected at least {length} "
            f"rows (num_virtual_tokens in {_CONFIG})"
        )
    # Of an encoder-decoder PEFT keeps twice the rows and uses the first half.
    return rows[:length]


def _pairs(leaves: Mapping[str, Any], where: str) -> list[str]:
    """Returns the paths of the adapted layers, each of which has both matrices."""
    paths = sorted({path.rpartition("/")[0] for path in leaves})
    if not paths:
        raise UserError(f"{where} holds no matrices of a LoRA")
    for path in paths:
        for name in ("lora_a", "lora_b"):
            if f"{path}/{name}" not in leaves:
                raise UserError(f"{where}: {path}/{name} is missing")
    return paths


def _write(
    folder: str | os.PathLike, about: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> None:
    shapes = {name: array.shape for name, array in tensors.items()}
    with new_folder(folder) as partial:
        content = {"inference_mode": True, **about}
        (partial / _CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        safetensors_files.write(
            partial / _WEIGHTS, shapes, np.dtype(np.float32), tensors.__getitem__
        )


def save(folder: pathlib.Path, content: Content) -> None:
    """Writes the one prompt, of its kind, or the low-rank adapter that the leaves are.

    Raises:
      UserError: PEFT has no such kind; the folder exists or cannot be written.
    """
    family, config = content.about["family"], content.about["config"]
    matches = {trees.PROMPT.fullmatch(path): leaf for path, leaf in content.leaves.items()}
    prompt = {f"{match[1]}/{match[3]}": leaf for match, leaf in matches.items() if match}
    if reason := fault(content.leaves):
        raise UserError(f"{reason}; write another format")
    if len(prompt) == 1:
        write_prompt(folder, np.asarray(*prompt.values()), family, content.base)
    elif prompt:
        write_prefix(folder, prompt, family, config, content.base)
    else:
        about = config["lora"]
        scaling = about.get("scaling", "rank")
        rank, alpha = about["rank"], about["alpha"]
        write_lora(folder, content.leaves, family, rank, alpha, config, content.base, scaling)


def fault(leaves: Iterable[str]) -> str | None:
    """Says why PEFT has no place for an adapter with leaves of these paths; None where it has."""
    matches = {f"{match[1]}/{match[3]}" for match in map(trees.PROMPT.fullmatch, leaves) if match}
    if any("/offset_" in leaf for leaf in matches):
        return "PEFT has no prompt with offsets of tokens (DePT)"
    if "encoder/keys" in matches:
        return (
            "PEFT has no prefix in an encoder; one with PREFIX_SIDES = 'decoder' has a place there"
        )
    return None


def write_prompt(
    folder: str | os.PathLike, prompt: np.ndarray, family: str, base_model: str | None
) -> None:
    """Writes a soft prompt that `PeftModel.from_pretrained` loads.

    Args:
      folder: must not exist.
      prompt: `[P, H]`.
      family: `t5` or `decoder`, of the base model.
      base_model: its name on the hub, or its folder.

    Raises:
      UserError: the folder exists or cannot be written.
    """
    prompt = np.asarray(prompt)
    length, width = prompt.shape
    about = {
        "peft_type": "PROMPT_TUNING",
        "task_type": _TASKS[family],
        "base_model_name_or_path": base_model,
        "num_virtual_tokens": length,
        "token_dim": width,
        # PEFT's own folders have 2 for an encoder-decoder, with rows for a decoder that never
        # sees them.
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",
    }
    _write(folder, about, {_PROMPT: prompt})


def write_prefix(
    folder: str | os.PathLike,
    leaves: Mapping[str, Any],
    family: str,
    config: Mapping[str, Any],
    base_model: str | None,
) -> None:
    """Writes a prefix that `PeftModel.from_pretrained` loads.

    Args:
      folder: must not exist.
      leaves: `decoder/keys` and `decoder/values` [L, P, Nkv*D].
      family: `t5` or `decoder`, of the base model.
      config: fields of the base model's configuration.
      base_model: its name on the hub, or its folder.

    Raises:
      UserError: the folder exists or cannot be written.
    """
    keys, known = (np.asarray(leaves[name]) for name in (peft_prefix.KEYS, peft_prefix.VALUES))
    about = {
        "task_type": _TASKS[family],
        "base_model_name_or_path": base_model,
        "num_virtual_tokens": keys.shape[1],
        **peft_prefix.settings(family, config),
    }
    _write(folder, about, {_PROMPT: peft_prefix.to_theirs(keys, known, family, config)})


def write_lora(
    folder: str | os.PathLike,
    leaves: Mapping[str, Any],
    family: str,
    rank: int,
    alpha: float,
    config: Mapping[str, Any],
    base_model: str | None,
    scaling: str = "rank",
) -> None:
    """Writes a low-rank adapter that `PeftModel.from_pretrained` loads.

    Args:
      folder: must not exist.
      leaves: `lora_a` and `lora_b` of the adapted kernels, of DoRA `lora_magnitude` too, as a tree
        or as {our path: array}.
      family: `t5` or `decoder`, of the base model.
      rank: r.
      alpha: the product of the two matrices is multiplied by `alpha / rank`.
      config: fields of the base model's configuration.
      base_model: its name on the hub, or its folder.
      scaling: "root_rank" where the factor is `alpha / sqrt(rank)`.

    Raises:
      UserError: the folder exists or cannot be written; leaves of another rank, without their
        partner, or of kernels that the base model does not have in `transformers`.
    """
    leaves = trees.flatten(dict(leaves))
    modules = names.modules(family, config)
    theirs = {path: (module, rename) for module, (path, rename) in modules.items()}
    tensors, adapted = {}, []
    for path in _pairs(leaves, "the adapter"):
        if path not in theirs:
            raise UserError(f"{path}/kernel has no name in transformers, so PEFT cannot adapt it")
        module, rename = theirs[path]
        a, b = (np.asarray(leaves[f"{path}/{name}"]) for name in ("lora_a", "lora_b"))
        if a.shape[1:] != (rank,) or b.shape[:1] != (rank,):
            raise UserError(f"{path}: lora_a {a.shape} and lora_b {b.shape} are not of rank {rank}")
        tensors[f"base_model.model.{module}.lora_A.weight"] = a.T
        tensors[f"base_model.model.{module}.lora_B.weight"] = rename.to_theirs(b)
        if (name := f"{path}/{peft_lora.MAGNITUDE_LEAF}") in leaves:
            lengths = rename.to_theirs(np.asarray(leaves[name])[None])[:, 0]
            tensors[f"base_model.model.{module}.{peft_lora.MAGNITUDE}"] = lengths
        adapted.append(module)
    about = {
        "peft_type": "LORA",
        "task_type": _TASKS[family],
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": any(name.endswith(peft_lora.MAGNITUDE) for name in tensors),
        "use_rslora": scaling == "root_rank",
        "target_modules": _target_modules(adapted, list(modules)),
    }
    _write(folder, about, tensors)


def _target_modules(adapted: list[str], modules: list[str]) -> list[str]:
    """Returns the modules' last names where those mean exactly `adapted`, else their full names."""
    last = {module.rpartition(".")[2] for module in adapted}
    if {module for module in modules if module.rpartition(".")[2] in last} == set(adapted):
        return sorted(last)
    return sorted(adapted)
