"""Vocabularies: texts as token ids, in this process and without TensorFlow."""

from promot_jax.data.vocabularies.adapted import Adapted, is_one, native
from promot_jax.data.vocabularies.byte import ByteVocabulary
from promot_jax.data.vocabularies.files import BYT5, huggingface_settings, load, save
from promot_jax.data.vocabularies.sentencepiece import SentencePieceVocabulary
from promot_jax.data.vocabularies.tokenizer import SentencePieceTokenizer, Tokenizer
from promot_jax.data.vocabularies.vocabulary import Vocabulary

__all__ = [
    "BYT5",
    "Adapted",
    "ByteVocabulary",
    "SentencePieceTokenizer",
    "SentencePieceVocabulary",
    "Tokenizer",
    "Vocabulary",
    "huggingface_settings",
    "is_one",
    "load",
    "native",
    "save",
]
