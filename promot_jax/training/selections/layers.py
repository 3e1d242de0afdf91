"""Layers of a parameter tree by their paths, whether they are stacked or not."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from promot_jax.base import trees
from promot_jax.base.trees import Tree

# Path of a parameter in a layer: its stack, its number unless it is stacked, and the rest.
LAYER = re.compile(rf"(.*)/{trees.STACKED}(?:_(\d+))?/(.*)")


def stacks(params: Tree) -> dict[str, list[int]]:
    """Returns the numbers of the layers of each stack."""
    found: dict[str, set[int]] = {}
    for path, leaf in trees.flatten(params).items():
        for name in names(path, leaf):
            if match := LAYER.fullmatch(name):
                found.setdefault(match[1], set()).add(int(match[2]))
    return {stack: sorted(numbers) for stack, numbers in found.items()}


def names(path: str, leaf: Any) -> list[str]:
    """Returns the path of each layer of a stacked leaf; of another its own."""
    found = LAYER.fullmatch(path)
    if not found or found[2] is not None:
        return [path]
    return [f"{found[1]}/{trees.STACKED}_{n}/{found[3]}" for n in range(leaf.shape[0])]


def shape(path: str, leaf: Any) -> tuple[int, ...]:
    """Returns the shape of a leaf in one layer."""
    found = LAYER.fullmatch(path)
    return leaf.shape[1:] if found and found[2] is None else leaf.shape


class Kind(NamedTuple):
    """Modules of one kind in a stack of layers, such as the matrices of its MLPs.

    Attributes:
      numbers: of the layers.
      modules: their names within a layer.
    """

    numbers: list[int]
    modules: list[str]


def kinds(params: Tree) -> dict[tuple[str, str], Kind]:
    """Returns the kinds of modules, by stack and block: attentions, MLPs, and all norms."""
    found: dict[tuple[str, str], tuple[set[int], set[str]]] = {}
    for path, leaf in trees.flatten(params).items():
        for name in names(path, leaf):
            if match := LAYER.fullmatch(name):
                numbers, modules = found.setdefault(kind_of(match), (set(), set()))
                numbers.add(int(match[2]))
                modules.add(module_of(match))
    return {kind: Kind(*map(sorted, both)) for kind, both in found.items()}


def kind_of(match: re.Match[str]) -> tuple[str, str]:
    """Returns stack and block of a parameter's module; norms are one block."""
    norm = match[3].endswith("/scale")
    return match[1], "norms" if norm else module_of(match).rpartition("/")[0]


def module_of(match: re.Match[str]) -> str:
    """Returns the module of a parameter within its layer, such as `mlp/wo`."""
    return match[3].rpartition("/")[0]


def by_layer(params: Tree, value: Callable[[str], bool | float]) -> Tree:
    """Returns masks with one value for each path in which layers have their numbers."""
    return trees.unflatten(
        {
            path: spread(np.array([value(name) for name in names(path, leaf)]), leaf)
            for path, leaf in trees.flatten(params).items()
        }
    )


def spread(rows: Any, leaf: Any) -> Any:
    """Returns values along the first axis of a leaf, to broadcast to it."""
    return rows.reshape((-1, *(1,) * (leaf.ndim - 1))[: leaf.ndim])
