"""Scores against values worked out by hand."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import sacrebleu
from rouge_score import rouge_scorer, scoring

from promot_jax.data import metrics
from promot_jax.data.metrics import rouge

ALL = [metric.score for metric in metrics.METRICS.values()]
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


BOX = "the red box"
CHINESE = ["我喜欢吃苹果和香蕉", "他明天去北京开会"]
SCRIPTS = [
    ["привет мир сегодня", "да"],
    CHINESE,
    ["私は猫が好きです", "東京へ行く"],
    ["ฉันชอบแมว"],
    ["मैं घर जा रहा हूँ"],
    ["안녕하세요 여러분", "네"],
    ["أنا أحب القطط"],
    ["ö ä ü"],
    [BOX, "box"],
    ["box"],
    [":)", "☃ ☃"],
    ["né à Paris"],
]


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("texts", SCRIPTS, ids=" ".join)
def test_equal_texts_score_100_in_every_script_and_length(metric, texts) -> None:
    assert list(metric(texts, texts).values()) == [pytest.approx(100.0)]


@pytest.mark.parametrize("metric", [metrics.bleu, metrics.rouge2])
@pytest.mark.parametrize(
    ("target", "near", "far"),
    [
        ("我喜欢吃苹果和香蕉", "我喜欢吃香蕉和苹果", "他明天去北京开会"),
        ("私は猫がとても好きです", "私は犬がとても好きです", "東京へ行く"),
        ("ฉันชอบแมวมาก", "ฉันชอบหมามาก", "ไปตลาด"),
        ("мама мыла раму вчера и утром", "мама мыла раму вчера днём", "папа читал газету"),
        ("der große Hund schläft jetzt", "der große Hund schläft", "eine Katze"),
    ],
)
def test_a_nearer_text_scores_more_in_every_script(metric, target, near, far) -> None:
    ((of_near,), (of_far,)) = (metric([target], [text]).values() for text in (near, far))
    assert 100 > of_near > of_far + 10


@pytest.mark.parametrize(
    ("texts", "tokenizer"),
    [
        (CHINESE, "zh"),
        (["使用 TensorFlow 训练模型"], "zh"),
        (["the city of 北京"], "intl"),
        (["私は猫が好きです"], "char"),
        (["ฉันชอบแมว"], "char"),
        (["မင်္ဂလာပါ"], "char"),
        (["안녕하세요"], "intl"),
        (["привет"], "intl"),
        (["3 + 4"], "intl"),
    ],
)
def test_bleu_is_tokenised_for_the_script_of_the_targets(texts, tokenizer) -> None:
    assert metrics.scripts.bleu_tokenizer(texts) == tokenizer
    predictions = [text[:-2] + "x" for text in texts]
    expected = sacrebleu.BLEU(tokenize=tokenizer).corpus_score(predictions, [texts]).score
    if len(texts[0]) > 6 and tokenizer != "intl":
        assert metrics.bleu(texts, predictions)["bleu"] == pytest.approx(expected)


def test_bleu_of_a_fixed_tokenizer() -> None:
    metric = metrics.METRICS["bleu-13a"].score
    targets, predictions = ["a b, c d – e (f)."], ["a b, c d (f)."]
    assert metric.__name__ == "bleu-13a"
    assert metric(targets, predictions) == {
        "bleu-13a": pytest.approx(sacrebleu.corpus_bleu(predictions, [targets]).score)
    }


def test_rouge2_of_ascii_texts_is_that_of_t5() -> None:
    targets = ["The companies' plans to close 20 factories: criticised by workers.", "a b c_d"]
    predictions = ["Workers criticise the company plan to close 20 factories.", "b c d"]
    assert metrics.rouge2(targets, predictions) == metrics.t5.rouge2(targets, predictions)


WORDS = st.lists(st.sampled_from(["a", "b", "the", "l’été", "3.5", "Ab-c_d", "中文", "☃", "İ"]))


@hypothesis.given(WORDS.map(" ".join), WORDS.map(" ".join) | st.text(), st.sampled_from((1, 2, 3)))
def test_rouge_is_that_of_rouge_score(target, prediction, order) -> None:
    theirs = rouge_scorer.RougeScorer([f"rouge{order}"]).score(target, prediction)
    words = map(rouge.ascii_words, (target, prediction))
    assert rouge.f1(*words, order) == theirs[f"rouge{order}"].fmeasure


FRENCH = ["Le président s’est dit « très satisfait » des 3,5 % de croissance !", "L’UE, en 2010."]
SAID = ["Le président s’est dit « satisfait » des 3,5 % de croissance !", "L’UE – 2010."]


def test_the_metrics_of_t5() -> None:
    # As t5/evaluation/metrics.py calls the two libraries.
    theirs = sacrebleu.corpus_bleu(
        SAID, [FRENCH], smooth_method="exp", smooth_value=0.0, tokenize="intl"
    )
    assert metrics.t5.bleu(FRENCH, SAID)["bleu"] == pytest.approx(theirs.score)
    scorer = rouge_scorer.RougeScorer(["rouge2"])
    aggregator = scoring.BootstrapAggregator()
    for target, prediction in zip(TEXTS, ["the cats sat on a mat", TEXTS[1]], strict=True):
        aggregator.add_scores(scorer.score(target, prediction))
    np.random.seed(0)
    middle = 100 * aggregator.aggregate()["rouge2"].mid.fmeasure
    mean = metrics.t5.rouge2(TEXTS, ["the cats sat on a mat", TEXTS[1]])["rouge2"]
    assert mean == pytest.approx(middle, abs=0.5)


def test_webquestions_is_cleaned_as_t5_does() -> None:
    said = ["USA", "Spiderman", "Schindler’s"]
    targets = [["U.S.A."], ["the Spider-Man"], ["Schindler's"]]
    assert metrics.t5.squad(targets, said)["exact_match"] == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ("target", "prediction", "equal"),
    [
        ("Schindler's List", "schindler’s list", True),
        ("Spider-Man", "the Spider Man", True),
        ("U.S.A.", "USA", False),
        ("3.14", "3 14", True),
        (["Lutetia", "Paris"], "paris.", True),
        ("“Paris”", "Paris", False),
    ],
)
def test_triviaqa_is_cleaned_as_t5_does(target, prediction, equal) -> None:
    found = metrics.t5.trivia_qa([target], [prediction])
    assert found == {"exact_match": 100.0 * equal}


def test_rouge2_is_the_f1_of_word_pairs() -> None:
    # Pairs of the target: 4; of the prediction: 3; common: 2 (pilot rosa, rosa goes).
    score = metrics.rouge2(["pilot rosa goes to delhi"], ["pilot rosa goes home"])["rouge2"]
    assert score == pytest.approx(100 * 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))


@pytest.mark.parametrize(
    ("answers", "prediction", "expected"),
    [
        ("Denver Broncos", "the Denver Broncos.", 1),
        # One word of one is right, and it is one of three.
        ("the Panama Canal Zone", "Panama", 2 * 1 * (1 / 3) / (1 + 1 / 3)),
        # Two of three words are right, and they are two of two.
        ("Super Bowl", "Super Bowl 50", 2 * (2 / 3) * 1 / (2 / 3 + 1)),
        ("new york city", "york new city", 1),
        # A word that stands there once counts once.
        ("very good", "very very very", 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2)),
        (["Spider-Man", "U.S.A."], "usa", 1),
        (["1867", "in the year 1867"], "year 1867", 2 * 1 * (2 / 3) / (1 + 2 / 3)),
        ("lima", "", 0),
        ("lima", "quito", 0),
        # Nothing is left of either, or of one.
        ("The", "a", 1),
        ("The", "lima", 0),
        # A character is a word: one of two is right, and it is one of three.
        ("北京市", "北门", 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3)),
        ("l’été à Nice", "l’été", 2 * 1 * (1 / 3) / (1 + 1 / 3)),
    ],
)
def test_f1_is_that_of_squad(answers, prediction, expected) -> None:
    found = metrics.f1([answers], [prediction])
    assert found == {"f1": pytest.approx(100 * expected)}


def test_f1_is_the_mean_over_rows() -> None:
    targets = ["Panama Canal", ["lima"], "quito"]
    assert metrics.f1(targets, ["Panama", "bogota", "quito"])["f1"] == pytest.approx(
        100 * (2 / 3 + 0 + 1) / 3
    )


def test_label_share_ignores_space_and_trailing_punctuation_only() -> None:
    outputs = ["True", " False. ", "True!", "True story", "true", "bamako", "", "untrue"]
    assert metrics.label_share(outputs, ("True", "False")) == pytest.approx(100 * 3 / 8)


@pytest.mark.parametrize(
    ("label", "found", "others"),
    [
        ("yes!", ["yes!", " yes!. ", "yes!!"], ["yes", "yes! sir"]),
        (":)", [":)", ":)."], [":(", ":"]),
        ("C++", ["C++", "C++."], ["C", "C+"]),
        ("C", ["C", "C.", "C)"], ["C++", "C#"]),
        ("-5", ["-5", "-5."], ["5"]),
        ("5", ["5"], ["5%", "-5"]),
        ("是", ["是。", "是"], ["是的"]),
    ],
)
def test_labels_with_punctuation_are_found(label, found, others) -> None:
    outputs = [*found, *others]
    share = metrics.label_share(outputs, (label,))
    assert share == pytest.approx(100 * len(found) / len(outputs))


def test_label_share_of_no_outputs_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        metrics.label_share([], ("True",))


@hypothesis.given(st.lists(st.sampled_from(["True", "False", "lima", "True."]), min_size=1))
def test_label_share_lies_between_0_and_100(outputs: list[str]) -> None:
    share = metrics.label_share(outputs, ("True", "False"))
    assert share == pytest.approx(100 * sum(o != "lima" for o in outputs) / len(outputs))
