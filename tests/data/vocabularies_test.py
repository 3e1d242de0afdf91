import copy
import json
import pickle
import shutil

import numpy as np
import pytest
import sentencepiece
import seqio
import tensorflow as tf
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers

from promot_jax.base.errors import UserError
from promot_jax.data import vocabularies
from promot_jax.data.seqio_vocabularies import seqio_vocabulary

CORPUS = [
    "the capital of France is Paris and the capital of Chad is N'Djamena",
    "La géographie: 12 345 villes, l'été, des œufs",
    "def f(x):\n\treturn x ** 2  # the end",
]
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.lists(
        st.sampled_from(["the ", "capital", "<|end|>", "<|start|>", " Paris", "é", "\n", "12"])
    ).map("".join),
)


def trained(specials=("<|start|>", "<|end|>")) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(s, special=True) for s in specials])
    return tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = trained()
    # Settings that would cut and pad texts must not count.
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=7)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    return folder


@pytest.fixture(scope="module")
def vocabulary(folder):
    return vocabularies.Tokenizer(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def reference(folder):
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.no_truncation()
    plain.no_padding()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<|end|>")


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_agrees_with_transformers(vocabulary, reference, text):
    ids = vocabulary.encode(text)
    assert ids == reference.encode(text, add_special_tokens=False)
    visible = reference.decode(ids, clean_up_tokenization_spaces=False).split("<|end|>")[0]
    assert vocabulary.decode(ids) == visible
    if "<|" not in text:
        assert vocabulary.decode([*ids, vocabulary.eos_id, 0, 0]) == text
    assert vocabulary.encode_batch([text, "the", text]) == [ids, vocabulary.encode("the"), ids]


def test_sizes_and_special_tokens(vocabulary, reference):
    assert vocabulary.vocab_size == len(reference) > 256
    assert vocabulary.eos_id == reference.eos_token_id
    assert (vocabulary.pad_id, vocabulary.unk_id, vocabulary.start_id) == (0, None, None)
    assert vocabulary.encode("<|end|>") == [vocabulary.eos_id]


def test_id_0_is_a_token(vocabulary):
    first = vocabulary.decode([0])
    assert first == "!"
    assert vocabulary.encode("!") == [0]
    assert vocabulary.decode([0, 0, vocabulary.eos_id, 0]) == "!!"
    shown = seqio_vocabulary(vocabulary)
    assert shown.decode(tf.constant([0, 0, vocabulary.eos_id, 0])) == "!!"


def test_decode_tf_of_rows(vocabulary):
    ids = np.array([[0, 5, vocabulary.eos_id, 0], [7, 8, 9, 0]], np.int32)
    texts = seqio_vocabulary(vocabulary).decode_tf(tf.constant(ids))
    assert texts.shape == (2,)
    assert [t.decode() for t in texts.numpy()] == [vocabulary.decode(row) for row in ids]
    assert seqio_vocabulary(vocabulary).decode_tf(
        tf.constant(ids[0])
    ).numpy().decode() == vocabulary.decode(ids[0])
    assert seqio_vocabulary(vocabulary).decode_tf(tf.zeros([0], tf.int32)).numpy() == b""


def test_several_texts_are_ragged(vocabulary):
    rows = seqio_vocabulary(vocabulary).encode_tf(tf.constant(["the capital", "", "Paris"]))
    assert isinstance(rows, tf.RaggedTensor)
    assert rows.to_list() == [vocabulary.encode(t) for t in ("the capital", "", "Paris")]


def test_a_pipeline_tokenises_in_parallel(vocabulary):
    texts = [f"the capital {i}" for i in range(200)]
    rows = tf.data.Dataset.from_tensor_slices(texts).map(
        seqio_vocabulary(vocabulary).encode_tf, num_parallel_calls=4
    )
    assert rows.element_spec == tf.TensorSpec([None], tf.int32)
    assert [row.tolist() for row in rows.as_numpy_iterator()] == [
        vocabulary.encode(t) for t in texts
    ]


def test_a_seqio_task(vocabulary):
    def rows(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_tensors({"inputs": "the capital <|start|>", "targets": "!"})

    task = seqio.Task(
        "vocabularies_test",
        source=seqio.FunctionDataSource(rows, ["train"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={
            "inputs": seqio.Feature(seqio_vocabulary(vocabulary), add_eos=False),
            "targets": seqio.Feature(copy.deepcopy(seqio_vocabulary(vocabulary)), add_eos=True),
        },
    )
    (row,) = task.get_dataset({"inputs": 16, "targets": 8}, "train").as_numpy_iterator()
    assert row["inputs"].tolist() == vocabulary.encode("the capital <|start|>")
    assert row["targets"].tolist() == [0, vocabulary.eos_id]


def test_equality_and_pickling(folder, vocabulary, tmp_path):
    copied = pickle.loads(pickle.dumps(vocabulary))
    assert copied == vocabulary
    assert hash(copied) == hash(vocabulary)
    assert copied.encode("the") == vocabulary.encode("the")
    shutil.copytree(folder, tmp_path / "copy")
    elsewhere = vocabularies.Tokenizer(str(tmp_path / "copy" / "tokenizer.json"))
    assert elsewhere == vocabulary
    assert hash(elsewhere) == hash(vocabulary)
    assert elsewhere != vocabularies.Tokenizer(elsewhere.path, "<|start|>")
    assert vocabulary != seqio.ByteVocabulary()
    shown = seqio_vocabulary(vocabulary)
    assert (shown, hash(shown)) == (seqio_vocabulary(copied), hash(seqio_vocabulary(elsewhere)))
    assert shown != seqio_vocabulary(vocabularies.Tokenizer(elsewhere.path, "<|start|>"))


def test_nothing_is_opened_before_use():
    vocabulary = vocabularies.Tokenizer("missing/tokenizer.json")
    assert vocabulary == vocabularies.Tokenizer("missing/tokenizer.json")
    seqio.Feature(copy.deepcopy(seqio_vocabulary(vocabulary)))
    with pytest.raises(UserError, match=r"missing/tokenizer\.json does not exist"):
        vocabulary.encode("text")


@pytest.mark.parametrize(
    ("files", "eos"),
    [
        ({"tokenizer_config.json": {"eos_token": {"content": "<|start|>"}}}, "<|start|>"),
        ({"tokenizer_config.json": {}, "special_tokens_map.json": {"eos_token": "!"}}, "!"),
        ({"generation_config.json": {"eos_token_id": [1, 2]}}, '"'),
        ({"config.json": {"eos_token_id": 0}}, "!"),
        ({}, "<|im_end|>"),
    ],
)
def test_end_of_sequence_from_the_neighbours(tmp_path, files, eos):
    tokenizer = trained(("<|start|>", "<|endoftext|>", "<|im_end|>"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    vocabulary = vocabularies.Tokenizer(str(tmp_path / "tokenizer.json"))
    assert vocabulary.eos_id == tokenizer.token_to_id(eos)
    assert vocabularies.Tokenizer(vocabulary.path, "<|start|>").eos_id == tokenizer.token_to_id(
        "<|start|>"
    )


def test_start_id_is_what_the_tokenizer_prepends():
    tokenizer = trained()
    start, end = tokenizer.token_to_id("<|start|>"), tokenizer.token_to_id("<|end|>")

    def start_id(template):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<|start|>", start), ("<|end|>", end)]
        )
        vocabulary = vocabularies.Tokenizer.from_json(tokenizer.to_str(), "<|end|>")
        assert vocabulary.encode("the") == tokenizer.encode("the", add_special_tokens=False).ids
        return vocabulary.start_id, vocabulary.bos_id

    assert start_id("<|start|> $A") == (start, start)
    assert start_id("$A <|end|>") == (None, None)


def test_tokenizers_are_saved_and_loaded(vocabulary, tmp_path):
    description = vocabularies.save(vocabulary, tmp_path / "new" / "folder")
    assert description == {
        "kind": "tokenizers",
        "file": "tokenizer.json",
        "eos_token": "<|end|>",
    }
    loaded = vocabularies.load(json.loads(json.dumps(description)), tmp_path / "new" / "folder")
    assert loaded == vocabulary
    assert loaded.encode(CORPUS[0]) == vocabulary.encode(CORPUS[0])
    absolute = {**description, "file": str(tmp_path / "new" / "folder" / "tokenizer.json")}
    assert vocabularies.load(absolute, "elsewhere") == vocabulary
    text = {"kind": "tokenizers", "json": vocabulary.text, "eos_token": "<|end|>"}
    assert vocabularies.load(text, "elsewhere") == vocabulary


def test_sentencepiece_is_saved_and_loaded(tmp_path):
    prefix = tmp_path / "original"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 9),
        model_prefix=str(prefix),
        vocab_size=50,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    original = seqio.SentencePieceVocabulary(f"{prefix}.model", extra_ids=5)
    description = vocabularies.save(original, tmp_path / "saved")
    assert description == {"kind": "sentencepiece", "file": "spiece.model", "extra_ids": 5}
    loaded = vocabularies.load(description, str(tmp_path / "saved"))
    assert loaded.vocab_size == original.vocab_size == 55
    assert loaded.encode(CORPUS[0]) == original.encode(CORPUS[0])
    bare = vocabularies.load({"kind": "sentencepiece", "file": "spiece.model"}, tmp_path / "saved")
    assert bare.vocab_size == 50
    # What the description could not tell is not saved.
    unusual = seqio.SentencePieceVocabulary(f"{prefix}.model", 5, reverse_extra_ids=False)
    assert vocabularies.save(unusual, tmp_path / "unusual") is None
    assert vocabularies.save(seqio.PassThroughVocabulary(9), tmp_path / "unusual") is None
    assert not (tmp_path / "unusual").exists()


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"kind": "words", "file": "x"}, "kind 'words'"),
        ({"kind": "tokenizers"}, "names no file"),
        ({"kind": "tokenizers", "file": "none.json"}, "no vocabulary .*none.json"),
        ({"kind": "sentencepiece", "file": "none.model"}, "no vocabulary .*none.model"),
    ],
)
def test_bad_descriptions(tmp_path, description, message):
    with pytest.raises(UserError, match=message):
        vocabularies.load(description, tmp_path)


def test_bad_files(tmp_path):
    missing = seqio.SentencePieceVocabulary(str(tmp_path / "none.model"))
    with pytest.raises(UserError, match=r"none\.model does not exist"):
        vocabularies.save(missing, tmp_path / "copy")
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": 3}')
    with pytest.raises(UserError, match=r"tokenizer\.json holds no tokenizer") as error:
        vocabularies.Tokenizer(str(path)).encode("a")
    assert "\n" not in str(error.value)
    trained(()).save(str(path))
    with pytest.raises(UserError, match="nothing tells the end of a sequence; set eos_token"):
        _ = vocabularies.Tokenizer(str(path)).eos_id
    with pytest.raises(UserError, match="no token '</s>'"):
        _ = vocabularies.Tokenizer(str(path), "</s>").eos_id
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not JSON"):
        _ = vocabularies.Tokenizer(str(path)).eos_id
