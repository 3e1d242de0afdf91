"""T5X's legacy layout: a msgpack index `checkpoint`, and a zarr (v2) folder for each large array.

The index holds `{version, optimizer: {target: tree, state: {step, param_states}}}`. A leaf of a
tree is an array, or the TensorStore specification of one. Its path is relative to the folder, and
its driver that of the program which wrote it (`gfile`, `gcs` with a dummy bucket, `file`); arrays
are read from where the checkpoint lies now.
"""

import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from etils import epath
from flax import serialization

from promot_jax.base import files, trees
from promot_jax.base.errors import UserError, first_line
from promot_jax.checkpoints.formats import stores, t5x_state
from promot_jax.checkpoints.formats.source import Content, Source

FORMAT = "T5X (legacy)"
VERSION = 3
# T5X wrote bfloat16 in another way before version 3; its float32 is the same.
READABLE = (2, 3)
CHUNK_BYTES = 64 * 2**20
INLINE_BYTES = 64 * 2**10


def is_index(file: epath.Path) -> bool:
    """Returns whether a file seems to be an index; TensorFlow's `checkpoint` files are text."""
    if not file.exists() or file.is_dir():
        return False
    with file.open("rb") as opened:
        head = opened.read(64)
    if file.name == "checkpoint":
        return not head.startswith(b"model_checkpoint_path")
    # A msgpack map of at most 15 entries, the first of which is one of T5X's two.
    return bool(re.match(rb"[\x81-\x8f](\xa7version|\xa9optimizer)", head))


def open_index(file: epath.Path) -> Source:
    """Opens a checkpoint by its index; arrays in folders are read one at a time.

    Raises:
      UserError: a damaged index, or one of an unknown version.
    """
    target, ignored = _index(file)
    folder = str(file.parent)
    leaves, where = {}, {}
    for path, leaf in target.items():
        try:
            leaves[path] = _shape(leaf)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = first_line(error)
            raise UserError(
                f"{path} in {file} is neither an array nor the place of one ({reason})"
            ) from error
        where[path] = f"{path} in {file}"
        if isinstance(leaf, dict):
            where[path] = os.path.join(folder, _relative(leaf))

    def read(path: str) -> np.ndarray:
        if isinstance(target[path], dict):
            store = stores.kvstore(folder, _relative(target[path]))
            # T5X writes every chunk: one that is missing is lost, not zero.
            spec = {"driver": "zarr", "kvstore": store, "fill_missing_data_reads": False}
            return stores.read(where[path], spec, leaves[path])
        return np.asarray(target[path])

    return Source(str(file), FORMAT, leaves, read, where, ignored=ignored)


def _index(file: epath.Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the leaves of the parameters, and the reasons to leave the rest of the index."""
    try:
        index = serialization.msgpack_restore(file.read_bytes())
    except Exception as error:
        raise UserError(
            f"{file} is damaged ({first_line(error)}); copy the checkpoint again"
        ) from error
    version = index.get("version", 0) if isinstance(index, dict) else 0
    if version not in READABLE:
        raise UserError(f"{file} is a T5X index of version {version}; only {READABLE} can be read")
    optimizer = index.get("optimizer")
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("target"), dict):
        raise UserError(f"{file} has no parameters (optimizer.target); copy the checkpoint again")
    ignored = {
        f"optimizer.{name}": t5x_state.NOT_PARAMETERS for name in optimizer if name != "target"
    }
    return dict(sorted(_flatten(optimizer["target"]))), ignored


def _flatten(tree: Mapping[str, Any], prefix: str = ""):
    for name, value in tree.items():
        if isinstance(value, dict) and not value.keys() >= {"driver", "kvstore", "metadata"}:
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    if not isinstance(leaf, dict):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    _relative(leaf)
    metadata = leaf["metadata"]
    dtype = jnp.dtype(leaf.get("dtype") or metadata["dtype"])
    if dtype == np.uint16:
        raise ValueError("bfloat16 stored as uint16, as before version 3 of the format")
    return jax.ShapeDtypeStruct(tuple(metadata["shape"]), dtype)


def _relative(spec: Mapping[str, Any]) -> str:
    # TensorStore before 0.1.14 had the path beside the kvstore.
    return (spec["kvstore"].get("path") or spec["path"]).rstrip("/")


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
    """Writes a checkpoint that T5X restores for inference, evaluation and fine-tuning.

    Holds one leaf at a time beyond `leaves`, which may itself be read lazily.

    Args:
      folder: a new local folder; the checkpoint itself if its name is `checkpoint_N`, otherwise a
        model directory that will hold `checkpoint_STEP`.
      leaves: {path: array}.
      step: 0 by default. T5X counts TRAIN_STEPS from it.
      dtype: `float32` or `bfloat16`.

    Raises:
      UserError: `folder` exists, or cannot be written.
    """
    folder = pathlib.Path(folder)
    inner, step = t5x_state.place(folder, step, dtype)
    with files.new_folder(folder) as partial:
        checkpoint = partial / inner
        checkpoint.mkdir(exist_ok=True)
        target, shapes = {}, {}
        for path in leaves:
            array = np.asarray(leaves[path]).astype(jnp.dtype(dtype), copy=False)
            target[path], shapes[path] = _store(checkpoint, f"target/{path}", array), array.shape
        state = {
            path: _store(checkpoint, f"state/{path}", array)
            for path, array in trees.flatten(t5x_state.fresh(shapes, step)).items()
        }
        index = {
            "version": VERSION,
            "optimizer": {"target": trees.unflatten(target), "state": trees.unflatten(state)},
        }
        (checkpoint / "checkpoint").write_bytes(serialization.msgpack_serialize(index))


def _store(folder: pathlib.Path, path: str, array: np.ndarray) -> Any:
    """Returns a small array as it is; writes a large one and returns its specification."""
    if array.nbytes <= INLINE_BYTES:
        return array
    name = path.replace("/", ".")
    metadata = {
        "shape": list(array.shape),
        "chunks": chunks(array.shape, array.dtype.itemsize, CHUNK_BYTES),
        "compressor": {"id": "gzip", "level": 1},
    }
    spec = {"driver": "zarr", "dtype": array.dtype.name, "metadata": metadata}
    try:
        store = {"kvstore": stores.kvstore(str(folder.absolute()), name)}
        ts.open({**spec, **store}, create=True).result().write(array).result()
    except Exception as error:
        raise UserError(f"{folder / name} cannot be written: {first_line(error)}") from error
    return {**spec, "kvstore": {"driver": "file", "path": name}}


def chunks(shape: tuple[int, ...], itemsize: int, limit: int) -> list[int]:
    """Returns the largest chunks of at most `limit` bytes that divide an array evenly.

    The longest axis is cut first, so that a chunk can be read for a part of any axis.
    """
    sizes = list(shape)
    while math.prod(sizes) * itemsize > limit and max(sizes) > 1:
        axis = sizes.index(max(sizes))
        sizes[axis] = next(n for n in range(sizes[axis] - 1, 0, -1) if shape[axis] % n == 0)
    return sizes
