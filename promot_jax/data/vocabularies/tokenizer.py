"""Tokenizers of Hugging Face's library as vocabularies."""

import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers
from etils import epath

from promot_jax.base.errors import UserError
from promot_jax.data import sentencepiece_bpe
from promot_jax.data.vocabularies.vocabulary import Vocabulary, digest, plain_ids, read

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


class Tokenizer(Vocabulary):
    """The `tokenizer.json` of Hugging Face's tokenizers.

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
        return read(self.path).decode(errors="replace")

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
        if self._given is not None or not epath.Path(path).exists():
            return {}
        try:
            return json.loads(read(path))
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
    def vocab_size(self) -> int:
        """See `Vocabulary`."""
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    def encode(self, text: str) -> list[int]:
        """See `Vocabulary`."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Vocabulary`."""
        found = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of the ids before the first end of sequence."""
        ids = plain_ids(ids)
        ids = ids[: ids.index(self.eos_id)] if self.eos_id in ids else ids
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def identity(self) -> dict[str, Any]:
        """See `Vocabulary`; equal to what earlier versions wrote down."""
        names = ("pad_id", "bos_id", "eos_id", "unk_id", "extra_ids", "vocab_size")
        return {
            "kind": type(self).__name__,
            **{name: getattr(self, name) for name in names},
            "content": digest(self.text.encode()),
            "_extra_ids": repr(self.extra_ids),
        }

    def __getstate__(self) -> dict[str, Any]:
        # gin copies its arguments; what was read is read again.
        lazy = {"text", "tokenizer", "eos_id", "start_id", "vocab_size"}
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
        return read(self.path)

    def _neighbours_eos(self) -> str | None:
        return super()._neighbours_eos() or sentencepiece_bpe.eos_piece(self.content)


def _content(token: Any) -> str | None:
    """Returns the text of a token, which files hold as such or with its properties."""
    return token.get("content") if isinstance(token, Mapping) else token
