"""Rows of chat in a person's own files: which they are, and what is kept of each."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from promot_jax.base.errors import UserError
from promot_jax.data import chat_rows
from promot_jax.data.chat import Chat
from promot_jax.data.chat_template import ChatTemplate
from promot_jax.data.tasks import Rows
from promot_jax.tasks import row_files, row_sets

# Returns the chat template of the model that is tuned, and the model's family.
ReadTemplate = Callable[[], tuple[ChatTemplate, str]]


class Row(NamedTuple):
    """A conversation: what its last answer answers, that answer, what is right, and all of it."""

    inputs: str
    targets: str
    answers: tuple[str, ...]
    conversation: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Filled:
    """Makes rows of records, as `row_templates.Templates` does of those that are not chat.

    Attributes:
      chat: how conversations are written.
    """

    chat: Chat

    @property
    def about(self) -> list[Any]:
        """What the rows depend on."""
        template = self.chat.template
        return [dict(template.texts), dict(template.tokens), self.chat.system, self.chat.turns]

    def rows(self, records: Iterable[row_files.Record]) -> list[Row]:
        """Returns the rows of records; raises as `row` does."""
        return [self.row(*record) for record in records]

    def row(self, where: str, record: Mapping[str, Any]) -> Row:
        """Returns the row of a record.

        Raises:
          UserError: `where` holds no conversation, or one that the template refuses.
        """
        found = self.chat.conversation(_with_numbers(record), where)
        kept = found.row()
        inputs, targets = self.chat.texts(kept)
        return Row(inputs, targets, (targets.strip(),), kept)


@dataclasses.dataclass(frozen=True)
class Asked:
    """Rows of which the last answer is asked for.

    Attributes:
      own: the rows.
    """

    own: Rows

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, number: int, /) -> dict[str, Any]:
        return {**self.own[number], "turns": "last"}


def is_chat(path: str) -> bool:
    """Says whether the first row of a file is a conversation.

    Raises:
      UserError: it cannot be read.
    """
    first = next(iter(row_sets.records(path)), None)
    return first is not None and chat_rows.is_chat(first[1])


def chat(read: ReadTemplate | None, turns: str, system: str | None) -> Chat:
    """Returns how conversations are written for a model.

    Args:
      read: returns its template and its family.
      turns: that are learnt, `all` or `last`.
      system: stands before conversations that have no such message.

    Raises:
      UserError: the model has no template, or there are no such turns.
    """
    if read is None:
        raise UserError("rows of chat need the template of a model; name one by --checkpoint")
    template, family = read()
    return Chat(template, turns, system, family)


def _with_numbers(value: Any) -> Any:
    """Returns a value of a file in which numbers, kept as they were written, are numbers."""
    if isinstance(value, row_files.Number):
        return json.loads(value)
    if isinstance(value, Mapping):
        return {name: _with_numbers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_numbers(inner) for inner in value]
    return value
