"""Opens a checkpoint of whatever format it is, and writes one in a format by name."""

import importlib
import os
import pathlib

from promot_jax.base.errors import UserError, first_line
from promot_jax.checkpoints import formats
from promot_jax.checkpoints.formats.source import Content, Source


def open_checkpoint(path: str | os.PathLike) -> Source:
    """Opens a model: our own folder, a Hugging Face folder, a GGUF file, a T5X checkpoint.

    Raises:
      UserError: nothing there, or nothing that one of the formats recognises.
    """
    path = os.fspath(path)
    for name in filter(None, (about.reader for about in formats.FORMATS.values())):
        reader = _module(name)
        if _is_format(reader, path):
            return reader.open_checkpoint(path)
    if "://" not in path and not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder")
    raise UserError(
        f"{path} holds no model checkpoint: expected a folder of promot_jax (model.json), of "
        "Hugging Face (config.json and safetensors) or of T5X (checkpoint_N), or a .gguf file"
    )


def save(format_name: str, folder: pathlib.Path, content: Content) -> None:
    """Writes a model, or an adapter, into a new folder.

    Args:
      format_name: one of `formats.WRITTEN`.
      folder: must not exist.
      content: what to write.

    Raises:
      UserError: content that the format cannot express, a folder that exists or cannot be written.
    """
    _module(formats.FORMATS[format_name].writer).save(folder, content)


def _module(name: str):
    return importlib.import_module(f"{formats.__name__}.{name}")


def _is_format(reader, path: str) -> bool:
    try:
        return reader.is_format(path)
    except UserError:
        raise
    # No network, no credentials, no such bucket: each raises its own.
    except Exception as error:
        reason = first_line(error)
        raise UserError(f"{path} cannot be reached ({reason}); check its address") from None
