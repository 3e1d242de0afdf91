"""Parameters that are a moving average of those that the optimizer moves."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from promot_jax.base import values
from promot_jax.base.trees import Tree
from promot_jax.training.selections.selection import Selection, SelectionState


@dataclasses.dataclass(frozen=True)
class Average(Selection):
    """All move, to the exponential moving average of what the optimizer makes of the start.

    The optimizer goes its own way, bit for bit that of a stage without this. Its iterates are in
    the state, one copy more of what trains. The parameters are `decay` of themselves and the rest
    of the newest iterate, after each step; they are what is evaluated, kept and handed on.

    Attributes:
      decay: 0 are the iterates themselves; at 0.99 the last 100 steps have 63 % of the weight.
    """

    decay: values.Share = 0.99

    def kept(self, params: Tree) -> Tree:
        """Returns the first iterate, which is the start."""
        return jax.tree.map(jnp.copy, params)

    def masks(self, state: SelectionState, params: Tree) -> Tree:
        """See `Selection.masks`."""
        del state
        return jax.tree.map(lambda leaf: jnp.ones((1,) * leaf.ndim, bool), params)

    def place(self, state: SelectionState, params: Tree) -> Tree:
        """See `Selection.place`: at the newest iterate."""
        del params
        return state.kept

    def around(self, tx: optax.GradientTransformation) -> optax.GradientTransformation:
        """See `Selection.around`."""

        def init(params):
            return SelectionState(jnp.zeros((), jnp.int32), self.kept(params), tx.init(params))

        def update(gradients, state, params):
            updates, inner = tx.update(gradients, state.inner, state.kept)
            iterate = optax.apply_updates(state.kept, updates)
            step = jax.tree.map(lambda new, old: (1 - self.decay) * (new - old), iterate, params)
            return step, SelectionState(state.count + 1, iterate, inner)

        return optax.GradientTransformation(init, update)
