"""Exemplars, joined inputs and cut articles on rows made here."""

import hypothesis
import hypothesis.strategies as st
import pytest

from promot_jax.base.errors import UserError
from promot_jax.tasks import few_shot, mini, templates

WORD = "red"  # One token.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


def numbered(count: int) -> list[few_shot.Pair]:
    return [(f"row {i}", f"answer {i}") for i in range(count)]


def exemplars(rows, pool, shots) -> dict[str, list[str]]:
    """Returns the exemplars' inputs for the inputs of each row."""
    found = {}
    for inputs, _ in rows:
        chosen = few_shot.choose(inputs, pool, shots)
        assert all(pair in pool for pair in chosen)
        found[inputs] = [text for text, _ in chosen]
    return found


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(st.text(), st.integers(0, 50))
def test_an_order_has_every_number_once(key, count):
    assert sorted(few_shot.order(key, count)) == list(range(count))


def test_an_order_takes_every_place_alike():
    """Each number comes first about as often as any other, and second likewise."""
    orders = [list(few_shot.order(str(i), 5)) for i in range(5000)]
    for place in (0, 1, 4):
        firsts = [order[place] for order in orders]
        assert all(900 < firsts.count(number) < 1100 for number in range(5))


def test_a_row_is_never_its_own_exemplar():
    train = numbered(5)
    # A row that the pool has twice is not its own exemplar either.
    found = exemplars(train, [*train, *train], 8)
    assert len(found) == 5
    for inputs, texts in found.items():
        assert {inputs, *texts} == {f"row {i}" for i in range(5)}
        assert inputs not in texts


def test_too_few_rows_to_draw_from_is_an_error():
    with pytest.raises(UserError, match="train has 3 rows that can stand before 'row 0', 4 are"):
        exemplars(numbered(4), numbered(4), 4)


def test_exemplars_depend_on_the_text():
    train = numbered(100)
    found = exemplars(train, train, 2)
    assert len({tuple(texts) for texts in found.values()}) > 90
    # The draw for fewer shots is the beginning of the draw for more.
    assert {text: texts[:1] for text, texts in found.items()} == exemplars(train, train, 1)


def test_the_draw_is_the_same_in_every_release():
    assert exemplars(numbered(2), numbered(1000), 2) == {
        "row 0": ["row 315", "row 805"],
        "row 1": ["row 819", "row 227"],
    }


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(st.lists(st.tuples(TEXT, TEXT), max_size=3), TEXT, TEXT)
def test_join_is_templates_few_shot(pairs, inputs, target):
    row = {"inputs": inputs, "targets": target, "answers": [target]}
    written = templates.few_shot(pairs, inputs)
    plain, span = (few_shot.join(row, pairs, span) for span in (False, True))
    assert plain == {**row, "inputs": written}
    assert span["inputs"] == f"{written} <extra_id_0>"
    assert templates.extract_span(span["targets"]) == target.strip()
    assert set(span) == {"inputs", "targets", "answers"}


def cut(length, *lengths_of_articles, span=False):
    """Cuts articles of so many words, the last being the row's; returns how long they are now."""
    texts = [templates.format_summarization(" ".join([WORD] * n)) for n in lengths_of_articles]
    row = few_shot.with_parts(
        {"inputs": texts[-1], "targets": "peru"}, [(text, "peru") for text in texts[:-1]], span
    )
    lengths = {"inputs": length, "targets": 8}
    encode = few_shot.CutArticles(span)
    text = encode.shortened(row, mini.VOCABULARY, lengths)["inputs"]
    ids = [*mini.VOCABULARY.encode(text), mini.VOCABULARY.eos_id]
    (tokens,) = encode([row], mini.VOCABULARY, lengths)
    # The whole text is there: the end was not cut off.
    assert tokens.inputs.tolist() == ids
    *answered, own = text.removesuffix(" <extra_id_0>").split("\n\n")
    blocks = [*(block.removesuffix(" peru") for block in answered), own]
    assert all(block.startswith("Article:") for block in blocks)
    assert all(block.endswith(" One sentence summary:") for block in blocks)
    return [block.count(WORD) for block in blocks]


@pytest.mark.parametrize("span", [False, True])
def test_long_articles_are_cut_to_one_length(span):
    (alone,) = cut(60, 100, span=span)
    assert 45 <= alone < 60
    first, second = cut(60, 100, 100, span=span)
    assert first == second
    assert 18 <= first < 30


def test_what_fits_stays_as_it_is():
    assert cut(60, 5, 6) == [5, 6]
    assert cut(60, 5, 30) == [5, 30]
    short, long = cut(60, 5, 100)
    assert short == 5
    assert long >= 30
    assert cut(20, 9, 9) == [2, 2]


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(0, 80))
def test_the_common_length_is_the_greatest_that_fits(lengths, total):
    found = few_shot.common_length(lengths, total)
    assert sum(min(n, found) for n in lengths) <= total
    if sum(lengths) > total:
        assert sum(min(n, found + 1) for n in lengths) > total
    else:
        assert found >= max(lengths)
