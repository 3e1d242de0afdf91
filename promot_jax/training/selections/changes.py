"""Selections by what training does: where most has changed, or where momentum is largest."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from promot_jax.base import trees, values
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.training.selections import layers, top_k
from promot_jax.training.selections.selection import Selection, SelectionState


@dataclasses.dataclass(frozen=True)
class MostChanged(Selection):
    """Composable sparse fine-tuning (Ansell et al. 2022): the entries that changed most before.

    The stage before it trains everything. This one begins where that one began, and moves the
    entries that changed most there, of all its leaves together; of equal ones the first.

    Attributes:
      share: of the elements of all leaves that train.
    """

    share: values.Probability = 0.01

    def kept(self, params: Tree) -> Tree:
        """See `Selection.kept`: nothing moves before `chosen` says what."""
        self._number(params)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), params)

    def masks(self, state: SelectionState, params: Tree) -> Tree:
        """See `Selection.masks`."""
        return state.kept

    def chosen(self, state: SelectionState, begun: Tree, ended: Tree) -> SelectionState:
        """Returns the state with the masks of what changed most between two trees of its leaves."""
        kept = top_k.most_changed(begun, ended, self._number(begun))
        return state._replace(kept=kept)

    def _number(self, params: Tree) -> int:
        total = trees.count(params)
        if (number := int(self.share * total)) < 1:
            raise UserError(
                f"selections.MostChanged.share = {self.share} is none of {total} elements; give "
                "more"
            )
        return number


@dataclasses.dataclass(frozen=True)
class MoFO(Selection):
    """Momentum-filtered optimizer (arXiv 2407.20999): entries with the largest first moment move.

    Which ones is decided in each step, for each matrix by itself; vectors move whole. Unlike the
    authors' code, weight decay spares what does not move.

    Attributes:
      share: of the entries of each matrix, rounded down; of entries as large as the last, all.
    """

    share: values.Probability = 0.1

    def around(self, tx: optax.GradientTransformation) -> optax.GradientTransformation:
        """See `Selection.around`.

        Raises:
          UserError: the optimizer keeps no first moment.
        """
        _first_moment(jax.eval_shape(tx.init, {"leaf": jax.ShapeDtypeStruct((1, 1), jnp.float32)}))
        return super().around(tx)

    def kept(self, params: Tree) -> Tree:
        """See `Selection.kept`."""
        if not any(
            len(layers.shape(path, leaf)) > 1 for path, leaf in trees.flatten(params).items()
        ):
            raise UserError("selections.MoFO: no matrix trains, so it would select nothing")
        return {}

    def masks(self, state: SelectionState, params: Tree) -> Tree:
        """See `Selection.masks`."""
        moment = _first_moment(state.inner)
        # Some optimizers are given the layers one by one.
        if trees.is_stacked(params) and not trees.is_stacked(moment):
            moment = trees.stack_layers(moment)
        found = {}
        for path, leaf in trees.flatten(moment).items():
            if len(shape := layers.shape(path, leaf)) < 2:
                found[path] = np.ones(1, bool)
                continue
            number = max(1, int(self.share * math.prod(shape)))

            def mask(layer, number=number):
                return layer >= top_k.kth_largest(layer, number)

            stack = top_k.magnitudes(leaf).reshape(-1, *shape)
            found[path] = jax.vmap(mask)(stack).reshape(leaf.shape)
        return trees.unflatten(found)


def _first_moment(state: Any) -> Tree:
    found = [moment for _, moment in optax.tree_utils.tree_get_all_with_path(state, "mu")]
    if len(found) != 1:
        raise UserError(
            "selections.MoFO goes by the first moment, which this optimizer does not keep; choose "
            "one that does, such as OPTIMIZER = 'adamw' (--optimizer adamw)"
        )
    return found[0]
