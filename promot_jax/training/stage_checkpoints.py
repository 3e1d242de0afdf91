"""Stage checkpoints and model checkpoints, both in orbax's format.

A stage checkpoint holds what the stage can change (trainable leaves, optimizer slots, step) and
the checksum of what it cannot. A whole model is therefore a starting point plus the best checkpoint
of each stage in order; `pretrained.save` writes one down for use elsewhere.
"""

import contextlib
import pathlib
import warnings
from collections.abc import Callable, Iterator

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from promot_jax.base import trees
from promot_jax.base.errors import UserError, cause
from promot_jax.base.trees import Tree
from promot_jax.training import finished_stage
from promot_jax.training.train_state import TrainState

# One line for people stands in for these; orbax repeats it for every restore on one host.
warnings.filterwarnings("ignore", message="Sharding info not provided", module="orbax")


# Orders checkpoints by what was measured of them, their `score`, `loss` and `step`.
Rank = Callable[[dict[str, float]], tuple[float, ...]]


def lower_loss(metrics: dict[str, float]) -> tuple[float, float]:
    """Of equal target scores, the lower validation loss: a prompt gains from further steps."""
    return metrics["score"], -metrics["loss"]


def earlier(metrics: dict[str, float]) -> tuple[float, float]:
    """Of equal target scores, the earlier step: a model forgets with each one."""
    # Checkpoints of before there was this rule do not know their step.
    return metrics["score"], -metrics.get("step", metrics["loss"])


def keeping(promise: float, rank: Rank) -> Rank:
    """First those that keep a promise, by a rank; then the others, by how much they keep.

    Args:
      promise: the least that is to be kept, of which checkpoints have `kept`.
      rank: of those that do.
    """

    def order(metrics: dict[str, float]) -> tuple[float, ...]:
        if metrics["kept"] >= promise:
            return 1.0, *rank(metrics)
        return 0.0, metrics["kept"], *rank(metrics)[1:]

    return order


class StageCheckpoints:
    """The checkpoints of one stage: the latest, for resuming, and the best, for the next stage.

    A checkpoint appears under its name only when it is complete, so a process that is killed while
    it saves loses that one alone. Of several processes each writes its part, and all call the same
    methods; any other number of processes can continue from it.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        frozen: Tree,
        rank: Rank = lower_loss,
        lineage: str | None = None,
    ):
        """Opens or creates `folder`.

        Args:
          folder: holds one sub-folder for each kept step.
          frozen: the leaves that this stage must not change.
          rank: which checkpoint is the best, such as `earlier`.
          lineage: what the stage comes from, which each checkpoint says, too; None if unknown.
        """
        self._folder, self.rank, self._lineage = folder, rank, lineage
        self._frozen = trees.checksum(frozen)
        best = preservation_policy.BestN(get_metric_fn=rank, n=1)
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(
                    [preservation_policy.LatestN(1), best]
                ),
                best_fn=rank,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=True,
                # What there is must not depend on how soon a shared file system shows it.
                single_host_load_and_broadcast=True,
            ),
        )

    def save(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Starts to write `state`; `metrics` hold `score` and `loss` on the validation split.

        Raises:
          UserError: the folder cannot be written, for one because the disk is full.
        """
        with self._writing():
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state.saved),
                    frozen=ocp.args.JsonSave({"checksum": self._frozen, "lineage": self._lineage}),
                ),
                metrics=metrics | {"step": int(state.step)},
            )

    def latest(self) -> int | None:
        """Returns the last step that was saved, or None."""
        return self._manager.latest_step()

    def best(self) -> int:
        """Returns the step of the best one of those that there are."""
        return self._manager.best_step()

    def require(self, step: int, why: str) -> None:
        """Checks that a checkpoint is there.

        Args:
          step: of the checkpoint.
          why: what needs it, as the end of "the checkpoint …".

        Raises:
          UserError: it is not.
        """
        if step not in self._manager.all_steps():
            raise UserError(
                f"there is no checkpoint {self._folder / str(step)}, {why}; put it back, or remove "
                f"{self._folder.parent} to train the stage anew"
            )

    def restore(
        self,
        step: int,
        state: TrainState,
        mend: str = "remove that folder to continue from an earlier one",
    ) -> TrainState:
        """Returns `state` as it was at `step`, placed like `state`, whose arrays make room for it.

        All of them are deleted but the frozen ones.

        Args:
          step: of the checkpoint.
          state: what it is a checkpoint of.
          mend: what to do if it is damaged.

        Raises:
          UserError: the checkpoint is damaged, belongs to another stage or step, or was made with
            other frozen leaves.
        """
        path = self._folder / str(step)
        target = state.saved_shapes
        for leaf in jax.tree.leaves(state.moving):
            leaf.delete()
        try:
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(target), frozen=ocp.args.JsonRestore()
                ),
            )
        except Exception as error:
            raise finished_stage.damaged(path, error, mend) from error
        kept = found["frozen"] | {"step": int(found["state"]["step"])}
        ours = {"step": step, "lineage": self._lineage, "checksum": self._frozen}
        finished_stage.check(path, kept, ours, mend)
        return state.restored(found["state"])

    def wait(self) -> None:
        """Waits until everything that was saved is on disk."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then releases the folder."""
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Errors of a save may show in any later call, because it goes on in the background."""
        try:
            yield
        except (OSError, ValueError) as error:
            raise UserError(
                f"checkpoints in {self._folder} cannot be written ({cause(error)}); mend that and "
                "give the same command again: it continues from the last complete checkpoint"
            ) from error
