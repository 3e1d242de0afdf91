"""Parameter trees as paths: select, partition, combine, fingerprint.

A tree is a nested dict of arrays; the path of a leaf is its keys joined by `/`, as in
`encoder/layers_0/mlp/wo/kernel`. Patterns are regular expressions that must match a whole path.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from promot_jax.errors import UserError

Tree = dict[str, Any]


def flatten(tree: Tree) -> dict[str, Any]:
    """Returns {path: leaf} in sorted order of paths."""
    return dict(sorted(traverse_util.flatten_dict(tree, sep="/").items()))


def unflatten(leaves: Mapping[str, Any]) -> Tree:
    """Inverse of `flatten`."""
    return traverse_util.unflatten_dict(dict(leaves), sep="/")


def select(paths: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """Returns the paths that at least one pattern matches in full.

    Raises:
      UserError: a pattern is not a regular expression, or matches none of the paths.
    """
    paths = list(paths)
    chosen: set[str] = set()
    for pattern in patterns:
        try:
            matches = {path for path in paths if re.fullmatch(pattern, path)}
        except re.error as error:
            raise UserError(f"pattern {pattern!r} is not a regular expression: {error}") from None
        if not matches:
            examples = ", ".join(sorted(paths)[:3]) or "none"
            raise UserError(
                f"pattern {pattern!r} matches no parameter, so nothing would train; it must match "
                f"whole paths such as: {examples}"
            )
        chosen |= matches
    return chosen


def partition(tree: Tree, patterns: Iterable[str]) -> tuple[Tree, Tree]:
    """Splits a tree into the leaves that `patterns` select and the rest.

    Each leaf is in exactly one of the two trees, so `combine(*partition(t, p)) == t`.

    Raises:
      UserError: as `select`.
    """
    leaves = flatten(tree)
    chosen = select(leaves, patterns)
    inside = {path: leaf for path, leaf in leaves.items() if path in chosen}
    outside = {path: leaf for path, leaf in leaves.items() if path not in chosen}
    return unflatten(inside), unflatten(outside)


def combine(*trees: Tree) -> Tree:
    """Joins trees that share no leaf into one.

    Raises:
      ValueError: two trees hold the same path.
    """
    joined: dict[str, Any] = {}
    for tree in trees:
        leaves = flatten(tree)
        if both := joined.keys() & leaves.keys():
            raise ValueError(f"trees overlap at {min(both)}")
        joined |= leaves
    return unflatten(dict(sorted(joined.items())))


def difference(expected: Tree, found: Tree) -> list[str]:
    """Returns one line for each leaf that is missing, unexpected or of another shape."""
    want, have = flatten(expected), flatten(found)
    lines = [f"missing {path} {want[path].shape}" for path in want if path not in have]
    lines += [f"unexpected {path} {have[path].shape}" for path in have if path not in want]
    lines += [
        f"{path} has shape {have[path].shape}, expected {want[path].shape}"
        for path in want
        if path in have and tuple(have[path].shape) != tuple(want[path].shape)
    ]
    return lines


def count(tree: Tree) -> int:
    """Returns the number of elements in all leaves."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def checksum(tree: Tree) -> str:
    """Returns a SHA-256 (16 hex digits) of paths, dtypes, shapes and bits of all leaves."""
    digest = hashlib.sha256()
    for path, leaf in flatten(tree).items():
        array = np.asarray(jax.device_get(leaf))
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
