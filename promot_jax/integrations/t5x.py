"""T5X's trainer on our network: what the recipes `gin/t5x/*.gin` name. docs/t5x.md shows their use.

T5X (github.com/google-research/t5x) trains, evaluates and decodes; the network, the tasks, the soft
prompt and the reading of checkpoints are ours.

Importing this module lets gin find the files that the recipes include, and lets Python print bad
input as one line.
"""

import functools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.core import freeze, unfreeze
from t5x import gin_utils, optimizers, partitioning, train_state, utils

from promot_jax.base import trees
from promot_jax.base.trees import Tree
from promot_jax.integrations import starting_point, uncaught
from promot_jax.training.stages import PromptInit

PACKAGE = pathlib.Path(__file__).parent.parent
# In an installed package gin/ stands inside it, in a checkout beside it.
GIN_FOLDER = next(f for f in (PACKAGE / "gin", PACKAGE.parent / "gin") if f.is_dir())


class TrainOnly(optimizers.MultiOptimizer):
    """T5X's `MultiOptimizer` with one optimizer; leaves that no pattern matches are frozen.

    T5X would save None for the slots of a frozen leaf, and could not read its checkpoint then. Here
    a checkpoint has slots of the leaves that train only.
    """

    def __init__(self, trainable: Sequence[str], optimizer: optimizers.OptimizerDef):
        """Names the leaves.

        Args:
          trainable: patterns of the paths that train, see `trees.select`.
          optimizer: of these leaves.
        """
        self._trainable = tuple(trainable)
        # T5X's name of a leaf is its path behind a slash.
        chosen = traverse_util.ModelParamTraversal(lambda name, _: self._trains(name[1:]))
        super().__init__([(chosen, optimizer)])

    def init_state(self, params: Tree) -> optimizers.OptimizerState:
        """Returns the slots of the leaves that train, and None for each other leaf.

        Raises:
          UserError: a pattern matches no leaf.
        """
        trees.select(_paths(params), self._trainable)
        return super().init_state(params)

    def state_dict(self, target: Tree, state: optimizers.OptimizerState) -> Tree:
        """Returns what is saved: all parameters, and the slots of those that train."""
        saved = super().state_dict(target, state)
        slots = saved["state"]["param_states"]
        kept = {path: _at(slots, path) for path in _paths(target) if self._trains(path)}
        saved["state"]["param_states"] = trees.unflatten(kept)
        return saved

    def restore_state(
        self, opt_target: Tree, opt_state: optimizers.OptimizerState, state_dict: Tree
    ) -> tuple[Tree, optimizers.OptimizerState]:
        """Inverse of `state_dict`; the first two arguments give the structure."""
        slots = state_dict["state"]["param_states"]
        every = {
            path: _at(slots, path) if self._trains(path) else None for path in _paths(opt_target)
        }
        state = {**state_dict["state"], "param_states": trees.unflatten(every)}
        return super().restore_state(opt_target, opt_state, {**state_dict, "state": state})

    def _trains(self, path: str) -> bool:
        return any(re.fullmatch(pattern, path) for pattern in self._trainable)


def _paths(params: Tree) -> list[str]:
    return list(trees.flatten(unfreeze(params)))


def _at(tree: Tree, path: str) -> Any:
    return functools.reduce(lambda node, name: node[name], path.split("/"), tree)


class StageInitializer(utils.TrainStateInitializer):
    """Begins a stage of T5X's trainer: parameters of a checkpoint, fresh slots, step 0.

    T5X itself continues from the newest checkpoint in MODEL_DIR, if there is one. Otherwise it asks
    for a state "from scratch", which this class takes from a checkpoint of any format.
    """

    def __init__(
        self,
        optimizer_def: optimizers.OptimizerDef,
        *args: Any,
        checkpoint: str,
        model_dir: str,
        total_steps: int,
        prompt_init: PromptInit | None = None,
        **options: Any,
    ):
        """Names the starting point.

        Args:
          optimizer_def: the optimizer.
          *args: further arguments of `TrainStateInitializer`, as T5X gives them.
          checkpoint: in any format that `interop` reads.
          model_dir: where T5X keeps the checkpoints of this stage.
          total_steps: the step after which the stage ends, TRAIN_STEPS.
          prompt_init: initialises the soft prompt where the checkpoint has none; None makes that
            an error.
          **options: as `args`.

        Raises:
          UserError: a pattern of the optimizer matches no leaf; `model_dir` is relative, or has
            checkpoints of another stage or model.
        """
        super().__init__(optimizer_def, *args, **options)
        self._optimizer, self._checkpoint = optimizer_def, checkpoint
        self._total_steps, self._prompt_init = total_steps, prompt_init
        shapes = unfreeze(self.global_train_state_shape.state_dict())
        starting_point.check_continues(model_dir, shapes)

    def from_scratch(self, init_rng: jax.Array) -> train_state.FlaxOptimTrainState:
        """Returns the state at step 0.

        Raises:
          UserError: the checkpoint does not fit, or TRAIN_STEPS counts its pretraining.
        """
        starting_point.check_steps(self._checkpoint, self._total_steps)
        params = starting_point.load(
            self._checkpoint,
            _expected(self.global_train_state_shape, self._partitioner),
            prompt_init=self._prompt_init,
            rng=init_rng,
        )
        begin = self._partitioner.partition(
            self._begin,
            in_axis_resources=(self.train_state_axes.params,),
            out_axis_resources=self.train_state_axes,
            donate_argnums=(0,),
        )
        return begin(freeze(params))

    def _begin(self, params: Tree) -> train_state.FlaxOptimTrainState:
        axes = self.global_train_state_shape.params_axes
        variables = freeze({"params": params, "params_axes": axes})
        return train_state.FlaxOptimTrainState.create(self._optimizer, variables)


class AnyCheckpoint:
    """What T5X's evaluation and inference read parameters with: a checkpoint of any format.

    It stands where T5X has a checkpoint manager (`RestoreCheckpointConfig`). A soft prompt that the
    network has no place for is not read.
    """

    def __init__(
        self,
        *,
        train_state: train_state.InferenceState,
        partitioner: partitioning.BasePartitioner,
        **others: Any,
    ):
        """Keeps what is to be filled; T5X's other arguments are about saving and casting."""
        del others
        self._shapes, self._partitioner = train_state, partitioner

    def restore(self, path: str, **others: Any) -> train_state.InferenceState:
        """Returns the parameters at `path`, and the step that its name tells.

        Raises:
          UserError: the checkpoint does not fit.
        """
        del others
        params = starting_point.load(path, _expected(self._shapes, self._partitioner))
        step = jnp.asarray(starting_point.step_of(path), jnp.int32)
        return self._shapes.replace_params(freeze(params)).replace_step(step)


def _expected(state: train_state.TrainState, partitioner: partitioning.BasePartitioner) -> Tree:
    """Returns shapes and shardings of the parameters of one of T5X's states."""
    specs = trees.flatten(unfreeze(partitioner.get_mesh_axes(state).params))
    return trees.unflatten(
        {
            path: jax.ShapeDtypeStruct(
                leaf.shape,
                leaf.dtype,
                sharding=jax.sharding.NamedSharding(partitioner.mesh, specs[path]),
            )
            for path, leaf in trees.flatten(unfreeze(state.params)).items()
        }
    )


uncaught.explain_bad_input()
# Adds a folder to those that gin searches, and parses nothing.
gin_utils.parse_gin_flags([str(GIN_FOLDER)], [], [], finalize_config=False)
