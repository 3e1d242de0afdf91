"""Exemplars, joined inputs and cut articles on rows made here."""

import hypothesis
import hypothesis.strategies as st
import pytest
import seqio
import tensorflow as tf

from promot_jax.tasks import few_shot, mini, templates

WORD = "red"  # One token.
FEATURES = {"inputs": seqio.Feature(vocabulary=mini.VOCABULARY)}
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


def numbered(count: int, name: str = "row") -> tf.data.Dataset:
    def row(i):
        number = tf.strings.as_string(i)
        return {
            "inputs": tf.strings.join([name, number], " "),
            "targets": tf.strings.join(["answer", number], " "),
        }

    return tf.data.Dataset.range(count).map(row)


def exemplars(rows, train, shots) -> dict[str, list[str]]:
    """Returns the exemplars' inputs for the inputs of each row."""
    chosen = few_shot.choose_exemplars(rows, lambda: train, shots).as_numpy_iterator()
    found = {}
    for row in chosen:
        found[row["inputs"].decode()] = [text.decode() for text in row["exemplar_inputs"]]
        answers = [text.replace(b"row", b"answer") for text in row["exemplar_inputs"]]
        assert row["exemplar_targets"].tolist() == answers
    return found


def one(**fields) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensors({name: tf.constant(v) for name, v in fields.items()})


def test_fill_is_the_template_whatever_the_text():
    filled = few_shot.fill(templates.QA, question=tf.constant("why {x} é?"))
    assert filled.numpy().decode() == templates.format_qa("why {x} é?")
    fields = {"sentence1": "One.", "sentence2": "Two.", "word": "bank"}
    assert few_shot.fill(templates.WIC, **fields).numpy().decode() == templates.format_wic(**fields)


def test_exemplars_come_from_the_first_rows_of_a_stream_without_end(monkeypatch):
    monkeypatch.setattr(few_shot, "POOL_SIZE", 8)
    found = exemplars(numbered(50, "other"), numbered(10**15), 3)
    assert {text for texts in found.values() for text in texts} == {f"row {i}" for i in range(8)}
    assert all(len(set(texts)) == 3 for texts in found.values())


def test_a_row_is_never_its_own_exemplar():
    train = numbered(5)
    found = exemplars(train, train, 4)
    assert len(found) == 5
    for inputs, texts in found.items():
        assert {inputs, *texts} == {f"row {i}" for i in range(5)}


def test_too_few_rows_to_draw_from_is_an_error():
    with pytest.raises(tf.errors.InvalidArgumentError):
        exemplars(numbered(4), numbered(4), 4)


def test_exemplars_depend_on_the_text_and_not_on_the_place():
    train = numbered(100)
    found = exemplars(train, train, 2)
    assert len({tuple(texts) for texts in found.values()}) > 90
    for changed in (train.shuffle(100, seed=1), train.shard(3, 1), train.skip(7)):
        other = exemplars(changed, train, 2)
        assert other
        assert other.items() <= found.items()
    # The draw for fewer shots is the beginning of the draw for more.
    assert {text: texts[:1] for text, texts in found.items()} == exemplars(train, train, 1)


def test_the_draw_is_the_same_in_every_release():
    train = numbered(1000)
    assert exemplars(train.take(2), train, 2) == {
        "row 0": ["row 469", "row 876"],
        "row 1": ["row 591", "row 528"],
    }


def test_repeated_rows_keep_their_exemplars():
    train = numbered(6)
    chosen = few_shot.choose_exemplars(train.repeat(), lambda: train, 1).take(12)
    texts = [row["exemplar_inputs"][0] for row in chosen.as_numpy_iterator()]
    assert texts[:6] == texts[6:]


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(st.lists(st.tuples(TEXT, TEXT), max_size=3), TEXT, TEXT)
def test_join_is_templates_few_shot(pairs, inputs, target):
    fields = {"inputs": inputs, "targets": target, "answers": [target]}
    if pairs:
        fields["exemplar_inputs"], fields["exemplar_targets"] = map(list, zip(*pairs, strict=True))
    written = templates.few_shot(pairs, inputs)
    (plain,) = few_shot.join(one(**fields), span=False).as_numpy_iterator()
    (span,) = few_shot.join(one(**fields), span=True).as_numpy_iterator()
    assert plain["inputs"].decode() == written
    assert plain["targets"].decode() == target
    assert span["inputs"].decode() == f"{written} <extra_id_0>"
    assert templates.extract_span(span["targets"].decode()) == target.strip()
    assert set(plain) == set(span) == {"inputs", "targets", "answers"}
    assert plain["answers"].tolist() == [target.encode()]


def cut(length, *lengths_of_articles, span=False):
    """Cuts articles of so many words, the last being the row's; returns how long they are now."""
    texts = [templates.format_summarization(" ".join([WORD] * n)) for n in lengths_of_articles]
    fields = {"inputs": texts[-1], "targets": "peru"}
    if exemplars := texts[:-1]:
        fields |= {"exemplar_inputs": exemplars, "exemplar_targets": ["peru"] * len(exemplars)}
    lengths = None if length is None else {"inputs": length}
    (row,) = few_shot.join(
        few_shot.cut_articles(one(**fields), span, lengths, FEATURES), span
    ).as_numpy_iterator()
    text = row["inputs"].decode()
    assert length is None or len(mini.VOCABULARY.encode(text)) < length
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
    assert cut(None, 100, 100) == [100, 100]
    short, long = cut(60, 5, 100)
    assert short == 5
    assert long >= 30
    assert cut(20, 9, 9) == [2, 2]


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(0, 80))
def test_the_common_length_is_the_greatest_that_fits(lengths, total):
    found = int(few_shot._common_length(tf.constant(lengths), tf.constant(total)))
    assert sum(min(n, found) for n in lengths) <= total
    if sum(lengths) > total:
        assert sum(min(n, found + 1) for n in lengths) > total
    else:
        assert found >= max(lengths)
