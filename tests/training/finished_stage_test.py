"""What a finished stage trained is read without orbax, and only if it is what it should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.training import finished_stage, optimizers, stage_checkpoints, train_state

FROZEN = {"embed": np.ones(3, np.float32)}
LEAVES = {
    "layers": {"kernel": np.arange(16, dtype=np.float32).reshape(2, 8)},
    "scale": np.arange(4, dtype=jnp.bfloat16),
}
OURS = {"step": 3, "lineage": "2:own", "checksum": trees.checksum(FROZEN)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    params = jax.tree.map(jnp.asarray, LEAVES | {"frozen": FROZEN})
    tx = optimizers.model_adafactor()
    state = train_state.begin(params, ["layers/.*", "scale"], tx).replace(step=jnp.int32(3))
    kept = stage_checkpoints.StageCheckpoints(folder, FROZEN, lineage="2:own")
    kept.save(state, {"score": 1.0, "loss": 1.0})
    kept.close()
    return folder / "3"


def expected(leaves=LEAVES):
    place = partitioning.replicated(partitioning.make_mesh())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), leaves
    )


def test_each_leaf_has_the_bits_dtype_and_place_that_it_had(written):
    found = trees.flatten(finished_stage.read(written, expected(), OURS, "mend it"))
    assert found.keys() == trees.flatten(LEAVES).keys()
    for path, leaf in trees.flatten(LEAVES).items():
        assert found[path].dtype == leaf.dtype
        assert found[path].sharding == trees.flatten(expected())[path].sharding
        assert (np.asarray(found[path]) == leaf).all()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"step": 4}, "is that of step 3; mend it"),
        ({"lineage": "2:other"}, "belongs to another stage or run; mend it"),
        ({"checksum": "other"}, "belongs to other frozen parameters"),
    ],
)
def test_a_checkpoint_of_something_else_is_named(written, changes, complaint):
    with pytest.raises(UserError, match=f"checkpoint {written} {complaint}"):
        finished_stage.read(written, expected(), OURS | changes, "mend it")
    # What an earlier version wrote knows no lineage.
    finished_stage.read(written, expected(), OURS | {"lineage": None}, "mend it")


def test_leaves_of_another_model_are_named(written):
    other = expected(LEAVES | {"scale": np.zeros(5, jnp.bfloat16)})
    with pytest.raises(UserError, match=r"cannot be read \(scale has shape \(4,\), expected"):
        finished_stage.read(written, other, OURS, "mend it")
