"""Vocabularies as files: Hugging Face tokenizers for seqio, saved beside a model and loaded again.

A saved vocabulary is a description, such as `{"kind": "sentencepiece", "file": "spiece.model",
"extra_ids": 100}`, which is T5's, or `{"kind": "tokenizers", "file": "tokenizer.json",
"eos_token": "</s>"}`, whose file may be a `tokenizer.model` as Llama 2 has it.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tokenizers

from promot_jax.base.errors import UserError
from promot_jax.data import sentencepiece_bpe

# The ends of sequence of the usual models, for a tokenizer.json that stands alone.
KNOWN_EOS = ("</s>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<eos>")
# Files beside a tokenizer.json that name its end of sequence; the first that does so counts.
SETTINGS = "tokenizer_config.json"
NEIGHBOURS = (
    SETTINGS,
    "special_tokens_map.json",
    "generation_config.json",
    "config.json",
)
# The class of transformers that has no file.
BYT5 = "ByT5Tokenizer"


class ByteVocabulary(seqio.ByteVocabulary):
    """ByT5's vocabulary, which needs no file: id 3 + b is byte b, 0 padding, 1 the end, 2 unknown.

    Unlike seqio's it can be part of a model, which must be hashable.
    """

    def __hash__(self) -> int:
        return hash((type(self), self.extra_ids))

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)


class Tokenizer(seqio.Vocabulary):
    """The `tokenizer.json` of Hugging Face's tokenizers as a seqio vocabulary.

    Nothing is read before the first use. `encode` adds no tokens; special tokens that the text
    spells out, such as `<|im_end|>`, become their ids. `decode` ends before the first
    end-of-sequence token and shows every other token, special or not. Id 0 is an ordinary token
    here: whoever pads with 0 must cut the padding. What the `tokenizer_config.json` beside the file
    says of added tokens and of the start token counts, as it does for transformers.

    Attributes:
      path: local or remote path of the file, as given; a mere name after `from_json`.
      eos_token: as given.
    """

    def __init__(self, path: str, eos_token: str | None = None):
        """Names the file.

        Args:
          path: a tokenizer.json.
          eos_token: ends a sequence. By default the files beside `path` tell (see `NEIGHBOURS`);
            where none does, it is the first of `KNOWN_EOS` in the vocabulary.
        """
        super().__init__()
        self.path = os.fspath(path)
        self.eos_token = eos_token
        self._given: str | None = None

    @classmethod
    def from_json(
        cls, text: str, eos_token: str | None = None, name: str = "tokenizer.json"
    ) -> "Tokenizer":
        """Returns the tokenizer whose file would hold `text`; errors call it `name`."""
        tokenizer = cls(name, eos_token)
        tokenizer._given = text
        return tokenizer

    @functools.cached_property
    def text(self) -> str:
        """Content of the file.

        Raises:
          UserError: there is no such file.
        """
        if self._given is not None:
            return self._given
        return _read(self.path).decode(errors="replace")

    @functools.cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer, without padding and truncation.

        Raises:
          UserError: the file is missing or is no tokenizer.
        """
        try:
            opened = tokenizers.Tokenizer.from_str(self.text)
        except UserError:
            raise
        except Exception as error:  # the library raises nothing more specific
            reason = " ".join(str(error).split())[:120]
            raise UserError(
                f"{self.path} holds no tokenizer that the tokenizers library reads: {reason}"
            ) from None
        opened.no_padding()
        opened.no_truncation()
        opened.add_tokens(self._further_tokens(opened))
        return opened

    def _further_tokens(self, opened: tokenizers.Tokenizer) -> list[tokenizers.AddedToken]:
        """Returns the tokens that the files beside have and the tokenizer has not, by their ids."""
        known = self._beside("added_tokens.json")
        further = {number: {"content": token} for token, number in known.items()}
        for number, about in (self._beside(SETTINGS).get("added_tokens_decoder") or {}).items():
            further[int(number)] = about
        fields = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
        return [
            tokenizers.AddedToken(**{k: v for k, v in about.items() if k in fields})
            for _, about in sorted(further.items())
            if opened.token_to_id(about["content"]) is None
        ]

    def _beside(self, name: str) -> Mapping[str, Any]:
        """Returns what a JSON file beside this one holds, {} where there is none."""
        path = os.path.join(os.path.dirname(self.path), name)
        if self._given is not None or not tf.io.gfile.exists(path):
            return {}
        try:
            return json.loads(_read(path))
        except ValueError:
            raise UserError(f"{path} is not JSON; mend it or set eos_token") from None

    @functools.cached_property
    def eos_id(self) -> int:
        """Id of the end-of-sequence token.

        Raises:
          UserError: the vocabulary lacks the token, or nothing tells which it is.
        """
        named = self.eos_token if self.eos_token is not None else self._neighbours_eos()
        candidates = KNOWN_EOS if named is None else (named,)
        ids = [self.tokenizer.token_to_id(token) for token in candidates]
        if found := [i for i in ids if i is not None]:
            return found[0]
        what = "nothing tells" if named is None else f"it has no token {named!r}, which should be"
        raise UserError(f"{self.path}: {what} the end of a sequence; set eos_token")

    def _neighbours_eos(self) -> str | None:
        for name in NEIGHBOURS:
            content = self._beside(name)
            token, number = _content(content.get("eos_token")), content.get("eos_token_id")
            number = number[0] if isinstance(number, list) and number else number
            if token is None and number is not None:
                token = self.tokenizer.id_to_token(number)
            if token is not None:
                return token
        return None

    @functools.cached_property
    def start_id(self) -> int | None:
        """Id of the token that this tokenizer puts before every text; None where it puts none."""
        settings = self._beside(SETTINGS)
        # Named at all, the two replace what the tokenizer itself would add.
        if {"add_bos_token", "add_eos_token"} & settings.keys():
            bos = settings.get("bos_token") or self._beside(NEIGHBOURS[1]).get("bos_token")
            if not settings.get("add_bos_token"):
                return None
            if bos is not None:
                return self.tokenizer.token_to_id(_content(bos))
        encoded = self.tokenizer.encode("a")
        return encoded.ids[0] if encoded.special_tokens_mask[0] else None

    @property
    def bos_id(self) -> int | None:
        """As `start_id`."""
        return self.start_id

    @property
    def unk_id(self) -> None:
        """None: an unknown token, if there is one, is an ordinary token."""
        return None

    @functools.cached_property
    def _base_vocab_size(self) -> int:
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    def _encode(self, s: str) -> list[int]:
        return self.tokenizer.encode(s, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of the ids before the first end of sequence."""
        ids = np.asarray(ids if tf.is_tensor(ids) else list(ids), np.int64).tolist()
        return self._decode(ids[: ids.index(self.eos_id)] if self.eos_id in ids else ids)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
        """Ids [T] of one text, ragged [texts, T] of several."""
        _ = self.tokenizer  # A bad file is found here, before TensorFlow hides the error.

        def encode(texts):
            rows = [self._encode(t.decode(errors="replace")) for t in np.reshape(texts, -1)]
            lengths = np.array([len(row) for row in rows], np.int64)
            return np.array([i for row in rows for i in row], np.int32), lengths

        s = tf.convert_to_tensor(s, tf.string)
        if s.shape.rank not in (0, 1):
            raise ValueError(f"texts of shape {s.shape}; one text or a list of texts expected")
        ids, lengths = tf.numpy_function(encode, [s], [tf.int32, tf.int64], stateful=False)
        ids.set_shape([None])
        lengths.set_shape([None])
        return tf.RaggedTensor.from_row_lengths(ids, lengths) if s.shape.rank else ids

    def decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the texts [...] of ids [..., T], each ended as `decode` does."""
        return self._decode_tf(ids)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(rows):
            count = int(np.prod(rows.shape[:-1]))
            texts = [self.decode(row).encode() for row in rows.reshape(count, rows.shape[-1])]
            return np.array(texts, object).reshape(rows.shape[:-1])

        ids = tf.convert_to_tensor(ids)
        texts = tf.numpy_function(decode, [ids], tf.string, stateful=False)
        texts.set_shape(ids.shape[:-1])
        return texts

    def __getstate__(self) -> dict[str, Any]:
        # gin copies its arguments; what was read is read again.
        lazy = {"text", "tokenizer", "eos_id", "start_id", "_base_vocab_size"}
        return {name: value for name, value in self.__dict__.items() if name not in lazy}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokenizer):
            return False
        if self.__getstate__() == other.__getstate__():
            return True
        return self.text == other.text and self.eos_id == other.eos_id

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return f"Tokenizer(path={self.path}, eos_token={self.eos_token})"


class SentencePieceTokenizer(Tokenizer):
    """The `tokenizer.model` of a decoder-only model; see `sentencepiece_bpe`."""

    @functools.cached_property
    def text(self) -> str:
        """The tokenizer as a `tokenizer.json` would hold it.

        Raises:
          UserError: the file is missing or is no SentencePiece model.
        """
        try:
            return sentencepiece_bpe.build(self.content, self._beside(SETTINGS)).to_str()
        except ValueError as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(
                f"{self.path} holds no SentencePiece model ({reason}); copy it again"
            ) from None

    @property
    def content(self) -> bytes:
        """Of the file."""
        return _read(self.path)

    def _neighbours_eos(self) -> str | None:
        return super()._neighbours_eos() or sentencepiece_bpe.eos_piece(self.content)


def load(description: Mapping[str, Any], folder: str | os.PathLike) -> seqio.Vocabulary:
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
    vocabulary = seqio.SentencePieceVocabulary(path, description.get("extra_ids", 0))
    try:
        _ = vocabulary.vocab_size
    except Exception as error:  # of the file system, of protocol buffers or of SentencePiece
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path} holds no SentencePiece model ({reason}); copy it again") from None
    return vocabulary


def save(vocabulary: seqio.Vocabulary, folder: str | os.PathLike) -> dict[str, Any] | None:
    """Copies a vocabulary into a folder, which may be remote and need not exist.

    Returns:
      The description that `load` takes; None, with nothing written, for a vocabulary that is
      neither a `Tokenizer`, a ByteVocabulary nor a SentencePieceVocabulary with seqio's default
      settings.

    Raises:
      UserError: the vocabulary's file cannot be read.
    """
    if isinstance(vocabulary, Tokenizer):
        eos_token = vocabulary.tokenizer.id_to_token(vocabulary.eos_id)
        if isinstance(vocabulary, SentencePieceTokenizer):
            file, content = "tokenizer.model", vocabulary.content
        else:
            file, content = "tokenizer.json", vocabulary.text.encode()
        _write(folder, file, content)
        return {"kind": "tokenizers", "file": file, "eos_token": eos_token}
    if isinstance(vocabulary, seqio.ByteVocabulary):
        return {"kind": "bytes", "extra_ids": vocabulary.extra_ids}
    if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
        return None
    file, extra_ids = vocabulary.sentencepiece_model_file, vocabulary.extra_ids
    if vocabulary != seqio.SentencePieceVocabulary(file, extra_ids):
        return None
    # The file itself: seqio adds the extra ids after it has read it.
    _write(folder, "spiece.model", _read(file))
    return {"kind": "sentencepiece", "file": "spiece.model", "extra_ids": extra_ids}


def huggingface_settings(vocabulary: seqio.Vocabulary) -> dict[str, Any]:
    """Returns the `tokenizer_config.json` that transformers needs beside the file of `save`.

    It is empty for a vocabulary that `save` does not write.
    """
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
    if isinstance(vocabulary, seqio.ByteVocabulary):
        special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        sentinels = [f"<extra_id_{i}>" for i in range(vocabulary.extra_ids)]
        added = {i: {"content": token} for i, token in enumerate([*special.values()])}
        added |= {259 + i: {"content": t, "special": True} for i, t in enumerate(sentinels)}
        about = {"tokenizer_class": BYT5, "extra_ids": 0, **special}
        return about | {"added_tokens_decoder": added, "extra_special_tokens": sentinels}
    if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
        return {}
    pieces = {"pad": vocabulary.pad_id, "eos": vocabulary.eos_id, "unk": vocabulary.unk_id}
    return {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": vocabulary.extra_ids,
        **{f"{name}_token": vocabulary.tokenizer.id_to_piece(i) for name, i in pieces.items()},
    }


def _content(token: Any) -> str | None:
    """Returns the text of a token, which files hold as such or with its properties."""
    return token.get("content") if isinstance(token, Mapping) else token


def _read(path: str) -> bytes:
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    except tf.errors.OpError as error:
        reason = "does not exist" if isinstance(error, tf.errors.NotFoundError) else "is unreadable"
        raise UserError(f"vocabulary {path} {reason}; check its path") from None


def _write(folder: str | os.PathLike, name: str, content: bytes) -> None:
    tf.io.gfile.makedirs(os.fspath(folder))
    with tf.io.gfile.GFile(os.path.join(folder, name), "wb") as file:
        file.write(content)


def identity(vocabulary: seqio.Vocabulary) -> dict[str, Any]:
    """Returns plain data that is equal where texts become the same ids, wherever its file lies.

    Raises:
      UserError: the vocabulary's file cannot be read.
    """
    found: dict[str, Any] = {"kind": type(vocabulary).__name__}
    for name in ("pad_id", "bos_id", "eos_id", "unk_id", "extra_ids", "vocab_size"):
        with contextlib.suppress(NotImplementedError):
            found[name] = getattr(vocabulary, name)
    state = dict(vocabulary.__getstate__() or {})
    if isinstance(vocabulary, Tokenizer):
        for name in ("path", "eos_token", "_given"):
            del state[name]
        found["content"] = hashlib.sha256(vocabulary.text.encode()).hexdigest()
    elif isinstance(vocabulary, seqio.SentencePieceVocabulary):
        content = _read(state.pop("_sentencepiece_model_file"))
        found["content"] = hashlib.sha256(content).hexdigest()
    for name, value in sorted(state.items()):
        # What is read on first use is there at one time and not at another.
        if isinstance(getattr(type(vocabulary), name, None), functools.cached_property):
            continue
        if isinstance(value, seqio.Vocabulary):
            found[name] = identity(value)
        elif isinstance(value, str) and os.path.isfile(value):
            found[name] = hashlib.sha256(_read(value)).hexdigest()
        elif isinstance(value, bool | int | float | str | bytes | list | tuple | dict):
            found[name] = repr(value)
        elif hasattr(value, "SerializeToString"):
            found[name] = value.SerializeToString(deterministic=True).hex()
    return found
