"""The partitioned training state: freezing is a property of the state, not of the optimizer."""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import optax

from promot_jax import trees
from promot_jax.trees import Tree


@flax.struct.dataclass
class TrainState:
    """State of one stage.

    Attributes:
      step: int32 scalar, optimizer steps done in this stage.
      trainable: leaves that train; gradients and optimizer slots exist for these only.
      frozen: all other leaves.
      opt_state: optax state over `trainable`.
    """

    step: jax.Array
    trainable: Tree
    frozen: Tree
    opt_state: optax.OptState

    @property
    def params(self) -> Tree:
        """All leaves in one tree."""
        return trees.combine(self.trainable, self.frozen)

    @property
    def saved(self) -> Tree:
        """What a stage checkpoint holds: everything that this stage can change, layer by layer."""
        return {
            "step": self.step,
            "trainable": trees.unstack_layers(self.trainable),
            "opt_state": self.opt_state,
        }

    def restored(self, saved: Tree) -> "TrainState":
        """Returns the state that `saved` was of; its frozen leaves are those of this one."""
        if trees.is_stacked(self.trainable):
            shardings = jax.tree.map(lambda leaf: leaf.sharding, self.trainable)
            stack = jax.jit(trees.stack_layers, out_shardings=shardings)
            saved = saved | {"trainable": stack(saved["trainable"])}
        return self.replace(**saved)

    def apply_gradients(self, gradients: Tree, tx: optax.GradientTransformation) -> "TrainState":
        """Returns the state one step later; `gradients` has the structure of `trainable`."""
        updates, opt_state = tx.update(gradients, self.opt_state, self.trainable)
        trainable = optax.apply_updates(self.trainable, updates)
        return self.replace(step=self.step + 1, trainable=trainable, opt_state=opt_state)


def begin(params: Tree, patterns: Sequence[str], tx: optax.GradientTransformation) -> TrainState:
    """Begins a stage: partitions `params` by `patterns`, with fresh slots and step 0.

    The change from one stage to the next is `begin(previous.params, patterns, tx)`.

    Raises:
      UserError: a pattern matches no leaf.
    """
    trainable, frozen = trees.partition(params, patterns)
    return TrainState(jnp.zeros((), jnp.int32), trainable, frozen, tx.init(trainable))
