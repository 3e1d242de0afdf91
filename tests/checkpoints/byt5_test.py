"""ByT5, which has no vocabulary file: found, saved, and exported for `transformers`."""

import json

import pytest
import torch
import transformers

from promot_jax.base import partitioning
from promot_jax.checkpoints import conversion, pretrained
from promot_jax.checkpoints.formats import byt5, huggingface, known
from promot_jax.data import vocabularies
from promot_jax.experiment.evaluation import Evaluator
from promot_jax.models import decoding
from tests.checkpoints import tiny_transformers as tiny
from tests.checkpoints.t5x_writers import WRITERS

TEXTS = ["question: the box is red", "É 北京 <x>", "a\tb\n", ""]
SETTINGS = tiny._T5 | {"feed_forward_proj": "gated-gelu", "eos_token_id": 1, "pad_token_id": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("byt5")
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=384, **SETTINGS)
    model = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(mean=float(parameter.ndim == 1), std=0.3)
    model.save_pretrained(folder)
    transformers.ByT5Tokenizer().save_pretrained(folder)
    return folder


def test_ids_and_answers_are_those_of_transformers(folder, tmp_path):
    model, source = pretrained.open_model(str(folder))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert model.input_ids(text) == tokenizer(text).input_ids
        assert model.vocabulary.decode(tokenizer(text).input_ids) == text
    params = pretrained.load(source, model, partitioning.make_mesh())
    evaluator = Evaluator(model, partitioning.make_mesh(), decoding.Greedy(), 1, ())
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        ids = theirs.generate(**tokenizer(TEXTS[:1], return_tensors="pt"), max_new_tokens=12)
    expected = tokenizer.decode(ids[0], skip_special_tokens=True)
    assert evaluator.answer(params, TEXTS[:1], 12) == [expected]

    pretrained.save(tmp_path / "ours", model, params, {})
    again, _ = pretrained.open_model(str(tmp_path / "ours"))
    assert again.vocabulary == model.vocabulary
    assert hash(again.vocabulary) == hash(model.vocabulary)
    for line in conversion.export_model(
        again, params, tmp_path / "theirs", format_name="huggingface", origin={}
    ):
        assert line
    exported = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    assert isinstance(exported, transformers.ByT5Tokenizer)
    assert exported(TEXTS).input_ids == tokenizer(TEXTS).input_ids
    assert len(exported) == len(tokenizer) == 384


def test_what_tells_that_a_folder_is_byt5(folder):
    def found(**changes):
        about = json.loads((folder / "config.json").read_text())
        part = folder / "part"
        part.mkdir(exist_ok=True)
        (part / "config.json").write_text(json.dumps(about | changes))
        return byt5.vocabulary(part)

    assert found() == {"kind": "bytes", "extra_ids": 125}
    assert found(vocab_size=512) is None
    assert found(vocab_size=512, tokenizer_class="ByT5Tokenizer")["extra_ids"] == 125
    assert found(vocab_size=260, tokenizer_class="ByT5Tokenizer")["extra_ids"] == 0
    assert found(tokenizer_class="T5Tokenizer") is None
    # A file of a vocabulary goes first.
    (folder / "part" / "tokenizer.json").write_text("{}")
    assert huggingface._find_vocabulary(folder / "part", "t5")["kind"] == "tokenizers"
    assert huggingface._find_vocabulary(folder / "part", "decoder")["kind"] == "tokenizers"


def test_t5x_checkpoints_of_byt5_have_its_vocabulary(folder, tmp_path):
    source = known.open_checkpoint(folder)
    leaves = {path: source.read(path) for path in source.leaves}
    WRITERS["t5x"](tmp_path / "checkpoint_1", leaves)
    found = known.open_checkpoint(tmp_path / "checkpoint_1").vocabulary
    assert vocabularies.load(found, "") == vocabularies.ByteVocabulary(125)
