"""Texts that go on from another one, as the targets of a language model go on from its inputs."""

import functools
import json
from collections.abc import Sequence
from typing import Any

import tokenizers

from promot_jax.data.vocabularies import Tokenizer, Vocabulary


class Continuation(Tokenizer):
    """A tokenizer of texts that go on from another one, as the targets of a language model do.

    Some tokenizers put a space before every text. To a text that begins with white space none is
    added here: " yes" behind "answer:" is the token that "answer: yes" has there.
    """

    def __init__(self, whole: Tokenizer):
        super().__init__(whole.path, whole.tokenizer.id_to_token(whole.eos_id))
        self._whole = whole

    @property
    def text(self) -> str:
        """As of the whole tokenizer."""
        return self._whole.text

    @functools.cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """As of the whole tokenizer."""
        return self._whole.tokenizer

    @functools.cached_property
    def _bare(self) -> tokenizers.Tokenizer:
        content = json.loads(self.tokenizer.to_str())
        for name in ("normalizer", "pre_tokenizer"):
            content[name] = _without_prefix(content[name])
        return tokenizers.Tokenizer.from_str(json.dumps(content))

    def encode(self, text: str) -> list[int]:
        """See `Vocabulary`."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Vocabulary`."""
        by = {True: self._bare, False: self.tokenizer}
        found: dict[int, list[int]] = {}
        for spaced, tokenizer in by.items():
            chosen = [i for i, text in enumerate(texts) if text[:1].isspace() == spaced]
            if chosen:
                encoded = tokenizer.encode_batch(
                    [texts[i] for i in chosen], add_special_tokens=False
                )
                found |= {i: one.ids for i, one in zip(chosen, encoded, strict=True)}
        return [found[i] for i in range(len(texts))]

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_bare"}


def continuing(vocabulary: Vocabulary) -> Vocabulary:
    """Returns the vocabulary for texts that go on from another one, see `Continuation`."""
    if not isinstance(vocabulary, Tokenizer) or isinstance(vocabulary, Continuation):
        return vocabulary
    parts = vocabulary.tokenizer.normalizer, vocabulary.tokenizer.pre_tokenizer
    # Only these two are looked at: the whole of a large vocabulary takes a second to write.
    written = [json.loads(part.__getstate__()) for part in parts if part is not None]
    spaces = any(_without_prefix(part) != part for part in written)
    return Continuation(vocabulary) if spaces else vocabulary


def _without_prefix(part: Any) -> Any:
    """Returns a part of a tokenizer.json that puts no space before a text."""
    match part:
        case {"type": "Prepend"}:
            return None
        case {"type": "Metaspace"}:
            never = {**part, "prepend_scheme": "never"}
            return {name: value for name, value in never.items() if name != "add_prefix_space"}
        case {"type": "Sequence"}:
            name = "normalizers" if "normalizers" in part else "pretokenizers"
            kept = [_without_prefix(inner) for inner in part[name]]
            return {**part, name: [inner for inner in kept if inner is not None]}
    return part
