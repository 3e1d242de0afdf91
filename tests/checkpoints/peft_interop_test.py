"""Adapters of PEFT itself, read and written, on random tiny models of `transformers`."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest

from promot_jax.base import trees
from promot_jax.checkpoints.formats import huggingface, peft, peft_lora, safetensors_files
from promot_jax.checkpoints.formats import huggingface_names as names
from promot_jax.models.networks import prompt_kinds
from promot_jax.models.networks.lora import Lora

pytestmark = pytest.mark.long

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
theirs = pytest.importorskip("peft")
tiny = pytest.importorskip("tests.checkpoints.tiny_transformers")

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
# Case of `tiny` -> modules that PEFT adapts.
LORA_CASES = {
    "t5_v1_1": ["q", "v", "wi_1", "wo"],
    "t5_v1_0": ["k", "wi", "o"],
    "llama": ["q_proj", "down_proj", "lm_head"],
    "qwen2": ["v_proj"],
    "cohere": ["q_proj", "k_proj", "v_proj"],
}


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Returns the folder of a tiny model of a case."""
    parent, made = tmp_path_factory.mktemp("base"), {}

    def make(case):
        if case not in made:
            made[case] = parent / case
            untied = case == "t5_v1_1"
            tiny.random_model(case, untied_output=untied).save_pretrained(made[case])
        return made[case]

    return make


def task(case):
    return "SEQ_2_SEQ_LM" if "t5" in case else "CAUSAL_LM"


def trained(folder, case, factory=None, **config):
    """A PEFT model with random adapters."""
    torch.manual_seed(1)
    usual = theirs.PromptTuningConfig if "num_virtual_tokens" in config else theirs.LoraConfig
    factory = factory or usual
    model = theirs.get_peft_model(
        tiny.load_model(folder), factory(task_type=task(case), **config)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    return model


def their_logits(model, length=0):
    """Logits of a PEFT model; PEFT's decoders return those of the prompt too."""
    logits = tiny.their_logits(model)
    return logits if model.config.is_encoder_decoder else logits[:, length:]


def with_lora(folder, lora, leaves):
    """Logits of our network with the adapter."""
    source, _, params = tiny.load(folder)
    module = tiny.network(source.family, source.config, lora=lora)
    expected = trees.flatten(tiny.expected_leaves(module, source.family))
    params = trees.flatten(params) | dict(leaves)
    # The pattern adapts exactly the kernels that the file has matrices of, in their shapes.
    assert {path: leaf.shape for path, leaf in expected.items()} == {
        path: leaf.shape for path, leaf in params.items()
    }
    return tiny.our_logits(module, trees.unflatten(params), source.family)


def base_logits(folder):
    source, module, params = tiny.load(folder)
    return tiny.our_logits(module, params, source.family)


@pytest.mark.parametrize("case", LORA_CASES)
def test_lora_in_and_out(case, base, tmp_path):
    folder = base(case)
    model = trained(folder, case, r=3, lora_alpha=5, target_modules=LORA_CASES[case])
    model.save_pretrained(tmp_path / "theirs")
    expected = their_logits(model)
    assert np.abs(expected - base_logits(folder)).max() > 0.1

    source = huggingface.open_checkpoint(str(folder))
    adapter = peft.read(str(tmp_path / "theirs"), source.family, source.config)
    assert (adapter.kind, adapter.rank, adapter.alpha) == ("lora", 3, 5.0)
    assert adapter.base_model == str(folder)
    lora = Lora(adapter.pattern, adapter.rank, adapter.alpha)
    np.testing.assert_allclose(with_lora(folder, lora, adapter.leaves), expected, **CLOSE)

    peft.write_lora(
        tmp_path / "ours", adapter.leaves, source.family, 3, 5.0, source.config, str(folder)
    )
    again = theirs.PeftModel.from_pretrained(tiny.load_model(folder), tmp_path / "ours").eval()
    np.testing.assert_allclose(their_logits(again), expected, **CLOSE)
    about = json.loads((tmp_path / "ours/adapter_config.json").read_text())
    assert about["target_modules"] == sorted(LORA_CASES[case])


def test_lora_of_some_layers(base, tmp_path):
    # The last names alone would adapt more kernels than have matrices: PEFT would train them.
    folder = base("llama")
    source = huggingface.open_checkpoint(str(folder))
    rng = np.random.default_rng(0)
    path = "decoder/layers_1/self_attention"
    leaves = {
        f"{path}/query/lora_a": rng.normal(size=(32, 2)).astype(np.float32),
        f"{path}/query/lora_b": rng.normal(size=(2, 24)).astype(np.float32),
    }
    expected = with_lora(folder, Lora(f"{path}/query/kernel", 2, 0.5), leaves)
    peft.write_lora(tmp_path / "a", leaves, "decoder", 2, 0.5, source.config, None)
    model = theirs.PeftModel.from_pretrained(tiny.load_model(folder), tmp_path / "a").eval()
    np.testing.assert_allclose(their_logits(model), expected, **CLOSE)
    adapted = [name for name, _ in model.named_modules() if name.endswith("lora_A")]
    assert adapted == ["base_model.model.model.layers.1.self_attn.q_proj.lora_A"]
    adapter = peft.read(str(tmp_path / "a"), "decoder", source.config)
    assert adapter.pattern == f"({path}/query)/kernel"
    assert adapter.alpha == 0.5
    assert adapter.base_model is None


def test_rank_stabilised_scale(base, tmp_path):
    folder = base("qwen2")
    model = trained(folder, "qwen2", r=4, lora_alpha=3, use_rslora=True, target_modules=["o_proj"])
    model.save_pretrained(tmp_path / "theirs")
    source = huggingface.open_checkpoint(str(folder))
    adapter = peft.read(str(tmp_path / "theirs"), "decoder", source.config)
    assert (adapter.alpha, adapter.scaling) == (3.0, "root_rank")
    lora = Lora(adapter.pattern, adapter.rank, adapter.alpha, adapter.scaling)
    logits = with_lora(folder, lora, adapter.leaves)
    np.testing.assert_allclose(logits, their_logits(model), **CLOSE)
    settings = ("decoder", 4, 3.0, source.config, str(folder), "root_rank")
    peft.write_lora(tmp_path / "ours", adapter.leaves, *settings)
    again = theirs.PeftModel.from_pretrained(tiny.load_model(folder), tmp_path / "ours").eval()
    assert again.peft_config["default"].use_rslora
    np.testing.assert_allclose(their_logits(again), their_logits(model), **CLOSE)


def with_prompt(folder, prompt):
    """Logits of our network with a soft prompt in front of every row."""
    source, _, params = tiny.load(folder)
    module = tiny.network(
        source.family, source.config, prompt_names=("rte",), prompt_length=len(prompt)
    )
    side = "encoder" if source.family == "t5" else "decoder"
    params = trees.combine(params, {side: {"prompt": {"rte": {"prompt": prompt}}}})
    return tiny.our_logits(module, params, source.family, prompt_ids=np.zeros(2, np.int32))


@pytest.mark.parametrize("case", ["t5_v1_1", "llama"])
def test_prompt_in_and_out(case, base, tmp_path):
    folder = base(case)
    model = trained(folder, case, num_virtual_tokens=3)
    model.save_pretrained(tmp_path / "theirs")
    expected = their_logits(model, 3)
    assert np.abs(expected - base_logits(folder)).max() > 0.1

    adapter = peft.read(str(tmp_path / "theirs"))
    assert (adapter.kind, adapter.base_model) == ("prompt", str(folder))
    assert adapter.prompt.shape == (3, 32)
    np.testing.assert_allclose(with_prompt(folder, adapter.prompt), expected, **CLOSE)

    family = "t5" if case == "t5_v1_1" else "decoder"
    peft.write_prompt(tmp_path / "ours", adapter.prompt, family, str(folder))
    again = theirs.PeftModel.from_pretrained(tiny.load_model(folder), tmp_path / "ours").eval()
    np.testing.assert_allclose(their_logits(again, 3), expected, **CLOSE)
    generated = again.generate(
        input_ids=torch.tensor(tiny.INPUTS),
        attention_mask=torch.tensor(tiny.INPUTS > 0),
        max_new_tokens=2,
    )
    assert len(generated) == 2
    np.testing.assert_array_equal(peft.read(str(tmp_path / "ours")).prompt, adapter.prompt)


def with_prefix(folder, leaves):
    """Logits of our network with a prefix of every row."""
    source, _, params = tiny.load(folder)
    params = trees.add_prompt_leaves(params, "rte", leaves)
    module = tiny.network(
        source.family,
        source.config,
        prompt_names=("rte",),
        prompt_length=trees.prompts_of(params)["rte"],
        prompt_kind=prompt_kinds.of_params(params),
    )
    return tiny.our_logits(module, params, source.family, prompt_ids=np.zeros(2, np.int32))


# Heads in groups, interleaved rotary features, and a decoder beside an encoder, whose heads are not
# as wide as PEFT thinks.
@pytest.mark.parametrize("case", ["t5_v1_1", "llama", "cohere"])
def test_prefix_in_and_out(case, base, tmp_path):
    folder = base(case)
    sizes = {"token_dim": 24, "num_layers": 1} if case == "t5_v1_1" else {}
    model = trained(folder, case, theirs.PrefixTuningConfig, num_virtual_tokens=3, **sizes)
    model.save_pretrained(tmp_path / "theirs")
    expected = their_logits(model)
    assert np.abs(expected - base_logits(folder)).max() > 0.1

    source = huggingface.open_checkpoint(str(folder))
    adapter = peft.read(str(tmp_path / "theirs"), source.family, source.config)
    assert (adapter.kind, adapter.base_model) == ("prefix", str(folder))
    np.testing.assert_allclose(with_prefix(folder, adapter.leaves), expected, **CLOSE)

    out = tmp_path / "ours"
    peft.write_prefix(out, adapter.leaves, source.family, source.config, str(folder))
    again = theirs.PeftModel.from_pretrained(tiny.load_model(folder), out).eval()
    np.testing.assert_array_equal(their_logits(again), expected)
    found = [
        json.loads((tmp_path / f"{name}/adapter_config.json").read_text())
        for name in ("theirs", "ours")
    ]
    assert all(found[0][name] == value for name, value in found[1].items())


def test_prompts_that_have_no_place_in_peft(base, tmp_path):
    def fault(*leaves):
        return peft.fault([f"{leaf.replace('/', '/prompt/rte/')}" for leaf in leaves])

    assert "no prefix in an encoder" in fault("encoder/keys", "encoder/values", "decoder/keys")
    assert "no prompt with offsets" in fault("decoder/prompt", "decoder/offset_a")
    assert [fault(leaf) for leaf in ("encoder/prompt", "decoder/keys")] == [None, None]
    assert peft.fault(["decoder/layers_0/self_attention/query/lora_a"]) is None

    t5, llama = (huggingface.open_checkpoint(str(base(c))).config for c in ("t5_v1_1", "llama"))
    leaves = {f"decoder/{name}": np.zeros((1, 3, 24)) for name in ("keys", "values")}
    peft.write_prefix(tmp_path / "b", leaves, "t5", t5, None)
    tiny.fails("another model", peft.read, str(tmp_path / "b"), "decoder", llama)
    tiny.fails("name that one too", peft.read, str(tmp_path / "b"))


def test_every_kernel_has_a_module(base):
    source, _, params = tiny.load(base("cohere"))
    kernels = {path for path in trees.flatten(params) if path.endswith("/kernel")}
    modules = names.modules("decoder", source.config)
    assert {f"{path}/kernel" for path, _ in modules.values()} == kernels
    found = dict(tiny.load_model(base("cohere")).named_modules())
    assert kernels
    assert all(isinstance(found[module], torch.nn.Linear) for module in modules)


def test_describe(base, tmp_path):
    trained(base("llama"), "llama", r=3, target_modules=["q_proj"]).save_pretrained(tmp_path / "a")
    facts = peft.describe(str(tmp_path / "a"))
    assert facts["modules"] == "q_proj"
    assert (facts["rank"], facts["alpha"]) == (3, 8)
    trained(base("llama"), "llama", num_virtual_tokens=3).save_pretrained(tmp_path / "b")
    facts = peft.describe(str(tmp_path / "b"))
    assert (facts["prompt length"], facts["embedding dimension"]) == (3, 32)
    assert peft.is_format(str(tmp_path / "b"))
    assert not peft.is_format(str(base("llama")))


# --- errors ---


@pytest.fixture
def adapter_folder(base, tmp_path):
    """A LoRA that we wrote, and a function that reads it with a changed configuration."""
    source = huggingface.open_checkpoint(str(base("llama")))
    path = "decoder/layers_0/self_attention/query"
    leaves = {f"{path}/lora_a": np.ones((32, 2)), f"{path}/lora_b": np.ones((2, 24))}
    folder = tmp_path / "adapter"
    peft.write_lora(folder, leaves, "decoder", 2, 4, source.config, None)
    about = json.loads((folder / "adapter_config.json").read_text())

    def read(**changes):
        (folder / "adapter_config.json").write_text(json.dumps(about | changes))
        return peft.read(str(folder), "decoder", source.config)

    return folder, read


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_bias": True},
        {"trainable_token_indices": [1]},
        {"layer_replication": [[0, 1]]},
        {"init_lora_weights": "pissa"},
        {"peft_type": "P_TUNING"},
        {"r": None},
        {"lora_alpha": None},
    ],
    ids=str,
)
def test_settings_that_only_peft_can_apply(adapter_folder, changes):
    _, read = adapter_folder
    assert read(init_lora_weights="gaussian", rank_pattern={}, modules_to_save=None).rank == 2
    (field,) = changes
    tiny.fails(rf"adapter_config.json: {field} is ", lambda: read(**changes))


def test_refused_settings_are_those_of_peft():
    # A field that PEFT renames would pass unseen.
    fields = {field.name for field in dataclasses.fields(theirs.LoraConfig)}
    assert set(peft_lora.PLAIN) <= fields


def test_lengths_of_columns_go_with_dora(adapter_folder):
    _, read = adapter_folder
    tiny.fails("q_proj.lora_magnitude_vector is missing, but use_dora is True", read, use_dora=True)


def test_damaged_adapters(adapter_folder, base):
    folder, read = adapter_folder
    t5 = huggingface.open_checkpoint(str(base("t5_v1_0"))).config
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    tiny.fails(f"no place for {re.escape(name)}", peft.read, str(folder), "t5", t5)
    tiny.fails("names need the base model", peft.read, str(folder))
    tiny.fails(r"lora_A.weight has shape \(2, 32\), which is not of rank 3", lambda: read(r=3))
    tiny.fails("has no prompt_embeddings", lambda: read(peft_type="PROMPT_TUNING"))

    tensors = safetensors_files.read_header(folder / "adapter_model.safetensors")
    shapes = {name: tensors[name].shape}
    arrays = {name: safetensors_files.read(tensors[name])}
    safetensors_files.write(
        folder / "adapter_model.safetensors", shapes, np.dtype("float32"), arrays.__getitem__
    )
    tiny.fails("layers_0/self_attention/query/lora_b is missing", read)
    (folder / "adapter_model.safetensors").unlink()
    tiny.fails("adapter_model.safetensors cannot be read", read)
    (folder / "adapter_model.bin").write_bytes(b"")
    tiny.fails("adapter_model.bin is a pickle", read)
    (folder / "adapter_config.json").write_text("no")
    tiny.fails("adapter_config.json is not JSON", peft.read, str(folder), "t5", t5)
    shutil.rmtree(folder)
    tiny.fails("adapter_config.json cannot be read", peft.read, str(folder), "t5", t5)


def test_prompts_of_the_wrong_length(tmp_path):
    peft.write_prompt(tmp_path / "a", np.ones((2, 3)), "t5", None)
    about = json.loads((tmp_path / "a/adapter_config.json").read_text())
    for length, match in [(3, r"has shape \(2, 3\)"), (None, "num_virtual_tokens is None")]:
        changed = json.dumps(about | {"num_virtual_tokens": length})
        (tmp_path / "a/adapter_config.json").write_text(changed)
        tiny.fails(match, peft.read, str(tmp_path / "a"))


def test_adapters_that_cannot_be_written(adapter_folder, base, tmp_path):
    folder, _ = adapter_folder
    config = huggingface.open_checkpoint(str(base("llama"))).config
    a, b = np.ones((32, 2)), np.ones((2, 24))

    def write(leaves, out=tmp_path / "new", rank=2):
        peft.write_lora(out, leaves, "decoder", rank, 4, config, None)

    path = "decoder/layers_0/self_attention/query"
    both = {f"{path}/lora_a": a, f"{path}/lora_b": b}
    tiny.fails("are not of rank 3", write, both, rank=3)
    tiny.fails("lora_b is missing", write, {f"{path}/lora_a": a})
    tiny.fails("no matrices", write, {})
    other = "decoder/layers_7/self_attention/query"
    tiny.fails("layers_7.*has no name", write, {f"{other}/lora_a": a, f"{other}/lora_b": b})
    tiny.fails("exists already", write, both, out=folder)
    assert not (tmp_path / "new").exists()
    write(trees.unflatten(both))
    assert jax.tree.leaves(peft.read(str(tmp_path / "new"), "decoder", config).leaves)
