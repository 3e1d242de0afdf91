"""Low-rank adapters (Hu et al. 2021): a kernel `W` acts as `W + scale * A B`.

Beside an adapted `X/kernel` [in, out] stand the leaves `X/lora_a` [in, r] and `X/lora_b` [r, out].
DoRA (Liu et al. 2024) adds `X/lora_magnitude` [out]; what begins as a part of its kernel keeps that
in `X/lora_a0` and `X/lora_b0`, see `lora_inits`. Of scanned layers all have a first axis of
layers. `adapted` is for modules; `add`, `remove`, `merge`, `unmerge` and `adapters` are for
parameter trees, `add`, `remove` and `adapters` for parallel adapters too (see `parallel`).
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Annotated, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from promot_jax.base import trees, values
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.models.networks import acting, parallel
from promot_jax.models.networks.lora_inits import Init
from promot_jax.models.networks.parallel import Parallel
from promot_jax.models.networks.parameters import parameter

KERNEL = "kernel"
MAGNITUDE = "lora_magnitude"
# What adapters that begin as a part of their kernel began with.
BEGAN = ("lora_a0", "lora_b0")
# Names of the leaves of adapters of every kind.
LEAVES = ("lora_a", "lora_b", *BEGAN, MAGNITUDE, *parallel.LEAVES)

Scaling = Literal["rank", "root_rank"]
Form = Literal["lora", "dora"]


@dataclasses.dataclass(frozen=True)
class Lora:
    """Which kernels have an adapter, of what size and of what form.

    Attributes:
      pattern: regular expression that matches whole paths of kernels, such as
        `.*attention/(query|value)/kernel`.
      rank: r, columns of `lora_a` [in, r] and rows of `lora_b` [r, out].
      alpha: the product is multiplied by `alpha / rank`.
      scaling: "rank", or "root_rank" for `alpha / sqrt(rank)`, with which larger ranks learn as
        fast as small ones (Kalajdzievski 2023, rsLoRA).
      form: "lora", or "dora": the columns of `W + scale * A B` are brought to the lengths
        `lora_magnitude`, which train too (Liu et al. 2024).
      init: how the matrices begin, see `lora_inits`; None is as in PEFT, with a product of zero.
    """

    pattern: values.Pattern
    rank: values.Count
    alpha: values.Positive
    scaling: Annotated[Scaling, values.LATER] = "rank"
    form: Annotated[Form, values.LATER] = "lora"
    init: Annotated[Init | None, values.LATER] = None

    def __post_init__(self):
        values.check_fields(self)
        if self.init is not None and self.form != "lora":
            raise values.Misfit(
                self, "{form} begins with a product of zero; leave {init} out", "form", "init"
            )

    @property
    def scale(self) -> float:
        """Factor of the product of the two matrices."""
        return self.alpha / (self.rank if self.scaling == "rank" else math.sqrt(self.rank))

    def adapts(self, path: str) -> bool:
        """Says whether the kernel at `path` has an adapter."""
        return re.fullmatch(self.pattern, path) is not None


# What can stand beside a network: changes of its kernels, or modules beside its MLPs.
Adapters = Lora | Parallel

# As PEFT draws it: uniform within 1 / sqrt(in).
init_a = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def adapted(
    module: nn.Module,
    x: jax.Array,
    y: jax.Array,
    kernel: jax.Array,
    lora: Lora,
    axes: tuple[str, str],
) -> jax.Array:
    """Returns what the adapted kernel makes of `x`, to be called in the compact method of `module`.

    That is `y` in rows in which adapters do not act, see `acting`.

    Declares float32 `lora_a` [in, r] and, zero at first, `lora_b` [r, out] there; of DoRA also
    `lora_magnitude` [out]; with a `Lora.init` also `lora_a0` and `lora_b0`, zero until it begins.

    Args:
      module: the one that has the kernel.
      x: [B, X, in], in the dtype of activations.
      y: `x @ kernel`, [B, X, out].
      kernel: [in, out], in the dtype that it is kept in.
      lora: the setting.
      axes: logical axes of the kernel.
    """
    rows, columns = kernel.shape
    a = parameter(module, "lora_a", init_a, (rows, lora.rank), (axes[0], "lora"))
    zeros = nn.initializers.zeros
    b = parameter(module, "lora_b", zeros, (lora.rank, columns), ("lora", axes[1]))
    added = jnp.dot(jnp.dot(x, a.astype(x.dtype)), b.astype(x.dtype))
    if lora.init is not None:
        # By itself, not as one product of rank 2r: so the two are equal bit for bit at first.
        a0 = parameter(module, BEGAN[0], zeros, a.shape, (axes[0], "lora"))
        b0 = parameter(module, BEGAN[1], zeros, b.shape, ("lora", axes[1]))
        a0, b0 = (jax.lax.stop_gradient(leaf.astype(x.dtype)) for leaf in (a0, b0))
        added -= jnp.dot(jnp.dot(x, a0), b0)
    changed = y + added * lora.scale
    if lora.form == "lora":
        return acting.chosen(changed, y)

    def init_magnitude(*_):
        return lengths(kernel)

    magnitude = parameter(module, MAGNITUDE, init_magnitude, (columns,), axes[1:])
    # The lengths count as constants in the backward pass, which saves memory (Liu et al., 4.3).
    factor = magnitude / jax.lax.stop_gradient(_lengths_of_sum(kernel, a, b, lora.scale))
    return acting.chosen((changed.astype(jnp.float32) * factor).astype(y.dtype), y)


def lengths(kernel: jax.Array) -> jax.Array:
    """Returns the Euclidean norm of each column, float32 [..., out] of [..., in, out]."""
    return jnp.sqrt(jnp.sum(jnp.square(kernel.astype(jnp.float32)), axis=-2))


def _lengths_of_sum(kernel, a, b, scale) -> jax.Array:
    """Returns `lengths(kernel + scale * a @ b)`, in float32, without forming the sum."""
    a, b = scale * a.astype(jnp.float32), b.astype(jnp.float32)

    def inner(first, second):
        return jnp.matmul(first.T, second, precision="highest")

    # |w + ab|^2 = |w|^2 + b'(2 a'w + a'a b), column by column.
    mixed = 2 * inner(a, kernel.astype(jnp.float32)) + inner(inner(a, a), b)
    squares = jnp.square(lengths(kernel)) + jnp.sum(b * mixed, axis=0)
    return jnp.sqrt(jnp.maximum(squares, jnp.finfo(jnp.float32).tiny))


def add(params: Tree, adapters: Adapters, rng: jax.Array) -> Tree:
    """Returns the tree with a new adapter beside each kernel, or MLP, that the pattern matches.

    Their float32 values are drawn as a module draws them: they add zero, so the network computes
    what it did.

    Raises:
      UserError: the pattern matches none, or one that has an adapter.
    """
    leaves = trees.flatten(params)
    if isinstance(adapters, Lora):
        chosen = [path for path in _kernels(leaves) if adapters.adapts(path)]
        what, examples = "kernel", _kernels(leaves)
    else:
        examples = _mlps(leaves)
        chosen = [path for path in examples if adapters.stands_beside(path)]
        what = "MLP"
    if not chosen:
        raise UserError(
            f"{type(adapters).__name__}.pattern {adapters.pattern!r} matches no {what}; it must "
            f"match whole paths such as: {', '.join(examples[:3]) or 'none'}"
        )
    for number, path in enumerate(chosen):
        key = jax.random.fold_in(rng, number)
        new = _beside_kernel if isinstance(adapters, Lora) else _beside_mlp
        found = new(leaves, path, adapters, key)
        if any(name in leaves for name in found):
            raise UserError(f"{path} has an adapter already; merge or remove it before adding one")
        leaves |= found
    return trees.unflatten(dict(sorted(leaves.items())))


def _kernels(leaves) -> list[str]:
    return [path for path in leaves if path.split("/")[-1] == KERNEL]


def _mlps(leaves) -> list[str]:
    """Returns the paths of the MLPs, which end with the kernel `wo`."""
    return [path.removesuffix("/wo/kernel") for path in leaves if path.endswith("/wo/kernel")]


def _beside_kernel(leaves, path: str, lora: Lora, rng: jax.Array) -> dict[str, jax.Array]:
    *stacked, rows, columns = leaves[path].shape
    path_a, path_b, path_m = _beside(path)
    found = {
        path_a: _draw(init_a, rng, stacked, (rows, lora.rank)),
        path_b: jnp.zeros((*stacked, lora.rank, columns), jnp.float32),
    }
    if lora.init is not None:
        path_a0, path_b0 = (path.removesuffix(KERNEL) + name for name in BEGAN)
        found |= {path_a0: jnp.zeros_like(found[path_a]), path_b0: jnp.zeros_like(found[path_b])}
    return found | ({path_m: jax.jit(lengths)(leaves[path])} if lora.form == "dora" else {})


def _beside_mlp(leaves, path: str, adapter: Parallel, rng: jax.Array) -> dict[str, jax.Array]:
    *stacked, _, features = leaves[f"{path}/wo/kernel"].shape
    shape = (features, adapter.width)
    return {
        f"{path}/adapter_down": _draw(parallel.init_down, rng, stacked, shape),
        f"{path}/adapter_up": jnp.zeros((*stacked, *shape[::-1]), jnp.float32),
    }


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

    What adapters began with is taken off that. Columns of DoRA have the lengths `lora_magnitude`.
    Kernels keep their dtype; all is computed in float32.

    Raises:
      UserError: the tree has no adapters, or they are not `lora`'s.
    """
    small = trees.flatten(adapters(params))
    leaves = trees.flatten(remove(params))
    for path, product in _products(leaves, small, lora):
        whole = jnp.asarray(leaves[path], jnp.float32) + product
        if lora.form == "dora":
            factor = jnp.asarray(small[_beside(path)[2]], jnp.float32) / lengths(whole)
            whole *= jnp.expand_dims(factor, -2)
        leaves[path] = whole.astype(leaves[path].dtype)
    return trees.unflatten(leaves)


def unmerge(merged: Tree, adapted: Tree, lora: Lora) -> Tree:
    """Inverse of `merge`: subtracts the products and puts the adapters back.

    Args:
      merged: a tree without adapters, as `merge` returns it.
      adapted: a tree that has the adapters; its other leaves are not looked at.
      lora: what `merge` was given.

    Raises:
      UserError: as `merge`; DoRA, whose merged kernels no longer tell the lengths that they had.
    """
    if lora.form == "dora":
        raise UserError(
            "adapters of the form 'dora' cannot be taken out again; keep the base model"
        )
    small = trees.flatten(adapters(adapted))
    leaves = trees.flatten(remove(merged))
    for path, product in _products(leaves, small, lora):
        kernel = leaves[path]
        leaves[path] = (jnp.asarray(kernel, jnp.float32) - product).astype(kernel.dtype)
    return trees.combine(trees.unflatten(leaves), trees.unflatten(small))


def without_begin(params: Tree, lora: Lora) -> tuple[Tree, Lora]:
    """Returns the same adapters with a product that begins at zero: `[A, A0] [B; -B0]`, rank 2r.

    So PEFT, too, makes of such an adapter one that fits the base model.
    """
    leaves = trees.flatten(params)
    for path in [path for path in leaves if path.endswith(f"/{BEGAN[0]}")]:
        path_a, path_b, _ = _beside(path.removesuffix(BEGAN[0]) + KERNEL)
        a0, b0 = leaves.pop(path), leaves.pop(f"{path_b}0")
        leaves[path_a] = jnp.concatenate([leaves[path_a], a0], axis=-1)
        leaves[path_b] = jnp.concatenate([leaves[path_b], -b0], axis=-2)
    alpha = lora.alpha * (2 if lora.scaling == "rank" else math.sqrt(2))
    plain = dataclasses.replace(lora, rank=2 * lora.rank, alpha=alpha, init=None)
    return trees.unflatten(leaves), plain


def _products(leaves, small, lora: Lora) -> Iterator[tuple[str, jax.Array]]:
    """Yields the path of each adapted kernel, and `scale * lora_a @ lora_b` in float32.

    Args:
      leaves: {path: leaf} of the tree without adapters.
      small: {path: leaf} of the adapters.
      lora: their setting.
    """
    if not small:
        raise UserError("the parameters have no adapters (leaves lora_a and lora_b)")
    for parent in sorted({path.rpartition("/")[0] for path in small}):
        path = f"{parent}/{KERNEL}".lstrip("/")
        beside = _beside(path)[: 3 if lora.form == "dora" else 2]
        needed = (path, *beside, *(f"{name}0" for name in beside if lora.init is not None))
        if path not in leaves or not small.keys() >= {*needed[1:]}:
            raise UserError(
                f"an adapter needs the leaves {', '.join(needed[:-1])} and {needed[-1]}; one is "
                "missing"
            )
        a, b = small[beside[0]], small[beside[1]]
        if not a.shape[-1] == b.shape[-2] == lora.rank:
            raise UserError(
                f"{beside[0]} has rank {a.shape[-1]}, Lora.rank is {lora.rank}; give the adapter's "
                "own"
            )
        product = _product(a, b)
        if lora.init is not None:
            product -= _product(*(small[f"{name}0"] for name in beside))
        if product.shape != leaves[path].shape:
            raise UserError(
                f"{path} has shape {leaves[path].shape}, its adapter {product.shape}; they belong "
                "to different models"
            )
        yield path, lora.scale * product


def _product(a, b) -> jax.Array:
    # The default of a TPU would round the factors to bfloat16.
    return jnp.matmul(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), precision="highest")


def _draw(init_fn, rng: jax.Array, stacked: list[int], shape: tuple[int, int]) -> jax.Array:
    """Draws a leaf, for each of the stacked layers on its own if there are any."""
    if not stacked:
        return init_fn(rng, shape, jnp.float32)
    return jax.vmap(lambda key: init_fn(key, shape, jnp.float32))(jax.random.split(rng, stacked[0]))


def _beside(path: str) -> tuple[str, str, str]:
    """Returns the paths of the matrices, and of DoRA's lengths, of the kernel at `path`."""
    stem = path.removesuffix(KERNEL)
    return f"{stem}lora_a", f"{stem}lora_b", f"{stem}{MAGNITUDE}"


def _is_adapter(path: str) -> bool:
    return path.split("/")[-1] in LEAVES
