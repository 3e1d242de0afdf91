"""The network against `transformers`' T5 in torch, on copied random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promot_jax.models import losses
from promot_jax.models.networks import t5

pytestmark = pytest.mark.long

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

INPUTS = np.array([[5, 6, 7, 8, 9, 10, 1], [11, 12, 1, 0, 0, 0, 0]])
TARGETS = np.array([[4, 5, 6, 7, 1], [3, 1, 0, 0, 0]])
SHIFTED = np.array([[0, 4, 5, 6, 7], [0, 3, 1, 0, 0]])

STATIC = ("enable_dropout", "method")

ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}
ENCODER_BLOCK = {
    "pre_attention_layer_norm/scale": "layer.0.layer_norm.weight",
    **{f"attention/{a}/kernel": f"layer.0.SelfAttention.{b}.weight" for a, b in ATTENTION.items()},
    "pre_mlp_layer_norm/scale": "layer.1.layer_norm.weight",
}
DECODER_BLOCK = {
    "pre_self_attention_layer_norm/scale": "layer.0.layer_norm.weight",
    **{
        f"self_attention/{a}/kernel": f"layer.0.SelfAttention.{b}.weight"
        for a, b in ATTENTION.items()
    },
    "pre_cross_attention_layer_norm/scale": "layer.1.layer_norm.weight",
    **{
        f"encoder_decoder_attention/{a}/kernel": f"layer.1.EncDecAttention.{b}.weight"
        for a, b in ATTENTION.items()
    },
    "pre_mlp_layer_norm/scale": "layer.2.layer_norm.weight",
}
RELATIVE = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def names(num_layers, mlp):
    """Our path -> the name in torch."""
    table = {"token_embedder/embedding": "shared.weight"}
    for side, block, mlp_layer in [("encoder", ENCODER_BLOCK, 1), ("decoder", DECODER_BLOCK, 2)]:
        table[f"{side}/relpos_bias/rel_embedding"] = f"{side}.{RELATIVE}"
        table[f"{side}/{side}_norm/scale"] = f"{side}.final_layer_norm.weight"
        for layer in range(num_layers):
            ours, theirs = f"{side}/layers_{layer}", f"{side}.block.{layer}"
            for path, name in block.items():
                table[f"{ours}/{path}"] = f"{theirs}.{name}"
            for name in mlp:
                table[f"{ours}/mlp/{name}/kernel"] = (
                    f"{theirs}.layer.{mlp_layer}.DenseReluDense.{name}.weight"
                )
    table["decoder/logits_dense/kernel"] = "lm_head.weight"
    return table


def copy_weights(model, table):
    """Our parameter tree with the weights of a torch model; matrices are transposed."""
    state = model.state_dict()
    tree = {}
    for path, name in table.items():
        value = state[name].numpy()
        transposed = value.ndim == 2 and name != "shared.weight"
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = jnp.asarray(value.T if transposed else value)
    unused = set(state) - set(table.values())
    assert unused <= {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    return tree


def pair(feed_forward, activations):
    """A random torch model and our `apply` with the same weights."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "num_heads": 4}
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            feed_forward_proj=feed_forward,
            tie_word_embeddings=False,
            decoder_start_token_id=0,
            **sizes,
        )
    ).eval()
    with torch.no_grad():
        # Untie the output, and leave the initial values, where norms are 1 and logits tiny.
        model.lm_head.weight = torch.nn.Parameter(torch.empty(64, 32))
        for name, parameter in model.named_parameters():
            norm = name.endswith("layer_norm.weight")
            parameter.normal_(mean=1.0 if norm else 0.0, std=0.2)
    network = t5.Transformer(
        t5.T5Config(
            emb_dim=32,
            head_dim=8,
            mlp_dim=48,
            num_encoder_layers=2,
            num_decoder_layers=2,
            mlp_activations=activations,
            **sizes,
        )
    )
    mlp = ("wi", "wo") if len(activations) == 1 else ("wi_0", "wi_1", "wo")
    params = {"params": copy_weights(model, names(2, mlp))}
    return model, functools.partial(jax.jit(network.apply, static_argnames=STATIC), params)


@pytest.fixture(
    scope="module",
    params=[("gated-gelu", ("gelu", "linear")), ("relu", ("relu",))],
    ids=["gated-gelu", "relu"],
)
def models(request):
    return pair(*request.param)


def torch_output(model, inputs=INPUTS, shifted=SHIFTED, targets=TARGETS):
    with torch.no_grad():
        return model(
            input_ids=torch.tensor(inputs),
            attention_mask=torch.tensor(inputs > 0),
            decoder_input_ids=torch.tensor(shifted),
            labels=torch.tensor(np.where(targets > 0, targets, -100)),
        )


def test_logits_and_loss(models):
    model, apply = models
    expected = torch_output(model)
    logits = apply(INPUTS, SHIFTED, TARGETS, enable_dropout=False)
    real = TARGETS > 0
    assert np.abs(expected.logits.numpy()[real]).max() > 1.0
    np.testing.assert_allclose(
        np.asarray(logits)[real], expected.logits.numpy()[real], rtol=1e-4, atol=1e-4
    )
    loss = losses.summed(losses.token_losses(logits, TARGETS), real)
    np.testing.assert_allclose(loss.total / loss.weight, expected.loss.item(), atol=1e-4)


def test_encoder_output(models):
    model, apply = models
    with torch.no_grad():
        expected = model.encoder(
            input_ids=torch.tensor(INPUTS), attention_mask=torch.tensor(INPUTS > 0)
        ).last_hidden_state.numpy()
    encoded = apply(INPUTS, enable_dropout=False, method="encode")
    np.testing.assert_allclose(encoded, expected, rtol=1e-4, atol=1e-4)


def test_long_inputs_reach_every_bucket(models):
    model, apply = models
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(2, 64, size=(1, 200)), rng.integers(2, 64, size=(1, 150))
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    expected = torch_output(model, inputs, shifted, targets).logits.numpy()
    logits = apply(inputs, shifted, targets, enable_dropout=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=2e-4)
