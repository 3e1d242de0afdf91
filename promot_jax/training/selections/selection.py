"""What all selections share: the transformation that one stands around, and its state."""

import abc
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from promot_jax.base import trees, values
from promot_jax.base.trees import Tree


class SelectionState(NamedTuple):
    """State of a transformation and of the selection around it.

    Attributes:
      count: int32, steps done.
      kept: masks that cannot be worked out from settings and seed; no leaf where all can.
      inner: state of the transformation.
    """

    count: jax.Array
    kept: Tree
    inner: optax.OptState


@dataclasses.dataclass(frozen=True)
class Selection(abc.ABC):
    """What all selections share; a kind of its own says `masks`, and `kept` where it keeps some."""

    def __post_init__(self):
        values.check_fields(self)

    def kept(self, params: Tree) -> Tree:
        """Returns the masks that the state holds from the first step on.

        Raises:
          UserError: the selection has nothing to choose from.
        """
        self.masks(SelectionState(jnp.zeros((), jnp.int32), {}, None), params)
        return {}

    @abc.abstractmethod
    def masks(self, state: SelectionState, params: Tree) -> Tree:
        """Returns what the updates of each leaf are multiplied with in a step.

        Booleans or float32 that broadcast to the leaf: of its shape, or one for each stacked layer.
        `state` has the steps before this one, and the transformation's state after it.
        """

    def place(self, state: SelectionState, params: Tree) -> Tree:
        """Returns where gradients are taken, of the structure of `params`: there, mostly."""
        del state
        return params

    def around(self, tx: optax.GradientTransformation) -> optax.GradientTransformation:
        """Returns the transformation that moves what is selected, by the updates of `tx`."""

        def init(params):
            return SelectionState(jnp.zeros((), jnp.int32), self.kept(params), tx.init(params))

        def update(gradients, state, params):
            updates, inner = tx.update(gradients, state.inner, params)
            state = state._replace(inner=inner)
            updates = jax.tree.map(_masked, updates, self.masks(state, params))
            return updates, state._replace(count=state.count + 1)

        return optax.GradientTransformation(init, update)

    def count(self, state: SelectionState, params: Tree) -> int:
        """Returns how many elements the last step moved."""

        @jax.jit
        def counted(state, params):
            done = state._replace(count=jnp.maximum(state.count - 1, 0))
            masks = jax.tree.map(
                lambda mask, leaf: jnp.broadcast_to(mask != 0, leaf.shape),
                self.masks(done, params),
                params,
            )
            # Of a layer, because a stack may have more than can be counted in 32 bits.
            layers = trees.flatten(trees.unstack_layers(masks)).values()
            return [jnp.sum(mask, dtype=jnp.uint32) for mask in layers]

        return sum(map(int, jax.device_get(counted(state, params))))


def _masked(update: jax.Array, mask: jax.Array) -> jax.Array:
    if mask.dtype != bool:
        update, mask = (update * mask).astype(update.dtype), mask != 0
    # Only the negative zero changes no bit of what it is added to.
    return jnp.where(mask, update, jnp.asarray(-0.0, update.dtype))
