"""T5X checkpoints: read and written in both layouts, checked by an independent implementation."""

import contextlib
import dataclasses
import pathlib
import re
import shutil
import string
import subprocess
import sys
import tempfile
import textwrap
from unittest import mock

import hypothesis
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.checkpoints.formats import source as sources
from promot_jax.checkpoints.formats import stores, t5x, t5x_legacy
from promot_jax.models.networks import t5
from tests.checkpoints import t5x_layout
from tests.checkpoints.t5x_writers import WRITERS

CONFIG = t5.T5Config(40, 8, 2, 4, 16, 1, 2)
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def shapes_of(config):
    tokens = jnp.zeros((1, 2), jnp.int32)
    variables = jax.eval_shape(t5.Transformer(config).init, jax.random.key(0), *[tokens] * 3)
    return variables["params"]


def random_leaves(shapes, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    return {
        path: rng.normal(size=leaf.shape).astype(DTYPES[dtype])
        for path, leaf in trees.flatten(shapes).items()
    }


@st.composite
def any_leaves(draw):
    """{path: array of any bits}, in trees that cross (`ab` beside `a/b`)."""
    tree = st.dictionaries(
        st.text("ab", min_size=1, max_size=2), st.integers(), min_size=1, max_size=3
    )
    paths = draw(
        st.recursive(
            tree,
            lambda inner: st.dictionaries(
                st.text("ab", min_size=1, max_size=2), inner, min_size=1, max_size=3
            ),
            max_leaves=8,
        )
    )
    leaves = {}
    for path, seed in trees.flatten(paths).items():
        dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
        shape = draw(st.lists(st.integers(1, 7), max_size=3))
        size = int(np.prod(shape)) * dtype.itemsize
        bits = np.random.default_rng(abs(seed)).bytes(size)
        leaves[path] = np.frombuffer(bits, dtype).reshape(shape)
    return leaves


@contextlib.contextmanager
def scratch():
    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)


def assert_same_bits(found, expected):
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


def assert_reads(source, expected):
    assert expected
    assert set(source.leaves) == set(expected)
    for path, array in expected.items():
        assert source.leaves[path].shape == array.shape
        assert source.leaves[path].dtype == array.dtype
        assert_same_bits(source.read(path), array)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(leaves=any_leaves(), data=st.data())
def test_reads_what_another_program_wrote(leaves, data):
    kvstore = data.draw(st.sampled_from(sorted(t5x_layout.KVSTORES)))
    chunks = {
        path: [data.draw(st.integers(1, size)) for size in array.shape]
        for path, array in leaves.items()
        if data.draw(st.booleans())
    }
    with scratch() as folder:
        t5x_layout.compose(folder / "checkpoint_7", leaves, kvstore=kvstore, chunks=chunks)
        assert_reads(t5x.open_checkpoint(str(folder / "checkpoint_7")), leaves)


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(
    leaves=any_leaves(),
    dtype=st.sampled_from(sorted(DTYPES)),
    inline=st.integers(0, 100),
    chunk=st.integers(20, 400),
)
def test_another_program_reads_what_we_wrote(leaves, dtype, inline, chunk):
    small = mock.patch.multiple(t5x_legacy, INLINE_BYTES=inline, CHUNK_BYTES=chunk)
    # Some of any bits are numbers that no cast can keep; numpy says so.
    with scratch() as folder, small, np.errstate(invalid="ignore"):
        t5x_legacy.write(folder / "checkpoint_12", leaves, dtype=dtype)
        expected = {path: array.astype(DTYPES[dtype]) for path, array in leaves.items()}
        version, target, state = t5x_layout.read(folder / "checkpoint_12")
        assert_reads(t5x.open_checkpoint(str(folder / "checkpoint_12")), expected)
    assert version == 3
    assert set(target) == set(leaves)
    for path, array in expected.items():
        assert_same_bits(target[path], array)
    assert state["step"] == 12
    slots = {
        f"param_states/{path}/{slot}" for path in leaves for slot in ("m", "v", "v_row", "v_col")
    }
    assert set(state) - {"step"} == slots


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((128, 300), {"m": (1,), "v": (1,), "v_row": (128,), "v_col": (300,)}),
        ((300, 128), {"m": (1,), "v": (1,), "v_row": (128,), "v_col": (300,)}),
        ((100, 300), {"m": (1,), "v": (100, 300), "v_row": (1,), "v_col": (1,)}),
        ((300,), {"m": (1,), "v": (300,), "v_row": (1,), "v_col": (1,)}),
    ],
)
def test_optimizer_slots_are_those_of_t5x(tmp_path, shape, expected):
    t5x_legacy.write(tmp_path / "out", {"x/kernel": np.ones(shape, np.float32)}, step=3)
    _, _, state = t5x_layout.read(tmp_path / "out" / "checkpoint_3")
    found = {slot: state[f"param_states/x/kernel/{slot}"] for slot in expected}
    assert {slot: array.shape for slot, array in found.items()} == expected
    assert not any(array.any() for array in found.values())


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_both_layouts_keep_every_bit_of_a_model(tmp_path, layout, dtype):
    config = dataclasses.replace(CONFIG, prompt_names=("rte", "wic"), prompt_length=3)
    expected = shapes_of(config)
    leaves = random_leaves(expected, dtype)
    out = tmp_path / "model"
    WRITERS[layout](out, leaves, step=20, dtype=dtype)
    assert [folder.name for folder in tmp_path.iterdir()] == ["model"]
    for path in (out, out / "checkpoint_20"):
        assert t5x.is_format(str(path))
        source = t5x.open_checkpoint(str(path))
        assert_reads(source, leaves)
        assert source.family == "t5"
        assert "state" in "".join(source.ignored)
        assert sources.match(source, expected).initialised == ()
    loaded = dict(sources.stream(source, expected))
    assert {leaf.dtype for leaf in loaded.values()} == {np.dtype(np.float32)}


def test_casts_as_asked(tmp_path):
    leaves = {"a/kernel": np.full((3, 300), 1 / 3, np.float32)}
    for layout, write in WRITERS.items():
        write(tmp_path / layout, leaves, dtype="bfloat16")
        source = t5x.open_checkpoint(str(tmp_path / layout))
        assert_reads(source, {"a/kernel": leaves["a/kernel"].astype(ml_dtypes.bfloat16)})


def test_the_newest_checkpoint_of_a_model_directory_counts(tmp_path):
    for step in (9, 10):
        t5x_layout.compose(tmp_path / f"checkpoint_{step}", {"a": np.asarray([step], np.float32)})
    (tmp_path / "checkpoint_11.tmp-1700000000").mkdir()
    assert t5x.open_checkpoint(str(tmp_path)).read("a") == 10
    assert t5x.open_checkpoint(str(tmp_path / "checkpoint_9" / "checkpoint")).read("a") == 9
    renamed = shutil.copy(tmp_path / "checkpoint_9" / "checkpoint", tmp_path / "t5.checkpoint_9")
    assert t5x.open_checkpoint(str(renamed)).read("a") == 9


def test_the_prompt_of_the_ancestor_is_ours(tmp_path):
    prompt = np.ones((5, 8), np.float32)
    leaves = random_leaves(shapes_of(CONFIG)) | {"encoder/prompt/prompt/prompt": prompt}
    t5x_layout.compose(
        tmp_path / "checkpoint_1", leaves, chunks={"encoder/prompt/prompt/prompt": (2, 3)}
    )
    source = t5x.open_checkpoint(str(tmp_path))
    config = dataclasses.replace(CONFIG, prompt_names=("prompt",), prompt_length=5)
    sources.match(source, shapes_of(config))
    np.testing.assert_array_equal(source.read("encoder/prompt/prompt/prompt"), prompt)


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/data/checkpoint_1", {"driver": "file", "path": "/data/checkpoint_1/target.x/"}),
        (
            "gs://t5-data/t5x/mt5_small/checkpoint_1",
            {"driver": "gcs", "bucket": "t5-data", "path": "t5x/mt5_small/checkpoint_1/target.x/"},
        ),
        ("gs://bucket", {"driver": "gcs", "bucket": "bucket", "path": "target.x/"}),
    ],
)
def test_stores_are_where_the_checkpoint_lies(folder, expected):
    assert stores.kvstore(folder, "target.x") == expected


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    shape=st.lists(st.integers(1, 60), max_size=3).map(tuple),
    itemsize=st.sampled_from([2, 4]),
    limit=st.integers(4, 4000),
)
def test_chunks_divide_an_array_and_are_small_enough(shape, itemsize, limit):
    chunks = t5x_legacy.chunks(shape, itemsize, limit)
    assert len(chunks) == len(shape)
    assert all(size % chunk == 0 for size, chunk in zip(shape, chunks, strict=True))
    assert np.prod(chunks) * itemsize <= limit
    if np.prod(shape) * itemsize <= limit:
        assert tuple(chunks) == shape


@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(
    config=st.builds(
        t5.T5Config,
        vocab_size=st.integers(1, 50),
        emb_dim=st.integers(1, 12),
        num_heads=st.integers(1, 5),
        head_dim=st.integers(1, 6),
        mlp_dim=st.integers(1, 20),
        num_encoder_layers=st.integers(1, 3),
        num_decoder_layers=st.integers(1, 12),
        mlp_activations=st.sampled_from([("gelu", "linear"), ("relu",)]),
        logits_via_embedding=st.booleans(),
    ),
    prompts=st.integers(0, 2),
)
def test_shapes_tell_the_configuration(config, prompts):
    names = tuple(string.ascii_lowercase[:prompts])
    with_prompts = dataclasses.replace(config, prompt_names=names, prompt_length=3)
    leaves = trees.flatten(shapes_of(with_prompts))
    assert t5.T5Config(**t5x.t5_config(leaves)) == config


def test_other_trees_tell_no_configuration():
    leaves = trees.flatten(shapes_of(CONFIG))
    for missing in ("token_embedder/embedding", "encoder/relpos_bias/rel_embedding"):
        assert t5x.t5_config({p: leaf for p, leaf in leaves.items() if p != missing}) is None
    odd = {"encoder/relpos_bias/rel_embedding": jax.ShapeDtypeStruct((3, 32), jnp.float32)}
    assert t5x.t5_config(leaves | odd) is None


# Errors: one line, which names the file or the leaf.


def error_of(call, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def composed(tmp_path):
    leaves = {"a/kernel": np.arange(24, dtype=np.float32).reshape(4, 6), "b": np.ones(3)}
    t5x_layout.compose(tmp_path / "checkpoint_1", leaves, chunks={"a/kernel": (2, 4)})
    return tmp_path / "checkpoint_1"


def test_damaged_arrays_are_named_and_the_others_still_read(composed):
    zarr = composed / "target.a.kernel"
    chunk = zarr / "1.1"
    whole = chunk.read_bytes()

    def error():
        source = t5x.open_checkpoint(str(composed))
        assert source.read("b").shape == (3,)
        return error_of(source.read, "a/kernel")

    chunk.write_bytes(whole[: len(whole) // 2])
    assert str(zarr) in error()
    chunk.unlink()
    assert str(zarr) in error()
    (zarr / ".zarray").write_text("{}")
    assert str(zarr) in error()
    shutil.rmtree(zarr)
    assert str(zarr) in error()


def test_an_array_of_another_shape_than_the_index_says(composed):
    shutil.rmtree(composed / "target.a.kernel")
    t5x_layout.write_zarr(composed / "target.a.kernel", np.zeros((4, 5), np.float32), (4, 5))
    error = error_of(t5x.open_checkpoint(str(composed)).read, "a/kernel")
    assert re.search(r"target\.a\.kernel.*\(4, 5\).*\(4, 6\)", error)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:50], lambda raw: raw + b"\x00", lambda raw: b"\xc1" + raw]
)
def test_a_damaged_index_is_named(composed, damage):
    index = composed / "checkpoint"
    index.write_bytes(damage(index.read_bytes()))
    assert f"{index} is damaged" in error_of(t5x.open_checkpoint, str(composed))


def test_an_index_of_another_version(tmp_path):
    t5x_layout.compose(tmp_path / "checkpoint_1", {"a": np.ones(3)}, version=4)
    error = error_of(t5x.open_checkpoint, str(tmp_path))
    assert "version 4" in error
    assert "checkpoint_1/checkpoint" in error


def test_bfloat16_of_version_2_is_refused(tmp_path):
    leaves = {"a/kernel": np.ones((2, 2), np.uint16)}
    t5x_layout.compose(tmp_path / "checkpoint_1", leaves, chunks={"a/kernel": (2, 2)}, version=2)
    assert "a/kernel" in error_of(t5x.open_checkpoint, str(tmp_path))


def test_stacked_layers_are_refused(tmp_path):
    leaves = {"encoder/encoder/mlp/wi_0/kernel": np.ones((8, 2, 16), np.float32)}
    t5x_layout.compose(tmp_path / "checkpoint_1", leaves)
    error = error_of(t5x.open_checkpoint, str(tmp_path))
    assert "stacked" in error
    assert "encoder/encoder/mlp/wi_0/kernel" in error


def test_foreign_folders_are_not_taken(tmp_path):
    (tmp_path / "checkpoint-500").mkdir()
    tensorflow = tmp_path / "tensorflow"
    tensorflow.mkdir()
    (tensorflow / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"\n')
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    for path in (tmp_path, tensorflow, tmp_path / "model.safetensors", tmp_path / "nothing"):
        assert not t5x.is_format(str(path))
        assert str(path) in error_of(t5x.open_checkpoint, str(path))


def test_a_damaged_orbax_tree_is_named(tmp_path):
    WRITERS["t5x_orbax"](tmp_path / "out", {"a/kernel": np.ones((300, 300), np.float32)})
    state = tmp_path / "out" / "checkpoint_0" / "state"
    source = t5x.open_checkpoint(str(tmp_path / "out"))
    data = [file for file in state.rglob("*") if file.parent.name == "d"]
    assert data
    for file in data:
        file.write_bytes(file.read_bytes()[:-20])
    error = error_of(lambda: t5x.open_checkpoint(str(tmp_path / "out")).read("a/kernel"))
    assert str(state) in error
    assert "a/kernel" in error_of(source.read, "a/kernel")
    (state / "_METADATA").write_text("{")
    assert str(state) in error_of(t5x.open_checkpoint, str(tmp_path / "out"))


@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_writers_refuse_what_they_cannot_write(tmp_path, layout):
    write, leaves = WRITERS[layout], {"a": np.ones(3, np.float32)}
    (tmp_path / "out").mkdir()
    assert str(tmp_path / "out") in error_of(write, tmp_path / "out", leaves)
    assert "float16" in error_of(write, tmp_path / "new", leaves, dtype="float16")
    assert "gs:/" in error_of(write, "gs://bucket/new", leaves)
    assert "checkpoint_3" in error_of(write, tmp_path / "checkpoint_3", leaves, step=4)
    assert [folder.name for folder in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_an_interrupted_write_leaves_nothing_under_the_name(tmp_path, layout):
    class Broken(dict):
        def __getitem__(self, path):
            if path == "b":
                raise KeyboardInterrupt
            return super().__getitem__(path)

    leaves = {"a": np.ones((200, 200), np.float32), "b": np.ones(3, np.float32)}
    with pytest.raises(KeyboardInterrupt):
        WRITERS[layout](tmp_path / "out", Broken(leaves))
    assert not (tmp_path / "out").exists()
    WRITERS[layout](tmp_path / "out", leaves)
    assert_reads(t5x.open_checkpoint(str(tmp_path / "out")), leaves)


def test_reading_holds_one_leaf(tmp_path):
    """Resident memory: tensorstore's arrays are not in the sight of tracemalloc."""
    megabytes, count = 16, 10
    array = np.full((megabytes * 2**8, 2**10), 0.5, np.float32)
    leaves = {f"layers_{number}/kernel": array for number in range(count)}
    for layout, write in WRITERS.items():
        write(tmp_path / layout, leaves)
        script = textwrap.dedent(f"""
            import resource
            from promot_jax.checkpoints.formats import t5x
            source = t5x.open_checkpoint({str(tmp_path / layout)!r})
            source.read("layers_0/kernel")
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            total = sum(source.read(path).nbytes for path in source.leaves)
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(total // 2**20, (after - before) // 2**10)
        """)
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        total, growth = map(int, run.stdout.split())
        assert total == megabytes * count
        assert growth < 4 * megabytes, f"{layout}: {growth} MiB more for one leaf at a time"
