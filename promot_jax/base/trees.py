"""Parameter trees as paths: select, partition, combine, stack, soft prompts, fingerprint.

A tree is a nested dict of arrays; the path of a leaf is its keys joined by `/`, as in
`encoder/layers_0/mlp/wo/kernel`. Patterns are regular expressions that must match a whole path.
"""

import functools
import hashlib
import re
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.experimental import multihost_utils

from promot_jax.base.errors import UserError

Tree = dict[str, Any]

STACKED = "layers"
# Side, name and leaf of a prompt, see `models.networks.prompt_kinds`.
PROMPT = re.compile(r"(encoder|decoder)/prompt/([^/]+)/(prompt|keys|values|offset_[ab])")
# Where a leaf has an axis of the prompt's rows.
ROWS = {"prompt": 0, "keys": 1, "values": 1}


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


def stack_layers(tree: Tree) -> Tree:
    """Stacks `.../layers_0/x`, `.../layers_1/x`, … at `.../layers/x`, along a new axis 0.

    Leaves may be numpy or jax arrays, which stay what they are, or `jax.ShapeDtypeStruct` (of
    which the sharding is not kept). A tree without layers stays as it is.

    Raises:
      UserError: the layers of a stack do not count from 0, or differ in their leaves, shapes or
        dtypes.
    """
    return _stacked(tree, "")


def unstack_layers(tree: Tree) -> Tree:
    """Inverse of `stack_layers`; shapes keep the sharding that a layer has in its stack.

    Raises:
      UserError: the leaves of a stack differ in their number of layers.
    """
    return _unstacked(tree, "")


def stack_and_release(tree: Tree, shardings: Tree) -> Tree:
    """Returns `stack_layers(tree)` on the devices, where each layer is deleted once it is stacked.

    So there is hardly more than one copy at any time.

    Args:
      tree: jax arrays, which nothing else may need any more.
      shardings: of the stacked leaves.

    Raises:
      UserError: as `stack_layers`.
    """
    later = {path: _Pile(leaf, leaf.shape, leaf.dtype) for path, leaf in flatten(tree).items()}
    places, stacked = flatten(shardings), {}
    for path, pile in flatten(stack_layers(unflatten(later))).items():
        stacked[path] = pile.parts
        if isinstance(pile.parts, tuple):
            stacked[path] = jax.block_until_ready(_stack_at(places[path])(pile.parts))
            for part in jax.tree.leaves(pile.parts):
                part.delete()
    return unflatten(stacked)


def layers_on_host(tree: Tree) -> Tree:
    """Returns `unstack_layers(tree)` for a reader, without another copy on the devices.

    Layers are numpy views of their stack in the memory of the host, on a CPU of the very stack:
    they must be gone before it is donated. Leaves without layers stay what they are. A stack of
    which other processes hold parts is cut on the devices.
    """
    leaves = flatten(tree)
    for path, leaf in leaves.items():
        if STACKED in path.split("/") and getattr(leaf, "is_fully_addressable", False):
            leaves[path] = _viewed(leaf)
    return unstack_layers(unflatten(leaves))


def is_stacked(tree: Tree) -> bool:
    """Says whether a tree holds stacks of layers."""
    return any(STACKED in path.split("/") for path in flatten(tree))


def _stacked(tree: Tree, place: str) -> Tree:
    result = {
        name: _stacked(node, f"{place}{name}/") if isinstance(node, Mapping) else node
        for name, node in tree.items()
    }
    numbers = sorted(
        int(found[1])
        for name, node in result.items()
        if isinstance(node, Mapping) and (found := re.fullmatch(r"layers_(0|[1-9]\d*)", name))
    )
    if not numbers:
        return result
    if numbers != list(range(len(numbers))) or STACKED in result:
        has = ", ".join([f"layers_{n}" for n in numbers] + [STACKED] * (STACKED in result))
        raise UserError(
            f"{place or 'the tree'} has {has}; give layers_0 .. layers_{len(numbers) - 1} alone"
        )
    layers = [flatten(result.pop(f"layers_{number}")) for number in numbers]
    _check_alike(layers, place)
    stacked = {path: _stack([layer[path] for layer in layers]) for path in layers[0]}
    return result | {STACKED: unflatten(stacked)}


def _check_alike(layers: list[dict[str, Any]], place: str) -> None:
    """Raises UserError unless all layers have the same leaves, shapes and dtypes."""
    first = layers[0]
    for number, layer in enumerate(layers):
        for path in sorted(first.keys() ^ layer.keys()):
            has, lacks = (0, number) if path in first else (number, 0)
            raise UserError(
                f"{place}layers_{has} has {path} and {place}layers_{lacks} has not; only layers "
                "with the same leaves can be stacked, leave scan_layers off"
            )
        for path, leaf in layer.items():
            if (leaf.shape, leaf.dtype) != (first[path].shape, first[path].dtype):
                raise UserError(
                    f"{place}layers_{number}/{path} is {leaf.dtype} {leaf.shape}, in layers_0 it "
                    f"is {first[path].dtype} {first[path].shape}; only equal layers can be "
                    "stacked, leave scan_layers off"
                )


class _Pile(NamedTuple):
    """What will be stacked: an array, or a tuple of such."""

    parts: Any
    shape: tuple[int, ...]
    dtype: Any


@functools.lru_cache(maxsize=64)
def _stack_at(sharding: Any) -> Any:
    def stack(parts):
        return jnp.stack([stack(part) for part in parts]) if isinstance(parts, tuple) else parts

    return jax.jit(stack, out_shardings=sharding)


def _viewed(leaf: jax.Array) -> np.ndarray:
    """Returns the values of an array, which does not keep the host's copy as `np.asarray` makes it.

    With one an array could not be donated any more.
    """
    devices = leaf.block_until_ready().sharding.device_set
    # Python's buffers know numbers of numpy alone.
    if len(devices) == 1 and leaf.dtype.kind in "fiu" and next(iter(devices)).platform == "cpu":
        return np.asarray(memoryview(leaf))
    shards = [shard.data for shard in leaf.addressable_shards]
    return np.asarray(jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, shards))


def _stack(leaves: list[Any]) -> Any:
    first = leaves[0]
    if isinstance(first, _Pile):
        shape = (len(leaves), *first.shape)
        return _Pile(tuple(leaf.parts for leaf in leaves), shape, first.dtype)
    if isinstance(first, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(leaves), *first.shape), first.dtype)
    return (np if isinstance(first, np.ndarray | np.generic) else jnp).stack(leaves)


def _unstacked(tree: Tree, place: str) -> Tree:
    result = {
        name: _unstacked(node, f"{place}{name}/") if isinstance(node, Mapping) else node
        for name, node in tree.items()
        if name != STACKED or not isinstance(node, Mapping)
    }
    if not isinstance(stack := tree.get(STACKED), Mapping):
        return result
    leaves = flatten(stack)
    sizes = {path: leaf.shape[0] if leaf.shape else 0 for path, leaf in leaves.items()}
    length = min(sizes.values(), default=0)
    if not length or set(sizes.values()) != {length} or "layers_0" in result:
        found = ", ".join(f"{size} in {path}" for path, size in list(sizes.items())[:3])
        raise UserError(
            f"{place}{STACKED} must hold all layers, as many in each leaf; it has {found or 'none'}"
        )
    for number in range(length):
        layer = unflatten({path: _layer(leaf, number) for path, leaf in leaves.items()})
        result[f"layers_{number}"] = _unstacked(layer, f"{place}{STACKED}/")
    return result


def _layer(leaf: Any, number: int) -> Any:
    if isinstance(leaf, _Part):
        return leaf.of_layer(number)
    if isinstance(leaf, jax.ShapeDtypeStruct):
        sharding = leaf.sharding
        if isinstance(sharding, jax.NamedSharding):
            spec = jax.sharding.PartitionSpec(*sharding.spec[1:])
            sharding = jax.NamedSharding(sharding.mesh, spec, memory_kind=sharding.memory_kind)
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=sharding)
    # A number out of a numpy array would be a scalar and no array.
    return np.asarray(leaf[number]) if isinstance(leaf, np.ndarray) else leaf[number]


def prompts_of(params: Tree) -> dict[str, int]:
    """Returns {name: length} of the prompts in a parameter tree, of whatever kind."""
    found = {PROMPT.fullmatch(path): leaf for path, leaf in flatten(params).items()}
    return {
        match[2]: leaf.shape[ROWS[match[3]]]
        for match, leaf in found.items()
        if match and match[3] in ROWS
    }


def keep_prompts(params: Tree, names: Sequence[str]) -> Tree:
    """Returns the tree with the named prompts only; no names give the bare network's tree."""
    return unflatten(
        {
            path: leaf
            for path, leaf in flatten(params).items()
            if not (match := PROMPT.fullmatch(path)) or match[2] in names
        }
    )


def add_prompt(params: Tree, name: str, prompt: jax.Array) -> Tree:
    """Returns the tree with one more soft prompt [P, H], in the encoder where there is one."""
    side = "encoder" if "encoder" in params else "decoder"
    return add_prompt_leaves(params, name, {f"{side}/prompt": prompt})


def add_prompt_leaves(params: Tree, name: str, leaves: Mapping[str, Any]) -> Tree:
    """Returns the tree with one more prompt of any kind, given {SIDE/LEAF: array}."""
    placed = {}
    for place, leaf in leaves.items():
        side, part = place.split("/")
        placed[f"{side}/prompt/{name}/{part}"] = leaf
    return combine(params, unflatten(placed))


def count(tree: Tree) -> int:
    """Returns the number of elements in all leaves."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def checksum(tree: Tree) -> str:
    """Returns the `fingerprint` of all leaves, which are read back from the device one by one.

    It depends neither on the devices and processes that hold them nor on whether layers are
    stacked, and needs the memory of two leaves of one layer. The same jax arrays, which nobody can
    change, are read once in a process.
    """
    arrays = flatten(tree)
    key = tuple((path, id(array)) for path, array in arrays.items())
    known = _checksums.get(key)
    if known and all(ref() is array for ref, array in zip(known[1], arrays.values(), strict=True)):
        return known[0]
    leaves = flatten(unstack_layers(jax.tree.map(_Part, tree)))
    found = fingerprint(_ahead((path, part) for path, part in leaves.items()))
    if all(isinstance(array, jax.Array) for array in arrays.values()):
        # An array that is gone takes its entry along.
        forget = functools.partial(_forget, key)
        _checksums[key] = (found, [weakref.ref(array, forget) for array in arrays.values()])
    return found


# Checksums of trees of jax arrays, by the paths and identities of these.
_checksums: dict[tuple, tuple[str, list[weakref.ref]]] = {}


def _forget(key: tuple, _: weakref.ref) -> None:
    _checksums.pop(key, None)


def _ahead(parts: Iterable[tuple[str, "_Part"]]) -> Iterator[tuple[str, np.ndarray]]:
    """Reads each part while the one before it is used."""
    with futures.ThreadPoolExecutor(1) as reader:
        before = None
        for path, part in parts:
            coming = (path, reader.submit(lambda part: _whole(part.read()), part))
            if before:
                yield before[0], before[1].result()
            before = coming
        if before:
            yield before[0], before[1].result()


class _Part(NamedTuple):
    """A part of an array that is not cut out before it is read."""

    array: Any
    numbers: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape[len(self.numbers) :]

    def of_layer(self, number: int) -> "_Part":
        return _Part(self.array, (*self.numbers, number))

    def read(self) -> Any:
        return self.array[self.numbers] if self.numbers else self.array


def _whole(leaf: Any) -> np.ndarray:
    """Returns a leaf, of which other processes may hold parts, in the memory of this one."""
    if not isinstance(leaf, jax.Array):
        return np.asarray(leaf)
    if leaf.is_fully_addressable:
        return _viewed(leaf)
    return multihost_utils.process_allgather(leaf, tiled=True)


def fingerprint(leaves: Iterable[tuple[str, Any]]) -> str:
    """Returns a SHA-256 (16 hex digits) of the paths, dtypes, shapes and bits of (path, array)."""
    digest = hashlib.sha256()
    for path, leaf in leaves:
        array = np.asarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        # As bytes, without a copy: Python's buffers know no bfloat16.
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()[:16]
