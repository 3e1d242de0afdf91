"""Texts as a vocabulary writes them: what a model can say, at best, of what a row asks for.

SentencePiece has one form of characters and spaces: a full-width comma becomes a plain one, two
spaces or a line break become one space. No model that uses it can answer otherwise.
"""

import json
from collections.abc import Sequence
from typing import Any


class Writer:
    """Writes texts by a vocabulary."""

    def __init__(self, vocabulary: Any):
        """Takes a vocabulary."""
        self.vocabulary, self._unknown = vocabulary, _unknown_id(vocabulary)
        self._known: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """Returns a text as it is after encoding and decoding.

        One with unknown tokens stays as it is: no output says the same.
        """
        if text not in self._known:
            ids = list(self.vocabulary.encode(text))
            self._known[text] = text if self.loses(ids) else self.vocabulary.decode(ids)
        return self._known[text]

    def many(self, texts: Sequence[str]) -> list[str]:
        """Returns each of many texts as `writer(text)` does, and remembers none."""
        ids = self.vocabulary.encode_batch(texts)
        return [
            text if self.loses(row) else self.vocabulary.decode(row)
            for text, row in zip(texts, ids, strict=True)
        ]

    def loses(self, ids: Sequence[int]) -> bool:
        """Whether ids of a text hold an unknown token, which stands for anything."""
        return self._unknown is not None and self._unknown in ids

    def target(self, target: Any) -> Any:
        """Returns the target of a metric as written: a text, or a list of accepted texts.

        What is neither, as some metrics of seqio want it, stays as it is.
        """
        if isinstance(target, str):
            return self(target)
        if isinstance(target, list) and all(isinstance(answer, str) for answer in target):
            return [self(answer) for answer in target]
        return target


def _unknown_id(vocabulary: Any) -> int | None:
    if vocabulary.unk_id is not None:
        return vocabulary.unk_id
    # A tokenizer of Hugging Face's library keeps it in its model.
    tokenizer = getattr(vocabulary, "tokenizer", None)
    if not hasattr(tokenizer, "to_str"):
        return None
    model = json.loads(tokenizer.to_str())["model"]
    if model.get("unk_token") is not None:
        return tokenizer.token_to_id(model["unk_token"])
    return model.get("unk_id")
