"""The prefix of a PEFT folder in our layout, and back.

PEFT keeps keys and values of all layers in one matrix `[P, L * 2 * Nkv * D]`, as its cache has
them: layer by layer, keys before values, keys already rotated. Of an encoder-decoder they are those
of the decoder's self-attention.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from promot_jax.base.errors import UserError
from promot_jax.checkpoints.formats import huggingface_names as names

KEYS, VALUES = "decoder/keys", "decoder/values"


def to_ours(
    matrix: np.ndarray,
    about: Mapping[str, Any],
    family: str,
    config: Mapping[str, Any],
    where: str,
) -> dict[str, np.ndarray]:
    """Returns float32 `decoder/keys` and `decoder/values` [L, P, Nkv*D] of PEFT's matrix.

    Args:
      matrix: `[P, L * 2 * Nkv * D]`.
      about: content of adapter_config.json.
      family: of the base model, `t5` or `decoder`.
      config: fields of its configuration.
      where: the file, for errors.

    Raises:
      UserError: it belongs to another model.
    """
    layers, width = _sizes(family, config)
    theirs = about.get("num_layers", layers), about.get("token_dim", width)
    if theirs != (layers, width) or matrix.shape[1] != layers * 2 * width:
        raise UserError(
            f"{where}: the prefix is {theirs[0]} layers x {theirs[1]} numbers in rows of "
            f"{matrix.shape[1]}, the model needs {layers} layers x {width} (times 2); it belongs "
            "to another model"
        )
    parts = matrix.astype(np.float32).reshape(len(matrix), layers, 2, width)
    keys, values = parts[:, :, 0], parts[:, :, 1]
    rename = _key(family, config)
    # A key's features are the columns of the kernel that makes it.
    return {
        KEYS: np.stack([rename.to_ours(keys[:, layer].T) for layer in range(layers)]),
        VALUES: np.swapaxes(values, 0, 1).copy(),
    }


def to_theirs(
    keys: np.ndarray, values: np.ndarray, family: str, config: Mapping[str, Any]
) -> np.ndarray:
    """Inverse of `to_ours`."""
    rename = _key(family, config)
    layers = [(rename.to_theirs(key).T, value) for key, value in zip(keys, values, strict=True)]
    return np.concatenate([part for layer in layers for part in layer], axis=1)


def settings(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what PEFT's configuration says of the sizes."""
    layers, width = _sizes(family, config)
    heads = config["num_heads"] if family == "t5" else config["num_kv_heads"]
    return {
        "peft_type": "PREFIX_TUNING",
        "num_layers": layers,
        "token_dim": width,
        "num_attention_heads": heads,
        "encoder_hidden_size": width,
        "prefix_projection": False,
        "num_transformer_submodules": 2 if family == "t5" else 1,
    }


def _sizes(family: str, config: Mapping[str, Any]) -> tuple[int, int]:
    if family == "t5":
        return config["num_decoder_layers"], config["num_heads"] * config["head_dim"]
    return config["num_layers"], config["num_kv_heads"] * config["head_dim"]


def _key(family: str, config: Mapping[str, Any]) -> names.Rename:
    return names.table(family, config)["decoder/layers_0/self_attention/key/kernel"]
