"""Conversations as rows: written by a chat template, learnt where the assistant speaks."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from promot_jax.base.errors import UserError
from promot_jax.data import chat_rows, chat_turns, tasks
from promot_jax.data.chat_rows import Conversation
from promot_jax.data.chat_template import ChatTemplate, Span
from promot_jax.data.tasks import Lengths, Row, Tokens
from promot_jax.data.vocabularies import Tokenizer

Turns = Literal["all", "last"]
# What is learnt stands between these in a preview.
MARKS = ("⟦", "⟧")


@dataclasses.dataclass(frozen=True)
class Chat:
    """How conversations become tokens; an `Encode` of tasks.

    Attributes:
      template: of the model.
      turns: of the assistant that are learnt.
      system: stands in front of conversations that begin without a system message.
      family: of the model; one with an encoder reads the history and learns the last turn.
    """

    template: ChatTemplate
    turns: Turns = "all"
    system: str | None = None
    family: str = "decoder"

    def __post_init__(self):
        if self.turns not in ("all", "last"):
            raise UserError(f"CHAT_TURNS (--chat_turns) {self.turns!r}: use all or last")
        if self.family != "decoder" and self.turns != "last":
            raise UserError(
                "a model with an encoder learns one answer of a conversation, the last; "
                "use --chat_turns last"
            )

    def conversation(self, row: Row, where: str = "row") -> Conversation:
        """Returns the conversation of a row as the template gets it, see `chat_rows`.

        Raises:
          UserError: as `chat_rows.conversation`, or the template refuses it.
        """
        found = chat_rows.conversation(row, where).with_system(self.system)
        if not self.template.takes_parts:
            found = dataclasses.replace(found, messages=[_plain(m) for m in found.messages])
        try:
            self._learnt(found, self.turns)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        return found

    def __call__(self, rows: Sequence[Row], vocabulary: Any, lengths: Lengths) -> list[Tokens]:
        """Encodes conversations.

        Inputs are what stands before the first token that is learnt, targets all that follows up to
        the last one; weights say which of them are learnt. What is too long is cut at its end, and
        inputs that are too long go on in the targets. A row has no weights left where all that is
        learnt was cut.

        Args:
          rows: as `Conversation.row` returns them; one with `turns` is learnt by it.
          vocabulary: a `Tokenizer`, or any for a model with an encoder.
          lengths: longest inputs, the end of sequence that closes them counted, and targets.
        """
        if self.family != "decoder":
            pairs = [dict(zip(("inputs", "targets"), self.texts(r), strict=True)) for r in rows]
            return tasks.encode_texts(pairs, vocabulary, lengths)
        found = [self._read(row) for row in rows]
        encoded = _tokenizer(vocabulary).encode_batch(
            [text for text, _ in found], add_special_tokens=False
        )
        return [
            _cut(one, marked(one.offsets, spans), vocabulary.eos_id, lengths)
            for one, (_, spans) in zip(encoded, found, strict=True)
        ]

    def texts(self, row: Row) -> tuple[str, str]:
        """Returns what the last answer is an answer to, as the model reads it, and the answer.

        An answer that calls tools is as the template writes it, without what ends it.
        """
        found = self._prepared(row)
        *before, answer = found.messages
        asked = self.template.render(before, found.tools, prompt=True)
        if "tool_calls" not in answer:
            content = answer["content"]
            text = content if isinstance(content, str) else chat_rows.joined(content)
            return asked, text.strip()
        text, spans = self._learnt(found, "last")
        said = text[spans[0][0] : spans[-1][1]]
        return asked, said.removesuffix(self.template.ending).strip()

    def asks_otherwise(self, row: Row) -> bool:
        """Says whether what the last answer answers is written otherwise once it is answered."""
        found = self._prepared(row)
        asked = self.template.render(found.messages[:-1], found.tools, prompt=True)
        return not self.template.render(found.messages, found.tools).startswith(asked)

    def said(self, output: str) -> str:
        """Returns the answer in an output, without what ends it and what stands before it."""
        ending = self.template.ending
        found = output.split(ending)[0] if ending else output
        return found.removeprefix(self.template.leading)

    def preview(self, row: Row, vocabulary: Any, lengths: Lengths) -> str:
        """Returns a row as the model reads it, with marks around what is learnt."""
        text, spans = self._read(row)
        if self.family != "decoder":
            asked, answer = self.texts(row)
            return f"{asked}{MARKS[0]}{answer}{MARKS[1]}"
        one = _tokenizer(vocabulary).encode(text, add_special_tokens=False)
        weights = marked(one.offsets, spans)
        kept = _cut(one, weights, vocabulary.eos_id, lengths)
        length = len(kept.inputs) - 1 + len(kept.targets)
        shown, at = [], 0
        for begin, end in _runs(weights[:length]):
            first, last = one.offsets[begin][0], one.offsets[end - 1][1]
            shown += [text[at:first], MARKS[0], text[first:last], MARKS[1]]
            at = last
        rest = text[at:]
        cut = length < np.flatnonzero(weights)[-1] + 1
        return "".join(shown) + ("" if cut else rest) + (" … (cut)" if cut else "")

    def _read(self, row: Row) -> tuple[str, list[Span]]:
        return self._learnt(self._prepared(row), row.get("turns", self.turns))

    def _prepared(self, row: Row) -> Conversation:
        """Returns the conversation of a row that `conversation` has checked."""
        found = chat_rows.conversation(row).with_system(self.system)
        if self.template.takes_parts:
            return found
        return dataclasses.replace(found, messages=[_plain(m) for m in found.messages])

    def _learnt(self, found: Conversation, turns: str) -> tuple[str, list[Span]]:
        numbers = found.answers if turns == "all" else found.answers[-1:]
        return chat_turns.learnt(self.template, found, numbers)


def marked(offsets: Sequence[Span], spans: Sequence[Span]) -> np.ndarray:
    """Returns int32 [tokens], 1 for each token that has a character of one of the spans."""
    begins, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    found = np.zeros(len(begins), np.int32)
    for begin, end in spans:
        found |= (ends > begin) & (begins < end)
    return found


def _cut(encoded, weights: np.ndarray, eos_id: int, lengths: Lengths) -> Tokens:
    ids, learnt = np.array(encoded.ids, np.int32), np.flatnonzero(weights)
    # Nothing stands before the first token, so nothing can predict it.
    first = max(1, learnt[0]) if len(learnt) else len(ids)
    first = min(first, lengths["inputs"] - 1)
    learnt = learnt[(learnt >= first) & (learnt < first + lengths["targets"])]
    end = learnt[-1] + 1 if len(learnt) else first
    inputs = np.array([*ids[:first], eos_id], np.int32)
    return Tokens(inputs, ids[first:end], weights[first:end])


def _tokenizer(vocabulary: Any):
    if not isinstance(vocabulary, Tokenizer):
        raise UserError(
            "chat needs a tokenizer.json, or the tokenizer.model of a decoder-only model; this "
            f"model has a {type(vocabulary).__name__}"
        )
    return vocabulary.tokenizer


def _runs(weights: np.ndarray) -> list[Span]:
    """Returns begin and end of each run of ones."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], weights > 0, [0]]).astype(int)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return dict(message)
    return {**message, "content": chat_rows.joined(content)}
