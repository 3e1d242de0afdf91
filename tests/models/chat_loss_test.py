"""The loss of chat rows is that of transformers with labels on the tokens of the assistant."""

import functools

import jax
import numpy as np
import pytest
import torch
import transformers

from promot_jax.base import partitioning, trees
from promot_jax.checkpoints import chat_templates, pretrained
from promot_jax.data import batching, packing
from promot_jax.data.chat import Chat, marked
from promot_jax.data.chat_template import of_text
from tests.data import chat_tokenizers
from tests.data.chat_template_test import turns
from tests.quick import quick_jit

LENGTHS = {"inputs": 48, "targets": 200}
# Each message ends as a sequence does, so what is read before an answer ends so too.
BARE = of_text(
    "{{ bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}",
    "bare",
    {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
)
CASES = {
    "llama3": ("llama3", None),
    "qwen3": ("qwen3", None),
    "mistral": ("mistral", None),
    "ends": ("llama3", BARE),
}
TALKS = [
    turns(["hi", "the cat sat", "and the dog?", "it looked at the moon"]),
    turns(["what is the capital of mali?", "bamako"], "You are helpful."),
    turns(["a " * 60, "one", "b", "two", "c", "three 中"]),
]


@functools.cache
def opened(case, folder):
    kind, template = CASES[case]
    chat_tokenizers.save(folder, kind)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=704,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=1,
    )
    theirs = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.normal_(mean=1.0 if "norm" in name else 0.0, std=0.2)
    theirs.save_pretrained(folder)
    model, source = pretrained.open_model(str(folder))
    params = pretrained.load(source, model, partitioning.make_mesh())
    return theirs, model, params, template or chat_templates.of_source(source, model.vocabulary)


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "which"),
    [
        *(("llama3", "all"), ("llama3", "last"), ("mistral", "last")),
        *(("qwen3", "all"), ("ends", "all")),
        pytest.param("mistral", "all", marks=pytest.mark.slow),
        pytest.param("qwen3", "last", marks=pytest.mark.slow),
        pytest.param("ends", "last", marks=pytest.mark.slow),
    ],
)
def test_losses_are_those_of_transformers(case, which, tmp_path_factory):
    theirs, model, params, template = opened(case, tmp_path_factory.getbasetemp() / case)
    chat = Chat(template, which)
    rows = [{"messages": talk} for talk in TALKS]
    total = count = 0
    for row in rows:
        text, spans = chat._read(row)
        encoded = model.vocabulary.tokenizer.encode(text, add_special_tokens=False)
        labels = np.where(marked(encoded.offsets, spans) > 0, encoded.ids, -100)
        labels = torch.tensor(labels)[None]
        loss = theirs(torch.tensor(encoded.ids)[None], labels=labels).loss
        learnt = int((labels[:, 1:] >= 0).sum())
        total, count = total + loss * learnt, count + learnt
    theirs.zero_grad()
    total.backward()
    wanted = theirs.model.embed_tokens.weight.grad.numpy()

    @quick_jit
    def measured(params, batch):
        def summed(params):
            loss = model.loss_fn(params, batch, None)
            return loss.total, loss.weight

        return jax.value_and_grad(summed, has_aux=True)(params)

    tokens = chat(rows, model.vocabulary, LENGTHS)
    batch = batching.fields(tokens, (LENGTHS["inputs"], LENGTHS["targets"]))
    packer = model.packer([batch], 1)
    packer.shapes = [packing.Shape(1, 400, 160)]
    packed = packer(batch)
    assert packed is not batch
    for one in (batch, packed):
        (loss, weight), gradients = measured(params, one)
        assert float(weight) == count
        np.testing.assert_allclose(float(loss), total.item(), rtol=1e-5)
        gradient = trees.flatten(gradients)["token_embedder/embedding"]
        np.testing.assert_allclose(gradient, wanted, rtol=1e-3, atol=2e-4)
