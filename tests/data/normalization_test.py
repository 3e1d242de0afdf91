"""Which answers `exact_match` takes for the same, and which it tells apart."""

import hypothesis
import hypothesis.strategies as st
import pytest

from promot_jax.data import metrics

# Each line holds answers that are one; no two lines hold the same answer.
SAME = [
    ["5", "5.", "(5)", "5!", "the 5", "'5'"],
    ["-5", "−5", "–5", "(-5)", '"-5"', "- 5"],
    ["+5"],
    ["3.14"],
    ["314"],
    ["0.5", ".5"],
    ["1.5"],
    ["1,5"],
    ["15"],
    ["1/2", "½", "1 / 2"],
    ["1 1/2", "1½"],
    ["11/2"],
    ["12"],
    ["1 2", "1, 2"],
    ["50%", "50 %", "50％"],
    ["50"],
    ["1,000", "1000", "1,000."],
    ["1.000"],
    ["10:30"],
    ["1030"],
    ["$5", "$ 5"],
    ["-$5"],
    ["5€", "5 €"],
    ["1e-5", "1E-5"],
    ["1e5"],
    ["20°", "20 °"],
    ["20"],
    ["x²", "x^2"],
    ["x2"],
    ["10⁻⁵"],
    ["5-3", "5 - 3", "5 – 3", "5−3"],
    ["5 3"],
    ["5 + 3", "5+3"],
    ["٣٫١٤"],
    ["٣١٤"],
    ["+"],
    ["-", "−", "'-'"],
    ["*"],
    ["/"],
    [":)"],
    [":("],
    ["...", "…"],
    ["A", "a", "(A)", "A.", "A)", "the A"],
    ["The", "the"],
    ["an"],
    ["A, B", "A B", "a, b."],
    ["B"],
    ["A+", "A +"],
    ["A-", "A−"],
    ["A*"],
    ["vitamin A", "Vitamin a."],
    ["vitamin"],
    ["C++", "Ｃ＋＋", "c++."],
    ["C", "*C*"],
    ["C#"],
    ["a < b", "a<b"],
    ["a > b"],
    ["a -> b"],
    ["a = b"],
    ["a != b", "a!=b"],
    ["a * b"],
    ["x / y", "x/y"],
    ["x - y"],
    ["yes", "yes!", "Yes", "«yes»", "**yes**"],
    ["Spider-Man", "Spider Man", "the spider–man"],
    ["Schindler's List", "Schindler’s List", "schindler´s list"],
    ["Apollo-11", "Apollo 11"],
    ["F-16", "F 16"],
    ["U.S.A.", "USA", "U. S. A."],
    ["J.R.R. Tolkien", "J. R. R. Tolkien", "JRR Tolkien"],
    ["H₂O", "H2O"],
    ["The Beatles", "Beatles", "beatles"],
    ["naïve", "nai\u0308ve"],
    ["naive"],
    ["Straße", "STRASSE"],
    ["你好，世界", "你好世界", "“你好 世界。”"],
    ["温度是-5"],
    ["温度是5"],
    ["ジョン・スミス", "ジョン スミス"],
    ["का घर।", "का घर"],
    ["की घर"],
    ["مرحبا، عالم؟", "مرحبا عالم"],
    ["א", "א."],
    ["👍"],
    ["👎"],
    ["❤️", "❤"],
]


def test_answers_of_a_line_are_one_and_those_of_two_lines_are_not():
    seen = {}
    for answers in SAME:
        (form,) = {metrics.normalize_answer(answer) for answer in answers} or {""}
        assert form not in seen, (answers, seen[form])
        seen[form] = answers
    assert metrics.exact_match(["A", "The", "-5", ""], ["", "", "5", ""]) == {"exact_match": 25.0}


@pytest.mark.parametrize(
    ("text", "normal"), [("theatre", "theatre"), ("Rumänisch, und Peru", "rumänisch und peru")]
)
def test_plain_words(text, normal):
    assert metrics.normalize_answer(text) == normal


@hypothesis.given(st.text())
def test_only_an_empty_answer_equals_an_empty_one(text):
    visible = any(not c.isspace() for c in text)
    assert bool(metrics.normalize_answer(text)) <= visible
    if text.isascii() and text.isprintable():
        assert bool(metrics.normalize_answer(text)) == visible


@hypothesis.given(st.integers(-2000, 2000), st.integers(-2000, 2000))
def test_numbers_are_equal_where_they_are(one, other):
    forms = [metrics.normalize_answer(text) for text in (f"{one:,}", f"{other}.")]
    assert (forms[0] == forms[1]) == (one == other)
