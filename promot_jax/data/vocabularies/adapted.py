"""Vocabularies of other packages, seqio's above all, as ours."""

import functools
import os
import sys
from collections.abc import Iterable
from typing import Any

from promot_jax.data.vocabularies.byte import ByteVocabulary
from promot_jax.data.vocabularies.sentencepiece import SentencePieceVocabulary
from promot_jax.data.vocabularies.vocabulary import Vocabulary, digest, read


class Adapted(Vocabulary):
    """A vocabulary that is not of this package but has seqio's methods.

    Attributes:
      own: that vocabulary.
    """

    def __init__(self, own: Any):
        super().__init__(getattr(own, "extra_ids", 0))
        self.own = own

    @property
    def eos_id(self) -> int | None:
        """See `Vocabulary`."""
        return self.own.eos_id

    @property
    def unk_id(self) -> int | None:
        """See `Vocabulary`."""
        return self.own.unk_id

    @property
    def vocab_size(self) -> int:
        """See `Vocabulary`."""
        return self.own.vocab_size

    def encode(self, text: str) -> list[int]:
        """See `Vocabulary`."""
        return [int(i) for i in self.own.encode(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """See `Vocabulary`."""
        return self.own.decode(ids)

    def identity(self) -> dict[str, Any]:
        """See `Vocabulary`; what the other vocabulary holds, its files by their content."""
        return _identity(self.own)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Adapted) and self.own == other.own

    def __hash__(self) -> int:
        return hash(type(self.own))


def is_one(value: Any) -> bool:
    """Says whether something is a vocabulary: ours, seqio's, or of a class that is either."""
    classes = (Vocabulary,)
    if "seqio" in sys.modules and (theirs := getattr(sys.modules["seqio"], "Vocabulary", None)):
        classes += (theirs,)
    return isinstance(value, classes)


def native(vocabulary: Any) -> Any:
    """Returns a vocabulary of any package as one of ours; None stays None."""
    if vocabulary is None or isinstance(vocabulary, Vocabulary):
        return vocabulary
    # One of ours that is shown to seqio.
    if isinstance(own := getattr(vocabulary, "own", None), Vocabulary):
        return own
    if type(vocabulary).__module__.partition(".")[0] == "seqio":
        if type(vocabulary).__name__ == "ByteVocabulary":
            return ByteVocabulary(vocabulary.extra_ids)
        if type(vocabulary).__name__ == "SentencePieceVocabulary":
            file, extra_ids = vocabulary.sentencepiece_model_file, vocabulary.extra_ids
            # Another normalizer, or sentinels in another order, is another vocabulary.
            if vocabulary == type(vocabulary)(file, extra_ids):
                return SentencePieceVocabulary(file, extra_ids)
    return Adapted(vocabulary)


def _identity(vocabulary: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": type(vocabulary).__name__}
    for name in ("pad_id", "bos_id", "eos_id", "unk_id", "extra_ids", "vocab_size"):
        try:
            found[name] = getattr(vocabulary, name)
        except (AttributeError, NotImplementedError):
            continue
    state = getattr(vocabulary, "__getstate__", dict)() or {}
    if "_sentencepiece_model_file" in state:
        found["content"] = digest(read(state.pop("_sentencepiece_model_file")))
    for name, value in sorted(state.items()):
        # What is read on first use is there at one time and not at another.
        if isinstance(getattr(type(vocabulary), name, None), functools.cached_property):
            continue
        if isinstance(value, Vocabulary):
            found[name] = value.identity()
        elif isinstance(value, str) and os.path.isfile(value):
            found[name] = digest(read(value))
        elif isinstance(value, bool | int | float | str | bytes | list | tuple | dict):
            found[name] = repr(value)
        elif hasattr(value, "SerializeToString"):
            found[name] = value.SerializeToString(deterministic=True).hex()
        elif hasattr(value, "vocab_size") and hasattr(value, "encode"):
            found[name] = _identity(value)
    return found
