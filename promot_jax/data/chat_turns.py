"""Where the turns of the assistant lie in a conversation that a chat template wrote down."""

import json
from collections.abc import Sequence
from typing import Any

from promot_jax.base.errors import UserError
from promot_jax.data.chat_rows import Conversation, Message
from promot_jax.data.chat_template import PROBE, ChatTemplate, Span


def learnt(
    template: ChatTemplate, conversation: Conversation, numbers: Sequence[int]
) -> tuple[str, list[Span]]:
    """Returns a conversation as a text, and what of it is to be learnt.

    What a template marks by `{% generation %}` is as it marks it. Without marks, a turn begins
    behind what asks for an answer and ends with what ends one, without white space behind it.

    Args:
      template: of the model.
      conversation: its messages and tools.
      numbers: of the messages that are learnt, ascending.

    Raises:
      UserError: the template refuses the conversation, or hides where a turn lies.
    """
    messages, tools = conversation.messages, conversation.tools
    if not template.marks(tools):
        text = template.render(messages, tools)
        return text, [_turn(template, messages, tools, n, text) for n in numbers]
    text, marked = template.spans(messages, tools)
    answers = [n for n, one in enumerate(messages) if one["role"] == "assistant"]
    if list(numbers) == answers:
        return text, marked
    if len(marked) == len(answers):
        return text, [span for n, span in zip(answers, marked, strict=True) if n in numbers]
    # All that are learnt stand at the end.
    begin = _turn(template, messages, tools, numbers[0], text)[0]
    return text, [span for span in marked if span[1] > begin]


def _turn(
    template: ChatTemplate, messages: Sequence[Message], tools: Any, number: int, text: str
) -> Span:
    """Returns where a turn lies in a text.

    Mostly the text goes on from what the messages before it give, and what the messages with it
    give goes on to the text. Some templates write messages otherwise once others follow: then the
    turn ends where its first end is, and its content is looked for by putting another in its place.
    """
    asked = _tried(template, messages[:number], tools, True)
    whole = template.render(messages[: number + 1], tools).rstrip()
    ending = template.ending
    if asked is None or not text.startswith(asked):
        return _looked_for(template, messages, tools, number, text)
    begin, end = len(asked), len(whole)
    if not text.startswith(whole):
        if not ending or ending in json.dumps(messages[number], ensure_ascii=False, default=str):
            return begin, _looked_for(template, messages, tools, number, text)[1]
        end = text.find(ending, begin) + len(ending)
    if end < begin:
        raise _hidden(template, number)
    return begin, end


def _looked_for(template, messages, tools, number, text) -> Span:
    probed = {**messages[number], "content": PROBE}
    other = template.render([*messages[:number], probed, *messages[number + 1 :]], tools)
    before, found, behind = other.partition(PROBE)
    begin, end = len(before), len(text) - len(behind)
    same = text.startswith(before) and text.endswith(behind) and PROBE not in behind
    if not found or not same or end < begin:
        raise _hidden(template, number)
    leading, ending = template.leading, template.ending
    begin -= len(leading) if before.endswith(leading) else 0
    # White space may stand before the end.
    place = len(behind) - len(behind.lstrip()) if ending else 0
    if not behind.startswith(ending, place):
        raise _hidden(template, number)
    return begin, end + place + len(ending)


def _tried(template, messages, tools, prompt) -> str | None:
    """Returns the text of messages, None where the template wants others."""
    try:
        return template.render(messages, tools, prompt=prompt)
    except UserError:
        return None


def _hidden(template: ChatTemplate, number: int) -> UserError:
    return UserError(
        f"messages[{number}]: {template.origin} writes this turn otherwise once others follow; "
        "learn the last turn alone"
    )
