"""Deltas: what training changed in a model, entry by entry, without the model.

A folder has `delta.json`, which names the leaves and says what they must have been, and
`delta.npz`, with PATH:places, the changed entries of a leaf as it lies in memory, and PATH:values,
what is added there. Deltas of one base add up (Ansell et al. 2022, arXiv 2110.07560) or are merged.
"""

import dataclasses
import json
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from promot_jax.base import files
from promot_jax.base.errors import UserError, first_line

ABOUT, ARRAYS = "delta.json", "delta.npz"
VERSION = 1
# How several deltas become one change.
SUM, MEAN, TIES = "sum", "mean", "ties"
TIES_DENSITY = 0.2


@dataclasses.dataclass(frozen=True)
class Change:
    """What is added to a leaf.

    Attributes:
      shape: of the leaf.
      base: CRC-32 of the leaf that it is added to, as float32.
      places: of the changed entries, int32 or int64 [n], ascending.
      values: what is added there [n]: float32, or float64 where only so the sum is what was
        trained, bit for bit; an entry that became 2^29 times smaller may be off by its last bits.
    """

    shape: tuple[int, ...]
    base: int
    places: np.ndarray
    values: np.ndarray


def between(start: Any, end: Any) -> Change | None:
    """Returns what leads from one leaf to another of the same shape; None where they are equal."""
    begun, ended = (np.ascontiguousarray(leaf, np.float32).reshape(-1) for leaf in (start, end))
    places = np.flatnonzero(begun != ended)
    if not len(places):
        return None
    exact = ended[places].astype(np.float64) - begun[places]
    values = exact.astype(np.float32)
    if not ((begun[places].astype(np.float64) + values).astype(np.float32) == ended[places]).all():
        values = exact
    kind = np.int32 if begun.size <= np.iinfo(np.int32).max else np.int64
    return Change(np.shape(start), _crc(begun), places.astype(kind), values)


def save(folder: pathlib.Path, changes: Mapping[str, Change], origin: Mapping[str, Any]) -> None:
    """Writes a delta into a new folder.

    Args:
      folder: must not exist.
      changes: {path: change}.
      origin: where it comes from, for people.

    Raises:
      UserError: the folder exists or cannot be written.
    """
    leaves = {
        path: {"shape": change.shape, "base": change.base} for path, change in changes.items()
    }
    with files.new_folder(folder) as partial:
        about = {"version": VERSION, "origin": dict(origin), "leaves": leaves}
        (partial / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
        arrays = {f"{path}:places": change.places for path, change in changes.items()}
        arrays |= {f"{path}:values": change.values for path, change in changes.items()}
        np.savez(partial / ARRAYS, **arrays)


def is_format(path: str) -> bool:
    """Says whether a local folder is a delta."""
    return pathlib.Path(path, ABOUT).is_file()


def read(path: str) -> dict[str, Change]:
    """Returns the changes of a delta by the paths of leaves.

    Raises:
      UserError: a damaged folder, or one that a newer version wrote.
    """
    folder = pathlib.Path(path)
    about = files.read_json(folder / ABOUT)
    if about.get("version") != VERSION:
        raise UserError(
            f"{path} has version {about.get('version')} of deltas, this program reads {VERSION}; "
            "install a newer promot_jax"
        )
    try:
        with np.load(folder / ARRAYS) as arrays:
            changes = {
                name: Change(
                    tuple(leaf["shape"]),
                    leaf["base"],
                    arrays[f"{name}:places"],
                    arrays[f"{name}:values"],
                )
                for name, leaf in about["leaves"].items()
            }
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:
        raise UserError(f"{path} is damaged ({first_line(error)}); write it again") from None
    for name, change in changes.items():
        size = int(np.prod(change.shape))
        inside = len(change.places) == 0 or 0 <= change.places.min() <= change.places.max() < size
        if change.places.shape != change.values.shape or not inside:
            raise UserError(f"{path} is damaged: {name} is changed where it has nothing")
        if not np.isfinite(change.values).all():
            raise UserError(f"{path}: {name} has values that are not finite; export it again")
    return changes


def added(
    leaves: Mapping[str, Any], paths: Sequence[str], by: str = SUM
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the path and the new value of each leaf that deltas change, float32.

    Args:
      leaves: {path: leaf} of the base.
      paths: folders of deltas; all are of this base.
      by: see `merged`.

    Raises:
      UserError: a delta of another model, or a damaged one; no such `by`.
    """
    merging(by)
    deltas = [read(path) for path in paths]
    for path, changes in zip(paths, deltas, strict=True):
        for name, change in changes.items():
            _check(path, name, change, leaves)
    for name in dict.fromkeys(name for changes in deltas for name in changes):
        leaf = np.asarray(leaves[name], np.float32)
        changed = [changes[name] for changes in deltas if name in changes]
        # Rounded once, so that their order does not matter.
        total = leaf.reshape(-1) + merged(changed, leaf.size, len(deltas), by)
        yield name, total.astype(np.float32).reshape(leaf.shape)


def merged(changes: Sequence[Change], size: int, count: int, by: str = SUM) -> np.ndarray:
    """Returns one change of a leaf, float64 `[size]`.

    Args:
      changes: those that deltas make to it.
      size: of the leaf.
      count: of the deltas, also of those that leave it alone.
      by: `sum`; `mean`, that of the models they lead to (Wortsman et al. 2022, arXiv 2203.05482);
        `ties` or `ties:DENSITY`, of the largest share of each the mean of those that have the sign
        of their sum (Yadav et al. 2023, arXiv 2306.01708). DENSITY is 0.2 by default.
    """
    how, density = merging(by)
    total = np.zeros(size)
    if how != TIES:
        for change in changes:
            total[change.places] += change.values
        return total / count if how == MEAN else total
    kept = [_largest(change, int(density * size)) for change in changes]
    for places, values in kept:
        total[places] += values
    sign = np.where(total >= 0, 1.0, -1.0)
    total, agreeing = np.zeros(size), np.zeros(size)
    for places, values in kept:
        agrees = np.sign(values) == sign[places]
        total[places[agrees]] += values[agrees]
        agreeing[places[agrees]] += 1
    return total / np.maximum(agreeing, 1)


def _largest(change: Change, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns places and values of the largest entries of a change; of equally large ones all."""
    sizes = np.abs(change.values)
    if not count:
        return change.places[:0], change.values[:0].astype(np.float64)
    least = np.partition(sizes, -count)[-count] if count < len(sizes) else 0.0
    kept = sizes >= least
    return change.places[kept], change.values[kept].astype(np.float64)


def merging(by: str) -> tuple[str, float]:
    """Returns how deltas are merged, and the density of TIES.

    Raises:
      UserError: no such way.
    """
    how, colon, density = by.partition(":")
    try:
        share = float(density) if colon else TIES_DENSITY
    except ValueError:
        share = -1.0
    if how not in (SUM, MEAN, TIES) or (colon and how != TIES) or not 0 < share <= 1:
        raise UserError(
            f"{by!r} is no way to merge deltas; give sum, mean, ties or ties:DENSITY, of which "
            "DENSITY is above 0 and at most 1"
        )
    return how, share


def _check(path: str, name: str, change: Change, leaves: Mapping[str, Any]) -> None:
    if name not in leaves:
        raise UserError(f"{path} belongs to another model: this one has no {name}")
    if np.shape(leaves[name]) != change.shape:
        raise UserError(
            f"{path} belongs to another model: its {name} has shape {change.shape}, the model's "
            f"{np.shape(leaves[name])}"
        )
    if _crc(np.ascontiguousarray(leaves[name], np.float32).reshape(-1)) != change.base:
        raise UserError(
            f"{path} is no delta of this model: {name} is not what it was trained from; give the "
            "model that the run started from, and several deltas of it at once"
        )


def _crc(flat: np.ndarray) -> int:
    return zlib.crc32(flat.data)
