import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promot_jax.base.errors import UserError
from promot_jax.training import optimizers, stage_checkpoints, train_state
from tests import tiny

PARAMS = {"a": {"kernel": np.arange(6, dtype=np.float32)}, "b": {"kernel": np.ones(3, np.float32)}}


def state_at(step, params=PARAMS):
    state = train_state.begin(
        jax.tree.map(jnp.asarray, params), ["a/.*"], optimizers.model_adafactor()
    )
    return state.replace(
        step=jnp.int32(step), trainable=jax.tree.map(lambda leaf: leaf + step, state.trainable)
    )


def write(folder, measured, rank=stage_checkpoints.lower_loss):
    """Saves a checkpoint for each (score, loss), at steps 1, 2, …"""
    kept = stage_checkpoints.StageCheckpoints(folder, state_at(0).frozen, rank)
    for step, (score, loss) in enumerate(measured, 1):
        kept.save(state_at(step), {"score": score, "loss": loss})
    kept.wait()
    return kept


@pytest.mark.parametrize(
    ("rank", "best"), [(stage_checkpoints.lower_loss, 3), (stage_checkpoints.earlier, 2)]
)
def test_the_best_has_the_highest_score_then_what_the_rank_says(tmp_path, rank, best):
    measured = [(50.0, 0.9), (80.0, 0.7), (80.0, 0.4), (80.0, 0.6), (70.0, 0.1)]
    kept = write(tmp_path, measured, rank)
    assert kept.best() == best
    assert kept.latest() == 5
    kept.close()
    # The best and the latest stay on disk, and a new process finds both.
    assert {p.name for p in tmp_path.iterdir() if p.name.isdigit()} == {str(best), "5"}
    again = stage_checkpoints.StageCheckpoints(tmp_path, state_at(0).frozen, rank)
    assert (again.best(), again.latest()) == (best, 5)
    restored = again.restore(best, state_at(0))
    assert tiny.leaves_equal(restored, state_at(best))
    again.close()


def test_a_checkpoint_holds_no_frozen_leaf_but_their_checksum(tmp_path):
    write(tmp_path, [(1.0, 1.0)]).close()
    metadata = (tmp_path / "1" / "state" / "_METADATA").read_text()
    assert "'a'" in metadata
    assert "'b'" not in metadata
    assert "checksum" in (tmp_path / "1" / "frozen" / "metadata").read_text()


def test_other_frozen_leaves_are_an_error(tmp_path):
    write(tmp_path, [(1.0, 1.0)]).close()
    other = {"a": PARAMS["a"], "b": {"kernel": np.zeros(3, np.float32)}}
    kept = stage_checkpoints.StageCheckpoints(tmp_path, state_at(0, other).frozen)
    with pytest.raises(UserError, match="other frozen parameters"):
        kept.restore(1, state_at(0, other))
    kept.close()


def truncate(folder):
    """Empties the largest file, as a full disk or a broken copy does."""
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def test_a_truncated_checkpoint_is_one_line_that_names_it(tmp_path):
    write(tmp_path, [(1.0, 1.0)]).close()
    truncate(tmp_path / "1" / "state")
    kept = stage_checkpoints.StageCheckpoints(tmp_path, state_at(0).frozen)
    with pytest.raises(UserError, match=f"checkpoint {tmp_path}/1 cannot be read") as error:
        kept.restore(1, state_at(0))
    assert "\n" not in str(error.value)
    kept.close()


def test_a_full_disk_is_one_line_with_the_mend(tmp_path, monkeypatch):
    kept = stage_checkpoints.StageCheckpoints(tmp_path, state_at(0).frozen)

    def full():
        raise ValueError("RESOURCE_EXHAUSTED: Error writing …\nNo space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(kept._manager, "wait_until_finished", full)
        with pytest.raises(UserError, match=r"disk is full.*same command again") as error:
            kept.wait()
    assert "\n" not in str(error.value)
    kept.close()
