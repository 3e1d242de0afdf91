"""Opens a checkpoint of whatever format it is."""

import os

from promot_jax.base.errors import UserError, first_line
from promot_jax.checkpoints.formats import gguf, huggingface, native, t5x
from promot_jax.checkpoints.formats.source import Source

READERS = (native, huggingface, gguf, t5x)


def open_checkpoint(path: str | os.PathLike) -> Source:
    """Opens a model: our own folder, a Hugging Face folder, a GGUF file, a T5X checkpoint.

    Raises:
      UserError: nothing there, or nothing that one of the formats recognises.
    """
    path = os.fspath(path)
    for reader in READERS:
        if _is_format(reader, path):
            return reader.open_checkpoint(path)
    if "://" not in path and not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder")
    raise UserError(
        f"{path} holds no model checkpoint: expected a folder of promot_jax (model.json), of "
        "Hugging Face (config.json and safetensors) or of T5X (checkpoint_N), or a .gguf file"
    )


def _is_format(reader, path: str) -> bool:
    try:
        return reader.is_format(path)
    except UserError:
        raise
    # No network, no credentials, no such bucket: each raises its own.
    except Exception as error:
        reason = first_line(error)
        raise UserError(f"{path} cannot be reached ({reason}); check its address") from None
