"""Single leaves of a tree that orbax wrote, without reading the rest."""

import json
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from promot_jax.base import trees
from promot_jax.base.errors import UserError, first_line
from promot_jax.checkpoints.formats import stores


def open_tree(
    folder: epath.Path,
) -> tuple[dict[str, jax.ShapeDtypeStruct], Callable[[str], np.ndarray]]:
    """Opens the folder of an orbax tree, in whichever of orbax's array formats it is.

    Orbax itself could restore a part of a tree, but reads the description of the whole again each
    time, which takes minutes for a deep network with its optimizer.

    Args:
      folder: absolute, local or in a bucket; holds `_METADATA`.

    Returns:
      {path: shape and dtype} of all arrays, and a function that reads one of them by its path.

    Raises:
      UserError: the description of the tree is damaged; the function raises it for its leaf.
    """
    try:
        about = json.loads((folder / "_METADATA").read_text())
        found = trees.flatten(ocp.PyTreeCheckpointHandler().metadata(folder).tree)
    except Exception as error:
        raise UserError(
            f"{folder} is damaged ({first_line(error)}); copy the checkpoint again"
        ) from error
    arrays = {path: leaf for path, leaf in found.items() if hasattr(leaf, "shape")}
    leaves = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in arrays.items()}
    base = stores.kvstore(str(folder))

    def read(path: str) -> np.ndarray:
        name = arrays[path].name
        in_folders = stores.kvstore(str(folder), name)
        in_database = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
        spec = {
            "driver": "zarr3" if about.get("use_zarr3") else "zarr",
            "kvstore": in_database if about.get("use_ocdbt") else in_folders,
            # Older versions of orbax left out what is zero.
            "fill_missing_data_reads": not about.get("store_array_data_equal_to_fill_value"),
        }
        return stores.read(f"{path} in {folder}", spec, leaves[path])

    return leaves, read
