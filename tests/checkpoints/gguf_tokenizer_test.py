"""Tokenizers inside GGUF files beside SentencePiece, `transformers` and the tokenizers library."""

import functools
import io
import json

import gguf as gguf_package
import numpy as np
import pytest
import sentencepiece
import tokenizers
import transformers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from promot_jax.base.errors import UserError
from promot_jax.checkpoints import pretrained
from promot_jax.checkpoints.formats import gguf_tokenizer
from promot_jax.checkpoints.formats.source import Source
from promot_jax.data import vocabularies

CORPUS = [
    "the capital of France is Paris and the capital of Chad is N'Djamena, they've 202 202 202 202",
    "La géographie: 12 345 villes, l'été, des œufs 1999 -- 2000; (voir) [ici] {là}",
    "def camelCase(x):\n\treturn x ** 2  # the end\n\n\nAND IT'S DONE + 1 = 2",
    "Привет, мир! Ещё раз: 3,14 и 1/2. 北京是中国的首都。東京は日本の首都です。",
] * 3
WORDS = [
    *("the", "capital", " of", "  France", "camelCaseWord", "N'Djamena", "THEY'VE", "don't", "é"),
    *("Привет", "мир", "北京", "12345", "3.14", "1/2", "$+<=>^~|`", "\n\n", "\t", " ", "   ", "!?"),
    *("_x_", "ñ̃", "½", "👍🏽", "a,b;c", "...", "(voir)", "\r\n", "l'été"),
]


def texts(count=60):
    """Random texts of the words above, the first of which are the words themselves."""
    rng = np.random.default_rng(0)
    mixed = ["".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(count - len(WORDS))]
    return [*WORDS, *mixed]


def write(path, tokens, types, model, *, pre=None, scores=None, merges=None, **flags):
    """Writes a file of a tokenizer alone; returns its metadata."""
    writer = gguf_package.GGUFWriter(str(path), "llama")
    writer.add_tokenizer_model(model)
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if scores:
        writer.add_token_scores(scores)
    if merges:
        writer.add_token_merges(merges)
    for name, value in {"add_context_length": 64, "add_head_count": 1, **flags}.items():
        getattr(writer, name)(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    reader = gguf_package.GGUFReader(str(path))
    return {name: field.contents() for name, field in reader.fields.items()}


@pytest.fixture(scope="module")
def pieces():
    """A SentencePiece model as Llama's: BPE, byte fallback, spaces kept as they are."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        model_type="bpe",
        vocab_size=460,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def write_pieces(path, pieces, **flags):
    kinds = [
        (pieces.is_unknown, 2),
        (pieces.is_control, 3),
        (pieces.is_unused, 5),
        (pieces.is_byte, 6),
    ]
    size = range(pieces.vocab_size())
    types = [next((kind for found, kind in kinds if found(i)), 1) for i in size]
    tokens = [pieces.id_to_piece(i) for i in size]
    scores = [pieces.get_score(i) for i in size]
    return write(path, tokens, types, "llama", scores=scores, **flags)


def load(metadata):
    return vocabularies.load(gguf_tokenizer.description(metadata, "m.gguf"), "m.gguf")


def test_sentencepiece_has_the_ids_of_the_original(tmp_path, pieces):
    metadata = write_pieces(tmp_path / "m.gguf", pieces)
    vocabulary = load(metadata)
    for text in texts():
        ids = pieces.encode(text)
        assert vocabulary.encode(text) == ids, text
        assert vocabulary.decode(ids) == pieces.decode(ids), text
    assert (vocabulary.start_id, vocabulary.eos_id) == (1, 2)
    assert vocabulary.vocab_size == 460
    assert vocabulary.encode("a</s>b")[2:3] == [2]


def test_sentencepiece_has_the_ids_of_transformers(tmp_path, pieces):
    metadata = write_pieces(tmp_path / "m.gguf", pieces, add_bos_token_id=1, add_eos_token_id=2)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    vocabulary = load(metadata)
    for text in texts():
        if not text.startswith(" "):  # Theirs drops the first space.
            assert vocabulary.tokenizer.encode(text).ids == theirs(text).input_ids, text


def test_sentencepiece_without_prefix_and_start(tmp_path, pieces):
    flags = {"add_add_bos_token": False, "add_add_space_prefix": False}
    vocabulary = load(write_pieces(tmp_path / "m.gguf", pieces, **flags))
    assert vocabulary.start_id is None
    assert vocabulary.encode(" the") == pieces.encode("the")
    assert vocabulary.encode("the") != pieces.encode("the")
    assert vocabulary.decode(pieces.encode("the")) == " the"


@functools.cache
def trained():
    """A byte-level BPE tokenizer whose merges cross words, so that a wrong cut gives other ids."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = level
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=alphabet, show_progress=False, special_tokens=["<s>"]
    )
    tokenizer.train_from_iterator([*CORPUS, *texts()], trainer)
    return tokenizer


def write_bpe(path, pre, **flags):
    tokenizer = trained()
    vocab = tokenizer.get_vocab()
    merges = [" ".join(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]]
    tokens = sorted(vocab, key=vocab.get)
    types = [3 if token == "<s>" else 1 for token in tokens]
    flags = {"add_bos_token_id": 0, "add_eos_token_id": 0, **flags}
    return write(path, tokens, types, "gpt2", pre=pre, merges=merges, **flags)


@pytest.mark.parametrize(
    "pre", ["gpt-2", "llama-bpe", "qwen2", "deepseek-r1-qwen", "tekken", "gpt-4o", "dbrx", "megrez"]
)
def test_words_are_cut_as_transformers_cuts_them(tmp_path, pre):
    metadata = write_bpe(tmp_path / "m.gguf", pre)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    vocabulary = load(metadata)
    differ = 0
    for text in texts():
        ids = vocabulary.encode(text)
        if "ñ̃" in text and pre == "qwen2":  # The original composes it, theirs does not here.
            continue
        whole = vocabulary.tokenizer.model.ignore_merges
        if not whole:
            assert ids == theirs(text, add_special_tokens=False).input_ids, text
        differ += ids != trained().encode(text).ids
        assert vocabulary.decode(ids) == text
        theirs_words = [w for w, _ in theirs.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        ours = [w for w, _ in vocabulary.tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        assert ours == theirs_words, text
    assert differ > 10


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
THREE = pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")


@pytest.mark.parametrize(
    ("pre", "cuts"),
    [
        ("smollm", [pre_tokenizers.Digits(individual_digits=True), GPT2]),
        ("starcoder", [pre_tokenizers.Digits(individual_digits=True), GPT2]),
        ("command-r", [pre_tokenizers.Digits(individual_digits=True), GPT2]),
        ("olmo", [GPT2]),
        ("falcon", [pre_tokenizers.Punctuation("contiguous"), GPT2, THREE]),
    ],
)
def test_words_are_cut_as_the_models_own_tokenizers_cut_them(tmp_path, pre, cuts):
    vocabulary = load(write_bpe(tmp_path / "m.gguf", pre))
    original = pre_tokenizers.Sequence(cuts)
    for text in texts():
        ours = vocabulary.tokenizer.pre_tokenizer.pre_tokenize_str(text)
        assert ours == original.pre_tokenize_str(text), text


def cut(metadata, text):
    level = load(metadata).tokenizer.pre_tokenizer.pre_tokenize_str(text)
    spelled = decoders.ByteLevel()
    return [spelled.decode([word]) for word, _ in level]


def test_words_of_llama_cpp_alone(tmp_path):
    def words(pre, text):
        return cut(write_bpe(tmp_path / "m.gguf", pre), text)

    assert words("default", "it's $12345, a`b") == [
        *("it", "'", "s", " ", "$", "123", "45", ",", " a", "`", "b")
    ]
    assert words("deepseek-v3", "北京abc 1234 x_y") == [
        *("北京", "abc", " ", "123", "4", " x", "_y")
    ]
    assert words("deepseek-coder", "a 12\n") == ["a", " ", "1", "2", "\n"]


def test_a_file_that_names_no_cut_has_the_default_one(tmp_path):
    named = write_bpe(tmp_path / "m.gguf", "default")
    silent = write_bpe(tmp_path / "m.gguf", None)
    assert gguf_tokenizer.description(named, "") == gguf_tokenizer.description(silent, "")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"model": "t5"}, r"m: its tokenizer is of kind t5 .*; read are gpt2 and llama; give"),
        ({"model": "bert"}, "of kind bert"),
        ({"model": "rwkv"}, "of kind rwkv"),
        ({"model": "gpt2", "pre": "kimi-k2"}, r"as kimi-k2 does .*; read are a\.x-4.*tekken,"),
    ],
)
def test_other_tokenizers_are_named(monkeypatch, metadata, message):
    metadata = {f"tokenizer.ggml.{name}": value for name, value in metadata.items()}
    found = gguf_tokenizer.description({**metadata, "tokenizer.ggml.tokens": ["a"]}, "m")
    source = Source("m", "GGUF", {}, lambda _: None, {}, family="decoder", vocabulary=found)
    monkeypatch.setattr(pretrained.known, "open_checkpoint", lambda _: source)
    with pytest.raises(UserError, match=message) as error:
        pretrained.open_model("m")
    assert "\n" not in str(error.value)
    assert gguf_tokenizer.description({}, "m") is None
