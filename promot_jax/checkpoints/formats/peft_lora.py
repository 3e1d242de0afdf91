"""The LoRA of a PEFT folder in our layout: what stays an adapter, and what changes the model.

PEFT names matrices after the base model's modules, so that they are read through the table of
`huggingface_names`. Adapted kernels stay adapters. An adapted embedding, modules that were trained
as a whole (`modules_to_save`) and trained biases have no place beside a kernel: they are merged
into the model that the adapter is attached to.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from promot_jax.base.errors import UserError
from promot_jax.checkpoints.formats import huggingface_names as names
from promot_jax.checkpoints.formats import safetensors_files
from promot_jax.checkpoints.formats.safetensors_files import Tensor

EMBEDDING, OUTPUT = "token_embedder/embedding", "decoder/logits_dense/kernel"
# DoRA's lengths of columns, as PEFT and as we name them.
MAGNITUDE, MAGNITUDE_LEAF = "lora_magnitude_vector", "lora_magnitude"
# Settings of LoRA that change what it computes or on which weights; without them, or with one of
# these values, it is `kernel + alpha / rank * A B` on the base model's own kernels, or DoRA.
PLAIN = {
    # The other initialisations change the base model's weights when PEFT loads the adapter.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
    **dict.fromkeys(
        (
            *("layer_replication", "lora_bias", "target_parameters"),
            *("trainable_token_indices", "use_qalora", "use_bdlora", "alora_invocation_tokens"),
            *("arrow_config", "kasa_config", "monteclora_config"),
        ),
        (),
    ),
}


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A soft prompt, a prefix or a low-rank adapter.

    Attributes:
      kind: `prompt`, `prefix` or `lora`.
      base_model: name of the model that it belongs to, None where nothing tells.
      prompt: float32 `[P, H]`.
      leaves: {our path of `lora_a` [in, r], `lora_b` [r, out] or `lora_magnitude` [out]: float32
        array}, of a prefix {SIDE/LEAF: float32 array}; may be empty.
      pattern: regular expression that matches the paths of exactly the adapted kernels.
      rank: r.
      alpha, scaling: the product of the two matrices is multiplied by `alpha / rank`, or, where
        `scaling` is "root_rank", by `alpha / sqrt(rank)`.
      form: "lora", or "dora" where columns have lengths that were trained.
      untied: the model's output must be a matrix of its own before the next two apply.
      replaced: {our path: array} of parameters that the adapter brings as a whole.
      added: {our path: array} to be added to the model's parameters.
    """

    kind: str
    base_model: str | None
    prompt: np.ndarray | None = None
    leaves: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    pattern: str = ""
    rank: int = 0
    alpha: float = 0.0
    scaling: str = "rank"
    form: str = "lora"
    untied: bool = False
    replaced: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    added: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def read(
    config_file: pathlib.Path,
    about: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    family: str,
    config: Mapping[str, Any],
) -> Adapter:
    """Reads a LoRA.

    Args:
      config_file: adapter_config.json, for errors.
      about: its content.
      tensors: those of the adapter.
      family: of the base model, `t5` or `decoder`.
      config: fields of the base model's configuration.

    Raises:
      UserError: an adapter that only PEFT can apply, a damaged one, or one of another model.
    """
    _check_plain(config_file, about)
    file = next(iter(tensors.values())).file if tensors else config_file
    parts = _sorted_out(tensors, file, about.get("modules_to_save") or ())
    if about.get("use_dora") and any(part.kind == "embedding" for part in parts):
        raise UserError(f"{file}: use_dora of an embedding, which only PEFT can apply; {MERGE}")
    tied = bool(config.get("logits_via_embedding", family == "decoder"))
    untied = tied and any(part.separates for part in parts)
    if untied:
        _check_separable(family, about, config_file, next(p for p in parts if p.separates))
    table = names.table(family, {**config, "logits_via_embedding": tied and not untied})
    places = {rename.theirs: (path, rename) for path, rename in table.items()}
    pairs, replaced, added = {}, {}, {}
    for part in parts:
        path, rename = _place(part, places, tied)
        array = safetensors_files.read(part.tensor).astype(np.float32)
        if path == EMBEDDING and part.separates:
            _check_embedding(family, part)
        if part.kind == "whole":
            replaced |= _whole(part, path, rename, array, untied)
        else:
            pairs.setdefault((path, part.kind, part.module), {})[part.letter] = (part, array)
    leaves, sizes, lengths = {}, {}, {}
    for (path, kind, module), pair in pairs.items():
        stem = path.removesuffix("/kernel")
        for letter in "AB":
            if letter not in pair:
                raise UserError(f"{file}: {stem}/lora_{letter.lower()} is missing")
        rank, alpha = _size(about, module)
        a, b = _matrices(pair, rank, table[path], kind)
        if kind == "embedding":
            added[path] = table[path].to_ours(_scale(about, rank, alpha) * (b @ a).T)
            continue
        leaves[stem], sizes[stem] = (a.T, table[path].to_ours(b)), (rank, alpha)
        if bool(about.get("use_dora")) != (MAGNITUDE in pair):
            there = "there" if MAGNITUDE in pair else "missing"
            raise UserError(
                f"{file}: {module}.{MAGNITUDE} is {there}, but use_dora is "
                f"{about.get('use_dora')}; save the adapter again"
            )
        if MAGNITUDE in pair:
            lengths[f"{stem}/{MAGNITUDE_LEAF}"] = _lengths(*pair[MAGNITUDE], b, table[path])
    if not leaves and not replaced and not added:
        raise UserError(f"{file} holds no matrices of a LoRA")
    modules = [path.removesuffix("/kernel") for path in table if path.endswith("/kernel")]
    return Adapter(
        "lora",
        about.get("base_model_name_or_path"),
        pattern=pattern(sorted(leaves), modules) if leaves else "",
        **_sized(about, leaves, sizes, lengths),
        untied=untied,
        replaced=replaced,
        added=added,
    )


@dataclasses.dataclass(frozen=True)
class _Part:
    """One tensor: of what kind (`kernel`, `embedding` or `whole`), of which module of theirs.

    `letter` is A or B of a pair, `MAGNITUDE` of DoRA's lengths beside it, or the parameter's name
    (`weight`) of a whole one. `separates`
    says that it parts a tied output from the embedding, since it belongs to one of the two alone.
    """

    tensor: Tensor
    kind: str
    module: str
    letter: str
    separates: bool


def _sorted_out(
    tensors: Mapping[str, Tensor], file: pathlib.Path, saved: Sequence[str]
) -> list[_Part]:
    parts = []
    for name, tensor in tensors.items():
        rest = name.removeprefix("base_model.model.")
        if match := re.fullmatch(r"(.+)\.lora_([AB])\.weight", rest):
            kind, (module, letter) = "kernel", match.groups()
        elif match := re.fullmatch(r"(.+)\.lora_embedding_([AB])", rest):
            kind, (module, letter) = "embedding", match.groups()
        elif match := re.fullmatch(rf"(.+)\.({MAGNITUDE})(?:\.weight)?", rest):
            kind, (module, letter) = "kernel", match.groups()
        elif match := re.fullmatch(r"(.+?)(?:\.base_layer)?\.(weight|bias)", rest):
            kind, (module, letter) = "whole", match.groups()
        else:
            raise UserError(f"{file}: {name} is no matrix of a LoRA that is known; {MERGE}")
        # PEFT saves the frozen weight beside an adapted embedding too; that one stays shared.
        alone = kind != "whole" or any(module.endswith(wanted) for wanted in saved)
        ends = module.rpartition(".")[2] in ("embed_tokens", "lm_head", "shared")
        parts.append(_Part(tensor, kind, module, letter, alone and ends))
    return parts


MERGE = "merge it into its model with PEFT first (merge_and_unload)"


def _check_plain(file: pathlib.Path, about: Mapping[str, Any]) -> None:
    for name, allowed in PLAIN.items():
        value = about.get(name)
        if value and value not in allowed:
            raise UserError(f"{file}: {name} is {value}, which only PEFT can apply; {MERGE}")
    if not isinstance(about.get("r"), int) or about["r"] < 1:
        raise UserError(f"{file}: r is {about.get('r')}, expected a rank")
    if not isinstance(about.get("lora_alpha"), int | float):
        raise UserError(f"{file}: lora_alpha is {about.get('lora_alpha')}, expected a number")


def _check_separable(family: str, about: Mapping[str, Any], file: pathlib.Path, part: _Part):
    if family == "t5":
        raise UserError(
            f"{part.tensor.file}: {part.tensor.name} changes one of the tied matrices of a T5, "
            f"which only PEFT can apply; {MERGE}"
        )
    if about.get("ensure_weight_tying"):
        raise UserError(f"{file}: ensure_weight_tying is True, which only PEFT can apply; {MERGE}")


def _check_embedding(family: str, part: _Part) -> None:
    if family == "t5":
        raise UserError(
            f"{part.tensor.file}: {part.tensor.name} changes the embedding of a T5, which only "
            f"PEFT can apply; {MERGE}"
        )


def _place(
    part: _Part, places: Mapping[str, tuple[str, names.Rename]], tied: bool
) -> tuple[str, names.Rename]:
    """Returns our path of a part, and the way to it."""
    parameter = part.letter if part.kind == "whole" else "weight"
    name = f"{part.module}.{parameter}"
    if name == names.OUTPUT and name not in places and tied:
        # A copy of the frozen weight that input and output share.
        return next(place for place in places.values() if place[0] == EMBEDDING)
    # An adapter of the model without its head has names without the first part.
    for candidate in (name, f"model.{name}"):
        if candidate in places:
            path, rename = places[candidate]
            if part.kind == "kernel" and not path.endswith("/kernel"):
                break
            return path, rename
    raise UserError(
        f"{part.tensor.file}: the model has no place for {part.tensor.name}; is it of another "
        "model?"
    )


def _whole(
    part: _Part, path: str, rename: names.Rename, array: np.ndarray, untied: bool
) -> dict[str, np.ndarray]:
    ours = {path: rename.to_ours(array)}
    if untied and not part.separates and path == EMBEDDING:
        ours[OUTPUT] = ours[path].T
    return ours


def _size(about: Mapping[str, Any], module: str) -> tuple[int, float]:
    """Returns rank and alpha of a module, as `rank_pattern` and `alpha_pattern` say."""

    def of(pattern: str, usual: Any) -> Any:
        for key, value in (about.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return usual

    return of("rank_pattern", about["r"]), float(of("alpha_pattern", about["lora_alpha"]))


def _scale(about: Mapping[str, Any], rank: int, alpha: float) -> float:
    """Returns the factor of a product."""
    return alpha / math.sqrt(rank) if about.get("use_rslora") else alpha / rank


def _matrices(pair, rank: int, rename: names.Rename, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns A `[r, in]` and B `[out, r]` of a pair, after a look at their shapes."""
    for axis, letter in enumerate("AB"):
        part, array = pair[letter]
        if array.ndim != 2 or array.shape[axis] != rank:
            raise UserError(
                f"{part.tensor.file}: {part.tensor.name} has shape {array.shape}, which is not of "
                f"rank {rank}"
            )
    part, b = pair["B"]
    if kind == "kernel" and rename.head_dim and len(b) % rename.head_dim:
        raise UserError(
            f"{part.tensor.file}: {part.tensor.name} has shape {b.shape}, it belongs to another "
            "model"
        )
    return pair["A"][1], b


def _lengths(part: _Part, array: np.ndarray, b: np.ndarray, rename: names.Rename) -> np.ndarray:
    """Returns our `lora_magnitude` [out] of theirs, in our order of features."""
    if array.shape != (len(b),):
        raise UserError(
            f"{part.tensor.file}: {part.tensor.name} has shape {array.shape}, expected {(len(b),)}"
        )
    return rename.to_ours(array[:, None])[0]


def _sized(about, pairs, sizes, lengths) -> dict[str, Any]:
    """Returns the fields of an adapter that say what its matrices are."""
    if not pairs:
        return {}
    root = bool(about.get("use_rslora"))
    if root and len(set(sizes.values())) > 1:
        # With one scale for all, none of them is that of a root.
        sizes = {
            path: (rank, rank * _scale(about, rank, alpha)) for path, (rank, alpha) in sizes.items()
        }
        root = False
    found = _of_one_size(pairs, sizes)
    found["leaves"] |= lengths
    form = "dora" if lengths else "lora"
    return found | {"scaling": "root_rank" if root else "rank", "form": form}


def _of_one_size(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], sizes: Mapping[str, tuple[int, float]]
) -> dict[str, Any]:
    """Returns leaves, rank and alpha; smaller pairs are filled up with zeros, scales moved to B."""
    differ = len(set(sizes.values())) > 1
    rank, alpha = next(iter(sizes.values()))
    if differ:
        rank = max(own for own, _ in sizes.values())
        alpha = float(rank)
    leaves = {}
    for path, (a, b) in pairs.items():
        own_rank, own_alpha = sizes[path]
        scale = np.float32(own_alpha / own_rank * rank / alpha) if differ else np.float32(1)
        leaves[f"{path}/lora_a"] = np.pad(a, ((0, 0), (0, rank - own_rank)))
        leaves[f"{path}/lora_b"] = np.pad(scale * b, ((0, rank - own_rank), (0, 0)))
    return {"leaves": leaves, "rank": rank, "alpha": alpha}


def pattern(paths: Sequence[str], modules: Sequence[str]) -> str:
    """Returns a pattern that matches the kernels of `paths` and no other of `modules`."""
    every_layer = "|".join(sorted({re.sub(r"layers_\d+", r"layers_\\d+", path) for path in paths}))
    if {path for path in modules if re.fullmatch(every_layer, path)} == set(paths):
        return f"({every_layer})/kernel"
    return f"({'|'.join(paths)})/kernel"
