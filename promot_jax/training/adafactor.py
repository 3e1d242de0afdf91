"""Adafactor (Shazeer & Stern 2018), in as few passes over large parameters as it takes.

It computes what `optax.adafactor` does without momentum. Three things differ. Squares of gradients
are never stored. Sums over columns run on a CPU as a tree of additions: XLA's own take a second for
a kernel of 128 million elements. And the layers of a scanned model, stacked along the first axis of
each leaf, are treated one by one without being taken apart.
"""

from collections.abc import Callable
from typing import NamedTuple

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
                for kind, mean in enumerate((_row_means(gradient), _column_means(gradient))):
                    moved[kind][path] = decay * slots[kind][path] + (1.0 - decay) * mean
                rows, columns = moved[0][path], moved[1][path]
                step = gradient * (rows / jnp.mean(rows, axis=-1, keepdims=True))[..., None] ** -0.5
                step *= columns[..., None, :] ** -0.5
            else:
                square = jnp.square(gradient) + EPSILON
                moved[2][path] = decay * slots[2][path] + (1.0 - decay) * square
                step = gradient * moved[2][path] ** -0.5
            step /= jnp.maximum(1.0, _root_mean_square(step, axes) / clipping_threshold)
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


def _row_means(gradient: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(gradient) + EPSILON, axis=-1)


def _column_means(gradient: jax.Array) -> jax.Array:
    def plain(gradient):
        return jnp.mean(jnp.square(gradient) + EPSILON, axis=-2)

    def tree(gradient):
        total = _add_slices(gradient, lambda part: jnp.square(part) + EPSILON)
        while total.shape[-2] % BRANCHES == 0:
            total = _add_slices(total, lambda part: part)
        return jnp.sum(total, axis=-2) / gradient.shape[-2]

    if gradient.shape[-2] % BRANCHES:
        return plain(gradient)
    return jax.lax.platform_dependent(gradient, cpu=tree, default=plain)


def _add_slices(values: jax.Array, of: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Adds up groups of `BRANCHES` neighbouring rows."""
    groups = values.reshape(*values.shape[:-2], -1, BRANCHES, values.shape[-1])
    return sum(of(groups[..., number, :]) for number in range(BRANCHES))
