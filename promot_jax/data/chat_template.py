"""Chat templates: how a model writes a conversation down, as `transformers` renders it.

A template is a Jinja text that came with a model, so it runs in Jinja's sandbox and sees plain
values only.
"""

import contextvars
import dataclasses
import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

from promot_jax.base.errors import UserError, first_line

SETTINGS, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
FILE, FOLDER, PROCESSORS = "chat_template.jinja", "additional_chat_templates/", "chat_template.json"
# Names by which a template may use a token.
TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
# What a model thought has three names; templates read the first, or the second.
REASONING = ("reasoning_content", "thinking", "reasoning")
# Stands for a text whose place is looked for; no template changes letters.
PROBE = "qzjxprobexjzq"

# Begin and end of a stretch of a text, in characters.
Span = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A chat template.

    Attributes:
      texts: {name: Jinja text}; `default` is the usual one, `tool_use` that with tools.
      tokens: {`bos_token` and so on: the token}.
      origin: where it is from, for people.
      day: of which templates may tell the date; None is today.
    """

    texts: Mapping[str, str]
    tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)
    origin: str = "the chat template"
    day: datetime.datetime | None = None

    def __hash__(self) -> int:
        return hash((*self.texts.items(), *self.tokens.items()))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        prompt: bool = False,
    ) -> str:
        """Returns a conversation as the model reads it.

        Args:
          messages: each with `role` and `content`, and what else the template reads.
          tools: JSON schemas of functions.
          prompt: whether the text goes on with the beginning of an answer.

        Raises:
          UserError: the template refuses the conversation.
        """
        return self._rendered(messages, tools, prompt)[0]

    def spans(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
    ) -> tuple[str, list[Span]]:
        """Returns a conversation, and what the template itself marks as written by the model.

        Raises:
          UserError: the template refuses the conversation.
        """
        return self._rendered(messages, tools, False)

    def marks(self, tools: Sequence[Mapping[str, Any]] | None = None) -> bool:
        """Says whether the template marks what the model writes."""
        return re.search(r"{%-?\s*generation\s*-?%}", self._text(tools)) is not None

    @functools.cached_property
    def ending(self) -> str:
        """What ends an answer, without white space around it; "" where nothing does."""
        return self._plain_answer.rpartition(PROBE)[2].strip()

    @functools.cached_property
    def leading(self) -> str:
        """What stands between the text that asks for an answer and the answer, such as a space."""
        asked = self.render([{"role": "user", "content": "a"}], prompt=True)
        whole = self._plain_answer
        return whole[len(asked) : whole.rfind(PROBE)] if whole.startswith(asked) else ""

    @functools.cached_property
    def _plain_answer(self) -> str:
        question = {"role": "user", "content": "a"}
        return self.render([question, {"role": "assistant", "content": PROBE}])

    @functools.cached_property
    def takes_parts(self) -> bool:
        """Says whether the template itself reads a content that is a list of texts."""
        parts = [{"type": "text", "text": PROBE}]
        try:
            text = self.render([{"role": "user", "content": parts}])
        except UserError:
            return False
        return text == self.render([{"role": "user", "content": PROBE}])

    def _text(self, tools: Any) -> str:
        if tools is not None and "tool_use" in self.texts:
            return self.texts["tool_use"]
        return self.texts["default"]

    def _rendered(self, messages, tools, prompt) -> tuple[str, list[Span]]:
        template, found = _compiled(self._text(tools)), []
        given = {
            **self.tokens,
            "messages": [_message(message) for message in messages],
            "tools": None if tools is None else _plain(tools),
            "documents": None,
            "add_generation_prompt": prompt,
            "strftime_now": (self.day or datetime.datetime.now()).strftime,
        }
        pieces: list[str] = []
        token = _writing.set((pieces, found))
        try:
            # Piece by piece: what is marked begins behind all that is written already.
            for piece in template.generate(given):
                pieces.append(piece)
        except Exception as error:  # a template may raise anything
            raise UserError(f"{self.origin} refuses it: {_reason(error)}") from None
        finally:
            _writing.reset(token)
        return "".join(pieces), found


def read(files: Mapping[str, bytes], where: str) -> ChatTemplate | None:
    """Returns the chat template among the files beside a tokenizer, None where there is none.

    A file of its own counts before the settings of the tokenizer.

    Args:
      files: {name: content}, as `transformers` names them.
      where: their folder, for errors.

    Raises:
      UserError: a file that cannot be read, several templates without a usual one, or one that is
        no Jinja.
    """
    settings = _json(files, SETTINGS, where)
    texts = {
        name.removeprefix(FOLDER).removesuffix(".jinja"): _text(content, f"{where}/{name}")
        for name, content in files.items()
        if name.startswith(FOLDER) and name.endswith(".jinja")
    }
    if FILE in files:
        texts["default"] = _text(files[FILE], f"{where}/{FILE}")
        origin = f"{where}/{FILE}"
    else:
        name = SETTINGS if settings.get("chat_template") else PROCESSORS
        listed = _json(files, name, where).get("chat_template") or {}
        texts |= _listed(listed, f"{where}/{name}")
        origin = f"{where}/{name}"
    if not texts:
        return None
    return _checked(texts, tokens(files, where), origin)


def tokens(files: Mapping[str, bytes], where: str) -> dict[str, str]:
    """Returns the tokens that the files beside a tokenizer name, as templates know them."""
    named = {**_json(files, SPECIAL, where), **_json(files, SETTINGS, where)}
    found = {name: _content(named.get(name)) for name in TOKENS}
    return {name: token for name, token in found.items() if token is not None}


def of_text(text: str, origin: str, named: Mapping[str, str] | None = None) -> ChatTemplate:
    """Returns the template that a person gives.

    Args:
      text: Jinja; of a .json file, a `tokenizer_config.json`.
      origin: its file.
      named: `bos_token` and so on; those of a JSON count before them.

    Raises:
      UserError: neither of the two.
    """
    if not origin.endswith(".json"):
        return _checked({"default": text}, named or {}, origin)
    found = read({SETTINGS: text.encode()}, origin)
    if found is None:
        raise UserError(f"{origin} has no chat_template; give a file that has, or the text alone")
    return dataclasses.replace(found, tokens={**(named or {}), **found.tokens})


def _checked(texts, tokens, origin) -> ChatTemplate:
    if "default" not in texts:
        known = ", ".join(sorted(texts))
        raise UserError(f"{origin} has the chat templates {known}, and no default; name one so")
    for text in texts.values():
        try:
            _compiled(text)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(
                f"{origin}, line {error.lineno} of the chat template: {first_line(error)}; mend it"
            ) from None
    return ChatTemplate(texts, tokens, origin)


def _listed(found: Any, where: str) -> dict[str, str]:
    """Returns {name: text} of one template, or of a list or an object of several."""
    if isinstance(found, str):
        return {"default": found}
    if isinstance(found, list) and all(isinstance(one, Mapping) for one in found):
        found = {one.get("name"): one.get("template") for one in found}
    if isinstance(found, Mapping) and all(
        isinstance(s, str) for pair in found.items() for s in pair
    ):
        return dict(found)
    raise UserError(f"{where}: chat_template is neither a text nor a list of named ones; mend it")


def _json(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Any]:
    if name not in files:
        return {}
    try:
        found = json.loads(files[name])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}/{name} is not JSON: {first_line(error)}; mend it") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}/{name} holds no JSON object; mend it")
    return found


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {error.start + 1} is not UTF-8; save it so") from None


def _content(token: Any) -> str | None:
    """Returns the text of a token, which files hold as such or with its properties."""
    found = token.get("content") if isinstance(token, Mapping) else token
    return found if isinstance(found, str) else None


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a message as templates expect it: without empty fields."""
    found = {name: _plain(value) for name, value in message.items() if value is not None}
    thought = next((found[name] for name in REASONING if name in found), None)
    return found if thought is None else {"thinking": thought, **found, REASONING[0]: thought}


def _plain(value: Any) -> Any:
    """Returns a value as JSON has it: a template is foreign code, and calls no other methods."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    return f"<{type(value).__name__}>"


# While a template writes: the pieces so far, and the stretches that it marked.
_writing: contextvars.ContextVar[tuple[list[str], list[Span]] | None]
_writing = contextvars.ContextVar("writing", default=None)


class _Marks(jinja2.ext.Extension):
    """`{% generation %}`, which stands around what a model writes."""

    tags = frozenset({"generation"})

    def parse(self, parser):
        """Reads a block up to its end."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_note", [])
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _note(self, caller) -> str:
        text = caller()
        pieces, found = _writing.get()
        begin = sum(map(len, pieces))
        found.append((begin, begin + len(text)))
        return text


@functools.lru_cache(maxsize=32)
def _compiled(text: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Marks, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(text)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    # Jinja's own filter writes for web pages.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _reason(error: Exception) -> str:
    if isinstance(error, jinja2.TemplateError):
        return first_line(error)
    return f"{type(error).__name__}: {first_line(error)}"
