"""Conversations become the tokens that `apply_chat_template` of transformers makes of them."""

import dataclasses
import datetime
import functools
import json
import pathlib
import tempfile

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from promot_jax.base.errors import UserError
from promot_jax.data import chat_template
from promot_jax.data.chat import marked
from promot_jax.data.vocabularies import Tokenizer
from tests.data import chat_tokenizers

WORDS = st.text(st.sampled_from("abz .,?\n 中é😀{}'\"<|im_end>"), max_size=20)
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Says how it is in ä <town>.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}


@functools.cache
def opened(kind):
    """Both programs' tokenizers, and the template."""
    folder = pathlib.Path(tempfile.mkdtemp()) / kind
    chat_tokenizers.save(folder, kind)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    found = chat_template.read(files, str(folder))
    return theirs, found, Tokenizer(str(folder / "tokenizer.json"))


def ids(tokenizer, text):
    return tokenizer.tokenizer.encode(text, add_special_tokens=False).ids


def turns(texts, system=None):
    found = [
        {"role": "assistant" if number % 2 else "user", "content": text}
        for number, text in enumerate(texts)
    ]
    return found if system is None else [{"role": "system", "content": system}, *found]


@pytest.mark.parametrize("kind", chat_tokenizers.KINDS)
@settings(deadline=None, max_examples=60)
@given(st.lists(WORDS, min_size=1, max_size=5), st.none() | WORDS, st.booleans())
def test_tokens_are_those_of_transformers(kind, texts, system, prompt):
    theirs, template, ours = opened(kind)
    messages = turns(texts, system)
    wanted = theirs.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=True)[
        "input_ids"
    ]
    assert ids(ours, template.render(messages, prompt=prompt)) == wanted


CALLED = [
    {"role": "user", "content": "what is it like in bamako?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"town": "Ségou"}}}
        ],
    },
    {"role": "tool", "name": "weather", "content": '{"sky": "clear"}'},
    {"role": "assistant", "content": "It is clear.", "reasoning": "The sky is."},
]


@pytest.mark.parametrize("length", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", chat_tokenizers.WITH_TOOLS)
def test_tools_are_those_of_transformers(kind, length):
    theirs, template, ours = opened(kind)
    for tools in (None, [TOOL], [TOOL, TOOL]):
        wanted = theirs.apply_chat_template(CALLED[:length], tools=tools, tokenize=False)
        assert template.render(CALLED[:length], tools) == wanted
        assert ids(ours, wanted) == theirs(wanted, add_special_tokens=False)["input_ids"]


@settings(deadline=None, max_examples=60)
@given(st.lists(WORDS, min_size=2, max_size=6), st.none() | WORDS)
def test_marked_turns_are_those_of_transformers(texts, system):
    theirs, template, _ = opened("marked")
    messages = turns(texts, system)
    wanted = theirs.apply_chat_template(
        messages, return_assistant_tokens_mask=True, return_dict=True
    )
    text, spans = template.spans(messages, None)
    assert template.marks()
    encoded = opened("marked")[2].tokenizer.encode(text, add_special_tokens=False)
    assert marked(encoded.offsets, spans).tolist() == wanted["assistant_masks"]


BLOCKS = """\
  {% for m in messages %}
    {% if loop.index > 2 %}{% break %}{% endif %}
  {{ m | tojson(indent=1) }}
    {% endfor %}
{{ bos_token is defined }} {{ eos_token }}{{ 'a<b' | tojson }}
"""


def test_blocks_leave_the_space_that_transformers_leaves():
    theirs, template, _ = opened("marked")
    messages = turns(["é", "b", "c"])
    wanted = theirs.apply_chat_template(messages, chat_template=BLOCKS, tokenize=False)
    own = chat_template.of_text(BLOCKS, "own.jinja", template.tokens)
    assert own.render(messages) == wanted


def test_what_ends_an_answer_is_found():
    found = {kind: opened(kind)[1].ending for kind in chat_tokenizers.KINDS}
    assert found == {
        "smollm2": "<|im_end|>",
        "qwen25": "<|im_end|>",
        "qwen3": "<|im_end|>",
        "llama3": "<|eot_id|>",
        "gemma3": "<end_of_turn>",
        "mistral": "</s>",
        "marked": "<|im_end|>",
    }


def test_templates_that_read_lists_of_texts_are_told():
    found = {kind for kind in chat_tokenizers.KINDS if opened(kind)[1].takes_parts}
    assert found == {"gemma3"}


def files(**content):
    return {
        name.replace("__", "."): json.dumps(value).encode()
        if not isinstance(value, bytes)
        else value
        for name, value in content.items()
    }


def test_a_template_is_found_where_transformers_finds_it():
    listed = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    named = files(tokenizer_config__json={"chat_template": listed})
    assert chat_template.read(named, "m").render([]) == "a"
    assert chat_template.read(named, "m").render([], [TOOL]) == "b"
    both = {**named, "chat_template.jinja": b"c"}
    assert chat_template.read(both, "m").render([], [TOOL]) == "c"
    both["additional_chat_templates/tool_use.jinja"] = b"d"
    assert chat_template.read(both, "m").render([], [TOOL]) == "d"
    processor = files(chat_template__json={"chat_template": "e"})
    assert chat_template.read(processor, "m").render([]) == "e"
    assert chat_template.read(files(tokenizer_config__json={}), "m") is None
    tokens = files(
        special_tokens_map__json={"bos_token": {"content": "<b>"}, "eos_token": "x"},
        tokenizer_config__json={"eos_token": {"content": "<e>"}, "unk_token": None},
        chat_template__jinja=b"{{ bos_token + eos_token }}{{ unk_token is defined }}",
    )
    assert chat_template.read(tokens, "m").render([]) == "<b><e>False"


BROKEN = {
    "m/tokenizer_config.json: chat_template is neither a text nor": {"chat_template": 3},
    "m/tokenizer_config.json has the chat templates b, and no default": {
        "chat_template": {"b": ""}
    },
    "m/tokenizer_config.json, line 2 of the chat template": {"chat_template": "\n{% if %}"},
    "m/tokenizer_config.json holds no JSON object": [],
    "m/tokenizer_config.json is not JSON": b"{",
    "m/chat_template.jinja: byte 2 is not UTF-8": None,
}


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_template_is_one_line(line):
    content = BROKEN[line]
    given = files(chat_template__jinja=b"a\xff")
    if content is not None:
        given = files(tokenizer_config__json=content)
    with pytest.raises(UserError) as raised:
        chat_template.read(given, "m")
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


REFUSED = {
    "{{ raise_exception('roles\nmust alternate') }}": "refuses it: roles",
    "{{ messages.__class__.__mro__ }}": "refuses it: access to attribute '__class__'",
    "{{ messages.append(1) }}": "refuses it: ",
    "{{ 'a' + 1 }}": "refuses it: TypeError",
    "{{ missing.field }}": "refuses it: 'missing' is undefined",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_a_template_refuses_is_one_line(text):
    with pytest.raises(UserError, match=REFUSED[text]) as raised:
        chat_template.of_text(text, "own.jinja").render([{"role": "user", "content": "a"}])
    assert "\n" not in str(raised.value)
    assert "own.jinja" in str(raised.value)


def test_a_template_sees_plain_values_alone():
    class Foreign(dict):
        def close(self):
            raise AssertionError

    template = chat_template.of_text("{{ messages[0].close is defined }}", "own.jinja")
    assert template.render([Foreign(role="user")]) == "False"


def test_a_day_can_be_set():
    template = chat_template.of_text("{{ strftime_now('%d %b %Y') }}", "own.jinja")
    assert template.render([]) == datetime.datetime.now().strftime("%d %b %Y")
    one = dataclasses.replace(template, day=datetime.datetime(2024, 7, 26))
    assert one.render([]) == "26 Jul 2024"
