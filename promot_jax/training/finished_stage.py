"""What a finished stage trained, read without its optimizer and without what writes checkpoints."""

import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from promot_jax.base import trees
from promot_jax.base.errors import UserError, first_line
from promot_jax.base.trees import Tree
from promot_jax.checkpoints.formats import orbax_leaves


def read(path: pathlib.Path, expected: Tree, ours: Mapping[str, Any], mend: str) -> Tree:
    """Reads the trainable leaves of a stage checkpoint; a process reads all, and places its own.

    Args:
      path: `checkpoints/STEP` in the folder of the stage.
      expected: shapes, dtypes and shardings of the leaves.
      ours: what the checkpoint must be of, see `check`.
      mend: what to do if it is damaged.

    Raises:
      UserError: it is damaged, or that of another step or stage.
    """
    with _reading(path, mend):
        kept = json.loads((path / "frozen" / "metadata").read_text())
        folder = epath.Path(path.absolute()) / "state"
        shapes, read_leaf = orbax_leaves.open_tree(folder, ("step", "trainable"))
        kept["step"] = int(read_leaf("step"))
    check(path, kept, ours, mend)
    with _reading(path, mend):
        wanted = trees.unstack_layers(expected)
        shapes = trees.unflatten({name: shapes[name] for name in shapes if name != "step"})
        if lines := trees.difference(wanted, shapes["trainable"]):
            raise ValueError(lines[0])
        leaves = {
            name: _placed(read_leaf(f"trainable/{name}"), want)
            for name, want in trees.flatten(wanted).items()
        }
    if not trees.is_stacked(expected):
        return trees.unflatten(leaves)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, expected)
    return trees.stack_and_release(trees.unflatten(leaves), shardings)


def check(path: pathlib.Path, kept: Mapping[str, Any], ours: Mapping[str, Any], mend: str) -> None:
    """Checks that a checkpoint is of the step and the stage of which it is to be.

    Args:
      path: of the checkpoint.
      kept: what it says of itself: `step`, `lineage` of its stage, `checksum` of the frozen leaves.
      ours: what these must be. A lineage that one of them does not know may be any.
      mend: what to do otherwise.

    Raises:
      UserError: it is of something else.
    """
    lineages = kept.get("lineage"), ours["lineage"]
    if lineages[0] != lineages[1] and None not in lineages:
        raise UserError(f"checkpoint {path} belongs to another stage or run; {mend}")
    if kept["step"] != ours["step"]:
        raise UserError(f"checkpoint {path} is that of step {kept['step']}; {mend}")
    if kept["checksum"] != ours["checksum"]:
        raise UserError(
            f"checkpoint {path} belongs to other frozen parameters (checksum {kept['checksum']}, "
            f"here {ours['checksum']}); use a new MODEL_DIR"
        )


def damaged(path: pathlib.Path, error: Exception, mend: str) -> UserError:
    """Returns the error of a checkpoint that cannot be read."""
    return UserError(f"checkpoint {path} cannot be read ({first_line(error)}); {mend}")


@contextlib.contextmanager
def _reading(path, mend):
    try:
        yield
    except Exception as error:
        raise damaged(path, error, mend) from error


def _placed(array: np.ndarray, want: jax.ShapeDtypeStruct) -> jax.Array:
    array = array.astype(want.dtype, copy=False)
    return jax.make_array_from_callback(want.shape, want.sharding, array.__getitem__)
