"""The chat template of a checkpoint."""

import dataclasses
import datetime
import functools
import os
from typing import Any

from etils import epath

from promot_jax.base import values
from promot_jax.base.errors import UserError, first_line
from promot_jax.checkpoints.formats import known
from promot_jax.checkpoints.formats.source import Source
from promot_jax.checkpoints.pretrained import beside, find_vocabulary
from promot_jax.data import chat_template, vocabularies
from promot_jax.data.chat_template import ChatTemplate

# Said of a checkpoint.
NO_TEMPLATE = "{} has no chat template; give the text of one by --chat_template FILE"


def of_source(source: Source | None, vocabulary, given: str | None = None) -> ChatTemplate | None:
    """Returns the chat template of a checkpoint, None where it has none.

    Args:
      source: what the model is read from, None for none.
      vocabulary: of the model; its tokens stand for those that no file names.
      given: a file of a person's own, in place of the checkpoint's.

    Raises:
      UserError: a template that cannot be read.
    """
    files = {} if source is None else beside(source, vocabulary)
    where = "" if source is None else source.path
    found = chat_template.read(files, where)
    tokens = chat_template.tokens(files, where)
    if isinstance(vocabulary, vocabularies.Tokenizer):
        ids = {"bos_token": vocabulary.start_id, "eos_token": vocabulary.eos_id}
        named = vocabulary.tokenizer.id_to_token
        tokens = {k: named(i) for k, i in ids.items() if i is not None} | tokens
    if given is not None:
        return chat_template.of_text(_read_text(given), given, tokens)
    return None if found is None else dataclasses.replace(found, tokens=tokens)


def read(
    path: values.Text | None,
    vocabulary: Any = None,
    given: values.Text | None = None,
    day: values.Text = "2024-07-26",
) -> tuple[ChatTemplate, str]:
    """Returns the chat template of a checkpoint, and the family of its model.

    Args:
      path, vocabulary: see `open_model`.
      given: a file with another template.
      day: which templates that tell the date take for today, so that rows stay the same ones.

    Raises:
      UserError: there is none, or it cannot be read; or no such day.
    """
    try:
        today = datetime.datetime.fromisoformat(day)
    except ValueError:
        raise UserError(f"CHAT_DAY {day!r} is no date; write it as 2024-07-26") from None
    if path is None:
        raise UserError("rows of chat need the template of a model; name one by --checkpoint")
    named = vocabulary if isinstance(vocabulary, str) else None
    stamps = tuple(_stamp(file) for file in (path, named, given) if file is not None)
    found, family = _template(path, named, given, stamps)
    return dataclasses.replace(found, day=today), family


@functools.lru_cache(maxsize=8)
def _template(path, vocabulary, given, stamps) -> tuple[ChatTemplate, str]:
    """Opens a checkpoint for its template alone, once: a configuration asks for it many times."""
    del stamps
    source = known.open_checkpoint(path)
    found = of_source(source, find_vocabulary(source, vocabulary), given)
    if found is None:
        raise UserError(NO_TEMPLATE.format(path))
    return found, source.family or "decoder"


def _stamp(path: str) -> tuple:
    """Returns what differs once a file, or one of a folder's, has changed."""
    names = sorted(os.listdir(path)) if os.path.isdir(path) else [""]
    files = [file for name in names if os.path.exists(file := os.path.join(path, name).rstrip("/"))]
    return tuple((f, (about := os.stat(f)).st_mtime_ns, about.st_size) for f in files)


def _read_text(path: str) -> str:
    try:
        return epath.Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"chat template {path} cannot be read: {first_line(error)}") from None
