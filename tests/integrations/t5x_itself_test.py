"""T5X's own code reads our checkpoints, and we read its; skipped where T5X is not installed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promot_jax.base import trees
from promot_jax.checkpoints.formats import t5x
from promot_jax.models.networks import t5
from tests.checkpoints.t5x_interop_test import CONFIG, assert_reads, assert_same_bits
from tests.checkpoints.t5x_writers import WRITERS


def test_t5x_reads_ours_and_we_read_its(tmp_path):
    reason = (
        "T5X is not installed; it is not on PyPI: "
        "pip install git+https://github.com/google-research/t5x"
    )
    checkpoints = pytest.importorskip("t5x.checkpoints", reason=reason)
    adafactor = pytest.importorskip("t5x.adafactor", reason=reason)
    partitioning = pytest.importorskip("t5x.partitioning", reason=reason)
    train_state = pytest.importorskip("t5x.train_state", reason=reason)

    wide = dataclasses.replace(CONFIG, vocab_size=200, emb_dim=128, mlp_dim=256)
    tokens = jnp.zeros((1, 2), jnp.int32)
    variables = t5.Transformer(wide).init(jax.random.key(0), *[tokens] * 3)
    optimizer = adafactor.Adafactor(
        decay_rate=0.8, logical_factor_rules=adafactor.standard_logical_factor_rules()
    )
    partitioner = partitioning.PjitPartitioner(
        num_partitions=1, logical_axis_rules=partitioning.standard_logical_axis_rules()
    )
    state = train_state.FlaxOptimTrainState.create(
        optimizer, {name: variables[name] for name in ("params", "params_axes")}
    ).replace_step(jnp.asarray(7, jnp.int32))
    leaves = {path: np.asarray(leaf) for path, leaf in trees.flatten(variables["params"]).items()}
    shapes = jax.eval_shape(lambda: state)

    def manager(folder, for_state):
        folder.mkdir(exist_ok=True)
        return checkpoints.OrbaxCheckpointManagerInterface(str(folder), for_state, partitioner)

    checkpoints.Checkpointer(state, partitioner, str(tmp_path / "theirs")).save(state)
    assert_reads(t5x.open_checkpoint(str(tmp_path / "theirs")), leaves)
    theirs = manager(tmp_path / "theirs_orbax", state)
    theirs.save(state)
    theirs.close()
    assert_reads(t5x.open_checkpoint(str(tmp_path / "theirs_orbax")), leaves)

    for layout, write in WRITERS.items():
        out = tmp_path / layout
        write(out, leaves, step=7)
        restored = {"orbax": manager(out, shapes).restore(path=str(out / "checkpoint_7"))}
        if layout == "t5x":
            legacy = checkpoints.Checkpointer(shapes, partitioner, str(out))
            restored["legacy"] = legacy.restore(path=str(out / "checkpoint_7"))
            bare = checkpoints.load_t5x_checkpoint(str(out))
            jax.tree.map(assert_same_bits, bare["target"], trees.unflatten(leaves))
        for found in restored.values():
            jax.tree.map(
                lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)),
                found.state_dict(),
                state.state_dict(),
            )
