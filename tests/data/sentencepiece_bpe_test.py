"""A Llama's tokenizer.model against the sentencepiece library; targets that go on from inputs."""

import json
import random

import pytest
import sentencepiece
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from promot_jax.base.errors import UserError
from promot_jax.data import vocabularies
from promot_jax.data.continuation import Continuation, continuing

DRAW = random.Random(0)
# Pieces of such words overlap, so that the order of merges shows.
DRAWN = ["".join(DRAW.choices("abcde ", k=80)) for _ in range(40)]
CORPUS = [
    "the cat is on the box and the dog is red",
    "La géographie: 12 345",
    "Привет, мир",
] * 9 + DRAWN[:30]
TEXTS = [
    *("the cat is", "the  red   cat ", "géographie 12", "Привет, 你好 🙂", "a\nb\tc", "", "x" * 20),
    *("dogbox catdog redis", "isthe, onthe; box-cat", "thethethe catcat", "geo\u0301graphie"),
    *map(str.strip, DRAWN[20:]),
]


def train(file, **changes):
    """Trains a model of Llama 2's kind."""
    settings = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
    settings |= {
        "vocab_size": 400,
        "remove_extra_whitespaces": False,
        "unk_id": 0,
        "bos_id": 1,
        "eos_id": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(file.with_suffix("")),
        hard_vocab_limit=False,
        minloglevel=2,
        **settings | changes,
    )
    return str(file)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"user_defined_symbols": ["<tool>", "box"]},
        {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True},
        {"add_dummy_prefix": False},
        {"model_type": "unigram", "vocab_size": 80, "byte_fallback": False},
    ],
)
def test_ids_are_those_of_sentencepiece(tmp_path, changes):
    path = train(tmp_path / "tokenizer.model", **changes)
    reference = sentencepiece.SentencePieceProcessor(model_file=path)
    vocabulary = vocabularies.SentencePieceTokenizer(path)
    assert (vocabulary.start_id, vocabulary.eos_id) == (1, 2)
    for text in TEXTS:
        ids = vocabulary.encode(text)
        assert ids == reference.encode(text), text
        if changes.get("model_type") != "unigram":
            assert vocabulary.decode([*ids, 2, 5]) == reference.decode(ids)
    assert vocabulary.encode("<s>") == [1]


def test_what_the_settings_beside_say_counts(tmp_path):
    path = train(tmp_path / "tokenizer.model")
    settings = {"add_bos_token": False, "eos_token": "<s>", "add_prefix_space": False}
    settings["added_tokens_decoder"] = {"900": {"content": "<tool>", "lstrip": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    changed = vocabularies.SentencePieceTokenizer(path)
    assert (changed.start_id, changed.eos_id) == (None, 1)
    assert changed.encode("the") != [1, *changed.encode(" the")] != changed.encode(" the")
    assert changed.encode("cat  <tool>") == [*changed.encode("cat"), changed.vocab_size - 1]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True}))
    assert vocabularies.SentencePieceTokenizer(path).start_id == 1


def test_the_model_is_kept_as_it_is(tmp_path):
    path = train(tmp_path / "x.model")
    vocabulary = vocabularies.load({"kind": "tokenizers", "file": "x.model"}, tmp_path)
    saved = vocabularies.save(vocabulary, tmp_path / "saved")
    assert saved == {"kind": "tokenizers", "file": "tokenizer.model", "eos_token": "</s>"}
    with open(path, "rb") as file:
        assert (tmp_path / "saved/tokenizer.model").read_bytes() == file.read()
    assert vocabularies.load(saved, tmp_path / "saved") == vocabulary
    (tmp_path / "bad.model").write_text("no model")
    with pytest.raises(UserError, match=r"bad\.model holds no SentencePiece model"):
        vocabularies.SentencePieceTokenizer(str(tmp_path / "bad.model")).encode("a")


def test_start_tokens_as_transformers_knows_them(tmp_path):
    tokenizer = tokenizers.Tokenizer(models.BPE({"a": 0, "<s>": 1, "</s>": 2}, []))
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    def start_id(**settings):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        return vocabularies.Tokenizer(str(tmp_path / "tokenizer.json")).start_id

    assert start_id() is None
    assert start_id(add_bos_token=True, bos_token={"content": "<s>"}) == 1
    assert start_id(add_bos_token=False, bos_token="<s>") is None
    assert start_id(add_eos_token=True, bos_token="<s>") is None


def space_before(kind):
    tokenizer = tokenizers.Tokenizer(
        models.BPE({"▁": 0, "y": 1, "▁y": 2, ":": 3, "\n": 4, "</s>": 5}, [("▁", "y")])
    )
    if kind == "prepend":
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer.normalizer = normalizers.Sequence(steps)
    elif kind == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always", split=False)
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
    return vocabularies.Tokenizer.from_json(tokenizer.to_str(), "</s>")


@pytest.mark.parametrize("kind", ["prepend", "metaspace"])
def test_a_target_has_the_tokens_that_the_joined_text_has(kind):
    whole = space_before(kind)
    targets = continuing(whole)
    joined = whole.encode(": y")[len(whole.encode(":")) :]
    assert targets.encode(" y") == joined == [2]
    assert targets.encode("y") == [2]
    assert targets.encode("\ny") == [4, 1]
    assert targets.encode("  y") == [0, 2]
    assert targets.eos_id == whole.eos_id
    assert targets.decode([2, 5]) == whole.decode([2, 5])
    assert continuing(targets) is targets


def test_a_tokenizer_without_a_space_of_its_own_goes_on_as_it_is():
    plain = space_before("none")
    assert continuing(plain) is plain
    assert not isinstance(continuing(plain), Continuation)
