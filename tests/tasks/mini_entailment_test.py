"""The second pretraining mixture: each answer is right, and nothing gives the target away."""

import collections
import hashlib
import re

import pytest

from promot_jax.tasks import mini_entailment, mini_pretrain, mini_rows, templates
from promot_jax.tasks import mini_world as world
from tests.tasks.mini_world_test import read_statement


@pytest.fixture(scope="module")
def mixture():
    """Some rows of the mixture."""
    rng = mini_rows.seeded("entailment mixture/train")
    return [mini_pretrain.mixed_row(rng, mini_entailment.MIXTURE) for _ in range(20_000)]


def test_rows_are_those_of_the_bundled_model(mixture) -> None:
    digest = hashlib.sha256(repr(mixture[:5_000]).encode()).hexdigest()[:16]
    assert digest == "06d9cf7ce4fa78dd"


def test_shares_sum_to_100() -> None:
    assert sum(mini_entailment.MIXTURE.values()) == 100


def test_no_true_or_false_question(mixture) -> None:
    assert not [row for row in mixture if "true or false" in " ".join(row).lower()]


@pytest.mark.parametrize("name", ["rte", "cb", "wic"])
def test_no_evaluated_question(name, mixture) -> None:
    asked = {question for inputs, _ in mixture for question in inputs.split("\n\n")}
    assert len(asked) > 20_000
    assert not asked & mini_rows.held_out(name, "inputs")


def test_true_and_false_in_label_episodes_only() -> None:
    rng = mini_rows.seeded("no labels")
    for task in (
        mini_entailment.entailment,
        mini_entailment.three_way_entailment,
        mini_entailment.entailment_episode,
        mini_entailment.word_sense,
    ):
        texts = [" ".join(task(rng)) for _ in range(1_000)]
        assert not [text for text in texts if re.search("True|False|Neither", text)], task


def asked_pair(text, forms):
    """Returns the premise, the hypothesis and the answers of a question in one of some forms."""
    for form, *answers in forms:
        pattern = re.escape(form).replace(r"\{premise\}", "(.*)").replace(r"\{hypothesis\}", "(.*)")
        if match := re.fullmatch(pattern, text):
            return *match.groups(), answers
    raise AssertionError(text)


def facts_of(premise):
    return [read_statement(sentence + ".", (0,)) for sentence in premise[:-1].split(". ")]


def questions(draw, count=2_000):
    """Yields each question of some rows, those of exemplars too, with its answer."""
    rng = mini_rows.seeded("questions")
    for _ in range(count):
        inputs, target = draw(rng)
        *exemplars, asked = inputs.split("\n\n")
        yield from (exemplar.rsplit(" ", 1) for exemplar in exemplars)
        yield asked, target


def test_entailment_is_right() -> None:
    answered = collections.Counter()
    for question, answer in questions(mini_entailment.entailment):
        premise, hypothesis, answers = asked_pair(question, mini_entailment.ENTAILMENT_FORMS)
        follows = read_statement(hypothesis, (1, 2, 3)) in facts_of(premise)
        assert answer == answers[0 if follows else 1]
        answered[answer] += 1
    assert set(answered) == {a for _, *both in mini_entailment.ENTAILMENT_FORMS for a in both}


def test_three_way_entailment_is_right() -> None:
    answered = collections.Counter()
    for question, answer in questions(mini_entailment.three_way_entailment):
        premise, hypothesis, answers = asked_pair(question, mini_entailment.THREE_WAY_FORMS)
        kind, name, value = read_statement(hypothesis, (3,))
        known = {(k, n): v for k, n, v in facts_of(premise)}
        found = known.get((kind, name))
        assert answer == answers[0 if found == value else 2 if found is None else 1]
        answered[answer] += 1
    assert set(answered) == {a for _, *three in mini_entailment.THREE_WAY_FORMS for a in three}


def test_entailment_episodes_are_right_and_never_say_true() -> None:
    rng = mini_rows.seeded("pairs")
    for _ in range(500):
        inputs, target = mini_entailment.entailment_episode(rng)
        *exemplars, asked = inputs.split("\n\n")
        meaning = {}
        for exemplar in exemplars:
            question, label = exemplar.rsplit(" ", 1)
            meaning[follows(question)] = label
        assert len(set(meaning.values())) == 2
        assert target == meaning[follows(asked)]
        assert not set(meaning.values()) & set(templates.CB_LABELS)


def follows(question):
    """Whether the last sentence of a question says what one before it says."""
    plain = re.sub(r"(question|answer|Q|A|so):", "", question)
    *premise, hypothesis = (sentence.strip() for sentence in re.findall(r"[^.]+\.", plain))
    return read_statement(hypothesis, (1, 2, 3)) in facts_of(" ".join(premise))


def test_word_senses_are_right() -> None:
    sense_of = {
        context.split("{name}")[1]: (word, place)
        for word, senses in world.SENSES.items()
        for place, contexts in enumerate(senses)
        for context in contexts
    }
    for question, answer in questions(mini_entailment.word_sense):
        _, *answers = next(
            form
            for form in mini_entailment.SENSE_FORMS
            if question.endswith(form[0].split("{} ")[-1])
        )
        found = [sense for text, sense in sense_of.items() if text in question]
        assert len(found) == 2, question
        assert found[0][0] == found[1][0]
        assert answer == answers[0 if found[0] == found[1] or len(set(found)) == 1 else 1]


@pytest.mark.parametrize("form", [templates.format_rte, templates.format_cb])
def test_entailment_draws_a_held_out_pair_anew(form, monkeypatch) -> None:
    first = mini_entailment.question(mini_rows.seeded("pair"))
    premise, hypothesis, _ = asked_pair(first[0], mini_entailment.ENTAILMENT_FORMS)
    pair = form(premise, hypothesis)
    monkeypatch.setattr(mini_rows, "held_out", lambda name, field: frozenset({pair}))
    assert mini_entailment.question(mini_rows.seeded("pair"))[0] != first[0]


def test_entailment_rows_are_new(mixture, monkeypatch) -> None:
    monkeypatch.setattr(mini_entailment, "rows", lambda split: mixture)
    rows = mini_entailment.entailment_rows.__wrapped__("test")
    assert len(rows) == mini_entailment.ENTAILMENT_SIZES["test"]
    assert not set(rows) & set(mixture)
    assert all("\n" not in inputs for inputs, _ in rows)
