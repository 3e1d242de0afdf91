"""Scores against values worked out by hand."""

import hypothesis
import hypothesis.strategies as st
import pytest

from promot_jax import metrics

ALL = (metrics.accuracy, metrics.exact_match, metrics.bleu, metrics.rouge2)
TEXTS = ["the cat sat on the mat today", "she went to the old town hall"]


@pytest.mark.parametrize("metric", ALL)
def test_perfect_predictions_score_100(metric) -> None:
    assert metric(TEXTS, TEXTS) == {metric.__name__: pytest.approx(100.0)}


@pytest.mark.parametrize("metric", ALL)
def test_unrelated_predictions_score_0(metric) -> None:
    (score,) = metric(TEXTS, ["x", "y"]).values()
    assert score == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize(("targets", "predictions"), [(["a"], ["a", "b"]), ([], [])])
def test_lengths_must_match_and_not_be_zero(metric, targets, predictions) -> None:
    with pytest.raises(ValueError, match="as many predictions as targets"):
        metric(targets, predictions)


def test_accuracy_is_literal() -> None:
    assert metrics.accuracy(
        ["True", "False", "True", "True"], ["True", "True", "true", "True"]
    ) == {"accuracy": 50.0}


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Beatles!", "beatles"),
        ("a an the", ""),
        ("theatre", "theatre"),
        ("U.S.A.", "usa"),
        ("Rumänisch, und Peru", "rumänisch und peru"),
    ],
)
def test_normalize_answer(text: str, normal: str) -> None:
    assert metrics.normalize_answer(text) == normal


def test_exact_match_takes_any_accepted_answer() -> None:
    targets = [["Lutetia", "Paris"], "Bamako", ["Lima"]]
    assert metrics.exact_match(targets, ["the paris.", "bamako", "quito"]) == {
        "exact_match": pytest.approx(100 * 2 / 3)
    }


def test_exact_match_does_not_split_a_single_answer_into_letters() -> None:
    assert metrics.exact_match(["abc"], ["b"]) == {"exact_match": 0.0}


def test_bleu_of_one_missing_word() -> None:
    # Precisions 4/4, 3/3, 2/2, 1/1 and a brevity penalty of exp(1 - 5/4).
    score = metrics.bleu(["one two three four five"], ["one two three four"])["bleu"]
    assert score == pytest.approx(100 * 2.718281828 ** (-0.25), rel=1e-6)


def test_bleu_is_of_the_corpus_not_a_mean_of_sentences() -> None:
    targets = ["a b c d e f", "g h i j"]
    predictions = ["a b c d e f", "x y z w"]
    # 6 of 10 words, 5 of 8 pairs, 4 of 6 triples, 3 of 4 fours.
    expected = 100 * (6 / 10 * 5 / 8 * 4 / 6 * 3 / 4) ** 0.25
    assert metrics.bleu(targets, predictions)["bleu"] == pytest.approx(expected)


def test_rouge2_is_the_f1_of_word_pairs() -> None:
    # Pairs of the target: 4; of the prediction: 3; common: 2 (pilot rosa, rosa goes).
    score = metrics.rouge2(["pilot rosa goes to delhi"], ["pilot rosa goes home"])["rouge2"]
    assert score == pytest.approx(100 * 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))


def test_label_share_ignores_space_and_trailing_punctuation_only() -> None:
    outputs = ["True", " False. ", "True!", "True story", "true", "bamako", "", "untrue"]
    assert metrics.label_share(outputs, ("True", "False")) == pytest.approx(100 * 3 / 8)


def test_label_share_of_no_outputs_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        metrics.label_share([], ("True",))


@hypothesis.given(st.lists(st.sampled_from(["True", "False", "lima", "True."]), min_size=1))
def test_label_share_lies_between_0_and_100(outputs: list[str]) -> None:
    share = metrics.label_share(outputs, ("True", "False"))
    assert share == pytest.approx(100 * sum(o != "lima" for o in outputs) / len(outputs))
