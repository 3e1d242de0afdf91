"""The programs of an experiment: a training step for each stage, a search for its evaluation."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from promot_jax.base import partitioning
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.data import batching, packing
from promot_jax.experiment.evaluation import EvalTask
from promot_jax.experiment.experiment import Experiment
from promot_jax.models.attached import BARE, Attached
from promot_jax.training import train_state
from promot_jax.training.stages import Method, Stage
from promot_jax.training.train_step import make_train_step


@dataclasses.dataclass(frozen=True)
class Held:
    """Bytes that one device holds between two runs of a program."""

    trainable: float
    frozen: float
    slots: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.trainable + self.frozen + self.slots


@dataclasses.dataclass(frozen=True)
class Program:
    """What one compiled function does.

    Attributes:
      name: folder of the stage, or the task that is decoded.
      users: methods that run it.
      rows: B.
      inputs, targets: T and U.
      microbatches: parts of the batch that run one after the other.
      trace: given a mesh, returns the traced function and what a device holds for it.
    """

    name: str
    users: tuple[str, ...]
    rows: int
    inputs: int
    targets: int
    microbatches: int
    trace: Callable[[jax.sharding.Mesh], tuple[Any, Held]]


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Stands in for a vocabulary whose file need not be here: of it, programs ask this only."""

    eos_id: int = 1


def training(
    experiment: Experiment,
    methods: Sequence[Method],
    stage: str | None = None,
    every_bucket: bool = False,
    microbatches: int | None = None,
) -> list[Program]:
    """Returns the training steps of an experiment, each once.

    Stages that differ in data, number of steps or initial prompt only are one program.

    Args:
      experiment: the experiment.
      methods: those of its methods that count.
      stage: folder of a stage, or name of several; None takes all.
      every_bucket: whether the length buckets count, too, or the longest rows only.
      microbatches: in place of each stage's own.

    Raises:
      UserError: no stage has this name.
    """
    found: dict[str, tuple[Stage, list[str]]] = {}
    known = dict.fromkeys(folder for method in methods for folder in method.folders)
    for method in methods:
        for folder, each in zip(method.folders, method.stages, strict=True):
            if stage not in (None, folder) and (stage in known or stage != each.name):
                continue
            bare = _what_is_compiled(each)
            name = next((n for n, (s, _) in found.items() if _what_is_compiled(s) == bare), folder)
            users = found.setdefault(name, (each, []))[1]
            if method.name not in users:
                users.append(method.name)
    if not found:
        names = ", ".join(known) or "none, choose other methods"
        raise UserError(f"--stage {stage!r} is no stage of these methods; they have {names}")
    if microbatches is not None:
        found = {
            name: (dataclasses.replace(each, microbatches=microbatches), users)
            for name, (each, users) in found.items()
        }
    return [
        _training_step(experiment, name, each, tuple(users), shape)
        for name, (each, users) in found.items()
        for shape in _shapes(each, every_bucket)
    ]


def _what_is_compiled(stage: Stage) -> Stage:
    """Returns the stage without what its step does not depend on."""
    return dataclasses.replace(
        stage,
        name="any",
        mixture="any",
        steps=1,
        eval_period=1,
        follow_unseen=False,
        prompt_init=None,
    )


def _shapes(stage: Stage, every_bucket: bool) -> list[tuple[int, int, int]]:
    """Returns (rows, inputs, targets) of a stage's batches, the longest last."""
    all_lengths = [stage.task_feature_lengths]
    if stage.replay and stage.replay.task_feature_lengths:
        all_lengths.append(stage.replay.task_feature_lengths)
    longest = tuple(max(own[side] for own in all_lengths) for side in ("inputs", "targets"))
    buckets = [tuple(map(min, bucket, longest)) for bucket in stage.batches.buckets]
    chosen = [*dict.fromkeys([*buckets, longest])] if every_bucket else [longest]
    return [(_rows(stage.batches, *lengths), *lengths) for lengths in chosen]


def _rows(batches: batching.Batches, inputs: int, targets: int) -> int:
    if isinstance(batches, batching.TokenBatches):
        multiple = batches.multiple
        return max(batches.tokens // (inputs + targets) // multiple, 1) * multiple
    return batches.size


def _training_step(experiment, name, stage, users, shape) -> Program:
    rows, inputs, targets = shape

    def trace(mesh):
        bare = dataclasses.replace(experiment.model, vocabulary=Tokens())
        state = train_state.abstract_state(stage, bare, mesh)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        tx = stage.transformation()
        step = make_train_step(bare, stage, tx, mesh, shardings)
        placed = partitioning.divisible(mesh, rows, stage.microbatches)
        batch = _batch(mesh, placed, inputs, targets, bool(stage.prompts))
        batch |= _for_objectives(mesh, stage, batch)
        with partitioning.activate(mesh):
            traced = step.compiled.trace(
                state.moving, state.frozen, state.reference, batch, _abstract_key(mesh)
            )
        held = Held(
            trainable=_held(state.trainable),
            frozen=_held(state.frozen) + _held(state.reference),
            slots=_held(state.opt_state),
        )
        return traced, held

    return Program(name, users, rows, inputs, targets, stage.microbatches, trace)


def decoding(experiment: Experiment, methods: Sequence[Method]) -> list[Program]:
    """Returns the evaluation's searches that have most to do.

    They are the longest target with a prompt attached, as its last stage attaches it, and the
    longest unseen task without any.
    """

    def longest(tasks):
        return max(tasks, key=lambda task: sum(task.task_feature_lengths.values()), default=None)

    programs = []
    if target := longest(experiment.targets):
        stages = [method.stages[-1] for method in methods if method.stages]
        prompted = next((stage for stage in stages if stage.prompts), None)
        attached = Attached(prompted.prompts[0]) if prompted else BARE
        programs.append(_search(experiment, target, attached, prompted))
    if task := longest(experiment.tasks):
        programs.append(_search(experiment, task, BARE, None))
    return programs


def _search(
    experiment: Experiment, task: EvalTask, attached: Attached, stage: Stage | None
) -> Program:
    rows = experiment.eval_batch_size
    inputs, targets = (task.task_feature_lengths[name] for name in ("inputs", "targets"))
    model = dataclasses.replace(experiment.model, vocabulary=Tokens())
    if attached.prompt is not None:
        model = model.with_prompts({attached.prompt: stage.prompt_length}, stage.prompt_kind)

    def predict(params, batch, rng):
        return model.predict_batch(params, batch, experiment.decoder, targets, rng)

    def trace(mesh):
        params = _abstract_params(model, mesh)
        batch = _batch(
            mesh, partitioning.divisible(mesh, rows), inputs, None, attached.prompt is not None
        )
        jitted = jax.jit(predict, out_shardings=partitioning.replicated(mesh))
        with partitioning.activate(mesh):
            traced = jitted.trace(params, batch, _abstract_key(mesh))
        return traced, Held(0.0, _held(params), 0.0)

    return Program(f"decode {task.name}", (), rows, inputs, targets, 1, trace)


def _abstract_params(model, mesh) -> Tree:
    shapes, axes = model.shapes_and_axes()
    shardings = partitioning.params_sharding(mesh, axes, shapes)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def _for_objectives(mesh, stage, batch) -> dict[str, Any]:
    """Returns the shapes of what objectives of a stage need beside its batch."""
    needed, found = {}, {}
    if any(objective.token_weights is not None for objective in stage.objective):
        shape = batch["decoder_loss_weights"]
        needed[packing.SCALES] = jax.ShapeDtypeStruct(
            shape.shape, jnp.float32, sharding=shape.sharding
        )
    for number, objective in enumerate(stage.objective):
        if objective.rows is not None:
            own = stage.beside(objective)
            placed = partitioning.divisible(mesh, objective.size, stage.microbatches)
            lengths = [own.task_feature_lengths[side] for side in ("inputs", "targets")]
            found[str(number)] = _batch(mesh, placed, *lengths, False)
    return needed | ({"beside": found} if found else {})


def _batch(mesh, rows, inputs, targets, prompted) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch as `data` makes it; without targets if these are None."""
    sharding = partitioning.rows_sharding(mesh)
    lengths = {"encoder_input_tokens": inputs, "encoder_segment_ids": inputs}
    if targets is not None:
        names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights")
        lengths |= dict.fromkeys(names, targets)
    shapes = {name: (rows, length) for name, length in lengths.items()}
    if prompted:
        shapes["prompt_ids"] = (rows,)
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)
        for name, shape in shapes.items()
    }


def _abstract_key(mesh) -> jax.ShapeDtypeStruct:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=partitioning.replicated(mesh))


def _held(tree: Tree) -> float:
    """Bytes of a tree of shapes on each device."""
    return float(
        sum(
            jnp.dtype(leaf.dtype).itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
            for leaf in jax.tree.leaves(tree)
        )
    )
