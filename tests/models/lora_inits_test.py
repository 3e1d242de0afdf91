"""How adapters begin: the part of a kernel that they take, beside PEFT, numpy and the formulas."""

import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from peft.tuners.lora import corda
from peft.tuners.lora.config import CordaConfig

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.models import moments
from promot_jax.models.networks import layers, lora, lora_inits
from promot_jax.models.networks.lora import Lora
from tests import tiny
from tests.models.models_test import decoder_model
from tests.models.parallel_test import BATCH, random
from tests.quick import quick_jit

pytestmark = pytest.mark.long

CORDA, NULL = lora_inits.CorDA("rows"), lora_inits.LoRANull("rows")


def drawn(seed, *shape):
    return np.float32(np.random.default_rng(seed).normal(size=shape))


def moment_of(x):
    return jnp.asarray(np.einsum("bxi,bxj->ij", x, x) / len(x))


def test_milora_takes_the_smallest_singular_values():
    kernel = drawn(0, 7, 5)
    a, b = lora_inits.begin(lora_inits.MiLoRA(), kernel, None, 2, 4.0)
    u, s, v = np.linalg.svd(np.float64(kernel), full_matrices=False)
    np.testing.assert_allclose(4.0 * a @ b, (u[:, 3:] * s[3:]) @ v[3:], rtol=1e-4, atol=1e-5)
    # Evenly shared: the matrices are equally large.
    np.testing.assert_allclose(np.linalg.norm(a), np.linalg.norm(b), rtol=1e-4)


def test_lora_null_takes_what_the_inputs_do_not_use():
    x = drawn(1, 3, 4, 7)
    x[..., 2] = x[..., 5] = 0
    kernel = drawn(0, 7, 5)
    a, b = lora_inits.begin(NULL, kernel, moment_of(x), 2, 0.5)
    expected = np.zeros_like(kernel)
    expected[[2, 5]] = kernel[[2, 5]]
    np.testing.assert_allclose(0.5 * a @ b, expected, atol=1e-5)


def test_corda_is_that_of_peft():
    """Rows of one length, each the whole input of a call, as PEFT's hook takes them."""
    x, kernel = drawn(1, 6, 9, 7), drawn(0, 7, 5)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(7, 5, bias=False)
            self.layer.weight.data = torch.tensor(kernel.T.copy())

        def forward(self, x):
            return self.layer(x)

    net = Net()
    settings = peft.LoraConfig(
        r=2,
        lora_alpha=6,
        target_modules=["layer"],
        init_lora_weights="corda",
        corda_config=CordaConfig(corda_method="kpm", prune_temporary_fields=False),
    )
    corda.preprocess_corda(net, settings, run_model=lambda: [net(torch.tensor(r[None])) for r in x])
    measured = net.layer.covariance_matrix.numpy()
    model = peft.get_peft_model(net, settings)
    layer = model.base_model.model.layer
    module = layers.Dense(5, ("embed", "mlp"))
    found = []

    def watch(call, arguments, options, context):
        found.append(moments._moment(arguments[0], jnp.ones(x.shape[:2], bool)))
        return call(*arguments, **options)

    with layers.nn.intercept_methods(watch):
        module.apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(found[0] / len(x), measured, rtol=1e-5)
    a, b = lora_inits.begin(CORDA, kernel, found[0] / len(x), 2, 3.0)
    theirs = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    their_a, their_b = (weight.detach().numpy().T for weight in theirs)
    np.testing.assert_allclose(a @ b, their_a @ their_b, rtol=1e-3, atol=1e-4)
    # Each pair of vectors alone, whose sign is free.
    for k in range(2):
        pairs = np.outer(a[:, k], b[k]), np.outer(their_a[:, k], their_b[k])
        np.testing.assert_allclose(*pairs, rtol=1e-3, atol=1e-4)
    left = kernel - 3.0 * np.asarray(a @ b)
    np.testing.assert_allclose(left, layer.base_layer.weight.detach().numpy().T, atol=1e-4)


def test_what_has_no_directions_is_an_error():
    with pytest.raises(UserError, match=r"takes 6 directions out of a kernel \(7, 5\); .* 5 at"):
        lora_inits.begin(lora_inits.MiLoRA(), drawn(0, 7, 5), None, 6, 1.0)
    with pytest.raises(UserError, match="'rows': what a kernel reads of its rows has no inverse"):
        lora_inits.begin(CORDA, drawn(0, 7, 5), jnp.zeros((7, 7)), 2, 1.0)
    with pytest.raises(UserError, match="begins with a product of zero"):
        Lora(".*", 2, 1.0, form="dora", init=NULL)


@pytest.mark.parametrize("family", ["t5", "decoder"])
def test_moments_are_those_of_rows_without_padding(family):
    """Each row for itself, the short one unpadded; layers that are stacked give what others do."""
    make = tiny.model if family == "t5" else decoder_model
    model, adapters = make(), Lora(".*(query|key|wo|logits_dense)/kernel", 2, 1.0)
    params = random(model.shapes_and_axes()[0])

    def summed(model, params, batch):
        return quick_jit(lambda *given: moments.of_inputs(model, *given, adapters))(params, batch)

    whole = summed(model, params, BATCH)
    scanned = summed(make(scan_layers=True), trees.stack_layers(params), BATCH)
    assert {len(values) for values in BATCH.values()} == {2}
    rows = [{name: values[i : i + 1] for name, values in BATCH.items()} for i in range(2)]
    for name in ("encoder_input_tokens", "encoder_segment_ids"):
        assert rows[1][name][0, -1] == 0
        rows[1][name] = rows[1][name][:, :-1]
    first, second = (summed(model, params, row) for row in rows)
    assert len(whole) == (9 if family == "t5" else 3)
    for path, value in whole.items():
        scale = np.abs(value).max()
        for other in (first[path] + second[path], scanned[path]):
            np.testing.assert_allclose(other / scale, value / scale, atol=1e-4, err_msg=path)


@pytest.mark.parametrize("scaling", ["rank", "root_rank"])
def test_what_it_began_with_is_taken_off_in_every_form(scaling):
    """Called, merged, and as an adapter of twice the rank that begins with a product of zero."""
    adapter = Lora("(x/)?kernel", 2, 6.0, scaling, init=lora_inits.MiLoRA())
    names = {"kernel": (7, 5), "lora_a": (7, 2), "lora_b": (2, 5), "lora_a0": (7, 2)}
    leaves = {name: drawn(i, *shape) for i, (name, shape) in enumerate(names.items())}
    leaves["lora_b0"], x = drawn(8, 2, 5), drawn(9, 1, 3, 7)
    found = layers.Dense(5, ("embed", "mlp"), lora=adapter).apply({"params": leaves}, x)
    delta = leaves["lora_a"] @ leaves["lora_b"] - leaves["lora_a0"] @ leaves["lora_b0"]
    expected = x @ (leaves["kernel"] + adapter.scale * np.float64(delta))
    close = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(found, expected, **close)
    merged = lora.merge({"x": leaves}, adapter)["x"]
    assert merged.keys() == {"kernel"}
    np.testing.assert_allclose(x @ merged["kernel"], expected, **close)
    tree, plain = lora.without_begin({"x": leaves}, adapter)
    assert plain == Lora("(x/)?kernel", 4, plain.alpha, scaling)
    assert plain.scale == pytest.approx(adapter.scale)
    again = layers.Dense(5, ("embed", "mlp"), lora=plain).apply({"params": tree["x"]}, x)
    np.testing.assert_allclose(again, expected, **close)
