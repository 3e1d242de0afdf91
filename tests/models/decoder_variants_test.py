"""Scaled rotary embeddings, biases and windows: logits, answers and exports of `transformers`."""

import functools
import json

import jax
import numpy as np
import pytest
import torch
import transformers

from promot_jax import models
from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.checkpoints import pretrained
from promot_jax.checkpoints.formats import huggingface, huggingface_config
from promot_jax.experiment.evaluation import Evaluator
from promot_jax.models import architectures, decoding
from promot_jax.models.networks import decoder
from tests.checkpoints import tiny_transformers as tiny
from tests.quick import quick_jit

pytestmark = pytest.mark.long

CLOSE = {"rtol": 1e-4, "atol": 2e-4}
TOKENS = np.random.default_rng(0).integers(3, 64, (2, 40))
ROPE = {"rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 8}
YARN = ROPE | {"rope_type": "yarn"}
LONG = {"max_position_embeddings": 64}
SLIDING = {"use_sliding_window": True, "sliding_window": 5}
# Name -> (model_type, settings).
CASES = {
    "linear": ("llama", {"rope_parameters": ROPE | {"rope_type": "linear"}}),
    "linear, old spelling": ("llama", {"rope_scaling": {"type": "linear", "factor": 2.5}}),
    "linear, cohere": ("cohere", {"rope_parameters": ROPE | {"rope_type": "linear"}}),
    "dynamic within its length": ("llama", {"rope_parameters": ROPE | {"rope_type": "dynamic"}}),
    "yarn": ("qwen2", {"rope_parameters": YARN}),
    "yarn, old spelling": (
        "qwen3",
        {
            "rope_scaling": {
                "type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "yarn, all settings": (
        "mistral",
        {
            "rope_parameters": YARN | {"beta_fast": 4.0, "beta_slow": 0.5, "truncate": False},
            "sliding_window": None,
        },
    ),
    "yarn, its factor of attention": (
        "llama",
        {"rope_parameters": YARN | {"attention_factor": 0.8}},
    ),
    "yarn, mscale": ("llama", {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.0}}),
    "llama3": (
        "llama",
        {
            "rope_parameters": ROPE
            | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        },
    ),
    "attention_bias": ("llama", {"attention_bias": True}),
    "mlp_bias": ("llama", {"mlp_bias": True}),
    "both biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "attention_bias, qwen3": ("qwen3", {"attention_bias": True}),
    "attention_bias, cohere": ("cohere", {"attention_bias": True}),
    "window, mistral": ("mistral", {"sliding_window": 5}),
    "window beyond the rows": ("mistral", {"sliding_window": 4096}),
    "window, all layers": ("qwen2", {**SLIDING, "max_window_layers": 0}),
    "window, no layers": ("qwen2", {**SLIDING, "max_window_layers": 2}),
    "window, some layers, beyond the rows": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Returns the folder of a random model of a case."""
    parent, made = tmp_path_factory.mktemp("models"), {}

    def make(name):
        kind, settings = CASES[name]
        if name not in made:
            made[name] = parent / name
            config = {**tiny._DECODER, **LONG, **settings}
            config = transformers.AutoConfig.for_model(kind, vocab_size=64, **config)
            torch.manual_seed(0)
            model = transformers.AutoModelForCausalLM.from_config(config).eval()
            with torch.no_grad():
                for place, parameter in model.named_parameters():
                    parameter.normal_(mean=float("norm" in place), std=0.3)
            model.save_pretrained(made[name])
        return made[name]

    return make


def their_logits(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor(TOKENS)).logits.numpy()


def our_logits(source, params, **changes):
    network = tiny.network(source.family, {**source.config, **changes})
    apply = quick_jit(functools.partial(network.apply, enable_dropout=False))
    return np.asarray(apply({"params": params}, TOKENS))


def opened(folder):
    source = huggingface.open_checkpoint(str(folder))
    assert not source.unexpected
    return source, trees.unflatten({path: source.read(path) for path in source.leaves})


@pytest.mark.parametrize("name", CASES)
def test_logits_before_and_after_an_export(saved, tmp_path, name):
    expected = their_logits(saved(name))
    source, params = opened(saved(name))
    assert source.config["max_positions"] == 64
    np.testing.assert_allclose(our_logits(source, params), expected, **CLOSE)
    huggingface.write(
        tmp_path / "out",
        params,
        "decoder",
        json.loads(json.dumps(source.config)),
        max_positions=source.config["max_positions"],
    )
    np.testing.assert_allclose(their_logits(tmp_path / "out"), expected, **CLOSE)
    again, params = opened(tmp_path / "out")
    assert again.config == source.config


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("linear", {"rope_scaling": None}),
        ("yarn", {"rope_scaling": None}),
        ("window, mistral", {"sliding_window": None}),
        ("window, all layers", {"sliding_window": None}),
    ],
)
def test_the_settings_matter(saved, name, changes):
    source, params = opened(saved(name))
    found = our_logits(source, params, **changes)
    assert np.abs(found - their_logits(saved(name))).max() > 0.1


class Numbers:
    """A vocabulary whose texts are token ids."""

    eos_id, start_id, unk_id, vocab_size = 1, None, None, 64

    def encode(self, text):
        return [int(number) for number in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))


@pytest.mark.parametrize(
    ("name", "beams"),
    [
        *(("window, mistral", 3), ("yarn", 1)),
        pytest.param("window, mistral", 1, marks=pytest.mark.slow),
        pytest.param("yarn", 3, marks=pytest.mark.slow),
    ],
)
def test_answers_are_those_of_transformers(saved, name, beams):
    source, params = opened(saved(name))
    model = models.DecoderOnlyModel(tiny.network("decoder", source.config), Numbers())
    rows = [" ".join(map(str, row[:length])) for row, length in zip(TOKENS, (12, 7), strict=True)]
    search = decoding.Beam(beams, alpha=1.0) if beams > 1 else decoding.Greedy()
    evaluator = Evaluator(model, partitioning.make_mesh(), search, 2, ())
    found = [[int(i) for i in text.split()] for text in evaluator.answer(params, rows, 9)]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(saved(name)).eval()
    for row, ids in zip(rows, found, strict=True):
        given = torch.tensor([[int(i) for i in row.split()]])
        answer = theirs.generate(
            given, max_new_tokens=9, num_beams=beams, do_sample=False, early_stopping=False
        )[0, given.shape[1] :].tolist()
        assert ids == answer[: answer.index(1)] if 1 in answer else ids == answer


def test_rows_beyond_what_is_computed_are_refused():
    sizes = {"vocab_size": 8, "emb_dim": 8, "num_heads": 2, "num_kv_heads": 2, "head_dim": 4}
    sizes |= {"mlp_dim": 8, "num_layers": 2}
    for changes, what in [
        ({"rope_scaling": ("dynamic", 2.0, 6)}, "dynamic rotary scaling"),
        ({"sliding_window": 6, "full_layers": 1}, "window of its last layers"),
    ]:
        config = decoder.DecoderConfig(**sizes, **changes)
        model = models.DecoderOnlyModel(decoder.Transformer(config), None)
        params, _ = model.shapes_and_axes()
        read = functools.partial(model.network.apply, enable_dropout=False)
        jax.eval_shape(read, {"params": params}, np.ones((1, 6), int))
        with pytest.raises(UserError, match=f"rows of 7 tokens.* up to 6, as long as.*{what}"):
            jax.eval_shape(read, {"params": params}, np.ones((1, 7), int))


def test_descriptions_of_models_are_those_of_before(saved, tmp_path):
    source, params = opened(saved("llama3"))
    model = models.DecoderOnlyModel(tiny.network("decoder", source.config), None)
    about = architectures.describe(model)["config"]
    assert not set(about) & {*architectures.LATER, "max_positions"}
    pretrained.save(tmp_path / "m", model, params, {})
    again, _ = pretrained.open_model(str(tmp_path / "m"))
    assert again.network.config == model.network.config
    assert again.max_positions == 64
    source, params = opened(saved("window, mistral"))
    model = models.DecoderOnlyModel(tiny.network("decoder", source.config), None)
    assert architectures.describe(model)["config"]["sliding_window"] == 5


def test_combinations_without_an_architecture():
    config = {"emb_dim": 8, "num_heads": 2, "mlp_bias": True, "sliding_window": 4}
    tiny.fails(
        "mlp_bias=True, sliding_window=4: no architecture", huggingface_config._model_type, config
    )
