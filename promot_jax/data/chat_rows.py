"""Rows of chat: conversations in the usual forms become messages, or one line of complaint.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}
    {"prompt": "...", "completion": "..."}     texts, or lists of messages

A row may have `tools`, JSON schemas of functions, and `system`, a text that stands in front.
"""

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from promot_jax.base.errors import UserError, first_line

ROLES = ("system", "developer", "user", "assistant", "tool")
# What ShareGPT and others call them.
NAMES = {"human": "user", "gpt": "assistant", "model": "assistant", "observation": "tool"}
# Fields of a message, by those of ShareGPT.
FIELDS = {"from": "role", "value": "content"}
FORMS = (("messages",), ("conversations",), ("prompt", "completion"))

Message = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A conversation that ends with an answer.

    Attributes:
      messages: each with `role`, `content`, and what else its template reads.
      tools: JSON schemas of functions, or None.
      first: number of the message from which on answers are learnt; 0 where all are.
    """

    messages: list[Message]
    tools: list[Any] | None = None
    first: int = 0

    @property
    def answers(self) -> list[int]:
        """Numbers of the messages that are learnt."""
        numbered = enumerate(self.messages)
        return [n for n, one in numbered if one["role"] == "assistant" and n >= self.first]

    def row(self) -> dict[str, Any]:
        """Returns the row that `conversation` reads again."""
        kept: dict[str, Any] = {"messages": self.messages}
        if self.tools is not None:
            kept["tools"] = self.tools
        return kept | ({"first": self.first} if self.first else {})

    def with_system(self, text: str | None) -> "Conversation":
        """Returns the conversation with a system message in front, if it has none."""
        if text is None or self.messages[0]["role"] in ("system", "developer"):
            return self
        messages = [{"role": "system", "content": text}, *self.messages]
        return dataclasses.replace(self, messages=messages, first=self.first and self.first + 1)


def is_chat(row: Mapping[str, Any]) -> bool:
    """Says whether a row has the fields of a conversation."""
    return any(all(row.get(field) is not None for field in form) for form in FORMS)


def conversation(row: Mapping[str, Any], where: str = "row") -> Conversation:
    """Returns the conversation of a row, up to its last answer.

    Contents that are lists of texts stay lists. Arguments of tool calls that are JSON are read.

    Args:
      row: in one of the forms of the module.
      where: file and line, for complaints.

    Raises:
      UserError: what is no conversation, or has nothing to learn from.
    """
    form = next((f for f in FORMS if all(row.get(field) is not None for field in f)), None)
    if form is None:
        raise UserError(
            f"{where}: no conversation; a row has messages, conversations, or prompt and completion"
        )
    first = 0
    if form == FORMS[2]:
        before = _messages(row["prompt"], "user", f"{where}: prompt")
        found = [*before, *_messages(row["completion"], "assistant", f"{where}: completion")]
        first = len(before)
    else:
        found = _messages(row[form[0]], None, f"{where}: {form[0]}")
        first = row["first"] if type(row.get("first")) is int else 0
    what = f"{where}: {form[-1]}"
    last = max((n for n, one in enumerate(found) if one["role"] == "assistant"), default=-1)
    if last < first:
        raise UserError(f"{what} has no turn of the assistant, so nothing to learn; add its answer")
    made = Conversation(found[: last + 1], _tools(row.get("tools"), where), first)
    _check_text(row, where)
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise UserError(f"{where}: system is {_kind(system)}, expected a text")
    return made.with_system(system or None)


def _messages(found: Any, role: str | None, what: str) -> list[Message]:
    """Returns checked messages; a text is one message of `role`."""
    if role is not None and isinstance(found, str):
        found = [{"role": role, "content": found}]
        return [_message(one, what, what) for one in found]
    found = _parsed(found)
    if not isinstance(found, Sequence) or isinstance(found, str):
        several = "a list of messages" if role is None else "a text or a list of messages"
        raise UserError(f"{what} is {_kind(found)}, expected {several}")
    if not found:
        raise UserError(f"{what} is empty; give at least a question and an answer")
    return [_message(one, f"{what}[{n}]", f"{what}[{n}].content") for n, one in enumerate(found)]


def _message(found: Any, what: str, content: str) -> Message:
    if not isinstance(found, Mapping):
        raise UserError(f"{what} is {_kind(found)}, expected an object with role and content")
    one = {FIELDS.get(k, k) if FIELDS.get(k) not in found else k: v for k, v in found.items()}
    one = {name: value for name, value in one.items() if value is not None}
    one = {**one, "role": _role(one.get("role"), what)}
    if "tool_calls" in one:
        one["tool_calls"] = _calls(one["tool_calls"], f"{what}.tool_calls")
    if not one.get("tool_calls"):
        one.pop("tool_calls", None)
        if "content" not in one:
            raise UserError(f"{content} is missing or null; write a text")
    if "content" in one:
        _check_content(one["content"], content)
    if one["role"] == "assistant" and not _written(one) and "tool_calls" not in one:
        raise UserError(f"{content} is empty; an answer needs text or tool_calls")
    return one


def _role(found: Any, what: str) -> str:
    if found is None:
        raise UserError(f"{what} has no role; use {', '.join(ROLES)}")
    role = NAMES.get(found, found) if isinstance(found, str) else None
    if role in ROLES:
        return role
    if not isinstance(found, str):
        raise UserError(f"{what}.role is {_kind(found)}; use {', '.join(ROLES)}")
    near = difflib.get_close_matches(found.strip().lower(), [*ROLES, *NAMES], 1)
    mend = f"did you mean {near[0]!r}?" if near else f"use {', '.join(ROLES)}"
    raise UserError(f"{what}.role is {found!r}, which is none; {mend}")


def _check_content(found: Any, what: str) -> None:
    if isinstance(found, str):
        return
    if not isinstance(found, Sequence):
        raise UserError(f"{what} is {_kind(found)}, expected a text or a list of texts")
    for number, part in enumerate(found):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind is not None and kind != "text":
            raise UserError(f"{what}[{number}] is of type {kind!r}; only texts are read")
        if kind is None or not isinstance(part.get("text"), str):
            raise UserError(f'{what}[{number}] is no {{"type": "text", "text": "..."}}')


def _written(message: Message) -> bool:
    content = message.get("content", "")
    return bool((content if isinstance(content, str) else joined(content)).strip())


def joined(parts: Sequence[Mapping[str, Any]]) -> str:
    """Returns a content that is a list of texts as one text."""
    return "\n".join(part["text"] for part in parts)


def _calls(found: Any, what: str) -> list[Any]:
    found = _parsed(found)
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise UserError(f"{what} is {_kind(found)}, expected a list of calls")
    calls = []
    for number, call in enumerate(found):
        inner = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise UserError(f"{what}[{number}] names no function; give function.name and arguments")
        # OpenAI has them as JSON in a text, templates want them as they are.
        read = _parsed(inner.get("arguments"))
        if isinstance(read, Mapping):
            inner = {**inner, "arguments": read}
        calls.append({**call, "function": inner} if "function" in call else dict(inner))
    return calls


def _tools(found: Any, where: str) -> list[Any] | None:
    found = _parsed(found)
    if not found:
        return None
    listed = isinstance(found, Sequence) and not isinstance(found, str)
    if not listed or not all(isinstance(tool, Mapping) for tool in found):
        raise UserError(f"{where}: tools is no list of JSON schemas; write a list of objects")
    return list(found)


def _parsed(found: Any) -> Any:
    """Returns the list or object that a text holds as JSON; else what was given."""
    if isinstance(found, str) and found.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(found)
        except (ValueError, RecursionError):
            return found
    return found


def _check_text(row: Mapping[str, Any], where: str) -> None:
    try:
        json.dumps(dict(row), ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: holds half of a surrogate pair, which is no text; save the file as UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: cannot be kept ({first_line(error)}); mend it") from None


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return repr(value)
    names = ((str, "a text"), (Mapping, "an object"), (Sequence, "a list"))
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)
