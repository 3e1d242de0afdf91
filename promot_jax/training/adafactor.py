"""Adafactor (Shazeer & Stern 2018), in as few passes over large parameters as it takes.

It computes what `optax.adafactor` does without momentum. Two things differ. On a CPU, sums over a
parameter run through blocks of its rows: XLA's own store the squares of all of it first, and those
over columns take a second for 128 million elements. And the layers of a scanned model, stacked
along the first axis of each leaf, are treated one by one without being taken apart.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from promot_jax.base import trees
from promot_jax.base.trees import Tree

# Added to squares of gradients.
EPSILON = 1e-30
# A parameter's scale, its root mean square, is at least this.
SMALLEST_SCALE = 1e-3
# Parameters of at least this size in both dimensions are factored.
SMALLEST_FACTORED = 128
# Slices that are added at a time.
BRANCHES = 8
# Elements of a block, about: they stay in the cache of a core.
BLOCK = 2**20


class AdafactorState(NamedTuple):
    """Slots, each with the paths of the parameters and an axis of layers where those have one.

    Attributes:
      count: int32, steps done.
      rows, columns: running means of squared gradients `[in]` and `[out]`, `[1]` if not factored.
      full: the same of each element, `[1]` if factored.
    """

    count: jax.Array
    rows: Tree
    columns: Tree
    full: Tree


class LayerwiseTransformation(optax.GradientTransformation):
    """A transformation that knows stacked layers and updates each as if it stood alone."""


def adafactor(
    learning_rate: float | optax.Schedule,
    *,
    decay_rate: float = 0.8,
    factored: bool = True,
    scale_by_parameter: bool = True,
    clipping_threshold: float = 1.0,
    weight_decay: float | optax.Schedule = 0.0,
) -> LayerwiseTransformation:
    """Returns the transformation.

    Args:
      learning_rate: a number, or a function of the steps done.
      decay_rate: c, where the running means decay by 1 - t^-c.
      factored: whether matrices keep sums of rows and columns in place of all elements.
      scale_by_parameter: whether a step is relative to the parameter's scale.
      clipping_threshold: largest root mean square of an update before it is scaled.
      weight_decay: share of a parameter that is taken off at each step, or a function of the steps
        done.
    """

    decays = callable(weight_decay) or weight_decay > 0.0

    def init(params):
        rows, columns, full = {}, {}, {}
        for path, leaf in trees.flatten(params).items():
            lead, shape = _split(path, leaf)
            unused = jnp.zeros((*lead, 1), jnp.float32)
            rows[path] = columns[path] = unused
            full[path] = unused
            if factored and _is_factored(shape):
                rows[path] = jnp.zeros((*lead, shape[0]), jnp.float32)
                columns[path] = jnp.zeros((*lead, shape[1]), jnp.float32)
            else:
                full[path] = jnp.zeros(leaf.shape, jnp.float32)
        slots = [trees.unflatten(slot) for slot in (rows, columns, full)]
        return AdafactorState(jnp.zeros((), jnp.int32), *slots)

    def update(gradients, state, params):
        decay = 1.0 - (state.count + 1.0) ** -decay_rate
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        share = weight_decay(state.count) if callable(weight_decay) else weight_decay
        leaves, slots = trees.flatten(params), [trees.flatten(slot) for slot in state[1:]]
        updates, moved = {}, [dict(slot) for slot in slots]
        for path, gradient in trees.flatten(gradients).items():
            param = leaves[path]
            lead, shape = _split(path, param)
            # Axes of one layer's parameter.
            axes = tuple(range(len(lead), param.ndim))
            if factored and _is_factored(shape):
                for kind, mean in enumerate(_square_means(gradient)):
                    moved[kind][path] = decay * slots[kind][path] + (1.0 - decay) * mean
                rows, columns = moved[0][path], moved[1][path]
                rows = (rows / jnp.mean(rows, axis=-1, keepdims=True)) ** -0.5
                columns = columns**-0.5
                step = gradient * rows[..., None] * columns[..., None, :]
                size = jnp.sqrt(_square_mean(gradient, rows, columns))[..., None, None]
            else:
                square = jnp.square(gradient) + EPSILON
                moved[2][path] = decay * slots[2][path] + (1.0 - decay) * square
                step = gradient * moved[2][path] ** -0.5
                size = _root_mean_square(step, axes)
            step /= jnp.maximum(1.0, size / clipping_threshold)
            step *= rate
            if scale_by_parameter:
                step *= jnp.maximum(_root_mean_square(param, axes), SMALLEST_SCALE)
            updates[path] = -(step + share * param if decays else step)
        slots = [trees.unflatten(slot) for slot in moved]
        return trees.unflatten(updates), AdafactorState(state.count + 1, *slots)

    return LayerwiseTransformation(init, update)


def layer_by_layer(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns `tx` as it treats a model that is not scanned, whatever the model is.

    Where the layers of a scanned model are stacked in one array, a transformation that clips or
    scales each parameter by its own norm must see their slices. Slots keep an axis of layers.
    """
    if isinstance(tx, LayerwiseTransformation):
        return tx

    def update(gradients, state, params):
        if not trees.is_stacked(params):
            return tx.update(gradients, state, params)
        updates, state = tx.update(
            trees.unstack_layers(gradients), state, trees.unstack_layers(params)
        )
        return trees.stack_layers(updates), state

    return optax.GradientTransformation(lambda p: tx.init(trees.unstack_layers(p)), update)


def _split(path: str, leaf: jax.Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the number of stacked layers, if there are any, and the shape of one parameter."""
    layers = 1 if trees.STACKED in path.split("/") else 0
    return leaf.shape[:layers], leaf.shape[layers:]


def _is_factored(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and min(shape) >= SMALLEST_FACTORED


def _root_mean_square(values: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(values), axis=axes, keepdims=True))


def _square_means(gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns means of squares along the last axis `[..., in]` and the one before `[..., out]`."""

    def plain(gradient):
        squares = jnp.square(gradient) + EPSILON
        return jnp.mean(squares, axis=-1), jnp.mean(squares, axis=-2)

    def in_blocks(gradient):
        def fold(total, block):
            squares = jnp.square(block) + EPSILON
            return total + _column_sums(squares), jnp.mean(squares, axis=-1)

        total, rows = jax.lax.scan(fold, jnp.zeros(gradient.shape[1]), _blocks(gradient))
        return rows.reshape(-1), total / len(gradient)

    return _on_cpu(in_blocks, plain, gradient)


def _square_mean(gradient: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns the mean of squares `[...]` of a gradient times a factor a row and one a column."""

    def plain(gradient, rows, columns):
        return jnp.mean(
            jnp.square(gradient * rows[..., None] * columns[..., None, :]), axis=(-2, -1)
        )

    def in_blocks(gradient, rows, columns):
        def fold(total, part):
            block, factors = part
            return total + jnp.sum(jnp.square(block * factors[:, None] * columns)), None

        blocks = _blocks(gradient)
        parts = blocks, rows.reshape(blocks.shape[:2])
        return jax.lax.scan(fold, jnp.zeros(()), parts)[0] / gradient.size

    return _on_cpu(in_blocks, plain, gradient, rows, columns)


def _on_cpu(in_blocks: Callable, plain: Callable, gradient: jax.Array, *others: jax.Array) -> Any:
    """Calls what goes through the blocks of one matrix on a CPU, else what takes all as it is."""
    if gradient.shape[-2] % BRANCHES:
        return plain(gradient, *others)
    if gradient.ndim > 2:
        layers = in_blocks

        def in_blocks(*arrays):
            return jax.lax.map(lambda part: layers(*part), arrays)

    return jax.lax.platform_dependent(gradient, *others, cpu=in_blocks, default=plain)


def _blocks(matrix: jax.Array) -> jax.Array:
    """Returns `[in, out]` as blocks of rows `[count, in / count, out]`."""
    groups = matrix.shape[0] // BRANCHES
    counts = [count for count in range(1, groups + 1) if groups % count == 0]
    enough = (count for count in counts if matrix.size <= count * BLOCK)
    return matrix.reshape(next(enough, groups), -1, matrix.shape[1])


def _column_sums(values: jax.Array) -> jax.Array:
    """Returns the sums `[out]` of `[in, out]` as a tree of additions."""
    while values.shape[0] % BRANCHES == 0:
        groups = values.reshape(-1, BRANCHES, values.shape[1])
        values = sum(groups[:, number] for number in range(BRANCHES))
    return jnp.sum(values, axis=0)
