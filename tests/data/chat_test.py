"""Conversations as rows: their forms, what of them is learnt, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promot_jax.base.errors import UserError
from promot_jax.data import chat_rows
from promot_jax.data.chat import Chat, marked
from promot_jax.data.chat_template import of_text
from promot_jax.data.vocabularies import ByteVocabulary
from tests.data import chat_tokenizers
from tests.data.chat_template_test import CALLED, TOOL, WORDS, opened, turns

LONG = {"inputs": 512, "targets": 512}
SPEECH = st.text(st.sampled_from("abz .,?\n中é😀{}'\""), max_size=12).map(lambda text: f"x{text}y")


def said(kind, row, turns="all", **options):
    """What of a row is learnt, turn by turn."""
    _, template, vocabulary = opened(kind)
    shown = Chat(template, turns, **options).preview(row, vocabulary, LONG)
    return [part.split("⟧")[0] for part in shown.split("⟦")[1:]]


def row(*texts, **fields):
    return {"messages": turns(texts), **fields}


ENDS = {
    "smollm2": ("one<|im_end|>", "two<|im_end|>"),
    "qwen25": ("one<|im_end|>", "two<|im_end|>"),
    # It thinks before its last answer alone.
    "qwen3": ("one<|im_end|>", "<think>\n\n</think>\n\ntwo<|im_end|>"),
    "llama3": ("one<|eot_id|>", "two<|eot_id|>"),
    "gemma3": ("one<end_of_turn>", "two<end_of_turn>"),
    "mistral": (" one</s>", " two</s>"),
    "marked": ("one<|im_end|>", "two<|im_end|>"),
}


@pytest.mark.parametrize("kind", chat_tokenizers.KINDS)
@pytest.mark.parametrize("system", [None, "Be short."])
def test_the_turns_of_the_assistant_are_learnt_with_what_ends_them(kind, system):
    given = row("hi", "one", "and?", "two")
    assert said(kind, given, system=system) == list(ENDS[kind])
    assert said(kind, given, "last", system=system) == [ENDS[kind][1]]
    # What nobody answered is left out.
    assert said(kind, row("hi", "one", "and?", "two", "then?"), system=system) == list(ENDS[kind])


def test_calls_of_tools_are_learnt():
    given = {"messages": [*CALLED, *turns(["and?", "two"])], "tools": [TOOL]}
    call = (
        '<tool_call>\n{"name": "weather", "arguments": {"town": "Ségou"}}\n</tool_call><|im_end|>'
    )
    assert said("qwen25", given) == [call, "It is clear.<|im_end|>", "two<|im_end|>"]
    found = said("qwen3", given)
    assert found == [call, "It is clear.<|im_end|>", "<think>\n\n</think>\n\ntwo<|im_end|>"]
    given["messages"] = CALLED
    thought = "<think>\nThe sky is.\n</think>\n\nIt is clear.<|im_end|>"
    assert said("qwen3", given) == [call, thought]
    assert said("mistral", given) == [
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"town": "Ségou"}}]</s>',
        " It is clear.</s>",
    ]
    assert said("llama3", given)[0] == (
        '{"name": "weather", "parameters": {"town": "Ségou"}}<|eot_id|>'
    )


@pytest.mark.parametrize("kind", chat_tokenizers.KINDS)
@settings(deadline=None, max_examples=40)
@given(
    st.lists(SPEECH, min_size=2, max_size=6), st.none() | WORDS, st.sampled_from(["all", "last"])
)
def test_tokens_are_the_whole_text_and_weights_its_answers(kind, texts, system, which):
    theirs, template, vocabulary = opened(kind)
    messages = turns(texts[: len(texts) // 2 * 2], system)
    chat = Chat(template, which)
    ((inputs, targets, weights, _),) = chat([{"messages": messages}], vocabulary, LONG)
    whole = theirs.apply_chat_template(messages, return_dict=True)["input_ids"]
    # The end of sequence behind the inputs is what a decoder-only model drops.
    assert inputs[-1] == vocabulary.eos_id
    joined = [*inputs[:-1], *targets]
    assert joined == whole[: len(joined)]
    assert (
        vocabulary.tokenizer.decode(whole[len(joined) :], skip_special_tokens=False).strip() == ""
    )
    assert weights[0] == weights[-1] == 1
    learnt = [
        vocabulary.tokenizer.decode(targets[begin:end].tolist(), skip_special_tokens=False)
        for begin, end in runs(weights)
    ]
    wanted = [m["content"] for m in messages if m["role"] == "assistant"]
    assert len(learnt) == (len(wanted) if which == "all" else 1)
    for text, content in zip(learnt[::-1], wanted[::-1], strict=False):
        ids = vocabulary.encode(content)
        content = vocabulary.tokenizer.decode(ids, skip_special_tokens=False)
        assert text.endswith(content + template.ending)


def runs(weights):
    edges = np.flatnonzero(np.diff([0, *weights, 0]))
    return edges.reshape(-1, 2).tolist()


@settings(deadline=None, max_examples=60)
@given(st.lists(WORDS.filter(str.strip), min_size=2, max_size=6), st.none() | WORDS)
def test_without_marks_the_turns_are_where_marks_would_be(texts, system):
    _, template, vocabulary = opened("marked")
    bare = chat_tokenizers.MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    messages = {"messages": turns(texts[: len(texts) // 2 * 2], system)}
    found = [Chat(t)([messages], vocabulary, LONG) for t in (template, of_text(bare, "bare"))]
    for one, other in zip(*found[0], *found[1], strict=False):
        np.testing.assert_array_equal(one, other)


FORMS = {
    "messages": row("a", "b"),
    "sharegpt": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    "roles": {"conversations": turns(["a", "b"])},
    "completion": {"prompt": "a", "completion": "b"},
    "lists": {"prompt": turns(["a"]), "completion": [{"role": "assistant", "content": "b"}]},
    "mixed": {"prompt": turns(["a"]), "completion": "b"},
    "parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}], "name": None},
            {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
        ]
    },
    "json": {
        "messages": '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]'
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["smollm2", "gemma3"])
def test_every_form_is_the_same_conversation(kind, form):
    _, template, vocabulary = opened(kind)
    found, wanted = Chat(template)([FORMS[form], FORMS["messages"]], vocabulary, LONG)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert chat_rows.is_chat(FORMS[form])
    kept = chat_rows.conversation(FORMS[form]).row()
    assert chat_rows.conversation(kept).row() == kept


def test_a_prompt_that_holds_answers_is_not_learnt():
    given = {"prompt": turns(["a", "one", "b"]), "completion": "two"}
    assert said("smollm2", given) == ["two<|im_end|>"]
    assert said("marked", given) == ["two<|im_end|>"]
    kept = chat_rows.conversation(given).row()
    assert said("smollm2", kept, system="Be short.") == ["two<|im_end|>"]


def test_a_system_text_stands_before_rows_that_have_none():
    _, template, vocabulary = opened("marked")
    chat = Chat(template, system="Be short.")
    shown = chat.preview(row("a", "b"), vocabulary, LONG)
    assert shown.startswith("<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\na")
    own = {"messages": turns(["a", "b"], "Be long.")}
    assert "short" not in chat.preview(own, vocabulary, LONG)
    assert "Be far." in chat.preview(row("a", "b", system="Be far."), vocabulary, LONG)


def test_the_last_answer_is_what_is_evaluated():
    theirs, template, vocabulary = opened("qwen3")
    given = row("hi", "one", "and?", "two ")
    asked, answer = Chat(template).texts(given)
    assert answer == "two"
    assert asked == theirs.apply_chat_template(
        given["messages"][:-1], tokenize=False, add_generation_prompt=True
    )
    called = {"messages": CALLED[:2], "tools": [TOOL]}
    _, answer = Chat(opened("qwen25")[1]).texts(called)
    assert answer.startswith('<tool_call>\n{"name"')
    assert answer.endswith("</tool_call>")
    (tokens,) = Chat(template)([given | {"turns": "last"}], vocabulary, LONG)
    assert [*tokens.inputs[:-1]] == vocabulary.encode(asked)


def test_a_long_row_is_cut_at_its_end():
    _, template, vocabulary = opened("marked")
    chat, given = Chat(template), row("a b c d e f g h", "one", "and?", "two")
    ((inputs, targets, weights, _),) = chat([given], vocabulary, LONG)
    whole = [*inputs[:-1], *targets]
    for most in range(1, len(whole)):
        lengths = {"inputs": 9, "targets": most}
        (found,) = chat([given], vocabulary, lengths)
        assert len(found.inputs) == 9
        # Inputs that are too long go on in the targets.
        joined = [*found.inputs[:-1], *found.targets]
        assert joined == whole[: len(joined)]
        assert len(found.targets) == len(found.weights) <= most
        all_weights = np.array([0] * (len(inputs) - 1) + [*weights])[8 : 8 + most]
        assert found.weights.sum() == all_weights.sum()
        assert not len(found.weights) or found.weights[-1] == 1
    shown = chat.preview(given, vocabulary, {"inputs": 9, "targets": 4})
    assert "⟦" not in shown
    assert shown.endswith("… (cut)")


def test_an_answer_at_the_very_beginning_is_not_predicted_from_nothing():
    _, _, vocabulary = opened("marked")
    text = "{% for m in messages %}{{ m.content }}{% endfor %}"
    given = {"messages": [{"role": "assistant", "content": "one two"}]}
    ((inputs, targets, weights, _),) = Chat(of_text(text, "bare"))([given], vocabulary, LONG)
    assert len(inputs) == 2
    assert [*inputs[:1], *targets] == vocabulary.encode("one two")
    assert weights.all()


def test_models_with_an_encoder_learn_the_last_turn():
    _, template, _ = opened("smollm2")
    with pytest.raises(UserError, match="learns one answer of a conversation"):
        Chat(template, "all", family="t5")
    chat, vocabulary = Chat(template, "last", family="t5"), ByteVocabulary()
    given = row("hi", "one", "and?", "two")
    ((inputs, targets, weights, _),) = chat([given], vocabulary, LONG)
    asked, answer = chat.texts(given)
    assert (vocabulary.decode(inputs), vocabulary.decode(targets)) == (asked, answer)
    assert weights is None
    with pytest.raises(UserError, match="has a ByteVocabulary"):
        Chat(template)([given], vocabulary, LONG)


def test_a_turn_that_cannot_be_told_is_refused():
    # Answers change their letters once others follow.
    text = (
        "{% for m in messages %}{{ m.role + ': ' }}"
        "{% if loop.last %}{{ m.content }}{% else %}{{ m.content | upper }}{% endif %}"
        "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    chat = Chat(of_text(text, "own.jinja"))
    with pytest.raises(UserError, match=r"^f, line 2: messages\[1\]: own.jinja writes this turn"):
        chat.conversation(row("a", "b", "c", "d"), "f, line 2")
    Chat(chat.template, "last").conversation(row("a", "b", "c", "d"))


def test_tokens_that_touch_a_span_are_marked():
    offsets = [(0, 2), (2, 2), (2, 5), (5, 6)]
    assert marked(offsets, [(3, 5)]).tolist() == [0, 0, 1, 0]
    assert marked(offsets, [(0, 1), (5, 9)]).tolist() == [1, 0, 0, 1]
    assert marked(offsets, []).tolist() == [0, 0, 0, 0]


def one(role, content, **fields):
    return [{"role": role, "content": content, **fields}]


USER, ANSWER = one("user", "a"), one("assistant", "b")
MALFORMED = {
    "no conversation; a row has messages": {"text": "a"},
    "messages is a text, expected a list of messages": {"messages": "a"},
    "messages is an object, expected a list": {"messages": {"role": "user"}},
    "messages is 3, expected": {"messages": 3},
    "messages is empty": {"messages": []},
    "messages[1] is a text, expected an object": {"messages": [*USER, "b"]},
    "messages[1] is null, expected an object": {"messages": [*USER, None]},
    "messages[1] has no role; use system": {"messages": [*USER, {"content": "b"}]},
    "messages[1].role is 'asistant', which is none; did you mean 'assistant'?": {
        "messages": [*USER, *one("asistant", "b")]
    },
    "messages[0].role is 'Human', which is none; did you mean 'human'?": {
        "messages": [*one("Human", "a"), *ANSWER]
    },
    "messages[0].role is 7; use": {"messages": [*one(7, "a"), *ANSWER]},
    "conversations[1].role is 'bing', which is none; use system": {
        "conversations": [{"from": "human", "value": "a"}, {"from": "bing", "value": "b"}]
    },
    "messages[0].content is missing or null": {"messages": [*one("user", None), *ANSWER]},
    "messages[1].content is missing or null": {"messages": [*USER, {"role": "assistant"}]},
    "messages[0].content is 3, expected a text or a list": {"messages": [*one("user", 3), *ANSWER]},
    "messages[0].content is nan, expected": {"messages": [*one("user", float("nan")), *ANSWER]},
    "messages[0].content is an object, expected": {"messages": [*one("user", {}), *ANSWER]},
    "messages[0].content[0] is of type 'image'; only texts are read": {
        "messages": [*one("user", [{"type": "image", "url": "x"}]), *ANSWER]
    },
    'messages[0].content[0] is no {"type": "text", "text": "..."}': {
        "messages": [*one("user", ["a"]), *ANSWER]
    },
    "messages[1].content is empty; an answer needs text": {
        "messages": [*USER, *one("assistant", " \n")]
    },
    "messages[3].content is empty; an answer": {
        "messages": [*USER, *ANSWER, *USER, *one("assistant", [{"type": "text", "text": ""}])]
    },
    "messages has no turn of the assistant": {"messages": USER},
    "messages[1].tool_calls is a text, expected a list": {
        "messages": [*USER, *one("assistant", "b", tool_calls="f")]
    },
    "messages[1].tool_calls[0] names no function": {
        "messages": [*USER, *one("assistant", None, tool_calls=[{"id": 1}])]
    },
    "tools is no list of JSON schemas": {"messages": [*USER, *ANSWER], "tools": ["weather"]},
    "system is 3, expected a text": {"messages": [*USER, *ANSWER], "system": 3},
    "prompt is 3, expected a text or a list": {"prompt": 3, "completion": "b"},
    "completion is empty; an answer": {"prompt": "a", "completion": " "},
    "completion has no turn of the assistant": {"prompt": [*USER, *ANSWER], "completion": USER},
    "holds half of a surrogate pair": {"messages": [*one("user", "a\ud800"), *ANSWER]},
    "(chat_template) refuses it: Conversation roles must alternate": {
        "messages": [*USER, *ANSWER, *ANSWER]
    },
    "refuses it: Conversation roles": {"messages": [*ANSWER, *USER, *ANSWER]},
}


@pytest.mark.parametrize("line", MALFORMED)
def test_a_malformed_row_is_one_line(line):
    _, template, _ = opened("gemma3")
    with pytest.raises(UserError) as raised:
        Chat(template).conversation(MALFORMED[line], "rows.jsonl, line 7")
    found = str(raised.value)
    assert found.startswith("rows.jsonl, line 7: ")
    assert line.removeprefix("(chat_template) ") in found
    assert "\n" not in found
    assert len(found) < 300


def test_two_answers_in_a_row_are_the_templates_affair():
    given = {"messages": [*USER, *ANSWER, *one("assistant", "c")]}
    assert said("smollm2", given) == ["b<|im_end|>", "c<|im_end|>"]
