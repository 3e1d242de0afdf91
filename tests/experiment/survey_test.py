"""What is counted of the rows of a split, in one pass."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from promot_jax.base.errors import UserError
from promot_jax.experiment import survey
from promot_jax.tasks import mini


def test_lengths_are_those_that_batches_have():
    texts = [("q: the box is blue", "yes"), ("x", "a b c")]
    sizes = survey.measure(texts, mini.vocabulary())
    encoded = [[len(mini.vocabulary().encode(text)) + 1 for text in row] for row in texts]
    np.testing.assert_array_equal(sizes.lengths["inputs"], [row[0] for row in encoded])
    np.testing.assert_array_equal(sizes.lengths["targets"], [row[1] for row in encoded])
    assert sizes.tokens == sum(map(sum, encoded)) - 4


@pytest.mark.parametrize(
    ("longest", "chosen"), [((8, 2), (8, 8)), ((9, 16), (16, 16)), ((5000, 300), (1024, 256))]
)
def test_feature_lengths_hold_all_rows(longest, chosen):
    counts = {f: np.array([1, n]) for f, n in zip(("inputs", "targets"), longest, strict=True)}
    assert tuple(survey.fitting([survey.Sizes(counts, 0)]).values()) == chosen


def test_unknown_tokens_are_counted():
    # The miniature's vocabulary knows no such sign.
    known, unknown = (survey.measure([(t, "yes")], mini.vocabulary()) for t in ("box", "☃ ☃ box"))
    assert known.unknown == 0
    assert unknown.unknown == 2


def test_a_survey_of_many_chunks_is_that_of_one(monkeypatch):
    rows = [{"inputs": f"the box {i % 7}", "targets": f" {'no' * (i % 3)}yes "} for i in range(20)]
    whole = survey.survey(rows, mini.vocabulary())
    monkeypatch.setattr(survey, "_CHUNK", 3)
    parts = survey.survey(rows, mini.vocabulary())
    for feature in survey.FEATURES:
        np.testing.assert_array_equal(parts.sizes.lengths[feature], whole.sizes.lengths[feature])
    np.testing.assert_array_equal(parts.inputs, whole.inputs)
    assert parts.first == whole.first == [(row["inputs"], row["targets"]) for row in rows[:3]]
    assert parts.targets == whole.targets == {"yes": 7, "noyes": 7, "nonoyes": 6}
    assert parts.sizes.tokens == whole.sizes.tokens
    assert len(survey.survey(rows, mini.vocabulary(), limit=8)) == 8


@pytest.mark.parametrize("wrong", [0, 4, 19])
def test_what_is_wrong_with_a_row_ends_its_survey(monkeypatch, wrong):
    monkeypatch.setattr(survey, "_CHUNK", 3)

    class Broken(list):
        def __getitem__(self, number):
            if number == wrong:
                raise UserError(f"row {number} is damaged")
            return super().__getitem__(number)

    with pytest.raises(UserError, match=f"row {wrong} is damaged"):
        survey.survey(Broken([{"inputs": "a", "targets": "b"}] * 20), mini.vocabulary())


@settings(max_examples=50, deadline=None)
@given(*[st.lists(st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1), min_size=1)] * 2)
def test_known_inputs_are_counted_with_their_repetitions(one, other):
    one, other = (
        survey.Survey(survey.Sizes({}, 0), [], np.array(hashes, np.int64), {})
        for hashes in (one, other)
    )
    assert one.known(other) == sum(value in other.inputs for value in one.inputs)
