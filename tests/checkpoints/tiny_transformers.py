"""Random tiny models of `transformers`, and their logits beside those of our networks."""

import functools

import jax
import numpy as np
import pytest
import torch
import transformers

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.checkpoints.formats import huggingface
from promot_jax.checkpoints.formats import source as sources
from promot_jax.models.networks import decoder, t5

VOCABULARY = 64
INPUTS = np.array([[5, 6, 7, 8, 9, 10, 1], [11, 12, 1, 0, 0, 0, 0]])
SHIFTED = np.array([[0, 4, 5, 6, 7], [0, 3, 1, 9, 8]])
TARGETS = np.array([[4, 5, 6, 7, 1], [3, 1, 9, 8, 2]])
TOKENS = np.array([[5, 6, 7, 8, 9, 10, 1], [11, 12, 1, 3, 2, 60, 61]])

_T5 = {
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 48,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "decoder_start_token_id": 0,
}
_DECODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}
# Name of a case -> (model_type, settings).
CASES = {
    "t5_v1_0": ("t5", _T5 | {"feed_forward_proj": "relu"}),
    "t5_v1_1": ("t5", _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("mt5", _T5),
    "mt5_silu": ("mt5", _T5 | {"feed_forward_proj": "gated-silu"}),
    "llama": ("llama", _DECODER | {"head_dim": 6}),
    "llama_3": (
        "llama",
        _DECODER | {"tie_word_embeddings": True, "rope_parameters": _LLAMA3, "rms_norm_eps": 1e-3},
    ),
    "mistral": ("mistral", _DECODER | {"sliding_window": None, "hidden_act": "gelu_new"}),
    "qwen2": ("qwen2", _DECODER),
    "qwen3": ("qwen3", _DECODER | {"head_dim": 8, "rms_norm_eps": 1e-2}),
    "cohere": ("cohere", _DECODER | {"logit_scale": 0.5, "layer_norm_eps": 1e-3}),
}


def random_model(case, *, untied_output=False):
    """A torch model whose every parameter is random, norms and biases included."""
    kind, settings = CASES[case]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, vocab_size=VOCABULARY, **settings)
    seq2seq = kind in ("t5", "mt5")
    factory = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
    model = factory.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        if untied_output:
            model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=1.0 if "norm" in name else 0.0, std=0.2)
    return model


def load_model(folder):
    """What `from_pretrained` gives."""
    kind = transformers.AutoConfig.from_pretrained(folder).model_type
    seq2seq = kind in ("t5", "mt5")
    factory = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
    return factory.from_pretrained(folder).eval()


def their_logits(model):
    """Logits of a torch model, adapted by PEFT or not."""
    with torch.no_grad():
        if not model.config.is_encoder_decoder:
            return model(input_ids=torch.tensor(TOKENS)).logits.numpy()
        return model(
            input_ids=torch.tensor(INPUTS),
            attention_mask=torch.tensor(INPUTS > 0),
            decoder_input_ids=torch.tensor(SHIFTED),
        ).logits.numpy()


def network(family, config, **changes):
    """Our network of a configuration as a checkpoint tells it."""
    if family == "t5":
        return t5.Transformer(t5.T5Config(**{"dropout_rate": 0.0, **config, **changes}))
    return decoder.Transformer(decoder.DecoderConfig(**{**config, **changes}))


def inputs(family):
    """Positional inputs of our network."""
    return (INPUTS, SHIFTED, TARGETS) if family == "t5" else (TOKENS,)


def expected_leaves(module, family):
    """The network's tree of shapes."""
    init = functools.partial(module.init, enable_dropout=False)
    return jax.eval_shape(init, jax.random.key(0), *inputs(family))["params"]


def our_logits(module, params, family, **kwargs):
    """Logits of our network; op by op, since networks of equal sizes share what is compiled."""
    variables = {"params": params}
    return np.asarray(module.apply(variables, *inputs(family), enable_dropout=False, **kwargs))


def load(folder):
    """Opens, plans and streams a folder: (source, our network, parameters)."""
    source = huggingface.open_checkpoint(str(folder))
    module = network(source.family, source.config)
    expected = expected_leaves(module, source.family)
    plan = sources.match(source, expected)
    assert plan.loaded
    assert not plan.initialised
    return source, module, trees.unflatten(dict(sources.stream(source, expected)))


def fails(match, function, *args, **kwargs):
    """The call raises a UserError of one line that matches."""
    with pytest.raises(UserError, match=match) as error:
        function(*args, **kwargs)
    assert "\n" not in str(error.value)
