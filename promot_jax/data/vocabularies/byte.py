"""ByT5's vocabulary: the bytes of a text."""

from collections.abc import Iterable
from typing import Any

from promot_jax.data.vocabularies.vocabulary import Vocabulary, plain_ids

# Before the bytes: padding, the end, unknown.
SPECIAL = 3


class ByteVocabulary(Vocabulary):
    """ByT5's vocabulary, which needs no file: id 3 + b is byte b, 0 padding, 1 the end, 2 unknown.

    Special tokens and extra ids are nothing in a decoded text, as are bytes that
    make no character.
    """

    eos_id = 1
    unk_id = 2

    @property
    def vocab_size(self) -> int:
        """See `Vocabulary`."""
        return SPECIAL + 256 + self.extra_ids

    def encode(self, text: str) -> list[int]:
        """See `Vocabulary`."""
        return [SPECIAL + byte for byte in text.encode()]

    def decode(self, ids: Iterable[int]) -> str:
        """See `Vocabulary`."""
        ids = plain_ids(ids)
        ids = ids[: ids.index(self.eos_id)] if self.eos_id in ids else ids
        kept = bytes(i - SPECIAL for i in ids if SPECIAL <= i < SPECIAL + 256)
        return kept.decode(errors="ignore")

    def identity(self) -> dict[str, Any]:
        """See `Vocabulary`; equal to what earlier versions wrote down."""
        sizes = {"_byte_size": "256", "_extra_ids": repr(self.extra_ids)}
        ids = {name: getattr(self, name) for name in ("pad_id", "bos_id", "eos_id", "unk_id")}
        return {
            "kind": "ByteVocabulary",
            **ids,
            "extra_ids": self.extra_ids,
            "vocab_size": self.vocab_size,
            **sizes,
            "_num_special_tokens": repr(SPECIAL),
        }

    def __hash__(self) -> int:
        return hash((type(self), self.extra_ids))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByteVocabulary) and self.extra_ids == other.extra_ids
