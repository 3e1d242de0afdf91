"""Model folders of ours, opened leaf by leaf."""

import json
import pathlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

import promot_jax
from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.checkpoints.formats import native, orbax_leaves, t5x
from promot_jax.checkpoints.formats import source as sources
from promot_jax.models.networks import t5

BUNDLED = pathlib.Path(promot_jax.__file__).parent / "assets" / "mini"
MINI = t5.T5Config(1280, 128, 4, 32, 512, 3, 2, mlp_activations=("relu",), dropout_rate=0.0)


def error_of(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def save(folder, params, about):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "params", params)
    (folder / "model.json").write_text(json.dumps(about))


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    return {
        "encoder": {"scale": jnp.asarray(rng.normal(size=8), jnp.float32)},
        "decoder": {"kernel": jnp.asarray(rng.normal(size=(40, 30)), jnp.bfloat16)},
    }


def test_the_bundled_model_is_recognised_and_read_exactly():
    tokens = jnp.zeros((1, 2), jnp.int32)
    expected = jax.eval_shape(t5.Transformer(MINI).init, jax.random.key(0), *[tokens] * 3)["params"]
    assert native.is_format(str(BUNDLED))
    source = native.open_checkpoint(str(BUNDLED))
    assert source.family == "t5"
    assert t5.T5Config(**source.config) == MINI
    assert sources.match(source, expected).skipped == ()
    with ocp.StandardCheckpointer() as checkpointer:
        loaded = trees.flatten(checkpointer.restore(BUNDLED / "params", expected))
    assert len(loaded) == 56
    for leaf_path, leaf in loaded.items():
        np.testing.assert_array_equal(source.read(leaf_path), leaf)


def test_what_the_folder_says_counts_more_than_its_shapes(tmp_path, params):
    about = {
        "family": "decoder",
        "config": {"vocab_size": 8, "mlp_activations": ["silu", "linear"], "rope_base": 1e4},
        "vocabulary": {"kind": "tokenizers", "file": "tokenizer.json", "eos_token": "</s>"},
    }
    save(tmp_path / "model", params, about)
    source = native.open_checkpoint(str(tmp_path / "model"))
    assert source.family == "decoder"
    assert source.config == {**about["config"], "mlp_activations": ("silu", "linear")}
    file = str(tmp_path / "model" / "tokenizer.json")
    assert source.vocabulary == {**about["vocabulary"], "file": file}
    assert source.read("decoder/kernel").dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(source.read("decoder/kernel"), params["decoder"]["kernel"])


@pytest.mark.parametrize("file", ["/elsewhere/spiece.model", "gs://t5-data/vocabs/spiece.model"])
def test_vocabularies_elsewhere_stay_there(tmp_path, params, file):
    about = {"vocabulary": {"kind": "sentencepiece", "file": file}}
    save(tmp_path / "model", params, about)
    assert native.open_checkpoint(str(tmp_path / "model")).vocabulary["file"] == file


def test_relative_paths_and_folders_without_a_description(tmp_path, params, monkeypatch):
    save(tmp_path / "model", params, {})
    (tmp_path / "model" / "model.json").unlink()
    monkeypatch.chdir(tmp_path)
    source = native.open_checkpoint("model")
    assert (source.path, source.family, source.config, source.vocabulary) == (
        "model",
        None,
        {},
        None,
    )
    np.testing.assert_array_equal(source.read("encoder/scale"), params["encoder"]["scale"])


@pytest.mark.parametrize("use_zarr3", [False, True])
@pytest.mark.parametrize("use_ocdbt", [False, True])
def test_every_array_format_of_orbax(tmp_path, use_ocdbt, use_zarr3):
    leaves = {
        "a/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
        "a/zeros": np.zeros((3, 4), np.float32),
        "b": np.asarray(5, np.int32),
    }
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=use_ocdbt, use_zarr3=use_zarr3)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(tmp_path / "tree", args=ocp.args.PyTreeSave(trees.unflatten(leaves)))
    found, read = orbax_leaves.open_tree(epath.Path(tmp_path / "tree"))
    assert set(found) == set(leaves)
    for path, array in leaves.items():
        assert found[path].shape == array.shape
        assert found[path].dtype == array.dtype
        np.testing.assert_array_equal(read(path), array)


def test_a_chunk_that_is_lost_is_not_taken_for_zeros(tmp_path):
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
    with ocp.Checkpointer(handler) as checkpointer:
        tree = {"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)}
        checkpointer.save(tmp_path / "tree", args=ocp.args.PyTreeSave(tree))
    _, read = orbax_leaves.open_tree(epath.Path(tmp_path / "tree"))
    (tmp_path / "tree" / "a" / "0").unlink()
    assert f"a in {tmp_path / 'tree'} is damaged" in error_of(read, "a")
    np.testing.assert_array_equal(read("b"), np.ones(3))


def test_damaged_folders_are_named(tmp_path, params):
    model = tmp_path / "model"
    save(model, params, {})
    (model / "model.json").write_text("{")
    assert str(model / "model.json") in error_of(native.open_checkpoint, str(model))
    (model / "model.json").write_text("[]")
    assert str(model / "model.json") in error_of(native.open_checkpoint, str(model))
    (model / "model.json").write_text(json.dumps({}))
    source = native.open_checkpoint(str(model))
    data = [file for file in (model / "params").rglob("*") if file.parent.name == "d"]
    assert data
    for file in data:
        file.unlink()
    assert "decoder/kernel" in error_of(source.read, "decoder/kernel")
    (model / "params" / "_METADATA").write_text("{")
    assert str(model / "params") in error_of(native.open_checkpoint, str(model))


def test_other_folders_are_not_taken(tmp_path):
    for path in (tmp_path, tmp_path / "nothing", pathlib.Path(__file__)):
        assert not native.is_format(str(path))
        assert str(path) in error_of(native.open_checkpoint, str(path))
    assert not t5x.is_format(str(BUNDLED))


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"family": 3}, "family is 3, expected a str"),
        ({"config": [1]}, r"config is \[1\], expected a dict"),
        ({"vocabulary": "spiece.model"}, "vocabulary is 'spiece.model', expected a dict"),
        ({"vocabulary": {"file": 7}}, "the vocabulary's file is 7, expected its name"),
    ],
)
def test_a_description_of_the_wrong_type_is_named(tmp_path, params, about, words):
    save(tmp_path / "model", params, about)
    with pytest.raises(UserError, match=rf"model\.json: {words}"):
        native.open_checkpoint(str(tmp_path / "model"))
