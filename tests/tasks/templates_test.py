"""The literal strings of the paper's Table 4, the few-shot form and the output clean-up."""

import hypothesis
import hypothesis.strategies as st
import pytest

from promot_jax.tasks import templates


@pytest.mark.parametrize(
    ("made", "literal"),
    [
        (templates.format_rte("P.", "H."), "P. question: H. Is it true or false? answer:"),
        (
            templates.format_cb("P.", "H."),
            "P. question: H. Is it true or false or neither? answer:",
        ),
        (
            templates.format_snli("P.", "H."),
            "P. question: H. Is it true or false or neither? answer:",
        ),
        (
            templates.format_wic("One.", "Two.", "bank"),
            "One. Two. question: The word bank is used in the same way in the two sentences. "
            "Is it true or False? answer:",
        ),
        (
            templates.format_openbookqa("why?", ["a", "b", "c", "d"]),
            "Q: why? A) a B) b C) c D) d A:",
        ),
        (templates.format_qa("why?"), "Q: why? A:"),
        (
            templates.format_translation("English", "German", "a b"),
            "Translate English to German: a b",
        ),
        (templates.format_summarization("Long."), "Article: Long. One sentence summary:"),
    ],
)
def test_table_4(made: str, literal: str) -> None:
    assert made == literal


def test_text_with_braces_stays_as_it_is() -> None:
    assert templates.format_qa("what is {x}?") == "Q: what is {x}? A:"


def test_openbookqa_names_a_wrong_number_of_options() -> None:
    with pytest.raises(ValueError, match="4 options, got 3"):
        templates.format_openbookqa("why?", ["a", "b", "c"])


def test_few_shot_joins_answered_blocks_by_blank_lines() -> None:
    made = templates.few_shot([("Q: a A:", "1"), ("Q: b A:", "2")], "Q: c A:")
    assert made == "Q: a A: 1\n\nQ: b A: 2\n\nQ: c A:"
    assert templates.few_shot([], "Q: c A:") == "Q: c A:"


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("bamako", "bamako"),
        ("<extra_id_0> bamako <extra_id_1> is it", "bamako"),
        ("<extra_id_0> bamako", "bamako"),
        ("noise <extra_id_0> bamako", "bamako"),
        ("bamako Q: what is A: lima Q: x", "bamako"),
        ("montag oder peru\n\nTranslate English to German: x", "montag oder peru"),
        ("the end. Article: more", "the end."),
        ("<extra_id_0> lima Q: why <extra_id_1> x", "lima"),
        ("FAQ: no prefix, Translated neither", "FAQ: no prefix, Translated neither"),
        ("", ""),
    ],
)
def test_extract_answer(output: str, answer: str) -> None:
    assert templates.extract_answer(output) == answer


@pytest.mark.parametrize("prefix", templates.PREFIX_TOKENS)
def test_every_prefix_token_ends_an_answer(prefix: str) -> None:
    assert templates.extract_answer(f"yes {prefix} more") == "yes"


@pytest.mark.parametrize(
    ("output", "label"),
    [
        ("True", "True"),
        ("True.", "True"),
        (" False, because", "False"),
        ("<extra_id_0> Neither <extra_id_1>", "Neither"),
        ("A) a cat", "A"),
        ("B.", "B"),
        ("Truely", "Truely"),
        ("It is True", "It"),
        ("true", "true"),
        ("", ""),
        ("Q: x", ""),
    ],
)
def test_first_label(output: str, label: str) -> None:
    assert templates.first_label(output) == label


def test_postprocessors_clean_predictions_and_leave_targets() -> None:
    reference = "Translate the page. Q: why"
    assert templates.postprocess_text(reference, example={}, is_target=True) == reference
    assert templates.postprocess_text("lima Q: why", example={}, is_target=False) == "lima"
    assert templates.postprocess_label("True. Yes", example={}, is_target=False) == "True"
    assert templates.postprocess_label("True", example={}, is_target=True) == "True"
    span = "<extra_id_0> Q: why <extra_id_1>"
    assert templates.postprocess_text(span, example={}, is_target=True) == "Q: why"
    assert templates.postprocess_label(span, example={}, is_target=True) == "Q: why"


def test_a_target_with_several_answers_is_their_list() -> None:
    example = {"answers": ["Lutèce", "Paris"]}
    made = templates.postprocess_answers("Paris", example=example, is_target=True)
    assert made == ["Lutèce", "Paris"]
    assert templates.postprocess_answers("Paris Q: x", example=example, is_target=False) == "Paris"


@hypothesis.given(st.text())
def test_cleaning_is_idempotent_on_plain_text(text: str) -> None:
    hypothesis.assume("<extra_id_" not in text)
    once = templates.extract_answer(text)
    assert templates.extract_answer(once) == once
    assert templates.first_label(templates.first_label(text)) == templates.first_label(text)
