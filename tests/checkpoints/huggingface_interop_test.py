"""Folders of `transformers`, on random tiny models of every architecture that is supported."""

import json
import math
import pathlib
import tempfile

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promot_jax.base import trees
from promot_jax.checkpoints.formats import huggingface
from promot_jax.checkpoints.formats import huggingface_names as names

pytestmark = pytest.mark.long

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tiny = pytest.importorskip("tests.checkpoints.tiny_transformers")

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of a tiny T5.1.1 with its own output weights, never to be changed."""
    folder = tmp_path_factory.mktemp("hf") / "t5"
    tiny.random_model("t5_v1_1", untied_output=True).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("case", tiny.CASES)
def test_logits_in_and_out(case, tmp_path):
    untied = case in ("t5_v1_1", "mt5")
    model = tiny.random_model(case, untied_output=untied)
    model.save_pretrained(tmp_path / "theirs")
    expected = tiny.their_logits(model)
    assert np.abs(expected).max() > 0.5
    source, module, params = tiny.load(tmp_path / "theirs")
    assert source.unexpected == []
    logits = tiny.our_logits(module, params, source.family)
    np.testing.assert_allclose(logits, expected, **CLOSE)

    huggingface.write(
        tmp_path / "ours", params, source.family, source.config, token_ids={"eos": 1, "pad": 0}
    )
    again = tiny.load_model(tmp_path / "ours")
    np.testing.assert_allclose(tiny.their_logits(again), expected, **CLOSE)
    assert again.generation_config.eos_token_id == 1
    back = huggingface.open_checkpoint(str(tmp_path / "ours"))
    assert (back.family, back.config) == (source.family, source.config)
    leaves = trees.flatten(params)
    assert back.leaves.keys() == leaves.keys()
    assert all(np.array_equal(back.read(path), leaf) for path, leaf in leaves.items())


def test_transformers_5_keeps_the_output_of_a_reexported_t5(saved, tmp_path):
    # It writes tie_word_embeddings true beside an output of its own; 4.x wrote false.
    about = json.loads((saved / "config.json").read_text())
    assert about["tie_word_embeddings"] is True
    assert about["scale_decoder_outputs"] is False
    source, _, params = tiny.load(saved)
    huggingface.write(tmp_path / "ours", params, source.family, source.config)
    about = json.loads((tmp_path / "ours/config.json").read_text())
    assert about["tie_word_embeddings"] is False
    model = tiny.load_model(tmp_path / "ours")
    model.save_pretrained(tmp_path / "resaved")
    again, _, reread = tiny.load(tmp_path / "resaved")
    assert again.config == source.config
    assert tree_equal(params, reread)


def tree_equal(a, b):
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    assert pairs
    return all(np.array_equal(x, y) for x, y in pairs)


def test_output_that_is_the_embedding_unscaled(tmp_path):
    # As transformers 5 makes a mT5 from a configuration: tied, but without T5.1.0's scale.
    model = tiny.random_model("mt5")
    model.save_pretrained(tmp_path)
    source, module, params = tiny.load(tmp_path)
    assert not source.config["logits_via_embedding"]
    kernel = params["decoder"]["logits_dense"]["kernel"]
    np.testing.assert_array_equal(kernel, params["token_embedder"]["embedding"].T)
    logits = tiny.our_logits(module, params, "t5")
    np.testing.assert_allclose(logits, tiny.their_logits(model), **CLOSE)


def test_shards_of_theirs_and_ours(saved, tmp_path):
    _, _, params = tiny.load(saved)
    tiny.load_model(saved).save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    source, _, sharded = tiny.load(tmp_path / "theirs")
    assert tree_equal(params, sharded)

    huggingface.write(tmp_path / "ours", params, "t5", source.config, shard_bytes=10_000)
    files = list((tmp_path / "ours").glob("*.safetensors"))
    assert len(files) > 2
    assert max(file.stat().st_size for file in files) < 12_000
    expected = tiny.their_logits(tiny.load_model(saved))
    np.testing.assert_allclose(
        tiny.their_logits(tiny.load_model(tmp_path / "ours")), expected, **CLOSE
    )
    # A leaf that is larger than a shard has one of its own.
    huggingface.write(tmp_path / "leafwise", params, "t5", source.config, shard_bytes=1)
    assert len(list((tmp_path / "leafwise").glob("*.safetensors"))) > len(files)
    assert tree_equal(params, tiny.load(tmp_path / "leafwise")[2])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_files(dtype, tmp_path):
    model = tiny.random_model("cohere").to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    source, module, params = tiny.load(tmp_path)
    assert {str(leaf.dtype) for leaf in source.leaves.values()} == {dtype}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"float32"}
    expected = tiny.their_logits(model.float())
    np.testing.assert_allclose(tiny.our_logits(module, params, "decoder"), expected, **CLOSE)


def test_writing_bfloat16(saved, tmp_path):
    source, _, params = tiny.load(saved)
    huggingface.write(tmp_path / "ours", params, "t5", source.config, dtype="bfloat16")
    model = tiny.load_model(tmp_path / "ours")
    assert model.dtype == torch.bfloat16
    expected = tiny.random_model("t5_v1_1", untied_output=True).to(torch.bfloat16)
    assert torch.equal(model.lm_head.weight, expected.lm_head.weight)
    tiny.fails("dtype float8", huggingface.write, tmp_path / "b", params, "t5", {}, dtype="float8")


# --- names and configurations, over random models ---

sizes = st.integers(1, 3)
t5_configs = st.fixed_dictionaries(
    {
        "vocab_size": st.integers(2, 9),
        "emb_dim": st.integers(1, 8),
        "num_heads": sizes,
        "head_dim": sizes,
        "mlp_dim": st.integers(1, 8),
        "num_encoder_layers": sizes,
        "num_decoder_layers": sizes,
        "mlp_activations": st.sampled_from([("gelu", "linear"), ("relu",), ("silu", "linear")]),
        "logits_via_embedding": st.booleans(),
    }
)
llama3 = st.tuples(st.floats(1, 9), st.floats(1, 2), st.floats(3, 4), st.integers(8, 99))
decoder_configs = st.builds(
    lambda kind, groups, half, scale, **rest: {
        **rest,
        **kind,
        "num_heads": rest["num_kv_heads"] * groups,
        "head_dim": 2 * half,
        **({"logit_scale": scale} if "parallel" in kind else {}),
    },
    kind=st.sampled_from(
        [{}, {"qkv_bias": True}, {"qk_norm": True}, {"parallel": True, "norm": "layer"}]
    ),
    groups=sizes,
    half=sizes,
    scale=st.floats(0.1, 2),
    vocab_size=st.integers(2, 9),
    emb_dim=st.integers(1, 8),
    num_kv_heads=sizes,
    mlp_dim=st.integers(1, 8),
    num_layers=sizes,
    mlp_activations=st.sampled_from([("silu", "linear"), ("gelu", "linear")]),
    norm_epsilon=st.floats(1e-6, 1e-3),
    rope_base=st.floats(100, 1e6),
    rope_scaling=st.none() | llama3,
    logits_via_embedding=st.booleans(),
)
models = st.tuples(st.just("t5"), t5_configs) | st.tuples(st.just("decoder"), decoder_configs)


@given(models)
@settings(max_examples=50, deadline=None)
def test_every_path_has_one_name(model):
    family, config = model
    table = names.table(family, config)
    theirs = [rename.theirs for rename in table.values()]
    assert len(theirs) > 8
    assert len(set(theirs)) == len(theirs)
    rng = np.random.default_rng(0)
    for rename in table.values():
        one_axis = rename.theirs.endswith("bias") or not (
            rename.transpose or "embed" in rename.theirs
        )
        shape = (4 * (rename.head_dim or 3),) if one_axis else (4 * (rename.head_dim or 3), 5)
        array = rng.normal(size=shape)
        ours = rename.to_ours(array)
        assert ours.shape == rename.shape(shape)
        np.testing.assert_array_equal(rename.to_theirs(ours), array)
        if rename.head_dim > 2:
            assert not np.array_equal(ours, array.T)


@given(models)
@settings(max_examples=15, deadline=None)
def test_configurations_and_leaves_come_back(model):
    family, config = model
    module = tiny.network(family, config)
    rng = np.random.default_rng(0)
    leaves = {
        path: rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in trees.flatten(tiny.expected_leaves(module, family)).items()
    }
    assert leaves
    with tempfile.TemporaryDirectory() as parent:
        folder = pathlib.Path(parent, "out")
        # A configuration that went through JSON has lists for tuples.
        written = json.loads(json.dumps(config))
        huggingface.write(folder, leaves, family, written, shard_bytes=2000)
        source = huggingface.open_checkpoint(str(folder))
        assert source.family == family
        for field, value in config.items():
            assert source.config[field] == value, field
        assert source.leaves.keys() == leaves.keys()
        for path, leaf in leaves.items():
            np.testing.assert_array_equal(source.read(path), leaf)


def test_what_cannot_be_written(saved, tmp_path):
    source, _, params = tiny.load(saved)
    leaves, out = trees.flatten(params), tmp_path / "out"

    def write(changes=None, family="t5", **config):
        kept = {path: leaf for path, leaf in (leaves | (changes or {})).items() if leaf is not None}
        huggingface.write(out, kept, family, {**source.config, **config})

    path = "encoder/layers_0/attention/query"
    tiny.fails("merge the adapter", write, {f"{path}/lora_a": np.zeros((32, 2))})
    prompt = "encoder/prompt/rte/prompt"
    tiny.fails(f"{prompt}: a soft prompt", write, {prompt: np.zeros((2, 32))})
    tiny.fails(f"{path}/kernel is missing", write, {f"{path}/kernel": None})
    tiny.fails("mlp/wi_0/kernel has no name", write, mlp_activations=("relu",))
    tiny.fails("mlp_activations", write, mlp_activations=("tanh",))
    decoder = {"num_layers": 1, "num_kv_heads": 1}
    for combination in [{"parallel": True}, {"norm": "layer"}, {"qkv_bias": True, "qk_norm": True}]:
        tiny.fails("no architecture", write, None, "decoder", **decoder, **combination)
    assert list(tmp_path.iterdir()) == []
    write()
    tiny.fails("out exists already", write)


def test_tokenizer_files_are_copied(saved, tmp_path):
    source, _, params = tiny.load(saved)
    files = {"spiece.model": b"pieces"}
    huggingface.write(tmp_path / "out", params, "t5", source.config, beside=files)
    assert (tmp_path / "out/spiece.model").read_text() == "pieces"
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "spiece.model",
    ]


def test_peak_of_reading_is_one_leaf(saved, monkeypatch):
    reads, fromfile = [], np.fromfile
    monkeypatch.setattr(np, "fromfile", lambda *a, **k: reads.append(a) or fromfile(*a, **k))
    source = huggingface.open_checkpoint(str(saved))
    assert reads == []
    array = source.read("decoder/logits_dense/kernel")
    assert len(reads) == 1
    assert math.prod(array.shape) == reads[0][2]
    where = source.where["decoder/logits_dense/kernel"]
    assert where == f"{saved / 'model.safetensors'}: lm_head.weight"
