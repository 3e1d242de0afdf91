"""T5X checkpoints, in both layouts; our parameter names are T5X's.

A checkpoint is a folder `checkpoint_N`. Legacy ones hold a file `checkpoint` (see `t5x_legacy`),
those of T5X's head a folder `state` (see `t5x_orbax`).
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from promot_jax.base.errors import UserError
from promot_jax.checkpoints.formats import byt5, stores, t5x_legacy, t5x_orbax
from promot_jax.checkpoints.formats.source import Source


def is_format(path: str) -> bool:
    """Returns whether `path` is a T5X checkpoint, or a model directory that holds some."""
    return _find(stores.absolute(path)) is not None


def open_checkpoint(path: str) -> Source:
    """Opens a checkpoint; its leaves are read one at a time.

    Args:
      path: a folder `checkpoint_N`, a model directory with such folders (the newest counts), or
        the file `checkpoint` of the legacy layout; local or `gs://`.

    Raises:
      UserError: no T5X checkpoint, a damaged one, or one with stacked layers.
    """
    found = _find(stores.absolute(path))
    if found is None:
        raise UserError(
            f"{path} is no T5X checkpoint: expected a folder checkpoint_N with a file checkpoint "
            "or a folder state, or the folder above"
        )
    source = t5x_orbax.open_state(found) if found.name == "state" else t5x_legacy.open_index(found)
    stacked = [leaf for leaf in source.leaves if re.match(r"(encoder|decoder)/\1/", leaf)]
    if stacked:
        raise UserError(
            f"{path} has stacked layers ({stacked[0]}), as scalable_t5 trains them; convert it "
            "with T5X to a network with scan_layers = False"
        )
    config = t5_config(source.leaves)
    source = dataclasses.replace(
        source, path=path, family="t5" if config else None, config=config or {}
    )
    if source.config.get("vocab_size") == byt5.ROWS:
        source = dataclasses.replace(source, vocabulary=byt5.of_rows(byt5.ROWS))
    return source


def t5_config(leaves: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any] | None:
    """Returns the fields of `networks.t5.T5Config` that the shapes of its parameters tell.

    Soft prompts and adapters are left aside.

    Args:
      leaves: {path: anything with a shape}.

    Returns:
      The fields, or None when the leaves are not those of a T5.
    """
    try:
        vocab_size, emb_dim = leaves["token_embedder/embedding"].shape
        num_heads = leaves["encoder/relpos_bias/rel_embedding"].shape[0]
        joined = leaves["decoder/layers_0/encoder_decoder_attention/query/kernel"].shape[1]
        mlp_dim = leaves["decoder/layers_0/mlp/wo/kernel"].shape[0]
    except (KeyError, ValueError, IndexError):
        return None
    if num_heads == 0 or joined % num_heads:
        return None
    gated = "decoder/layers_0/mlp/wi_0/kernel" in leaves
    return {
        "vocab_size": vocab_size,
        "emb_dim": emb_dim,
        "num_heads": num_heads,
        "head_dim": joined // num_heads,
        "mlp_dim": mlp_dim,
        "num_encoder_layers": _layers(leaves, "encoder"),
        "num_decoder_layers": _layers(leaves, "decoder"),
        "mlp_activations": ("gelu", "linear") if gated else ("relu",),
        "logits_via_embedding": "decoder/logits_dense/kernel" not in leaves,
    }


def _layers(leaves: Mapping[str, Any], stack: str) -> int:
    matches = (re.match(rf"{stack}/layers_(\d+)/", leaf) for leaf in leaves)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def _find(path: epath.Path) -> epath.Path | None:
    """Returns the index file of a legacy checkpoint, the folder `state` of another, or None."""
    if not path.is_dir():
        return path if path.exists() and t5x_legacy.is_index(path) else None
    if (path / "state" / "_METADATA").exists():
        return path / "state"
    if t5x_legacy.is_index(path / "checkpoint"):
        return path / "checkpoint"
    steps = {
        int(match[1]): inner
        for inner in path.iterdir()
        if (match := re.fullmatch(r"checkpoint_(\d+)", inner.name))
    }
    return _find(steps[max(steps)]) if steps else None
