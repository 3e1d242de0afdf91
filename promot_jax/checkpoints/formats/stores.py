"""Arrays that TensorStore keeps, in local folders or in buckets."""

import os
import re
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from etils import epath

from promot_jax.base.errors import UserError, first_line


def absolute(path: str) -> epath.Path:
    """Returns a local path from the root, and a path in a bucket as it is."""
    return epath.Path(path if "://" in path else os.path.abspath(os.path.expanduser(path)))


def kvstore(folder: str, name: str = "") -> dict[str, str]:
    """Returns TensorStore's specification of the folder `name` in a folder.

    Args:
      folder: absolute or `gs://BUCKET/…`.
      name: of a folder in it.
    """
    if bucket := re.fullmatch(r"gs://([^/]+)/*(.*)", folder):
        path = os.path.join(bucket[2], name, "") if bucket[2] or name else ""
        return {"driver": "gcs", "bucket": bucket[1], "path": path}
    return {"driver": "file", "path": os.path.join(folder, name, "")}


def read(where: str, spec: dict[str, Any], want: jax.ShapeDtypeStruct) -> np.ndarray:
    """Reads one array.

    Args:
      where: the array's name for people.
      spec: of TensorStore.
      want: its shape, as the checkpoint announces it.

    Raises:
      UserError: the array is missing, damaged, or of another shape.
    """
    try:
        array = ts.open(spec, open=True, read=True).result()
        if array.shape == want.shape:
            return array.read().result()
        reason = f"its shape is {array.shape}, the checkpoint announces {want.shape}"
    except Exception as error:
        reason = first_line(error)
    raise UserError(f"{where} is damaged ({reason}); copy the checkpoint again")
