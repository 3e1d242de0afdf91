"""Fields of records in templates: what a name finds, and what is said where it finds nothing."""

import datetime
import decimal

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from promot_jax.base.errors import UserError
from promot_jax.tasks import row_files
from promot_jax.tasks.row_templates import Row, Templates

RECORD = {
    "translation": {
        "en": "a cat",
        "de": "eine Katze",
        "parts": {"x.y": "z", "x": {"y": "w", "u": "v"}},
    },
    "answers": {"text": ["Mali", "Republic of Mali"], "answer_start": [1, 2]},
    "choices": [{"text": "red", "score": "0.5"}, {"text": "blue", "score": "0.1"}],
    "a.b": "with a dot",
    "a": {"b": "inside", "c": "other"},
    "two words": "x",
    "text [en]": "brackets",
    "标签": "是",
    "0": "numbered",
    "none": None,
    "empty": [],
    "bytes": b"x",
    "price": decimal.Decimal("1.50"),
    "million": decimal.Decimal("1E+6"),
    "day": datetime.date(2020, 1, 2),
    "instant": datetime.datetime(2020, 1, 2, 3, 4),
    "size": 1.0,
    "right": True,
}


def row(template, target="{0}", several=False):
    return Templates(template, target, several).row("rows.jsonl, line 7", RECORD)


def refused(template, target="{0}", several=False):
    with pytest.raises(UserError) as found:
        row(template, target, several)
    return str(found.value)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{translation.en} {{x}} {translation.de}", "a cat {x} eine Katze"),
        ("{translation[en]}", "a cat"),
        ("{translation.parts.x.y}{translation.parts.x.u}", "zv"),
        ("{answers.text.1}", "Republic of Mali"),
        ("{answers[text][0]}", "Mali"),
        ("{choices.1.text}{choices.0.score}", "blue0.5"),
        ("{a.b}", "with a dot"),
        ("{a.c}", "other"),
        ("{two words}{ two words }", "xx"),
        ("{text [en]}", "brackets"),
        ("{标签}", "是"),
        ("{0}", "numbered"),
        ("{price} {million} {day} {instant}", "1.50 1000000 2020-01-02 2020-01-02 03:04:00"),
        ("{size} {right}", "1.0 true"),
    ],
)
def test_a_name_finds_its_value(template, expected):
    assert row(template).inputs == expected
    assert row("{0}", template) == Row("numbered", expected, (expected,))


def test_several_answers_are_those_of_a_list_wherever_it_stands():
    assert row("{0}", " {answers.text}", several=True).answers == ("Mali", "Republic of Mali")
    assert row("{0}", "{choices.text}", several=True) == Row("numbered", "red", ("red", "blue"))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{text}", "no field 'text'; it has translation, answers, choices, a.b, a, two words"),
        ("{translation.fr}", "no field 'translation.fr'; translation has en, de, parts"),
        (
            "{translation.parts.x.z}",
            "no field 'translation.parts.x.z'; translation.parts.x has y, u",
        ),
        ("{translation.en.x}", "no field 'translation.en.x'; translation.en is a text"),
        ("{none.x}", "no field 'none.x'; none is null"),
        ("{answers.text.2}", "answers.text is a list of 2, the first of which is answers.text.0"),
        ("{empty.0}", "no field 'empty.0'; empty is an empty list"),
        ("{translation}", "is an object; name one of its fields, such as {translation.en}"),
        ("{answers.text}", "is a list; name one of its values, such as {answers.text.0}"),
        ("{bytes}", "field 'bytes' is binary; give a text or a number"),
        ("{none}", "field 'none' is null; give a text or a number"),
    ],
)
def test_what_a_name_does_not_find_is_said(template, expected):
    message = refused(template)
    assert message.startswith("rows.jsonl, line 7: ")
    assert expected in message


def test_a_list_of_answers_is_for_some_metrics_alone():
    expected = "only exact_match and f1 take several answers, and {answers.text.0} is the first"
    assert expected in refused("{0}", "{answers.text}")
    assert "field 'empty' is an empty list" in refused("{0}", "{empty}", several=True)
    assert "are lists; a target takes one" in refused("{0}", "{answers.text}{empty}", several=True)


def test_long_and_odd_names_stay_on_one_line():
    record = {f"column {i}": "x" for i in range(1000)} | {"two\nlines": "x"}
    with pytest.raises(UserError) as found:
        Templates("{text}", "{text}", False).row("a.csv, line 2", record)
    assert str(found.value).endswith("column 19, and 981 more")
    with pytest.raises(UserError) as found:
        Templates("{text}", "{text}", False).row("a.csv, line 2", {"two\nlines": 1, "x" * 99: 1})
    assert str(found.value).endswith(f"it has two lines, {'x' * 39}…")


FIELD = st.sampled_from(["a", " ", "", "ça", "50 %s", "\ud83c", "{b}", 1, None, ["x"]]) | st.text()


ANY = st.dictionaries(st.sampled_from(["a", "b", "c"]), FIELD)
PLAIN = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
FULL = st.fixed_dictionaries({"a": PLAIN, "b": PLAIN, "c": st.integers()})


@settings(max_examples=300, deadline=None)
@given(st.lists(ANY, max_size=3) | st.lists(FULL | ANY, max_size=5) | st.lists(FULL))
def test_rows_together_are_those_one_by_one(records):
    made = Templates("{a}, 100 % {{{b}}}?", "{b}{c} %s", False)
    found = [(f"a.jsonl, line {number}", record) for number, record in enumerate(records, 1)]
    assert said(lambda: made.rows(found)) == said(lambda: [made.row(*record) for record in found])


def said(make):
    """Returns rows, or what is wrong with the first that cannot be one."""
    try:
        return make()
    except UserError as error:
        return str(error)


def test_plain_records_are_not_looked_at_one_by_one(monkeypatch):
    monkeypatch.delattr(Templates, "row")
    records = [("", {"a": text, "b": 0, "c": row_files.Number("07")}) for text in "xy"]
    rows = Templates("{a} {b}", "{c} ", False).rows(records)
    assert rows == [("x 0", "07 ", ("07",)), ("y 0", "07 ", ("07",))]
    assert {type(text) for row in rows for text in (row.targets, *row.answers)} == {str}
