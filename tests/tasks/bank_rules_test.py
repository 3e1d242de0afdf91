"""Rules of the bank on what models write: what they forgive, and what they never do."""

import itertools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promot_jax.tasks.bank.items import Draw, others, three
from promot_jax.tasks.bank.rules import (
    Equal,
    Exact,
    Json,
    Mentions,
    Number,
    Refuses,
    Several,
    Words,
    forms,
)

# The machine may be busy.
CALM = settings(deadline=None, max_examples=60)
WORD = st.text("abcdefgäéñ", min_size=2, max_size=8)
DRAWN = [557, 404, 505, 807]
AROUND = st.sampled_from(("{}", " {} ", "{}.", '"{}"', "“{}”", "`{}`", "**{}**", '"{}."', "«{}»."))


@CALM
@given(WORD, AROUND)
def test_what_stands_around_an_answer_is_forgiven(word, around):
    text = around.format(word)
    assert Exact((word,)).accepts(text)
    assert Equal((word,)).accepts(text.upper())
    assert Words((word, "x")).accepts(around.format(f"{word}, x"))


@CALM
@given(WORD, WORD)
def test_another_word_or_two_at_once_are_refused(word, other):
    rule = Equal((word,), "en")
    for text in (f"{word} or {other}", f"{word}, {other}", f"{other} {word}", f"not {word}"):
        assert not rule.accepts(text)
    assert rule.accepts(other) == (word == other)
    assert Exact((word,)).accepts(word.capitalize()) == (word.capitalize() == word)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "The dog"),
        ("de", "der dog"),
        ("fr", "le Dog"),
        ("fr", "l'dog"),
        ("fr", "L’dog"),
        ("es", "el dog"),
        ("it", "il dog"),
        ("it", "l'dog"),
    ],
)
def test_articles_of_the_language_are_forgiven(language, text):
    assert Equal(("dog",), language).accepts(text)
    assert not Equal(("dog",)).accepts(text)
    assert not Equal(("cat",), language).accepts(text)


@CALM
@given(st.integers(-2_000_000, 2_000_000), st.integers(-2_000_000, 2_000_000), AROUND)
def test_numbers(value, other, around):
    rule = Number(value, ("apples",))
    assert rule.accepts(around.format(value))
    assert rule.accepts(around.format(f"{value:,}"))
    assert rule.accepts(f"{value} apples.")
    assert rule.accepts(f"{value}.0")
    assert rule.accepts(str(other)) == (value == other)
    for text in (f"{value}.5", f"{value} pears", f"{value} or {other}", f"{value}{other}x", "-"):
        assert not rule.accepts(text)


@CALM
@given(st.lists(WORD, min_size=2, max_size=5, unique=True))
def test_lists(words):
    rule = Words(tuple(words), "de")
    for text in (", ".join(words), "; ".join(words), " ".join(words), ",".join(words)):
        assert rule.accepts(text)
    head, last = ", ".join(words[:-1]), words[-1]
    assert rule.accepts(f"{head} und {last}")
    assert rule.accepts(f"{head}, und {last}")
    assert not rule.accepts(f"{head} and {last}")
    assert not rule.accepts(", ".join(words[::-1]))
    assert not rule.accepts(head)
    assert not rule.accepts(", ".join([*words, words[0]]))


VALUES = st.recursive(
    st.booleans() | st.integers(-99, 99) | WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=6,
)


@CALM
@given(st.dictionaries(WORD, VALUES, min_size=1, max_size=4), VALUES)
def test_json(value, other):
    rule = Json(json.dumps(value))
    turned = json.dumps(dict(reversed(value.items())), indent=1).replace("\n", " ")
    for text in (json.dumps(value), turned, f"`{json.dumps(value)}`", json.dumps(value) + "."):
        assert rule.accepts(text)
    for text in (json.dumps(value)[:-1], json.dumps([value]), f"{value} {value}", "{}", str(other)):
        assert not rule.accepts(text)
    key = next(iter(value))
    assert not rule.accepts(json.dumps(value | {key: "ZZ"}))
    twice = f'{{"{key}": 0, {json.dumps(value)[1:]}'
    assert not rule.accepts(twice)


def test_true_is_not_one_and_a_text_is_no_number():
    assert not Json('{"a": true}').accepts('{"a": 1}')
    assert not Json('{"a": 7}').accepts('{"a": "7"}')


def test_several_words():
    rule = Several(3, "b")
    for text in ("ball, bear, bird", "Ball bear bird.", "bell,bird,bear"):
        assert rule.accepts(text)
    wrong = ("ball, bear", "ball, bear, bird, bell", "ball, ball, bear", "ball, bear, cat", "b b b")
    for text in (*wrong, "b1, b2, b3", "bcd, bcf, bcg"):
        assert not rule.accepts(text)


def test_summaries():
    rule = Mentions((("Friday",), ("6",)), ("Monday", "5"), 8)
    assert rule.accepts("It is on friday at 6.")
    assert rule.accepts("Friday, 6:00")
    for text in (
        *("It is on Friday.", "On Friday at 6, not on Monday.", "On Friday at 16.", "Friday 6 5"),
        *("On Friday at 6 and 7.", "Friday 6:30"),
        *("Well, as far as we know it is on Friday at 6.", "6", ""),
    ):
        assert not rule.accepts(text)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "Unknown."),
        ("en", "It is not stated."),
        ("en", "I don't know"),
        ("en", "The text does not say."),
        ("en", "Not enough information."),
        ("de", "Unbekannt"),
        ("de", "Das ist nicht bekannt."),
        ("fr", "inconnu"),
        ("fr", "On ne sait pas."),
        ("es", "No se sabe."),
        ("it", "Non si sa."),
        ("it", "unknown"),
    ],
)
def test_refusals(language, text):
    rule = Refuses(language)
    assert rule.accepts(text)
    for more in (f"{text} It is 5.", f"{text[:-1]}, but 5", f"perhaps {text}", "5 euros", "known"):
        assert not rule.accepts(more)


@CALM
@given(st.text(max_size=20))
def test_forms_end_and_start_with_the_text_itself(text):
    found = list(forms(text))
    assert len(found) <= 1 + len(text)
    assert (not found) == (not text.strip())
    assert all(len(a) > len(b) for a, b in itertools.pairwise(found))


@CALM
@given(st.integers(), st.integers(1, 9))
def test_draws_are_those_of_their_key(key, count):
    draw, same = Draw("test", key), Draw("test", key)
    found = draw.some(range(9), count)
    assert found == same.some(range(9), count)
    assert len(set(found)) == count
    assert all(2 <= draw.number(2, 4) <= 4 for _ in range(20))
    assert draw.one("x") == "x"


def test_draws_are_the_same_everywhere():
    draw = Draw("fixed")
    assert [draw.number(0, 999) for _ in range(4)] == DRAWN
    assert "a" not in others(Draw("o"), ["a", "A", "b", "c", "b"], ["a"], 2)
    assert three("a", "a", "b", "c") == ("a", "b", "c")
    assert re.fullmatch("[abc]", Draw("p").one("abc"))
