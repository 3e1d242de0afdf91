"""The pure training step, compiled once for each batch shape."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.models import Batch, Model, attached, decoding, losses
from promot_jax.training import objectives, teaching
from promot_jax.training.objectives import Tokens
from promot_jax.training.stages import Stage
from promot_jax.training.train_state import TrainState

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]

# Keys of what objectives draw are numbered from here on, above those of microbatches.
READING, WRITING, BESIDE = 2**31, 2**31 + 2**16, 2**31 + 2**17


def make_train_step(
    model: Model,
    stage: Stage,
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    shardings: TrainState,
) -> TrainStep:
    """Returns `(state, batch, rng) -> (state, metrics)`; `state` is donated but for frozen leaves.

    `model` is the bare one; what trains is `stage.model` of it.
    Gradients are taken with respect to `state.trainable` alone, at `Stage.place`, and added up over
    the stage's microbatches. `rng` is the stage's key: the dropout of a step depends on it and on
    the step's number only. Metrics are device scalars: `loss` (the cross-entropy, a mean per target
    token), `accuracy` (of teacher-forced tokens) and `grad_norm`; with objectives those of
    `objectives.total`, too.
    """
    bare, model = model, stage.model(model)

    def train_step(state, frozen, reference, batch, rng):
        step_rng = jax.random.fold_in(rng, state.step)
        place = stage.place(state.opt_state, state.trainable)
        batch = _as_written(stage, model, trees.combine(place, frozen), batch, step_rng)
        start = stage.start(reference, frozen, bare)
        teacher = teaching.teacher(stage, reference, frozen, bare)
        count = _count(batch)
        counts = {number: _count(others) for number, others in batch.get("beside", {}).items()}

        def mean_loss(trainable, part, rng):
            read, part = part
            scored = model.scored(
                trees.combine(trainable, frozen),
                read,
                rng,
                label_smoothing=stage.label_smoothing,
                z_loss=stage.z_loss,
            )
            loss = losses.summed(scored.losses, part["decoder_loss_weights"])
            metrics = {"loss": loss.total / count, "accuracy": loss.correct / count}
            if not stage.objective:
                return metrics["loss"], metrics
            tokens = Tokens(
                part,
                scored,
                start=lambda: start.scored(attached.bare_batch(part)),
                teacher=lambda: teacher.scored(teaching.as_teacher_reads(stage, part)),
            )
            beside = _beside(stage, bare, trainable, frozen, start, part, counts, rng)
            total, further = objectives.total(
                stage.objective, tokens, trainable, reference, count, stage.microbatches, beside
            )
            return total, metrics | further

        differentiate = jax.value_and_grad(mean_loss, has_aux=True)
        (_, metrics), gradients = _accumulate(
            lambda part, rng: differentiate(place, part, rng),
            (_as_read(stage, batch, state.step, step_rng), batch),
            step_rng if stage.dropout_rate else None,
            stage.microbatches,
        )
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradients)))
        return state.apply_gradients(gradients, tx), metrics | {"grad_norm": norm}

    compiled = jax.jit(
        train_step,
        donate_argnums=0,
        out_shardings=(shardings.moving, partitioning.replicated(mesh)),
    )

    def step(state, batch, rng):
        with partitioning.activate(mesh):
            moved, metrics = compiled(state.moving, state.frozen, state.reference, batch, rng)
        return moved.replace(frozen=state.frozen, reference=state.reference), metrics

    step.compiled = compiled
    return step


def _count(batch) -> jax.Array:
    return jnp.sum(batch["decoder_loss_weights"].astype(jnp.float32))


def _beside(stage, bare, trainable, frozen, start, batch, counts, rng):
    """Returns the tokens of rows that objectives have of their own, and their count, by number."""
    model, found = stage.model_of_others(bare, trainable), {}
    for number, others in batch.get("beside", {}).items():
        own_rng = None if rng is None else jax.random.fold_in(rng, BESIDE + int(number))
        scored = model.scored(trees.combine(trainable, frozen), others, own_rng)
        tokens = Tokens(others, scored, start=functools.partial(start.scored, others))
        found[int(number)] = tokens, counts[number]
    return found


def _as_written(stage, model, params, batch, rng):
    """Returns a batch after what objectives write into it, such as answers of the model."""
    for number, objective in enumerate(stage.objective):
        own_rng = jax.random.fold_in(rng, WRITING + number)
        sample = functools.partial(_sampled, stage, model, params, batch)
        batch = objective.written(batch, sample, own_rng)
    return batch


def _sampled(stage, model, params, batch, temperature, rng):
    """Returns answers that the model draws to the rows of a batch, and their tokens' places.

    Both are int32 `[B, U]`; an answer ends with its end-of-sequence token, or is cut. Nothing of
    it is random but the draws: there is no dropout.
    """
    names = ("encoder_input_tokens", "encoder_segment_ids", "prompt_ids")
    read = teaching.as_student_reads(stage, batch)
    asked = {name: array for name, array in read.items() if name in names}
    width = batch["decoder_target_tokens"].shape[1]

    def of_part(number):
        part = microbatch(asked, stage.microbatches, number)
        own_rng = jax.random.fold_in(rng, number)
        return model.predict_batch(params, part, decoding.Sample(temperature), width, own_rng)

    # Part by part, as gradients are taken: no more answers are in memory at once.
    found = jax.lax.map(of_part, jnp.arange(stage.microbatches))
    tokens = jnp.swapaxes(found, 0, 1).reshape(-1, width)
    ends = jnp.isin(tokens, jnp.array(model.ends)).astype(jnp.int32)
    held = (jnp.cumsum(ends, axis=1) - ends == 0).astype(jnp.int32)
    return tokens * held, held


def _as_read(stage, batch, step, rng):
    """Returns a batch as the model reads it, after what objectives do to it."""
    batch = teaching.as_student_reads(stage, batch)
    for number, objective in enumerate(stage.objective):
        own_rng = jax.random.fold_in(rng, READING + number)
        batch = objective.read(batch, step / stage.steps, own_rng)
    return batch


def _accumulate(measure, batch, rng, microbatches):
    """Adds up what `measure(part, rng)` returns over equal parts of a batch, one after the other.

    Each part takes every M-th row, so that it is divided over the devices as the batch is.
    """
    if microbatches == 1:
        return measure(batch, rng)
    part = functools.partial(microbatch, batch, microbatches)

    def add(total, number):
        own_rng = None if rng is None else jax.random.fold_in(rng, number)
        return jax.tree.map(jnp.add, total, measure(part(number), own_rng)), None

    shapes = jax.eval_shape(measure, part(0), rng)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, jnp.arange(microbatches))[0]


def microbatch(batch: Tree, microbatches: int, number: int | jax.Array) -> Tree:
    """Returns a part of a batch, every M-th row from one on.

    Args:
      batch: arrays [B, ...].
      microbatches: M.
      number: of the part.

    Raises:
      UserError: M does not divide B.
    """

    def cut(array):
        rows = len(array)
        if rows % microbatches:
            raise UserError(
                f"a batch of {rows} rows cannot be divided into {microbatches} microbatches; "
                "choose a divisor"
            )
        return array.reshape(rows // microbatches, microbatches, *array.shape[1:])[:, number]

    return jax.tree.map(cut, batch)
