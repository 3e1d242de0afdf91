"""Signs of a leak that need no labels: by hand, and what holds for all texts."""

import hypothesis
import pytest
from hypothesis import strategies

from promot_jax.data.metrics import leak

TEXTS = strategies.lists(strategies.text(max_size=12), min_size=1, max_size=6)


def test_answers_in_the_form_of_the_target_show_every_sign():
    before = ["Paris", "Москва", "forty two", "a b c"]
    answers = ['{"a": 1}', "Moscow", "True", "true"]
    found = leak.signs(answers, before, ["True", "False"])
    # " true " has the pieces " tr", "tru", "rue", "ue "; nothing else here has one of them.
    assert found["target_likeness"] == 50.0
    assert found["json"] == 25.0
    # To a JSON object of Latin letters from a word of them nothing changes.
    assert found["other_script"] == 25.0
    assert found["length"] == (1 + 22 / 4) / (1 + 25 / 4)


def test_similarity_is_that_of_the_nearest_text():
    nearest = leak.Nearest(["abc", "abd xyz"])
    # " abd " is " ab", "abd", "bd "; "abd xyz" has 7 pieces, " abc " 3.
    assert nearest.similarity("abd") == pytest.approx(2 * 3 / (3 + 7))
    assert nearest.similarity(" ABC") == 1.0
    assert nearest.similarity("?") == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [('{"a": [1]}', True), ("[]", True), ("1", False), ('"a"', False), ("{a}", False), ("", False)],
)
def test_json_is_an_object_or_an_array(text, expected):
    assert leak.is_json(text) == expected
    assert not leak.is_json("[" * 100_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Brot und вода", "LATIN"), ("東京です。", "CJK"), ("42!", ""), ("Ελλάδα", "GREEK")],
)
def test_script_is_that_of_most_letters(text, expected):
    assert leak.script(text) == expected


@hypothesis.given(TEXTS, TEXTS)
def test_answers_that_stayed_show_no_sign(answers, targets):
    found = leak.signs(answers, answers, targets)
    assert found == {"target_likeness": 0.0, "json": 0.0, "other_script": 0.0, "length": 1.0}
    nearest = leak.Nearest(targets)
    assert all(nearest.similarity(target) == 1.0 for target in targets)
    assert all(0.0 <= nearest.similarity(answer) <= 1.0 for answer in answers)
