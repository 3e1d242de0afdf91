"""What a LoRA of PEFT changes beside kernels of one rank, on random models of `transformers`."""

import json

import jax
import numpy as np
import pytest
import torch

from promot_jax.base import partitioning
from promot_jax.checkpoints import pretrained
from promot_jax.checkpoints.formats import huggingface, peft, safetensors_files
from tests.checkpoints import tiny_transformers as tiny
from tests.checkpoints.peft_interop_test import their_logits, theirs, trained

pytestmark = pytest.mark.long

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Returns the folder of a tiny model of a case; those that end in `_tied` tie the output."""
    parent, made = tmp_path_factory.mktemp("base"), {}

    def make(case):
        if case not in made:
            made[case] = parent / case
            model = tiny.random_model(case, untied_output=case == "t5_v1_1")
            model.save_pretrained(made[case])
        return made[case]

    return make


def attached(folder, adapter):
    """Logits of our model with the adapter attached as commands do, the model, its parameters."""
    model, source = pretrained.open_model(str(folder))
    params = pretrained.load(source, model, partitioning.make_mesh())
    model, params = pretrained.attach(model, params, "a", str(adapter))
    expected, _ = model.shapes_and_axes()
    assert jax.tree.map(np.shape, expected) == jax.tree.map(np.shape, params)
    return tiny.our_logits(model.network, params, model.family), model, params


EMBEDDING = "embed_tokens"
CASES = {
    "embedding of a tied model": ("llama_3", {"target_modules": ["q_proj", EMBEDDING]}),
    "embedding alone": ("llama_3", {"target_modules": [EMBEDDING]}),
    "embedding of an untied model": ("qwen2", {"target_modules": [EMBEDDING, "v_proj"]}),
    "embedding, cohere": ("cohere", {"target_modules": [EMBEDDING, "k_proj"]}),
    "output of a tied model": ("llama_3", {"target_modules": ["lm_head", "o_proj"]}),
    "embedding and output": ("llama_3", {"target_modules": ["lm_head", EMBEDDING]}),
    "position bias": ("t5_v1_1", {"target_modules": ["q", "relative_attention_bias"]}),
    "saved output": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "saved output, tied": (
        "llama_3",
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ),
    "saved embedding, tied": (
        "llama_3",
        {"target_modules": ["q_proj"], "modules_to_save": [EMBEDDING]},
    ),
    "saved norms": (
        "qwen3",
        {"target_modules": ["q_proj"], "modules_to_save": ["norm", "q_norm", "input_layernorm"]},
    ),
    "saved kernels": (
        "cohere",
        {"target_modules": ["v_proj"], "modules_to_save": ["q_proj", "down_proj"]},
    ),
    "ranks": (
        "llama",
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"v_proj": 2, "layers.0.mlp.down_proj": 5},
            "alpha_pattern": {"q_proj": 16, "layers.1..*down_proj": 3},
        },
    ),
    "ranks, stabilised": (
        "llama",
        {
            "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {"v_proj": 2},
            "use_rslora": True,
        },
    ),
    "rank of the embedding, stabilised": (
        "qwen2",
        {"target_modules": [EMBEDDING, "q_proj"], "use_rslora": True},
    ),
    "DoRA": ("t5_v1_0", {"target_modules": ["q", "o", "wi"], "use_dora": True}),
    "DoRA, with biases": ("qwen2", {"target_modules": ["q_proj", "down_proj"], "use_dora": True}),
    "DoRA, heads in another order": (
        "cohere",
        {"target_modules": ["q_proj", "k_proj", "v_proj"], "use_dora": True, "use_rslora": True},
    ),
    "DoRA of several ranks": (
        "llama",
        {
            "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {"v_proj": 2},
            "alpha_pattern": {"q_proj": 16},
            "use_dora": True,
        },
    ),
    "rank of the embedding": (
        "qwen2",
        {"target_modules": [EMBEDDING, "q_proj"], "rank_pattern": {EMBEDDING: 2}},
    ),
    "biases": ("qwen2", {"target_modules": ["q_proj"], "bias": "all"}),
    "biases of the adapted": ("qwen2", {"target_modules": ["k_proj"], "bias": "lora_only"}),
    "no biases to train": ("llama", {"target_modules": ["k_proj"], "bias": "all"}),
    "all linear": ("qwen2", {"target_modules": "all-linear"}),
    "a pattern": ("llama", {"target_modules": r".*layers\.1.*(q|o)_proj"}),
    "some layers": ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "fan_in_fan_out": ("llama", {"target_modules": ["q_proj"], "fan_in_fan_out": True}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_peft(base, tmp_path, name):
    case, settings = CASES[name]
    model = trained(base(case), case, **{"r": 3, "lora_alpha": 5, **settings})
    model.save_pretrained(tmp_path / "theirs")
    expected = their_logits(model)
    plain = tiny.their_logits(tiny.load_model(base(case)))
    assert np.abs(expected - plain).max() > 0.05
    found, _, _ = attached(base(case), tmp_path / "theirs")
    np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.mark.filterwarnings("ignore")
def test_the_merged_model_is_saved_and_opened(base, tmp_path):
    case, settings = CASES["embedding of a tied model"]
    model = trained(base(case), case, r=3, lora_alpha=5, **settings)
    model.save_pretrained(tmp_path / "theirs")
    expected = their_logits(model)
    _, model, params = attached(base(case), tmp_path / "theirs")
    pretrained.save(tmp_path / "saved", model, params, {})
    model, source = pretrained.open_model(str(tmp_path / "saved"))
    params = pretrained.load(source, model, partitioning.make_mesh())
    again = tiny.our_logits(model.network, params, model.family)
    np.testing.assert_allclose(again, expected, **CLOSE)


def test_an_adapter_of_the_model_without_its_head(base, tmp_path):
    torch.manual_seed(1)
    import transformers

    backbone = transformers.AutoModel.from_pretrained(base("llama"))
    config = theirs.LoraConfig(r=2, target_modules=["q_proj"])
    theirs.get_peft_model(backbone, config).save_pretrained(tmp_path / "a")
    tensors = safetensors_files.read_header(tmp_path / "a/adapter_model.safetensors")
    assert all(name.startswith("base_model.model.layers") for name in tensors)
    config = huggingface.open_checkpoint(str(base("llama"))).config
    assert len(peft.read(str(tmp_path / "a"), "decoder", config).leaves) == 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("case", "settings", "message"),
    [
        ("t5_v1_1", {"target_modules": ["shared", "q"]}, "changes the embedding of a T5.*merge"),
        ("t5_v1_0", {"target_modules": ["lm_head", "q"]}, "tied matrices of a T5.*merge"),
        (
            "llama_3",
            {"target_modules": [EMBEDDING, "q_proj"], "ensure_weight_tying": True},
            "ensure_weight_tying is True",
        ),
        ("llama", {"target_modules": [EMBEDDING], "use_dora": True}, "use_dora of an embedding"),
        (
            "llama",
            {"target_modules": ["q_proj"], "trainable_token_indices": [3]},
            "trainable_token_indices is",
        ),
        ("llama", {"target_modules": ["q_proj"], "lora_bias": True}, "lora_bias is True"),
    ],
)
def test_what_only_peft_can_apply_is_named(base, tmp_path, case, settings, message):
    trained(base(case), case, r=2, **settings).save_pretrained(tmp_path / "a")
    source = huggingface.open_checkpoint(str(base(case)))
    tiny.fails(message, peft.read, str(tmp_path / "a"), source.family, source.config)


def test_an_adapter_of_a_larger_vocabulary(base, tmp_path):
    model = tiny.load_model(base("qwen2"))
    model.resize_token_embeddings(70)
    model.save_pretrained(tmp_path / "large")
    trained(tmp_path / "large", "qwen2", r=2, target_modules=[EMBEDDING]).save_pretrained(
        tmp_path / "a"
    )
    tiny.fails(
        r"token_embedder/embedding has shape \(70, 32\), the model's \(64, 32\).*resized",
        attached,
        base("qwen2"),
        tmp_path / "a",
    )


def test_a_pair_that_is_not_whole(base, tmp_path):
    settings = {"r": 2, "target_modules": [EMBEDDING]}
    trained(base("qwen2"), "qwen2", **settings).save_pretrained(tmp_path / "a")
    about = json.loads((tmp_path / "a/adapter_config.json").read_text())
    (tmp_path / "a/adapter_config.json").write_text(json.dumps(about | {"r": 3}))
    config = huggingface.open_checkpoint(str(base("qwen2"))).config
    tiny.fails(
        r"lora_embedding_A has shape \(2, 64\), which is not of rank 3",
        peft.read,
        str(tmp_path / "a"),
        "decoder",
        config,
    )
