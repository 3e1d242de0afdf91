"""Prompts that stay near the exemplars that they began as (CPT, Blau et al. 2024)."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.base.values import Positive
from promot_jax.training.selections.selection import Selection, SelectionState


@dataclasses.dataclass(frozen=True)
class NearStart(Selection):
    """Rows of a prompt move within a ball around what they began as; labels do not move.

    After each step the distance of a row of H numbers is at most its epsilon times sqrt(H / 2048).
    The optimizer sees the distances in place of the rows, so weight decay pulls to the start.

    Attributes:
      input_epsilon: of tokens of inputs.
      format_epsilon: of those of templates.
      kinds: of the rows, see `exemplars`; None, before they are read, lets all move.
    """

    input_epsilon: Positive = 0.1
    format_epsilon: Positive = 0.1
    kinds: Sequence[int] | None = None

    def kept(self, params: Tree) -> Tree:
        """Returns what the rows began as.

        Raises:
          UserError: something else trains than prompts of as many rows as there are kinds.
        """
        for path, leaf in trees.flatten(params).items():
            match = trees.PROMPT.fullmatch(path)
            wanted = leaf.shape[0] if self.kinds is None else len(self.kinds)
            if not match or match[3] != "prompt" or leaf.shape[0] != wanted:
                raise UserError(
                    f"selections.NearStart keeps prompts near their exemplars, and {path} "
                    f"{leaf.shape} is none of {wanted} rows; train the prompt alone"
                )
        return jax.tree.map(jnp.copy, params)

    def masks(self, state: SelectionState, params: Tree) -> Tree:
        """See `Selection.masks`."""
        del state
        return jax.tree.map(lambda leaf: self._epsilons(leaf) > 0, params)

    def _epsilons(self, leaf: jax.Array) -> jax.Array:
        """Returns how far each row may go, float32 `[P, 1]`; 0 for a label."""
        if self.kinds is None:
            return jnp.full((len(leaf), 1), jnp.inf)
        # By what is left of a kind: a label, an input's template, an input, an output's template.
        by_kind = np.array([0.0, self.format_epsilon, self.input_epsilon, self.format_epsilon])
        found = by_kind[np.asarray(self.kinds) % 4] * np.sqrt(leaf.shape[1] / 2048)
        return jnp.asarray(found[:, None], jnp.float32)

    def around(self, tx: optax.GradientTransformation) -> optax.GradientTransformation:
        """See `Selection.around`."""

        def init(params):
            inner = tx.init(jax.tree.map(jnp.zeros_like, params))
            return SelectionState(jnp.zeros((), jnp.int32), self.kept(params), inner)

        def within(epsilon, distance):
            norms = jnp.linalg.norm(distance, axis=1, keepdims=True)
            return jnp.where(norms > epsilon, distance * (epsilon / norms), distance)

        def update(gradients, state, params):
            epsilons = jax.tree.map(self._epsilons, params)
            distances = jax.tree.map(jnp.subtract, params, state.kept)
            gradients = jax.tree.map(lambda e, g: jnp.where(e > 0, g, 0.0), epsilons, gradients)
            updates, inner = tx.update(gradients, state.inner, distances)
            moved = jax.tree.map(within, epsilons, jax.tree.map(jnp.add, distances, updates))
            updates = jax.tree.map(
                lambda start, moved, leaf: start + moved - leaf, state.kept, moved, params
            )
            return updates, state._replace(count=state.count + 1, inner=inner)

        return optax.GradientTransformation(init, update)
