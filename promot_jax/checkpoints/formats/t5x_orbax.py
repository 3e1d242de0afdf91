"""The layout of T5X's head: an orbax tree in `checkpoint_N/state`.

The tree is `{target: parameters, state: {step, param_states}}`; the item `dataset` beside it holds
the position in the data, if that was saved.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from promot_jax.base import files, trees
from promot_jax.base.errors import UserError, first_line
from promot_jax.checkpoints.formats import orbax_leaves, t5x_state
from promot_jax.checkpoints.formats.source import Content, Source

FORMAT = "T5X (orbax)"


def open_state(folder: epath.Path) -> Source:
    """Opens `checkpoint_N/state`; its leaves are read one at a time.

    Raises:
      UserError: a damaged tree, or one without parameters.
    """
    tree, read = orbax_leaves.open_tree(folder)
    target = "target/"
    leaves = {
        path.removeprefix(target): leaf for path, leaf in tree.items() if path.startswith(target)
    }
    if not leaves:
        raise UserError(f"{folder} has no parameters (target); copy the checkpoint again")
    rest = sorted({path.split("/")[0] for path in tree if not path.startswith(target)})
    return Source(
        path=str(folder),
        format=FORMAT,
        leaves=leaves,
        read=lambda path: read(target + path),
        where={path: f"target/{path} in {folder}" for path in leaves},
        ignored=dict.fromkeys(rest, t5x_state.NOT_PARAMETERS),
    )


def save(folder: pathlib.Path, content: Content) -> None:
    """Writes a model and its soft prompts, see `write`."""
    write(folder, content.leaves)


def write(
    folder: str | os.PathLike,
    leaves: Mapping[str, Any],
    *,
    step: int | None = None,
    dtype: str = "float32",
) -> None:
    """Writes a checkpoint that T5X's head restores for inference, evaluation and fine-tuning.

    Orbax takes the whole tree, so all of `leaves` are in memory together.

    Args:
      folder: a new local folder; the checkpoint itself if its name is `checkpoint_N`, otherwise a
        model directory that will hold `checkpoint_STEP`.
      leaves: {path: array}.
      step: 0 by default. T5X counts TRAIN_STEPS from it.
      dtype: `float32` or `bfloat16`.

    Raises:
      UserError: `folder` exists, or cannot be written.
    """
    # Only writing needs it, and reading any other format should not wait for its import.
    import orbax.checkpoint as ocp

    folder = pathlib.Path(folder)
    inner, step = t5x_state.place(folder, step, dtype)
    with files.new_folder(folder) as partial:
        target = {
            path: np.asarray(leaves[path]).astype(jnp.dtype(dtype), copy=False) for path in leaves
        }
        shapes = {path: array.shape for path, array in target.items()}
        state = {"target": trees.unflatten(target), "state": t5x_state.fresh(shapes, step)}
        handler = ocp.CompositeCheckpointHandler(state=ocp.PyTreeCheckpointHandler())
        try:
            with ocp.Checkpointer(handler) as checkpointer:
                checkpointer.save(
                    (partial / inner).absolute(),
                    args=ocp.args.Composite(state=ocp.args.PyTreeSave(state)),
                    force=True,
                )
        except Exception as error:
            reason = first_line(error)
            raise UserError(f"{folder} cannot be written: {reason}") from error
