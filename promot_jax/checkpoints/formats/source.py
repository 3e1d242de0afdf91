"""A checkpoint of any format as named leaves, and the strict, leaf-by-leaf way into a tree."""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened checkpoint: names and shapes are known, the arrays are still on disk.

    Attributes:
      path: what was opened, as given.
      format: name of the format, such as `Hugging Face`.
      leaves: {our path: shape and dtype in the file, in our layout}.
      read: returns one leaf by our path, in our layout. Raises UserError when the file is damaged.
      where: {our path: file and name in it}, for errors; empty where these are our own names.
      family: `t5` or `decoder`, None where the checkpoint does not tell.
      config: fields of that family's configuration that the checkpoint tells.
      options: further fields of the model that it tells, such as `prefix_lm`.
      unexpected: names in the file that are parameters and have no place in our tree.
      ignored: {name in the file: why it is not needed}, such as slots of an optimizer.
      vocabulary: as `vocabularies.load` takes it, None where the checkpoint has none.
      beside: {name: content} of the files beside the weights, see `side_files`.
      kept_dtype: that of the weights before they became ours; "" where the file has it still.
    """

    path: str
    format: str
    leaves: Mapping[str, jax.ShapeDtypeStruct]
    read: Callable[[str], np.ndarray]
    where: Mapping[str, str]
    family: str | None = None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unexpected: Sequence[str] = ()
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    vocabulary: Mapping[str, Any] | None = None
    beside: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    kept_dtype: str = ""

    @property
    def dtype(self) -> str:
        """Name of the dtype that most of the weights have, or had."""
        sizes = collections.Counter()
        for leaf in self.leaves.values():
            sizes[str(leaf.dtype)] += math.prod(leaf.shape)
        return self.kept_dtype or (sizes.most_common(1)[0][0] if sizes else "float32")


@dataclasses.dataclass(frozen=True)
class Content:
    """A model, or an adapter of one, on its way into a file.

    Attributes:
      leaves: {our path: array}; of the soft prompts and adapters those that the format holds.
      about: the model as plain values: `family`, `config` and further fields.
      vocabulary: None for none.
      start_id: token that answers begin behind, None for none.
      end_ids: further tokens that end an answer.
      max_positions: tokens that the model was made for, None where nothing tells.
      origin: where the model comes from, for people.
      base: name or folder of the model that an adapter belongs to, None where it has none.
      beside: {name: content} of the files beside the weights, see `side_files`.
      dtype: of the weights, for the formats that have a choice; the others note it.
    """

    leaves: Mapping[str, Any]
    about: Mapping[str, Any]
    vocabulary: Any = None
    start_id: int | None = None
    end_ids: Sequence[int] = ()
    max_positions: int | None = None
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    base: str | None = None
    beside: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Match:
    """What loading would do, by path: `loaded` and `initialised` leaves, `skipped` names."""

    loaded: tuple[str, ...]
    initialised: tuple[str, ...]
    skipped: tuple[str, ...]


def match(
    source: Source,
    expected: Tree,
    *,
    may_miss: Sequence[str] = (),
    may_skip: Sequence[str] = (),
) -> Match:
    """Compares a checkpoint with the tree that it shall fill.

    Args:
      source: an opened checkpoint.
      expected: tree of shapes.
      may_miss: patterns of paths that the checkpoint need not have.
      may_skip: patterns of names that the checkpoint may have beyond the tree.

    Raises:
      UserError: leaves that are missing, unexpected or of another shape.
    """
    wanted = trees.flatten(expected)

    def allowed(name: str, patterns: Sequence[str]) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in patterns)

    beyond = [path for path in source.leaves if path not in wanted] + list(source.unexpected)
    missing = [path for path in wanted if path not in source.leaves]
    lines = [
        f"missing {path} {wanted[path].shape}" for path in missing if not allowed(path, may_miss)
    ]
    lines += [f"unexpected {name}" for name in beyond if not allowed(name, may_skip)]
    for path in wanted.keys() & source.leaves.keys():
        found, want = tuple(source.leaves[path].shape), tuple(wanted[path].shape)
        if found != want:
            where = f" ({source.where[path]})" if path in source.where else ""
            lines.append(f"{path}{where} has shape {found}, expected {want}")
    if lines:
        more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
        raise UserError(f"{source.path} is another model: {'; '.join(sorted(lines)[:3])}{more}")
    return Match(
        loaded=tuple(path for path in wanted if path in source.leaves),
        initialised=tuple(missing),
        skipped=(*beyond, *source.ignored),
    )


def check_finite(array: np.ndarray, where: str) -> None:
    """Raises UserError, which names `where`, for an array that has NaN or infinite values."""
    # One pass without an array of the same size: what is not finite shows in the extremes.
    if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise UserError(
            f"{where} has values that are NaN or infinite; the file is damaged or its training "
            "diverged, use another"
        )


def stream(source: Source, expected: Tree) -> Iterator[tuple[str, jax.Array]]:
    """Yields (path, array) of the leaves of `expected` that the checkpoint has, one at a time.

    Each has the dtype of `expected` and is placed by its sharding, if it names one.

    Raises:
      UserError: a damaged leaf, or one with values that are NaN or infinite.
    """
    for path, want in trees.flatten(expected).items():
        if path not in source.leaves:
            continue
        array = np.asarray(source.read(path)).astype(want.dtype, copy=False)
        check_finite(array, source.where.get(path, f"{path} in {source.path}"))
        if want.sharding is None:
            yield path, jax.device_put(array)
        else:
            # Each process places what its own devices hold.
            yield path, jax.make_array_from_callback(want.shape, want.sharding, array.__getitem__)
