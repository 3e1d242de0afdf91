"""The partitioned training state: freezing is a property of the state, not of the optimizer."""

import functools
from collections.abc import Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import optax

from promot_jax.base import partitioning, trees
from promot_jax.base.trees import Tree
from promot_jax.models import Model
from promot_jax.training import teaching
from promot_jax.training.objectives import Reference
from promot_jax.training.stages import Stage


@flax.struct.dataclass
class TrainState:
    """State of one stage.

    Attributes:
      step: int32 scalar, optimizer steps done in this stage.
      trainable: leaves that train; gradients and optimizer slots exist for these only.
      frozen: all other leaves.
      opt_state: optax state over `trainable`.
      reference: what objectives compare with; no step changes it, and no checkpoint holds it.
    """

    step: jax.Array
    trainable: Tree
    frozen: Tree
    opt_state: optax.OptState
    reference: Reference = flax.struct.field(default_factory=Reference)

    @property
    def params(self) -> Tree:
        """All leaves in one tree."""
        return trees.combine(self.trainable, self.frozen)

    @property
    def moving(self) -> "TrainState":
        """The state without the leaves that no step changes."""
        return self.replace(frozen={}, reference=Reference())

    @property
    def saved(self) -> Tree:
        """What a stage checkpoint holds: everything that this stage can change, layer by layer.

        See `trees.layers_on_host`: it is to be written or copied before the next step.
        """
        return self._split(trees.layers_on_host)

    @property
    def saved_shapes(self) -> Tree:
        """Shapes, dtypes and shardings of `saved`."""
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
            self.moving,
        )
        return shapes._split(trees.unstack_layers)

    def _split(self, unstack: Callable[[Tree], Tree]) -> Tree:
        return {
            "step": self.step,
            "trainable": unstack(self.trainable),
            "opt_state": _of_each_tree(unstack, self.opt_state),
        }

    def restored(self, saved: Tree) -> "TrainState":
        """Returns the state that `saved` was of; its frozen leaves are those of this one.

        Arrays of `saved` that are stacked are deleted.
        """
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.moving)

        def stack(shardings, tree):
            if not trees.is_stacked(shardings):
                return tree
            return trees.stack_and_release(tree, shardings)

        return self.replace(
            step=saved["step"],
            trainable=stack(shardings.trainable, saved["trainable"]),
            opt_state=_of_each_tree(stack, shardings.opt_state, saved["opt_state"]),
        )

    def apply_gradients(self, gradients: Tree, tx: optax.GradientTransformation) -> "TrainState":
        """Returns the state one step later; `gradients` has the structure of `trainable`."""
        updates, opt_state = tx.update(gradients, self.opt_state, self.trainable)
        trainable = optax.apply_updates(self.trainable, updates)
        return self.replace(step=self.step + 1, trainable=trainable, opt_state=opt_state)


def begin(
    params: Tree,
    patterns: Sequence[str],
    tx: optax.GradientTransformation,
    frozen_dtype: str | None = None,
) -> TrainState:
    """Begins a stage: partitions `params` by `patterns`, with fresh slots and step 0.

    The change from one stage to the next is `begin(previous.params, patterns, tx)`.

    Args:
      params: all leaves.
      patterns: of those that train.
      tx: the optimizer.
      frozen_dtype: what frozen leaves are kept in, None for what they are.

    Raises:
      UserError: a pattern matches no leaf.
    """
    trainable, frozen = trees.partition(params, patterns)
    frozen = cast(frozen, frozen_dtype)
    return TrainState(jnp.zeros((), jnp.int32), trainable, frozen, tx.init(trainable))


def cast(tree: Tree, dtype: str | None) -> Tree:
    """Returns a tree whose floating-point leaves have a dtype; None leaves them as they are."""
    if dtype is None:
        return tree
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def refer(stage: Stage, leaves: Tree) -> Reference:
    """Returns a copy of what a stage keeps of the model that it starts from, nothing measured yet.

    Args:
      stage: the stage.
      leaves: what `Stage.reference` returns.
    """
    leaves = cast(jax.tree.map(jnp.copy, leaves), stage.reference_dtype)
    return Reference(leaves, tuple(each.unmeasured(leaves) for each in stage.objective))


def _of_each_tree(function, *states):
    """Applies a function to the parameter trees inside optimizer states, and keeps the rest."""

    def apply(first, *others):
        return function(first, *others) if isinstance(first, dict) else (first, *others)[-1]

    return jax.tree.map(apply, *states, is_leaf=lambda node: isinstance(node, dict))


def state_sharding(mesh: jax.sharding.Mesh, axes: Tree, state: TrainState) -> TrainState:
    """Returns the sharding of each leaf of `state` (arrays or shapes).

    An optimizer slot of its parameter's shape is sharded like it, and so is what an objective
    measured; factored slots, which are vectors, and counters are replicated.
    """
    trainable = partitioning.params_sharding(mesh, axes, state.trainable)
    shapes = {path: leaf.shape for path, leaf in trees.flatten(state.trainable).items()}
    shardings = trees.flatten(trainable)

    def slot(key_path, leaf):
        path = "/".join(k.key for k in key_path if isinstance(k, jax.tree_util.DictKey))
        same = path in shapes and shapes[path] == leaf.shape
        return shardings[path] if same else partitioning.replicated(mesh)

    return TrainState(
        step=partitioning.replicated(mesh),
        trainable=trainable,
        frozen=partitioning.params_sharding(mesh, axes, state.frozen),
        opt_state=jax.tree_util.tree_map_with_path(slot, state.opt_state),
        reference=jax.tree_util.tree_map_with_path(slot, state.reference),
    )


def abstract_state(stage: Stage, model: Model, mesh: jax.sharding.Mesh) -> TrainState:
    """Returns shapes and shardings of the state at step 0 of a stage, without memory.

    Args:
      stage: what to train.
      model: bare model.
      mesh: devices, which need not be here.
    """
    shapes, _ = stage.whole(model).shapes_and_axes()
    return _abstract(stage, shapes, model, mesh)


def _abstract(stage, params, model, mesh) -> TrainState:
    tx = stage.transformation()
    _, axes = stage.whole(model).shapes_and_axes()
    shapes = jax.eval_shape(
        lambda params: begin(params, stage.trainable, tx, stage.frozen_dtype), params
    )
    teaching.check(stage, model)
    reference = jax.eval_shape(lambda leaves: refer(stage, leaves), stage.reference(params, model))
    shapes = shapes.replace(reference=reference)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_sharding(mesh, axes, shapes),
    )


def sharded_state(stage: Stage, params: Tree, model: Model, mesh: jax.sharding.Mesh) -> TrainState:
    """Returns the state at step 0 of a stage, each leaf placed by its logical axes.

    Leaves that are in their place already are those of `params` themselves, also those that train:
    the first training step deletes them. Frozen ones are others where the stage keeps them in
    another dtype.
    """
    tx = stage.transformation()
    abstract = _abstract(stage, params, model, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    trainable, frozen = trees.partition(params, stage.trainable)
    trainable = jax.device_put(trainable, shardings.trainable)
    frozen = jax.device_put(frozen, shardings.frozen)

    def begun(trainable):
        return begin(trainable, (".*",), tx).replace(trainable={})

    begun = jax.jit(begun, out_shardings=shardings.moving.replace(trainable={}))
    frozen = cast(frozen, stage.frozen_dtype)
    copied = jax.jit(functools.partial(refer, stage), out_shardings=shardings.reference)
    reference = copied(stage.reference(trees.combine(trainable, frozen), model))
    return begun(trainable).replace(trainable=trainable, frozen=frozen, reference=reference)
