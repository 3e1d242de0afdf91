"""The gradient cosine against full gradients; what it costs; one device and eight."""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

import promot_jax
from promot_jax import models
from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.checkpoints import pretrained
from promot_jax.data import batching
from promot_jax.experiment.probes import gradient_cosine
from promot_jax.experiment.probes.gradient_cosine import GradientCosine
from promot_jax.models import architectures
from promot_jax.models.attached import BARE, Attached
from promot_jax.models.networks.lora import Lora
from promot_jax.tasks import mini, mini_rows, mini_vocabulary, mini_world
from tests import tiny
from tests.models import jaxprs
from tests.quick import quick_jit

pytestmark = pytest.mark.long

# With the inputs of `mini_rte` and any words as answers: the two gradients differ a lot, so that
# a comparison of cosines can fail.
OTHER = "probes_rte_with_other_answers"


def other_answers(split, shuffle_files=False, seed=None):
    del shuffle_files, seed
    rng = mini_rows.seeded("other answers")
    inputs = [inputs for inputs, _ in mini_rows.zero_shot_splits("rte")[split]]
    targets = [rng.choice(mini_world.WORDS).en for _ in inputs]
    return tf.data.Dataset.from_tensor_slices({"inputs": inputs, "targets": targets})


seqio.TaskRegistry.add(
    OTHER,
    source=seqio.FunctionDataSource(other_answers, splits=("train",)),
    preprocessors=mini.PREPROCESSORS,
    output_features=mini.OUTPUT_FEATURES,
)

PROBE = GradientCosine("mini_rte", OTHER, tiny.LENGTHS, batch_size=8, examples=20)
NAMES = ["cosine/mlp", "cosine/query", "cosine/key", "cosine/value"]
DECODER = {
    "vocab_size": 1280,
    "emb_dim": 16,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 8,
    "mlp_dim": 32,
    "num_layers": 2,
    "qkv_bias": True,
}


def encoder_decoder(**changes) -> models.Model:
    return tiny.model(**{"num_decoder_layers": 2, "mlp_activations": ("relu", "linear")} | changes)


def decoder_only(**changes) -> models.Model:
    return architectures.build("decoder", DECODER | changes, mini.vocabulary())


def random_params(model: models.Model, seed: int = 0):
    """Draws parameters at which no gradient is tiny."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.normal(0.0, 0.3, leaf.shape).astype(np.float32),
        model.shapes_and_axes()[0],
    )


@functools.cache
def measure_of(make):
    """The measurement of a model on this process's devices; compiled once for all tests."""
    return PROBE.of_model(make(), partitioning.make_mesh())


def measured(probe: GradientCosine, model, params, attached=BARE):
    return probe.of_model(model, partitioning.make_mesh())(params, attached)


@functools.cache
def full_gradients(make):
    """Parameters with two prompts, and for each task, read with the prompt "rte": its gradients.

    Those of the mean loss of 20 rows in one batch with respect to everything.
    """
    params = random_params(make().with_prompts({"rte": 3, "other": 3}))
    model = make().with_prompts({"rte": 3})

    @quick_jit
    @jax.grad
    def gradient(params, batch):
        found = model.loss_fn(params, batch, None)
        return found.total / found.weight

    found = []
    for task in ("mini_rte", OTHER):
        ((batch, _),) = batching.eval_batches(task, tiny.LENGTHS, "train", batch_size=20, limit=20)
        batch = {**batch, "prompt_ids": np.zeros(20, np.int32)}
        found.append(trees.flatten(gradient(trees.keep_prompts(params, ("rte",)), batch)))
    return params, found


def cosine_of(gradients, members) -> float:
    one, other = (
        np.concatenate([np.asarray(tree[path], np.float64).ravel() for path in members])
        for tree in gradients
    )
    return one @ other / (np.linalg.norm(one) * np.linalg.norm(other))


MEMBERS = {
    "t5": {
        "mlp": ["mlp/wi_0", "mlp/wi_1", "mlp/wo"],
        "query": ["self_attention/query", "encoder_decoder_attention/query"],
        "key": ["self_attention/key", "encoder_decoder_attention/key"],
        "value": ["self_attention/value", "encoder_decoder_attention/value"],
    },
    "decoder": {
        "mlp": ["mlp/wi_0", "mlp/wi_1", "mlp/wo"],
        "query": ["self_attention/query"],
        "key": ["self_attention/key"],
        "value": ["self_attention/value"],
    },
}


@pytest.mark.parametrize("make", [encoder_decoder, decoder_only])
def test_it_is_the_cosine_of_two_full_gradients(make):
    params, gradients = full_gradients(make)
    found = measure_of(make)(params, Attached("rte"))
    assert sorted(found) == sorted(NAMES)
    for group, modules in MEMBERS[make().family].items():
        members = [f"decoder/layers_1/{module}/kernel" for module in modules]
        expected = cosine_of(gradients, members)
        assert abs(expected) < 0.97
        assert found[f"cosine/{group}"] == pytest.approx(expected, abs=1e-4)


def test_what_is_attached_counts():
    params, _ = full_gradients(encoder_decoder)
    bare, prompted = (measure_of(encoder_decoder)(params, a) for a in (BARE, Attached("rte")))
    assert all(abs(bare[name] - prompted[name]) > 1e-4 for name in NAMES)


def test_adapters_are_attached_and_no_part_of_a_group():
    lora = Lora(r".*query/kernel", 2, 4.0)
    params = random_params(encoder_decoder().with_lora(lora))
    measure = measure_of(encoder_decoder)
    found = measure(params, Attached(adapters=lora))
    assert found == pytest.approx(measure(merged(params, lora), BARE), abs=1e-4)
    assert abs(found["cosine/mlp"] - measure(params, BARE)["cosine/mlp"]) > 1e-4


def merged(params, lora):
    leaves = trees.flatten(params)
    found = {}
    for path, leaf in leaves.items():
        place = path.removesuffix("kernel")
        if path.endswith("kernel") and f"{place}lora_a" in leaves:
            leaf = leaf + lora.scale * leaves[f"{place}lora_a"] @ leaves[f"{place}lora_b"]
        if "/lora_" not in path:
            found[path] = leaf
    return trees.unflatten(found)


def test_stacked_layers_give_the_same():
    params, _ = full_gradients(encoder_decoder)
    stacked = trees.stack_layers(params)
    assert trees.is_stacked(stacked)
    found = measured(PROBE, encoder_decoder(scan_layers=True), stacked, Attached("rte"))
    expected = measure_of(encoder_decoder)(params, Attached("rte"))
    assert found == pytest.approx(expected, abs=1e-5)


def test_one_task_twice_is_one_and_no_gradient_is_zero():
    model, params = encoder_decoder(), random_params(encoder_decoder())
    measure = dataclasses.replace(PROBE, randomized="mini_rte").of_model(
        model, partitioning.make_mesh()
    )
    assert measure(params, BARE) == pytest.approx(dict.fromkeys(NAMES, 1.0), abs=1e-5)
    params["decoder"]["logits_dense"]["kernel"] *= 0.0
    assert measure(params, BARE) == dict.fromkeys(NAMES, 0.0)


def test_attention_picks_modules():
    params, gradients = full_gradients(encoder_decoder)
    probe = dataclasses.replace(PROBE, attention="encoder_decoder_attention")
    found = measured(probe, encoder_decoder(), params, Attached("rte"))
    for kind in ("query", "key", "value"):
        path = f"decoder/layers_1/encoder_decoder_attention/{kind}/kernel"
        expected = cosine_of(gradients, [path])
        assert found[f"cosine/{kind}"] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(UserError, match=r"GradientCosine\.attention = 'heads' matches no module"):
        dataclasses.replace(PROBE, attention="heads").of_model(
            encoder_decoder(), partitioning.make_mesh()
        )
    with pytest.raises(UserError, match=r"attention '\(' is not a regular expression"):
        dataclasses.replace(PROBE, attention="(")


@pytest.mark.parametrize("other", ["mini_cb", "mini_rte_1shot"])
def test_tasks_with_other_inputs_are_named(other):
    probe = dataclasses.replace(PROBE, randomized=other)
    with pytest.raises(UserError, match=f"tasks 'mini_rte' and '{other}' have different inputs"):
        probe.of_model(encoder_decoder(), partitioning.make_mesh())


def test_rows_are_read_with_the_vocabulary_of_the_model():
    other = dataclasses.replace(encoder_decoder(), vocabulary=seqio.ByteVocabulary())
    params = random_params(other)
    found = measured(PROBE, other, params)
    assert abs(found["cosine/mlp"] - measure_of(encoder_decoder)(params, BARE)["cosine/mlp"]) > 1e-4


def test_the_miniature_begins_with_the_format():
    """The paper's Figure 3 at step 0."""
    folder = pathlib.Path(promot_jax.__file__).parent / "assets" / "mini"
    model, source = pretrained.open_model(str(folder), str(mini_vocabulary.MODEL_PATH))
    probe = GradientCosine("mini_rte", "mini_rte_randomized", tiny.LENGTHS, examples=64)
    mesh = partitioning.make_mesh()
    found = probe.of_model(model, mesh)(pretrained.load(source, model, mesh), BARE)
    lowest = {"cosine/query": 0.85}
    assert all(lowest.get(name, 0.9) < found[name] < 1.0 for name in NAMES), found


# ---- cost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scan", [False, True])
def test_the_backward_pass_is_that_of_the_last_layer_alone(scan):
    """Another layer costs its forward pass; nothing has the shape of the embedding."""

    def products(layers: int):
        model = encoder_decoder(num_decoder_layers=layers, scan_layers=scan)
        params = model.shapes_and_axes()[0]
        ((batch, _),) = batching.eval_batches(
            "mini_rte", tiny.LENGTHS, "train", batch_size=8, limit=8
        )
        paths = [
            f"decoder/layers_{layers - 1}/{module}/kernel"
            for modules in MEMBERS["t5"].values()
            for module in modules
        ]

        def backward(params):
            return gradient_cosine.gradients(model, params, batch, paths)

        def forward(params):
            return model.unstacked().loss_fn(trees.unstack_layers(params), batch, None).total

        return [jaxprs.equations(function, params) for function in (backward, forward)]

    def dots(equations) -> int:
        return len(jaxprs.named(equations, "dot_general"))

    (two, forward_two), (three, forward_three) = products(2), products(3)
    assert dots(forward_three) > dots(forward_two) > 20
    assert dots(three) - dots(two) == dots(forward_three) - dots(forward_two)
    # Each of the 11 kernels has its gradient; the chain to it takes a few products more.
    assert 11 < dots(two) - dots(forward_two) < 30
    shapes = {variable.aval.shape for equation in two for variable in equation.outvars}
    assert not {(1280, 16), (16, 1280)} & shapes


def test_it_compiles_once_for_all_parameters(monkeypatch):
    model = encoder_decoder()
    traced = []
    original = gradient_cosine.gradients
    monkeypatch.setattr(
        gradient_cosine, "gradients", lambda *given: traced.append(1) or original(*given)
    )
    measure = PROBE.of_model(model, partitioning.make_mesh())
    found = [measure(random_params(model, seed), BARE)["cosine/mlp"] for seed in (0, 1)]
    assert found[0] != found[1]
    # Three batches of each of two tasks, all of one shape.
    assert len(traced) == 1


# ---- mesh ----------------------------------------------------------------------------------------

ON_A_MESH = """
import jax, numpy as np
from promot_jax.base import partitioning
from promot_jax.models.attached import Attached
from tests.experiment import probes_test

meshes = [
    partitioning.make_mesh(devices=jax.devices()[:1]),
    partitioning.make_mesh(2),
]
for make in (probes_test.encoder_decoder, probes_test.decoder_only):
    model = make()
    complete = model.with_prompts({"rte": 3})
    params, axes = probes_test.random_params(complete), complete.shapes_and_axes()[1]
    found = []
    for mesh in meshes:
        placed = jax.device_put(params, partitioning.params_sharding(mesh, axes, params))
        found.append(probes_test.PROBE.of_model(model, mesh)(placed, Attached("rte")))
    kernel = placed["decoder"]["layers_1"]["mlp"]["wo"]["kernel"]
    assert len({str(shard.index) for shard in kernel.addressable_shards}) == 2
    assert dict(mesh.shape) == {"data": 4, "fsdp": 1, "model": 2}
    assert found[0].keys() == found[1].keys() and len(found[0]) == 4
    for name, value in found[0].items():
        assert abs(value - found[1][name]) < 1e-4, (name, found)
    assert all(0.0 < abs(value) < 0.97 for value in found[0].values()), found
"""


@pytest.mark.slow
def test_eight_devices_equal_one():
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "8",
        "PYTHONPATH": os.getcwd(),
    }
    subprocess.run([sys.executable, "-c", ON_A_MESH], env=environment, check=True)
