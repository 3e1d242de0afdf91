"""Low-rank adapters (Hu et al. 2021): a kernel `W` acts as `W + alpha / rank * A B`.

Beside an adapted `X/kernel` [in, out] stand the leaves `X/lora_a` [in, r] and `X/lora_b` [r, out].
Of scanned layers all three have a first axis of layers. `low_rank` is for modules; `add`, `remove`,
`merge`, `unmerge` and `adapters` are for parameter trees.
"""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from promot_jax.base import trees, values
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.models.networks import adapted
from promot_jax.models.networks.parameters import parameter

KERNEL = "kernel"
LEAVES = ("lora_a", "lora_b")


@dataclasses.dataclass(frozen=True)
class Lora:
    """Which kernels have an adapter, and of what size.

    Attributes:
      pattern: regular expression that matches whole paths of kernels, such as
        `.*attention/(query|value)/kernel`.
      rank: r, columns of `lora_a` [in, r] and rows of `lora_b` [r, out].
      alpha: the product is multiplied by `alpha / rank`.
    """

    pattern: values.Pattern
    rank: values.Count
    alpha: values.Positive

    def __post_init__(self):
        values.check_fields(self)

    @property
    def scale(self) -> float:
        """Factor of the product of the two matrices."""
        return self.alpha / self.rank

    def adapts(self, path: str) -> bool:
        """Says whether the kernel at `path` has an adapter."""
        return re.fullmatch(self.pattern, path) is not None


# As PEFT draws it: uniform within 1 / sqrt(in).
init_a = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def low_rank(
    module: nn.Module, x: jax.Array, lora: Lora, features: int, axes: tuple[str, str]
) -> jax.Array:
    """Returns `scale * (x @ lora_a) @ lora_b`, to be called in the compact method of `module`.

    Zero in rows in which adapters do not act, see `adapted`.

    Declares float32 `lora_a` [in, r] and, zero at first, `lora_b` [r, features] there. `axes` are
    those of the kernel.
    """
    a = parameter(module, "lora_a", init_a, (x.shape[-1], lora.rank), (axes[0], "lora"))
    zeros = nn.initializers.zeros
    b = parameter(module, "lora_b", zeros, (lora.rank, features), ("lora", axes[1]))
    change = jnp.dot(jnp.dot(x, a.astype(x.dtype)), b.astype(x.dtype)) * lora.scale
    return adapted.changed(change)


def add(params: Tree, lora: Lora, rng: jax.Array) -> Tree:
    """Returns the tree with a new adapter beside each kernel that the pattern matches.

    Their float32 values are drawn as a module draws them: the product is zero, so the network
    computes what it did.

    Raises:
      UserError: the pattern matches no kernel, or one that has an adapter.
    """
    leaves = trees.flatten(params)
    kernels = [path for path in leaves if path.split("/")[-1] == KERNEL]
    chosen = [path for path in kernels if lora.adapts(path)]
    if not chosen:
        examples = ", ".join(kernels[:3]) or "none"
        raise UserError(
            f"Lora.pattern {lora.pattern!r} matches no kernel; it must match whole paths such as: "
            f"{examples}"
        )
    for number, path in enumerate(chosen):
        path_a, path_b = _beside(path)
        if path_a in leaves:
            raise UserError(f"{path} has an adapter already; merge or remove it before adding one")
        *stacked, rows, columns = leaves[path].shape
        leaves[path_a] = _draw(jax.random.fold_in(rng, number), stacked, (rows, lora.rank))
        leaves[path_b] = jnp.zeros((*stacked, lora.rank, columns), jnp.float32)
    return trees.unflatten(dict(sorted(leaves.items())))


def adapters(params: Tree) -> Tree:
    """Returns the tree of the adapters alone; empty where there are none."""
    leaves = trees.flatten(params).items()
    return trees.unflatten({path: leaf for path, leaf in leaves if _is_adapter(path)})


def remove(params: Tree) -> Tree:
    """Returns the tree without its adapters: the model before they were trained."""
    leaves = trees.flatten(params).items()
    return trees.unflatten({path: leaf for path, leaf in leaves if not _is_adapter(path)})


def merge(params: Tree, lora: Lora) -> Tree:
    """Returns the tree without adapters whose kernels are `kernel + scale * lora_a @ lora_b`.

    Kernels keep their dtype; the product is computed in float32.

    Raises:
      UserError: the tree has no adapters, or they are not `lora`'s.
    """
    return _shifted(remove(params), adapters(params), lora, lora.scale)


def unmerge(merged: Tree, adapted: Tree, lora: Lora) -> Tree:
    """Inverse of `merge`: subtracts the products and puts the adapters back.

    Args:
      merged: a tree without adapters, as `merge` returns it.
      adapted: a tree that has the adapters; its other leaves are not looked at.
      lora: what `merge` was given.

    Raises:
      UserError: as `merge`.
    """
    adapted = adapters(adapted)
    return trees.combine(_shifted(remove(merged), adapted, lora, -lora.scale), adapted)


def _shifted(kernels: Tree, adapted: Tree, lora: Lora, factor: float) -> Tree:
    """Adds `factor * lora_a @ lora_b` to each kernel that has an adapter."""
    leaves, small = trees.flatten(kernels), trees.flatten(adapted)
    if not small:
        raise UserError("the parameters have no adapters (leaves lora_a and lora_b)")
    for parent in sorted({path.rpartition("/")[0] for path in small}):
        path = f"{parent}/{KERNEL}".lstrip("/")
        path_a, path_b = _beside(path)
        if path not in leaves or path_a not in small or path_b not in small:
            raise UserError(
                f"an adapter needs the leaves {path}, {path_a} and {path_b}; one is missing"
            )
        kernel, a, b = leaves[path], small[path_a], small[path_b]
        if not a.shape[-1] == b.shape[-2] == lora.rank:
            raise UserError(
                f"{path_a} has rank {a.shape[-1]}, Lora.rank is {lora.rank}; give the adapter's own"
            )
        # The default of a TPU would round the factors to bfloat16.
        product = jnp.matmul(
            jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), precision="highest"
        )
        if product.shape != kernel.shape:
            raise UserError(
                f"{path} has shape {kernel.shape}, its adapter {product.shape}; they belong to "
                "different models"
            )
        leaves[path] = (jnp.asarray(kernel, jnp.float32) + factor * product).astype(kernel.dtype)
    return trees.unflatten(leaves)


def _draw(rng: jax.Array, stacked: list[int], shape: tuple[int, int]) -> jax.Array:
    """Draws `lora_a`, for each of the stacked layers on its own if there are any."""
    if not stacked:
        return init_a(rng, shape, jnp.float32)
    return jax.vmap(lambda key: init_a(key, shape, jnp.float32))(jax.random.split(rng, stacked[0]))


def _beside(path: str) -> tuple[str, str]:
    """Returns the paths of the adapter of the kernel at `path`."""
    stem = path.removesuffix(KERNEL)
    return f"{stem}lora_a", f"{stem}lora_b"


def _is_adapter(path: str) -> bool:
    return path.split("/")[-1] in LEAVES
