"""Single leaves of a tree that orbax wrote, without reading the rest."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from etils import epath

from promot_jax.base.errors import UserError, first_line
from promot_jax.checkpoints.formats import stores

# What orbax calls the kinds of leaves that are kept as arrays.
ARRAYS = ("jax.Array", "np.ndarray", "scalar")


def open_tree(
    folder: epath.Path, parts: Sequence[str] = ()
) -> tuple[dict[str, jax.ShapeDtypeStruct], Callable[[str], np.ndarray]]:
    """Opens the folder of an orbax tree, in whichever of orbax's array formats it is.

    Orbax itself could restore a part of a tree, but reads the description of the whole again each
    time, which takes minutes for a deep network with its optimizer; and its import takes longer
    than reading a small model.

    Args:
      folder: absolute, local or in a bucket; holds `_METADATA`.
      parts: first names of the paths to open; all by default.

    Returns:
      {path: shape and dtype} of all arrays, and a function that reads one of them by its path.

    Raises:
      UserError: the description of the tree is damaged; the function raises it for its leaf.
    """
    try:
        about = json.loads((folder / "_METADATA").read_text())
        names = _names(about["tree_metadata"], parts)
        # All are on their way before the first is waited for.
        opening = {
            path: ts.open(_spec(folder, name, about), open=True, read=True)
            for path, name in names.items()
        }
        arrays = {path: opened.result() for path, opened in opening.items()}
    except Exception as error:
        raise UserError(
            f"{folder} is damaged ({first_line(error)}); copy the checkpoint again"
        ) from error
    leaves = {
        path: jax.ShapeDtypeStruct(array.shape, array.dtype.numpy_dtype)
        for path, array in arrays.items()
    }

    def read(path: str) -> np.ndarray:
        try:
            return arrays[path].read().result()
        except Exception as error:
            raise UserError(
                f"{path} in {folder} is damaged ({first_line(error)}); copy the checkpoint again"
            ) from error

    return leaves, read


def _names(nodes: dict[str, Any], parts: Sequence[str]) -> dict[str, str]:
    """Returns {path: name by which TensorStore knows it} of the arrays, in sorted order."""
    found = {}
    for node in nodes.values():
        keys = [str(step["key"]) for step in node["key_metadata"]]
        if node["value_metadata"]["value_type"] in ARRAYS and (not parts or keys[0] in parts):
            found["/".join(keys)] = ".".join(keys)
    return dict(sorted(found.items()))


def _spec(folder: epath.Path, name: str, about: dict[str, Any]) -> dict[str, Any]:
    """Returns TensorStore's specification of an array."""
    in_database = {"driver": "ocdbt", "base": stores.kvstore(str(folder)), "path": f"{name}/"}
    return {
        "driver": "zarr3" if about.get("use_zarr3") else "zarr",
        "kvstore": in_database if about.get("use_ocdbt") else stores.kvstore(str(folder), name),
        # Older versions of orbax left out what is zero.
        "fill_missing_data_reads": not about.get("store_array_data_equal_to_fill_value"),
    }
