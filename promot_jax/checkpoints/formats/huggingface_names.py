"""Our paths and the names of `transformers`, in one table for reading and for writing.

Three layouts: T5 (T5, mT5), Llama (Llama, Mistral, Qwen2, Qwen3) and Cohere (Command R: attention
and MLP side by side after one norm, rotary features interleaved).
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

# Patterns of names in files that hold no parameter of ours, and why.
IGNORED = {
    r".*\.rotary_emb\.inv_freq": "frequencies are computed from the configuration",
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": (
        "attention to the encoder has no position bias"
    ),
}
# Names that stand for the embedding in files of each family.
EMBEDDING_COPIES = {
    "t5": ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
    "decoder": (),
}
OUTPUT = "lm_head.weight"
# What names of a family begin with, and the names behind it that tell when a file's differ.
_PREFIXES = {"t5": "", "decoder": "model."}
_PROBES = {
    "t5": ("shared.weight", "encoder.embed_tokens.weight"),
    "decoder": ("embed_tokens.weight",),
}

_T5_ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}
_ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
_MLP = {"wi_0": "gate_proj", "wi_1": "up_proj", "wo": "down_proj"}


@dataclasses.dataclass(frozen=True)
class Rename:
    """The name of a leaf in a file and the way between the two arrays.

    Attributes:
      theirs: name in the file.
      transpose: theirs is [out, in], ours [in, out].
      head_dim: D where the file interleaves the two halves of each head's features (rotary
        embedding of pairs (0, 1), (2, 3), …; ours pairs (0, D/2), (1, D/2 + 1), …), else 0.
    """

    theirs: str
    transpose: bool = False
    head_dim: int = 0

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns our shape of theirs, and theirs of ours."""
        return tuple(reversed(shape)) if self.transpose else tuple(shape)

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Returns our array of theirs."""
        array = array.T if self.transpose else array
        return _split_pairs(array, (-1, self.head_dim // 2, 2)) if self.head_dim else array

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Inverse of `to_ours`."""
        array = _split_pairs(array, (-1, 2, self.head_dim // 2)) if self.head_dim else array
        return array.T if self.transpose else array


def _split_pairs(array: np.ndarray, heads: tuple[int, int, int]) -> np.ndarray:
    """Swaps the two inner axes of `heads` within the last axis of `array`."""
    split = array.reshape(*array.shape[:-1], *heads)
    return np.swapaxes(split, -1, -2).reshape(array.shape)


def table(family: str, config: Mapping[str, Any]) -> dict[str, Rename]:
    """Returns {our path: name and transform} of every parameter of a model.

    Args:
      family: `t5` or `decoder`.
      config: fields of that family's configuration; those that are absent have their defaults.
    """
    return _t5(config) if family == "t5" else _decoder(config)


def prefix(family: str, found: Collection[str]) -> str:
    """Returns what stands before the names of the table in a file, where its own prefix differs.

    A model that was saved without its head has `embed_tokens.weight`; one that was a part of
    another has `transformer.`, `language_model.model.` or the like in front.
    """
    usual = _PREFIXES[family]
    for probe in _PROBES[family]:
        alike = [name for name in found if name == probe or name.endswith(f".{probe}")]
        if usual + probe not in alike and len(alike) == 1:
            return alike[0].removesuffix(probe)
    return usual


def respelled(
    table: Mapping[str, Rename], family: str, found: Collection[str]
) -> dict[str, Rename]:
    """Returns the table with the prefix that the names of a file have, see `prefix`."""
    usual, own = _PREFIXES[family], prefix(family, found)
    heads = [name for name in found if name == OUTPUT or name.endswith(f".{OUTPUT}")]
    head = heads[0] if len(heads) == 1 else OUTPUT
    return {
        path: dataclasses.replace(
            rename,
            theirs=head if rename.theirs == OUTPUT else own + rename.theirs.removeprefix(usual),
        )
        for path, rename in table.items()
    }


def modules(family: str, config: Mapping[str, Any]) -> dict[str, tuple[str, Rename]]:
    """Returns {their module: (our path without `/kernel`, rename)} of every kernel."""
    return {
        rename.theirs.removesuffix(".weight"): (path.removesuffix("/kernel"), rename)
        for path, rename in table(family, config).items()
        if path.endswith("/kernel")
    }


def _kernel(name: str, head_dim: int = 0) -> Rename:
    return Rename(f"{name}.weight", transpose=True, head_dim=head_dim)


def _t5(config: Mapping[str, Any]) -> dict[str, Rename]:
    gated = len(config.get("mlp_activations", ("gelu", "linear"))) > 1
    inner = ("wi_0", "wi_1", "wo") if gated else ("wi", "wo")
    names = {"token_embedder/embedding": Rename("shared.weight")}
    blocks = {
        "encoder": [("attention", "SelfAttention")],
        "decoder": [
            ("self_attention", "SelfAttention"),
            ("encoder_decoder_attention", "EncDecAttention"),
        ],
    }
    norms = {
        "attention": "pre_attention_layer_norm",
        "self_attention": "pre_self_attention_layer_norm",
        "encoder_decoder_attention": "pre_cross_attention_layer_norm",
    }
    for side, attentions in blocks.items():
        first = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias"
        names[f"{side}/relpos_bias/rel_embedding"] = _kernel(first)
        names[f"{side}/{side}_norm/scale"] = Rename(f"{side}.final_layer_norm.weight")
        for layer in range(config[f"num_{side}_layers"]):
            ours, theirs = f"{side}/layers_{layer}", f"{side}.block.{layer}.layer"
            for part, (attention, module) in enumerate(attentions):
                names[f"{ours}/{norms[attention]}/scale"] = Rename(
                    f"{theirs}.{part}.layer_norm.weight"
                )
                for name, letter in _T5_ATTENTION.items():
                    names[f"{ours}/{attention}/{name}/kernel"] = _kernel(
                        f"{theirs}.{part}.{module}.{letter}"
                    )
            last = f"{theirs}.{len(attentions)}"
            names[f"{ours}/pre_mlp_layer_norm/scale"] = Rename(f"{last}.layer_norm.weight")
            for name in inner:
                names[f"{ours}/mlp/{name}/kernel"] = _kernel(f"{last}.DenseReluDense.{name}")
    if not config.get("logits_via_embedding", False):
        names["decoder/logits_dense/kernel"] = Rename(OUTPUT, transpose=True)
    return names


def _decoder(config: Mapping[str, Any]) -> dict[str, Rename]:
    parallel = config.get("parallel", False)
    norms = (
        {"layer_norm": "input_layernorm"}
        if parallel
        else {
            "pre_self_attention_layer_norm": "input_layernorm",
            "pre_mlp_layer_norm": "post_attention_layernorm",
        }
    )
    if config.get("qk_norm", False):
        norms["self_attention/query_norm"] = "self_attn.q_norm"
        norms["self_attention/key_norm"] = "self_attn.k_norm"
    names = {
        "token_embedder/embedding": Rename("model.embed_tokens.weight"),
        "decoder/decoder_norm/scale": Rename("model.norm.weight"),
    }
    for layer in range(config["num_layers"]):
        ours, theirs = f"decoder/layers_{layer}", f"model.layers.{layer}"
        for name, module in norms.items():
            names[f"{ours}/{name}/scale"] = Rename(f"{theirs}.{module}.weight")
        for name, module in _ATTENTION.items():
            rotated = config["head_dim"] if parallel and name in ("query", "key") else 0
            path, module = f"{ours}/self_attention/{name}", f"{theirs}.self_attn.{module}"
            names[f"{path}/kernel"] = _kernel(module, rotated)
            if config.get("out_bias" if name == "out" else "qkv_bias", False):
                names[f"{path}/bias"] = Rename(f"{module}.bias", head_dim=rotated)
        for name, module in _MLP.items():
            names[f"{ours}/mlp/{name}/kernel"] = _kernel(f"{theirs}.mlp.{module}")
            if config.get("mlp_bias", False):
                names[f"{ours}/mlp/{name}/bias"] = Rename(f"{theirs}.mlp.{module}.bias")
    if not config.get("logits_via_embedding", True):
        names["decoder/logits_dense/kernel"] = Rename(OUTPUT, transpose=True)
    return names
