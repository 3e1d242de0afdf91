"""GGUF, the format of llama.cpp: one file with weights, often quantised, and the tokenizer.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Quantised weights come out as
float32, the others in the dtype of the file.
"""

import math
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np

from promot_jax.base.errors import UserError
from promot_jax.checkpoints.formats import gguf_metadata, gguf_tokenizer
from promot_jax.checkpoints.formats.source import Source

MAGIC = b"GGUF"

# {general.architecture: its file pairs neighbouring rows of query and key for the rotary
# embedding}. The network pairs row i with row i + D/2, as Hugging Face does.
ARCHITECTURES = {"llama": True, "qwen2": False, "qwen3": False}

TOP = {
    "token_embd.weight": "token_embedder/embedding",
    "output_norm.weight": "decoder/decoder_norm/scale",
    "output.weight": "decoder/logits_dense/kernel",
}
LAYER = {
    "attn_norm.weight": "pre_self_attention_layer_norm/scale",
    "attn_q.weight": "self_attention/query/kernel",
    "attn_k.weight": "self_attention/key/kernel",
    "attn_v.weight": "self_attention/value/kernel",
    "attn_q.bias": "self_attention/query/bias",
    "attn_k.bias": "self_attention/key/bias",
    "attn_v.bias": "self_attention/value/bias",
    "attn_output.weight": "self_attention/out/kernel",
    "attn_output.bias": "self_attention/out/bias",
    "ffn_norm.weight": "pre_mlp_layer_norm/scale",
    "ffn_gate.weight": "mlp/wi_0/kernel",
    "ffn_up.weight": "mlp/wi_1/kernel",
    "ffn_down.weight": "mlp/wo/kernel",
    "ffn_gate.bias": "mlp/wi_0/bias",
    "ffn_up.bias": "mlp/wi_1/bias",
    "ffn_down.bias": "mlp/wo/bias",
}
QK_NORM = {
    "attn_q_norm.weight": "self_attention/query_norm/scale",
    "attn_k_norm.weight": "self_attention/key_norm/scale",
}
ROPE_FREQUENCIES = "rope_freqs.weight"
# Of all Llama 3 models: low_freq_factor, high_freq_factor, original_max_position.
LLAMA3_ROPE = (1.0, 4.0, 8192)


def is_format(path: str) -> bool:
    """Says whether a local path is a GGUF file."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def open_checkpoint(path: str) -> Source:
    """Opens a decoder-only model of llama.cpp: Llama, SmolLM, Mistral, Qwen 2, Qwen 3.

    The file is mapped into memory; `Source.read` dequantises one leaf.

    Raises:
      UserError: no GGUF file, a damaged one, or a model, quantisation or rotary embedding that the
        network or the gguf package does not have. The message names the tensor.
    """
    metadata, tensors = _open(path)
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"{path} holds a model of architecture {architecture!r}; it must be one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    if metadata.get("split.count", 0) > 1:
        raise UserError(f"{path} is one part of a split model; join it: llama-gguf-split --merge")
    config = _config(path, architecture, metadata, tensors)
    names = {}
    for name in tensors:
        if our_path := _our_path(name, architecture):
            names[our_path] = name
    dtypes = {our: _dtype(path, tensors[name]) for our, name in names.items()}
    heads = _paired_heads(path, names, config, tensors) if ARCHITECTURES[architecture] else {}

    def read(our_path: str) -> np.ndarray:
        array = _values(path, tensors[names[our_path]])
        if our_path in heads:
            array = _half_split(array, heads[our_path])
        return array.T if our_path.endswith("/kernel") else array

    def shape(our_path: str) -> tuple[int, ...]:
        # The file lists the fastest axis first: [in, out] of weights that lie as [out, in].
        listed = tuple(int(n) for n in tensors[names[our_path]].shape)
        return listed if our_path.endswith("/kernel") else listed[::-1]

    ignored = {ROPE_FREQUENCIES: "part of the configuration"} if config["rope_scaling"] else {}
    ignored = {name: why for name, why in ignored.items() if name in tensors}
    return Source(
        path=path,
        format="GGUF",
        leaves={our: jax.ShapeDtypeStruct(shape(our), dtypes[our]) for our in names},
        read=read,
        where={our: f"{path}: {name}" for our, name in names.items()},
        family="decoder",
        config=config,
        unexpected=[name for name in tensors if name not in {*names.values(), *ignored}],
        ignored=ignored,
        options={"end_ids": gguf_metadata.end_ids(metadata)},
        vocabulary=gguf_tokenizer.description(metadata, path),
        beside=gguf_metadata.beside(metadata, config),
    )


def _open(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns {key: value} and {name: `gguf.ReaderTensor`}."""
    if not is_format(path):
        raise UserError(f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}")
    # The package takes its time to import and is needed for these files only.
    import gguf

    class Reader(gguf.GGUFReader):
        """Slices a plain array in place of `numpy.memmap`, which is three times slower."""

        @property
        def data(self) -> np.ndarray:
            return self._data

        @data.setter
        def data(self, mapped: np.ndarray):
            self._data = np.asarray(mapped)

    try:
        reader = Reader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is damaged, perhaps cut short: {reason}") from None
    if reader.byte_order != "I":
        raise UserError(f"{path} is of the other byte order; convert it with gguf-convert-endian")
    return metadata, {tensor.name: tensor for tensor in reader.tensors}


def _our_path(name: str, architecture: str) -> str | None:
    if match := re.fullmatch(r"blk\.(\d+)\.(.+)", name):
        known = LAYER | QK_NORM if architecture == "qwen3" else LAYER
        inside = known.get(match[2])
        return inside and f"decoder/layers_{match[1]}/{inside}"
    return TOP.get(name)


def _config(
    path: str, architecture: str, metadata: Mapping[str, Any], tensors: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns fields of the network's configuration."""

    def need(key: str, default=None):
        value = metadata.get(f"{architecture}.{key}", default)
        # Some files list a number for each layer.
        several = set(value) if isinstance(value, list) else {value}
        if value is None or len(several) != 1:
            what = "lacks" if value is None else "has layers of different"
            raise UserError(f"{path} {what} {architecture}.{key}; it cannot be read as a model")
        return several.pop()

    if "token_embd.weight" not in tensors:
        raise UserError(f"{path} has no tensor token_embd.weight; it holds no whole model")
    emb_dim, num_heads = need("embedding_length"), need("attention.head_count")
    head_dim = need("attention.key_length", emb_dim // num_heads)
    for key, wanted in {
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "expert_count": 0,
    }.items():
        if (found := need(key, wanted)) != wanted:
            raise UserError(f"{path} has {architecture}.{key} = {found}; only {wanted} can be read")
    return {
        "vocab_size": int(tensors["token_embd.weight"].shape[1]),
        "emb_dim": emb_dim,
        "num_heads": num_heads,
        "num_kv_heads": need("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "mlp_dim": need("feed_forward_length"),
        "num_layers": need("block_count"),
        "norm_epsilon": _short(need("attention.layer_norm_rms_epsilon")),
        "rope_base": _short(need("rope.freq_base", 10000.0)),
        "rope_scaling": _named_scaling(path, need)
        or _rope_scaling(path, tensors, head_dim, need("rope.freq_base", 10000.0)),
        "max_positions": need("context_length", 0) or None,
        "qkv_bias": "blk.0.attn_q.bias" in tensors,
        "out_bias": "blk.0.attn_output.bias" in tensors,
        "mlp_bias": "blk.0.ffn_down.bias" in tensors,
        "qk_norm": architecture == "qwen3" and "blk.0.attn_q_norm.weight" in tensors,
        "logits_via_embedding": "output.weight" not in tensors,
    }


def _short(number: float) -> float:
    """Returns the shortest decimal of a float32: 1e-5 in place of 9.99999974e-6."""
    return float(str(np.float32(number)))


def _named_scaling(path: str, need) -> tuple | None:
    """Returns the scaling that the metadata name, as `networks.rotary` takes it."""
    # Without a type a factor is linear, as it was when there was one kind only.
    kind, factor = need("rope.scaling.type", "linear"), need("rope.scaling.factor", 0.0)
    if kind not in ("none", "linear", "yarn"):
        raise UserError(
            f"{path} has rope.scaling.type = {kind}; only none, linear and yarn can be read"
        )
    factor = _short(factor or need("rope.scale_linear", 1.0))
    if kind == "none" or factor == 1.0:
        return None
    if kind != "yarn":
        return ("linear", factor)
    original = need("rope.scaling.original_context_length", 0) or need("context_length")
    magnitude = need("rope.scaling.attn_factor", 1.0) * (0.1 * math.log(factor) + 1.0)
    fast, slow = need("rope.scaling.yarn_beta_fast", 32.0), need("rope.scaling.yarn_beta_slow", 1.0)
    return ("yarn", factor, int(original), float(fast), float(slow), magnitude, True)


def _rope_scaling(path, tensors, head_dim: int, base: float) -> tuple | None:
    """Finds the scaling of Llama 3 in the divisors [D/2] of its rotary frequencies."""
    if ROPE_FREQUENCIES not in tensors:
        return None
    found = _values(path, tensors[ROPE_FREQUENCIES])
    low, high, original = LLAMA3_ROPE
    wavelengths = 2 * np.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    factor = float(found.max())
    divisors = 1 / ((1 - smooth) / factor + smooth)
    if found.shape != divisors.shape or not np.allclose(found, divisors, rtol=1e-4):
        raise UserError(
            f"{path}: {ROPE_FREQUENCIES} is not the scaling of Llama 3, the only one that is known"
        )
    return (_short(factor), low, high, original)


def _paired_heads(
    path: str, names: Mapping[str, str], config: Mapping[str, Any], tensors: Mapping[str, Any]
) -> dict[str, int]:
    """Returns {our path: number of heads} of queries and keys."""
    heads = {"query": config["num_heads"], "key": config["num_kv_heads"]}
    found = {our: heads[part] for our in names if (part := our.split("/")[-2]) in heads}
    for our, number in found.items():
        rows = int(tensors[names[our]].shape[-1])
        if rows != number * config["head_dim"]:
            raise UserError(
                f"{path}: {names[our]} has {rows} rows, not {number} heads of {config['head_dim']}"
            )
    return found


def _half_split(rows: np.ndarray, heads: int) -> np.ndarray:
    """Brings the rows [heads * D, ...] of each head from order 0, D/2, 1, D/2 + 1, … to 0, 1, …"""
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _dtype(path: str, tensor) -> np.dtype:
    """Returns the dtype that `_values` will give."""
    import gguf

    plain = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
    kind = tensor.tensor_type
    if kind.name in plain:
        return np.dtype(plain[kind.name])
    try:
        block = np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
        return gguf.quants.dequantize(block, kind).dtype
    except NotImplementedError:
        raise UserError(
            f"{path}: {tensor.name} is of type {kind.name}, which cannot be dequantised; choose "
            "another file, such as Q8_0 or F16"
        ) from None


def _values(path: str, tensor) -> np.ndarray:
    """Returns a tensor of the file: [out, in] of weights."""
    import gguf

    if tensor.tensor_type.name in ("F32", "F16"):
        return tensor.data
    if tensor.tensor_type.name == "BF16":
        return tensor.data.view(ml_dtypes.bfloat16)
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)
