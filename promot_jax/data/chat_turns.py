"""Where the turns of the assistant lie in a conversation that a chat template wrote down."""

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
    give goes on to the text. Some templates write a turn otherwise once others follow: then its
    content is looked for, by putting another in its place.
    """
    asked = _tried(template, messages[:number], tools, True)
    whole = template.render(messages[: number + 1], tools).rstrip()
    begin = len(asked) if asked is not None and text.startswith(asked) else None
    end = len(whole) if text.startswith(whole) else None
    if begin is None or end is None:
        found = _looked_for(template, messages, tools, number, text, asked)
        begin = found[0] if begin is None else begin
        end = found[1] if end is None else end
    if not begin <= end <= len(text):
        raise _hidden(template, number)
    return begin, end


def _looked_for(template, messages, tools, number, text, asked) -> Span:
    probed = {**messages[number], "content": PROBE}
    other = template.render([*messages[:number], probed, *messages[number + 1 :]], tools)
    alone = template.render([*messages[:number], probed], tools)
    if other.count(PROBE) != 1 or alone.count(PROBE) != 1:
        raise _hidden(template, number)
    before, behind = other.split(PROBE)
    begin, end = len(before), len(text) - len(behind)
    ending = alone.split(PROBE)[1].rstrip()
    same = text.startswith(before) and text.endswith(behind) and behind.startswith(ending)
    if not same or end < begin:
        raise _hidden(template, number)
    if asked is not None and alone.startswith(asked):
        lead = alone.split(PROBE)[0][len(asked) :]
        begin -= len(lead) if before.endswith(lead) else 0
    return begin, end + len(ending)


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
