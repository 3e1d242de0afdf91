"""The models' gin files: parse, build, and compare with the published sizes; without memory."""

import pathlib

import pytest
from flax.traverse_util import flatten_dict

from promot_jax import configuration
from promot_jax.base import trees
from promot_jax.base.errors import UserError

QUERY = """
from __gin__ import dynamic_registration
from promot_jax import models
include 'models/{name}.gin'
"""

# T5.1.1: what the public checkpoints hold; T5X's and transformers' documents round to these.
# mT5: Xue et al. 2021, table 1 (300M, 580M, 1.2B, 3.7B, 13B), exact from the architecture.
PARAMETERS = {
    "t5_1_1/small": 77.0e6,
    "t5_1_1/base": 247.6e6,
    "t5_1_1/large": 783.2e6,
    "t5_1_1/xl": 2.85e9,
    "t5_1_1/xxl": 11.1e9,
    "mt5/small": 300.2e6,
    "mt5/base": 582.4e6,
    "mt5/large": 1.23e9,
    "mt5/xl": 3.74e9,
    "mt5/xxl": 12.92e9,
}


def built(tmp_path, name, *flags):
    """The model that a file provides, as an experiment would get it."""
    import gin

    path = tmp_path / "query.gin"
    path.write_text(QUERY.format(name=name))
    configuration.parse([str(path)], flags)
    return gin.query_parameter("%MODEL").scoped_configurable_fn()


def test_every_size_has_a_file_and_a_known_count():
    folder = configuration.GIN_FOLDER / "models"
    files = [*folder.glob("t5_1_1/*.gin"), *folder.glob("mt5/*.gin")]
    assert {str(f.relative_to(folder).with_suffix("")) for f in files} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_file_builds_the_published_size(tmp_path, name):
    model = built(tmp_path, name)
    # Stacked layers are traced as one.
    params, axes = built(tmp_path, name, "--gin.SCAN_LAYERS=True").shapes_and_axes()
    expected = PARAMETERS[name]
    # Half a unit of the last digit that is given.
    digits = 0.05e6 if expected < 1e9 else 0.005e9 if name != "t5_1_1/xxl" else 0.05e9
    assert abs(trees.count(params) - expected) <= digits
    shapes, names = flatten_dict(params), flatten_dict(axes, is_leaf=lambda _, x: type(x) is tuple)
    assert shapes.keys() == names.keys()
    assert all(len(names[path]) == len(leaf.shape) for path, leaf in shapes.items())
    config = model.network.config
    rows = {"t5_1_1": 32128, "mt5": 250112}[name.split("/")[0]]
    assert shapes["token_embedder", "embedding"].shape == (rows, config.emb_dim)
    assert shapes["decoder", "logits_dense", "kernel"].shape == (config.emb_dim, rows)
    assert (config.dtype, config.dropout_rate, config.remat) == ("bfloat16", 0.0, "minimal")
    assert config.scan_layers == name.endswith("xl")
    # seqio opens it when it is first used.
    family = {"t5_1_1": "cc_all.32000.100extra", "mt5": "mc4.250000.100extra"}
    path = pathlib.PurePosixPath(model.vocabulary.sentencepiece_model_file)
    assert path.parts[-2] == family[name.split("/")[0]]
    assert model.vocabulary.extra_ids == 0


def test_macros_reach_the_model(tmp_path):
    flags = ["--gin.SCAN_LAYERS=True", "--gin.REMAT='full'", "--gin.ACTIVATION_DTYPE='float32'"]
    flags.append("--gin.VOCABULARY='/my/vocabulary.model'")
    model = built(tmp_path, "mt5/small", *flags)
    config = model.network.config
    assert (config.scan_layers, config.remat, config.dtype) == (True, "full", "float32")
    assert model.vocabulary.sentencepiece_model_file == "/my/vocabulary.model"
    params, axes = model.shapes_and_axes()
    assert params["encoder"]["layers"]["mlp"]["wo"]["kernel"].shape == (8, 1024, 512)
    assert axes["encoder"]["layers"]["mlp"]["wo"]["kernel"] == ("layers", "mlp", "embed")
    assert trees.count(params) == trees.count(built(tmp_path, "mt5/small").shapes_and_axes()[0])


def test_a_wrong_macro_is_one_line(tmp_path):
    with pytest.raises(UserError, match="remat = 'all' is unknown"):
        built(tmp_path, "mt5/small", "--gin.REMAT='all'")


# Chowdhery et al. 2022, table 1 (8.63B); the model cards of SmolLM2, Llama 3.2 and Qwen2.5.
DECODERS = {
    "palm/8b": 8632.01,
    "palm/tiny": 0.73,
    "llama/smollm2_135m": 134.52,
    "llama/smollm2_360m": 361.82,
    "llama/llama_3_2_1b": 1235.81,
    "llama/qwen2_5_0_5b": 494.03,
}


def test_every_decoder_has_a_known_count():
    folder = configuration.GIN_FOLDER / "models"
    files = [*folder.glob("palm/*.gin"), *folder.glob("llama/*.gin")]
    assert {str(f.relative_to(folder).with_suffix("")) for f in files} == set(DECODERS)


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_has_the_published_size(tmp_path, name):
    flags = ["--gin.TOKENIZER='none'"] * name.startswith("llama")
    flags += ["--gin.VOCABULARY='none'"] * (name == "palm/8b")
    shapes, axes = built(tmp_path, name, *flags).shapes_and_axes()
    assert round(trees.count(shapes) / 1e6, 2) == DECODERS[name]
    names = flatten_dict(axes, is_leaf=lambda _, x: type(x) is tuple)
    assert {path: len(leaf.shape) for path, leaf in flatten_dict(shapes).items()} == {
        path: len(axis_names) for path, axis_names in names.items()
    }
    scanned = built(tmp_path, name, *flags, "--gin.SCAN_LAYERS=True")
    assert trees.difference(scanned.shapes_and_axes()[0], trees.stack_layers(shapes)) == []
