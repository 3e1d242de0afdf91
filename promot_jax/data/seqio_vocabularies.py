"""Our vocabularies as seqio's, for T5X."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import seqio

from promot_jax.data import host_tensorflow
from promot_jax.data.vocabularies import (
    Adapted,
    ByteVocabulary,
    SentencePieceVocabulary,
    Vocabulary,
)

tf = host_tensorflow.load()


class HashableBytes(seqio.ByteVocabulary):
    """seqio's vocabulary of bytes, which can be part of a model: that must be hashable.

    Attributes:
      own: the same as ours.
    """

    @property
    def own(self) -> ByteVocabulary:
        """See the class."""
        return ByteVocabulary(self.extra_ids)

    def __hash__(self) -> int:
        return hash((seqio.ByteVocabulary, self.extra_ids))

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)


class Shown(seqio.Vocabulary):
    """One of our vocabularies with the methods of seqio's.

    Attributes:
      own: the vocabulary.
    """

    def __init__(self, own: Vocabulary):
        super().__init__()
        self.own = own

    @property
    def pad_id(self) -> int:
        """See `Vocabulary`."""
        return self.own.pad_id

    @property
    def bos_id(self) -> int | None:
        """See `Vocabulary`."""
        return self.own.bos_id

    @property
    def eos_id(self) -> int | None:
        """See `Vocabulary`."""
        return self.own.eos_id

    @property
    def unk_id(self) -> int | None:
        """See `Vocabulary`."""
        return self.own.unk_id

    @property
    def extra_ids(self) -> int:
        """See `Vocabulary`."""
        return self.own.extra_ids

    @property
    def vocab_size(self) -> int:
        """See `Vocabulary`."""
        return self.own.vocab_size

    @property
    def _base_vocab_size(self) -> int:
        return self.own.vocab_size - self.own.extra_ids

    def _encode(self, s: str) -> list[int]:
        return self.own.encode(s)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of the ids before the first end of sequence."""
        return self.own.decode(np.asarray(ids if tf.is_tensor(ids) else list(ids), np.int64))

    def _decode(self, ids: Sequence[int]) -> str:
        return self.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
        """Ids [T] of one text, ragged [texts, T] of several."""
        _ = self.own.vocab_size  # A bad file is found here, before TensorFlow hides the error.

        def encode(texts):
            rows = self.own.encode_batch(
                [t.decode(errors="replace") for t in np.reshape(texts, -1)]
            )
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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shown) and self.own == other.own

    def __hash__(self) -> int:
        return hash(self.own)

    def __str__(self) -> str:
        return f"Shown({self.own})"


def seqio_vocabulary(vocabulary: Vocabulary) -> Any:
    """Returns a vocabulary of ours as one of seqio; nothing is read."""
    if isinstance(vocabulary, Adapted):
        return vocabulary.own
    if isinstance(vocabulary, SentencePieceVocabulary):
        return seqio.SentencePieceVocabulary(
            vocabulary.sentencepiece_model_file, vocabulary.extra_ids
        )
    if isinstance(vocabulary, ByteVocabulary):
        return HashableBytes(vocabulary.extra_ids)
    return Shown(vocabulary)
