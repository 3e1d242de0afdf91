"""What objectives measure with the model that a stage started from, before its first step.

Nothing of it is written down: the reference and the first batches are the same whenever the stage
is resumed, so it is measured again.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

import jax

from promot_jax.base import partitioning
from promot_jax.models import Batch, Model
from promot_jax.training.objectives import Objective
from promot_jax.training.stages import Stage
from promot_jax.training.train_state import TrainState
from promot_jax.training.train_step import microbatch

# Mixture -> its batches from the first on, placed, with nothing attached.
Read = Callable[[str], contextlib.AbstractContextManager[Iterator[Batch]]]


def with_measurements(
    stage: Stage, state: TrainState, model: Model, mesh: jax.sharding.Mesh, seed: int, read: Read
) -> TrainState:
    """Returns the state with what the objectives of a stage measure of its start.

    Args:
      stage: the stage.
      state: its state, of whatever step.
      model: bare model.
      mesh: devices.
      seed: decides what objectives draw.
      read: see `Read`.
    """
    start = stage.start(state.reference, state.frozen, model)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state.reference)

    def measure(objective: Objective, leaves, frozen, batch, part, rng):
        there = type(start)(start.model, leaves, frozen)
        return objective.measure(there, microbatch(batch, stage.microbatches, part), rng)

    def of(objective, number):
        if not objective.measures:
            return state.reference.measured[number]
        one = jax.jit(functools.partial(measure, objective))
        key = jax.random.fold_in(jax.random.key(seed), number)
        found = []
        with read(objective.mixture or stage.mixture) as batches:
            for _, batch in zip(range(objective.batches), batches, strict=False):
                for part in range(stage.microbatches):
                    own_key = jax.random.fold_in(key, len(found))
                    found.append(one(start.leaves, start.frozen, batch, part, own_key))
        settle = jax.jit(objective.settle, out_shardings=shardings.measured[number])
        return settle(found)

    with partitioning.activate(mesh):
        measured = tuple(of(each, number) for number, each in enumerate(stage.objective))
    return state.replace(reference=state.reference.replace(measured=measured))
