"""The pure training step, compiled once for each batch shape."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.models import Batch, Model
from promot_jax.training.stages import Stage
from promot_jax.training.train_state import TrainState

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]


def make_train_step(
    model: Model,
    stage: Stage,
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    shardings: TrainState,
) -> TrainStep:
    """Returns `(state, batch, rng) -> (state, metrics)`; `state` is donated but for frozen leaves.

    `model` is the bare one; what trains is `stage.model` of it.
    Gradients are taken with respect to `state.trainable` alone, and added up over the stage's
    microbatches. `rng` is the stage's key: the dropout of a step depends on it and on the step's
    number only. Metrics are device scalars: `loss` (a mean per target token), `accuracy` (of
    teacher-forced tokens) and `grad_norm`.
    """
    model = stage.model(model)

    def train_step(state, frozen, batch, rng):
        dropout_rng = jax.random.fold_in(rng, state.step) if stage.dropout_rate else None
        weight = jnp.sum(batch["decoder_loss_weights"].astype(jnp.float32))

        def mean_loss(trainable, part, rng):
            loss = model.loss_fn(
                trees.combine(trainable, frozen),
                part,
                rng,
                label_smoothing=stage.label_smoothing,
                z_loss=stage.z_loss,
            )
            return loss.total / weight, loss.correct / weight

        differentiate = jax.value_and_grad(mean_loss, has_aux=True)
        (loss, accuracy), gradients = _accumulate(
            lambda part, rng: differentiate(state.trainable, part, rng),
            batch,
            dropout_rng,
            stage.microbatches,
        )
        metrics = {
            "loss": loss,
            "accuracy": accuracy,
            "grad_norm": jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradients))),
        }
        return state.apply_gradients(gradients, tx), metrics

    compiled = jax.jit(
        train_step,
        donate_argnums=0,
        out_shardings=(shardings.replace(frozen={}), partitioning.replicated(mesh)),
    )

    def step(state, batch, rng):
        with partitioning.activate(mesh):
            moved, metrics = compiled(state.replace(frozen={}), state.frozen, batch, rng)
        return moved.replace(frozen=state.frozen), metrics

    def lower(state, batch, rng):
        with partitioning.activate(mesh):
            return compiled.lower(state.replace(frozen={}), state.frozen, batch, rng)

    step.compiled, step.lower = compiled, lower
    return step


def _accumulate(measure, batch, rng, microbatches):
    """Adds up what `measure(part, rng)` returns over equal parts of a batch, one after the other.

    Each part takes every M-th row, so that it is divided over the devices as the batch is.
    """
    if microbatches == 1:
        return measure(batch, rng)
    rows = len(batch["decoder_loss_weights"])
    if rows % microbatches:
        raise UserError(
            f"a batch of {rows} rows cannot be divided into {microbatches} microbatches; choose a "
            "divisor"
        )

    def part(number):
        return {
            name: array.reshape(rows // microbatches, microbatches, *array.shape[1:])[:, number]
            for name, array in batch.items()
        }

    def add(total, number):
        own_rng = None if rng is None else jax.random.fold_in(rng, number)
        return jax.tree.map(jnp.add, total, measure(part(number), own_rng)), None

    shapes = jax.eval_shape(measure, part(0), rng)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, jnp.arange(microbatches))[0]
