"""DoRA beside PEFT's own: logits, gradients, merged kernels, and folders in both directions."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from promot_jax.base import trees
from promot_jax.checkpoints.formats import huggingface, peft
from promot_jax.checkpoints.formats import huggingface_names as names
from promot_jax.models.networks import lora
from promot_jax.models.networks.lora import Lora
from tests.checkpoints import tiny_transformers as tiny
from tests.checkpoints.peft_interop_test import theirs, trained
from tests.quick import quick_jit

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]

# Case of `tiny` -> modules that PEFT adapts; the heads of cohere are interleaved.
CASES = {"t5_v1_1": ["q", "o", "wi_1"], "cohere": ["q_proj", "o_proj", "down_proj"]}


@pytest.fixture(scope="module", params=CASES)
def both(request, tmp_path_factory):
    """A PEFT model, ours with the same adapter, and where they came from."""
    case, folder = request.param, tmp_path_factory.mktemp("dora")
    tiny.random_model(case, untied_output=case == "t5_v1_1").save_pretrained(folder / "base")
    model = trained(
        folder / "base", case, r=3, lora_alpha=5, use_dora=True, target_modules=CASES[case]
    )
    model.save_pretrained(folder / "theirs")
    source, _, params = tiny.load(folder / "base")
    adapter = peft.read(str(folder / "theirs"), source.family, source.config)
    ours = Lora(adapter.pattern, adapter.rank, adapter.alpha, form=adapter.form)
    module = tiny.network(source.family, source.config, lora=ours)
    params = trees.combine(params, trees.unflatten(adapter.leaves))
    return folder, model, source, module, params


@pytest.fixture(scope="module")
def found(both):
    """Our logits and the gradients of a weighted sum of them, by path of the adapters' leaves."""
    _, _, source, module, params = both
    small, rest = lora.adapters(params), lora.remove(params)

    def weighted(small):
        variables = {"params": trees.combine(small, rest)}
        logits = module.apply(variables, *tiny.inputs(source.family), enable_dropout=False)
        return jnp.sum(logits * jnp.sin(jnp.arange(logits.size)).reshape(logits.shape)), logits

    run = quick_jit(jax.value_and_grad(weighted, has_aux=True))
    (_, logits), gradients = run(small)
    return np.asarray(logits), trees.flatten(gradients)


def test_logits_are_those_of_peft(both, found):
    _, model, _, _, params = both
    assert sum(path.endswith("lora_magnitude") for path in trees.flatten(params)) >= 6
    np.testing.assert_allclose(found[0], tiny.their_logits(model), rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_peft(both, found):
    _, model, source, _, _ = both
    if model.config.is_encoder_decoder:
        logits = model(
            input_ids=torch.tensor(tiny.INPUTS),
            attention_mask=torch.tensor(tiny.INPUTS > 0),
            decoder_input_ids=torch.tensor(tiny.SHIFTED),
        ).logits
    else:
        logits = model(input_ids=torch.tensor(tiny.TOKENS)).logits
    model.zero_grad()
    (logits * torch.sin(torch.arange(logits.numel())).reshape(logits.shape)).sum().backward()
    # In their folder's names, with gradients in place of values.
    theirs_by_name = {
        name.replace(".default", "").removesuffix(".weight"): parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    compared = 0
    for module, (path, rename) in names.modules(source.family, source.config).items():
        if f"{path}/lora_a" not in found[1]:
            continue
        stem = f"base_model.model.{module}"
        pairs = {
            "lora_a": theirs_by_name[f"{stem}.lora_A"].T,
            "lora_b": rename.to_ours(theirs_by_name[f"{stem}.lora_B"]),
            "lora_magnitude": rename.to_ours(
                theirs_by_name[f"{stem}.lora_magnitude_vector"][:, None]
            )[0],
        }
        for name, expected in pairs.items():
            scale = np.abs(expected).max()
            np.testing.assert_allclose(
                found[1][f"{path}/{name}"] / scale, expected / scale, rtol=2e-3, atol=2e-4
            )
            compared += 1
    assert compared == len(found[1]) > 15


def test_our_folder_is_one_of_peft(both, tmp_path):
    folder, model, source, _, params = both
    leaves = lora.adapters(params)
    settings = (source.family, 3, 5.0, source.config, str(folder / "base"))
    peft.write_lora(tmp_path / "ours", leaves, *settings)
    base = tiny.load_model(folder / "base")
    again = theirs.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    expected = tiny.their_logits(model)
    np.testing.assert_allclose(tiny.their_logits(again), expected, rtol=1e-5, atol=1e-5)
    about = json.loads((tmp_path / "ours/adapter_config.json").read_text())
    assert (about["use_dora"], about["use_rslora"]) == (True, False)


def test_merged_kernels_are_those_of_peft(both, tmp_path):
    folder, _, _, module, params = both
    base = tiny.load_model(folder / "base")
    model = theirs.PeftModel.from_pretrained(base, folder / "theirs")
    model.merge_and_unload().save_pretrained(tmp_path)
    merged = trees.flatten(lora.merge(params, module.config.lora))
    theirs_merged = huggingface.open_checkpoint(str(tmp_path))
    kernels = [path for path in merged if path.endswith("kernel")]
    assert len(kernels) > 10
    for path in kernels:
        expected = theirs_merged.read(path)
        np.testing.assert_allclose(merged[path], expected, rtol=1e-4, atol=1e-4, err_msg=path)
