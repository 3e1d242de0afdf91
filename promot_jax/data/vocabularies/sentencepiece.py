"""T5's vocabularies: a SentencePiece model, with sentinels behind its pieces."""

import functools
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from promot_jax.base.errors import UserError, first_line
from promot_jax.data.vocabularies.vocabulary import Vocabulary, digest, plain_ids, read

# Characters from which on threads pay.
MANY = 10_000

# Opening a model is not safe in several threads.
_opening = threading.Lock()


class SentencePieceVocabulary(Vocabulary):
    """A SentencePiece model as seqio reads it; nothing is read before the first use.

    The sentinels `<extra_id_0>`, `<extra_id_1>` … have the last ids, the first of them the very
    last, as span corruption numbers them.

    Attributes:
      sentencepiece_model_file: local or remote path of the model.
    """

    def __init__(self, sentencepiece_model_file: str, extra_ids: int = 0):
        super().__init__(extra_ids)
        self.sentencepiece_model_file = os.fspath(sentencepiece_model_file)

    @property
    def tokenizer(self) -> sentencepiece.SentencePieceProcessor:
        """The model with its sentinels.

        Raises:
          UserError: the file is missing or is no SentencePiece model.
        """
        with _opening:
            return _opened(self.sentencepiece_model_file, self.extra_ids)

    @property
    def sp_model(self) -> bytes:
        """The model with its sentinels, as a file would hold it."""
        return self.tokenizer.serialized_model_proto()

    @property
    def bos_id(self) -> int | None:
        """See `Vocabulary`; -1 where the model has none."""
        return self.tokenizer.bos_id()

    @property
    def eos_id(self) -> int | None:
        """See `Vocabulary`."""
        return self.tokenizer.eos_id()

    @property
    def unk_id(self) -> int | None:
        """See `Vocabulary`."""
        return self.tokenizer.unk_id()

    @property
    def vocab_size(self) -> int:
        """See `Vocabulary`."""
        return self.tokenizer.get_piece_size()

    def encode(self, text: str) -> list[int]:
        """See `Vocabulary`."""
        return self.tokenizer.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Vocabulary`."""
        threads = (os.cpu_count() or 1) if sum(map(len, texts)) >= MANY else 1
        return self.tokenizer.encode(list(texts), num_threads=threads)

    def decode(self, ids: Iterable[int]) -> str:
        """See `Vocabulary`; ids beyond the last are unknown."""
        size, unknown, end = self.vocab_size, self.unk_id, self.eos_id
        ids = plain_ids(ids)
        ids = ids[: ids.index(end) + 1] if end in ids else ids
        return self.tokenizer.decode([unknown if i >= size else i for i in ids])

    def identity(self) -> dict[str, Any]:
        """See `Vocabulary`; equal to what earlier versions wrote down."""
        names = ("pad_id", "bos_id", "eos_id", "unk_id", "extra_ids", "vocab_size")
        return {
            "kind": "SentencePieceVocabulary",
            **{name: getattr(self, name) for name in names},
            "content": digest(read(self.sentencepiece_model_file)),
            "_extra_ids": repr(self.extra_ids),
            "_reverse_extra_ids": "True",
            "_use_fast_tokenizer": "False",
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SentencePieceVocabulary) or self.extra_ids != other.extra_ids:
            return False
        files = self.sentencepiece_model_file, other.sentencepiece_model_file
        return files[0] == files[1] or self.sp_model == other.sp_model

    def __hash__(self) -> int:
        return hash((type(self), self.extra_ids))

    def __str__(self) -> str:
        return (
            f"SentencePieceVocabulary(file={self.sentencepiece_model_file}, "
            f"extra_ids={self.extra_ids})"
        )


@functools.lru_cache(maxsize=8)
def _opened(path: str, extra_ids: int) -> sentencepiece.SentencePieceProcessor:
    content = read(path)
    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(content)
        for number in reversed(range(extra_ids)):
            # Type 4: defined by a user.
            model.pieces.add(piece=f"▁<extra_id_{number}>", score=0.0, type=4)
        return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    except Exception as error:  # of protocol buffers or of SentencePiece
        reason = first_line(error)[:120]
        raise UserError(f"{path} holds no SentencePiece model ({reason}); copy it again") from None
