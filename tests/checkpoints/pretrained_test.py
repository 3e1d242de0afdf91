"""A checkpoint into a model: what must agree, how it is placed, what a new folder holds."""

import dataclasses

import jax
import numpy as np
import pytest
import tokenizers

from promot_jax import models
from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.checkpoints import pretrained
from promot_jax.checkpoints.formats import known
from promot_jax.data import vocabularies
from promot_jax.models.networks import decoder
from promot_jax.tasks import mini
from tests import tiny

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model = tiny.model(num_encoder_layers=2, num_decoder_layers=3)
    pretrained.save(folder, model, model.init(jax.random.key(0)), {})
    return folder


def load(folder, model, **options):
    source = known.open_checkpoint(folder)
    return pretrained.load(source, model, partitioning.make_mesh(), **options)


def two_layers(**changes):
    return tiny.model(num_encoder_layers=2, num_decoder_layers=3, **changes)


def test_a_model_survives_saving(folder):
    params = two_layers().init(jax.random.key(0))
    assert tiny.leaves_equal(load(folder, two_layers()), params)
    with pytest.raises(UserError, match="exists already"):
        pretrained.save(folder, two_layers(), params, {})


def test_a_scanned_model_loads_the_same_folder_as_stacks(folder):
    scanned = two_layers(scan_layers=True)
    params = load(folder, scanned)
    shapes, _ = scanned.shapes_and_axes()
    assert not trees.difference(shapes, params)
    assert tiny.leaves_equal(trees.unstack_layers(params), load(folder, two_layers()))


def test_an_attempt_that_failed_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained.vocabularies, "save", full)
    model = tiny.model()
    params = model.init(jax.random.key(0))
    with pytest.raises(UserError, match="new cannot be written: No space left on device"):
        pretrained.save(tmp_path / "new", model, params, {})
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    pretrained.save(tmp_path / "new", model, params, {})
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_checkpoint_of_another_model_is_refused(folder, tmp_path):
    def refused(model, expected, **options):
        with pytest.raises(UserError, match=expected) as error:
            load(folder, model, **options)
        assert str(folder) in str(error.value)
        assert "\n" not in str(error.value)

    refused(two_layers(emb_dim=8), r"decoder_norm/scale has shape \(16,\), expected \(8,\)")
    refused(tiny.model(), "unexpected decoder/layers_1/")
    refused(tiny.model(num_encoder_layers=2, num_decoder_layers=4), "missing decoder/layers_3/")
    # The same shapes, other results.
    refused(two_layers(mlp_activations=("gelu",)), r"mlp_activations = \('relu',\), the model")
    refused(two_layers(num_heads=4, head_dim=4), "num_heads = 2, the model 4")
    config = decoder.DecoderConfig(
        vocab_size=1280,
        emb_dim=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        mlp_dim=32,
        num_layers=1,
    )
    model = models.DecoderOnlyModel(decoder.Transformer(config), mini.vocabulary())
    refused(model, "is of the family 't5', the model of 'decoder'")
    pretrained.save(tmp_path / "decoder", model, model.init(jax.random.key(0)), {})
    faster = dataclasses.replace(
        model, network=decoder.Transformer(dataclasses.replace(config, rope_base=5.0))
    )
    with pytest.raises(UserError, match=r"rope_base = 10000\.0, the model 5\.0"):
        load(tmp_path / "decoder", faster)


def test_leaves_that_may_be_missing_are_drawn_from_the_seed(folder):
    larger = tiny.model(num_encoder_layers=2, num_decoder_layers=4)
    pattern = ["decoder/layers_3/.*"]
    params = trees.flatten(load(folder, larger, may_miss=pattern, seed=3))
    drawn = trees.flatten(larger.init(jax.random.key(3)))
    kept = trees.flatten(load(folder, two_layers()))
    assert params.keys() == drawn.keys()
    for path, leaf in params.items():
        want = drawn if path.startswith("decoder/layers_3/") else kept
        np.testing.assert_allclose(leaf, want[path], rtol=1e-5, err_msg=path)


@pytest.mark.parametrize("rows", [8, 7])
def test_a_vocabulary_with_ids_beyond_the_embedding_is_refused(tmp_path, rows):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "</s>": 1, "b": 2}))
    tokenizer.add_tokens([f"<{i}>" for i in range(5)])
    text = tokenizer.to_str()
    words = vocabularies.Tokenizer.from_json(text, "</s>")
    (tmp_path / "tokenizer.json").write_text(text)
    config = decoder.DecoderConfig(rows, 8, 2, 2, 4, 8, 1)
    model = models.DecoderOnlyModel(decoder.Transformer(config), None)
    pretrained.save(tmp_path / "m", model, model.init(jax.random.key(0)), {})
    load(str(tmp_path / "m"), model)
    with_words = dataclasses.replace(model, vocabulary=words)
    if rows == 8:
        load(str(tmp_path / "m"), with_words)
        pretrained.open_model(str(tmp_path / "m"), str(tmp_path / "tokenizer.json"))
        return
    message = "m: its vocabulary has ids up to 7, its embedding only 7 rows; resize"
    with pytest.raises(UserError, match=message):
        load(str(tmp_path / "m"), with_words)
    with pytest.raises(UserError, match=message):
        pretrained.open_model(str(tmp_path / "m"), str(tmp_path / "tokenizer.json"))
