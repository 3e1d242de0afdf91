"""Vocabularies as files: saved beside a model and loaded again.

A saved vocabulary is a description, such as `{"kind": "sentencepiece", "file": "spiece.model",
"extra_ids": 100}`, which is T5's, or `{"kind": "tokenizers", "file": "tokenizer.json",
"eos_token": "</s>"}`, whose file may be a `tokenizer.model` as Llama 2 has it.
"""

import os
from collections.abc import Mapping
from typing import Any

from promot_jax.base.errors import UserError
from promot_jax.data.vocabularies.adapted import native
from promot_jax.data.vocabularies.byte import ByteVocabulary
from promot_jax.data.vocabularies.sentencepiece import SentencePieceVocabulary
from promot_jax.data.vocabularies.tokenizer import SentencePieceTokenizer, Tokenizer
from promot_jax.data.vocabularies.vocabulary import Vocabulary, read, write

# The class of transformers that has no file.
BYT5 = "ByT5Tokenizer"


def load(description: Mapping[str, Any], folder: str | os.PathLike) -> Vocabulary:
    """Returns the vocabulary that a description names.

    Args:
      description: of kind `sentencepiece` with `file` and, optionally, `extra_ids`; or of kind
        `tokenizers` with `file`, a tokenizer.json or a SentencePiece model, or with the content
        of a tokenizer.json as `json`, and, optionally, `eos_token`; or of kind `bytes` with,
        optionally, `extra_ids`.
      folder: local or remote; `file` is relative to it unless absolute or remote. Errors of a
        `json` name it.

    Raises:
      UserError: an unknown kind, a local file that does not exist, or no SentencePiece model.
    """
    kind = description.get("kind")
    if kind == "bytes":
        return ByteVocabulary(description.get("extra_ids", 0))
    if kind not in ("sentencepiece", "tokenizers"):
        raise UserError(
            f"{folder} has a vocabulary of kind {kind!r}; it must be sentencepiece, tokenizers or "
            "bytes"
        )
    if kind == "tokenizers" and "json" in description:
        return Tokenizer.from_json(
            description["json"], description.get("eos_token"), os.fspath(folder)
        )
    if "file" not in description:
        raise UserError(f"{folder}: its vocabulary of kind {kind} names no file")
    file = description["file"]
    path = file if "://" in file else os.path.join(folder, file)
    if "://" not in path and not os.path.isfile(path):
        raise UserError(f"there is no vocabulary {path}")
    if kind == "tokenizers":
        opened = SentencePieceTokenizer if path.endswith(".model") else Tokenizer
        return opened(path, description.get("eos_token"))
    vocabulary = SentencePieceVocabulary(path, description.get("extra_ids", 0))
    _ = vocabulary.vocab_size
    return vocabulary


def save(vocabulary: Vocabulary, folder: str | os.PathLike) -> dict[str, Any] | None:
    """Copies a vocabulary into a folder, which may be remote and need not exist.

    Returns:
      The description that `load` takes; None, with nothing written, for a vocabulary that is
      none of this package.

    Raises:
      UserError: the vocabulary's file cannot be read.
    """
    vocabulary = native(vocabulary)
    if isinstance(vocabulary, Tokenizer):
        eos_token = vocabulary.tokenizer.id_to_token(vocabulary.eos_id)
        if isinstance(vocabulary, SentencePieceTokenizer):
            file, content = "tokenizer.model", vocabulary.content
        else:
            file, content = "tokenizer.json", vocabulary.text.encode()
        write(folder, file, content)
        return {"kind": "tokenizers", "file": file, "eos_token": eos_token}
    if isinstance(vocabulary, ByteVocabulary):
        return {"kind": "bytes", "extra_ids": vocabulary.extra_ids}
    if not isinstance(vocabulary, SentencePieceVocabulary):
        return None
    # The file itself, to which its sentinels are added when it is read.
    write(folder, "spiece.model", read(vocabulary.sentencepiece_model_file))
    return {"kind": "sentencepiece", "file": "spiece.model", "extra_ids": vocabulary.extra_ids}


def huggingface_settings(vocabulary: Vocabulary) -> dict[str, Any]:
    """Returns the `tokenizer_config.json` that transformers needs beside the file of `save`.

    It is empty for a vocabulary that `save` does not write.
    """
    vocabulary = native(vocabulary)
    if isinstance(vocabulary, Tokenizer):
        named = vocabulary.tokenizer.id_to_token
        eos_token = named(vocabulary.eos_id)
        # Nothing tells a token for padding; one must be named, and it is never looked at.
        settings = {"eos_token": eos_token, "pad_token": eos_token}
        if vocabulary.start_id is not None:
            settings |= {"bos_token": named(vocabulary.start_id)}
        if not isinstance(vocabulary, SentencePieceTokenizer):
            return settings | {"tokenizer_class": "PreTrainedTokenizerFast"}
        started = {"add_bos_token": vocabulary.start_id is not None, "add_eos_token": False}
        return settings | started | {"tokenizer_class": "LlamaTokenizer", "legacy": False}
    if isinstance(vocabulary, ByteVocabulary):
        special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        sentinels = [f"<extra_id_{i}>" for i in range(vocabulary.extra_ids)]
        added = {i: {"content": token} for i, token in enumerate([*special.values()])}
        added |= {259 + i: {"content": t, "special": True} for i, t in enumerate(sentinels)}
        about = {"tokenizer_class": BYT5, "extra_ids": 0, **special}
        return about | {"added_tokens_decoder": added, "extra_special_tokens": sentinels}
    if not isinstance(vocabulary, SentencePieceVocabulary):
        return {}
    pieces = {"pad": vocabulary.pad_id, "eos": vocabulary.eos_id, "unk": vocabulary.unk_id}
    return {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": vocabulary.extra_ids,
        **{f"{name}_token": vocabulary.tokenizer.id_to_piece(i) for name, i in pieces.items()},
    }
