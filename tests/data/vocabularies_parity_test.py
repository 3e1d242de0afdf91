"""T5's and ByT5's vocabularies are seqio's, id for id."""

import copy
import pickle

import pytest
import seqio
from hypothesis import given, settings
from hypothesis import strategies as st

from promot_jax.data import vocabularies
from promot_jax.tasks import mini_vocabulary

FILE = str(mini_vocabulary.MODEL_PATH)
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.lists(
        st.sampled_from(["<extra_id_0>", " <extra_id_15>", "anna ", "wears", "  ", "é", "0"])
    ).map("".join),
)
PAIRS = [
    (
        vocabularies.SentencePieceVocabulary(FILE, extra),
        seqio.SentencePieceVocabulary(FILE, extra),
    )
    for extra in (0, 16)
] + [(vocabularies.ByteVocabulary(5), seqio.ByteVocabulary(5))]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@settings(max_examples=100, deadline=None)
@given(text=TEXTS, ids=st.lists(st.integers(0, 1300), max_size=12))
def test_ids_and_texts(ours, theirs, text, ids):
    assert ours.encode(text) == list(theirs.encode(text))
    assert ours.encode_batch([text, "anna", text]) == list(map(ours.encode, [text, "anna", text]))
    # An unknown id, an end of sequence and what follows it.
    ids = ids if isinstance(ours, vocabularies.SentencePieceVocabulary) else [i % 270 for i in ids]
    assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_sizes_and_special_tokens(ours, theirs):
    for name in ("pad_id", "eos_id", "unk_id", "bos_id", "extra_ids", "vocab_size"):
        assert getattr(ours, name) == getattr(theirs, name)
    for again in (
        vocabularies.native(theirs),
        copy.deepcopy(ours),
        pickle.loads(pickle.dumps(ours)),
    ):
        assert type(again) is type(ours)
        assert again == ours
        assert hash(again) == hash(ours)
        assert again.identity() == ours.identity()


def test_many_texts_in_threads():
    ours = PAIRS[1][0]
    texts = [f"anna wears {i} cups" for i in range(300)]
    assert ours.encode_batch(texts) == list(map(ours.encode, texts))


def test_another_vocabulary_of_seqio_is_adapted():
    odd = seqio.SentencePieceVocabulary(FILE, 16, reverse_extra_ids=False)
    ours = vocabularies.native(odd)
    assert isinstance(ours, vocabularies.Adapted)
    assert ours != vocabularies.native(seqio.SentencePieceVocabulary(FILE, 16))
    text = "anna <extra_id_3> wears"
    assert ours.encode(text) == odd.encode(text)
    assert ours.decode(odd.encode(text)) == odd.decode(odd.encode(text))
    # What earlier versions wrote down of it.
    assert ours.identity()["_reverse_extra_ids"] == "False"
    assert ours.identity() | {"_reverse_extra_ids": "True"} == PAIRS[1][0].identity()
