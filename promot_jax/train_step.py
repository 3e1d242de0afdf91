"""The pure training step, compiled once for each batch shape."""

from collections.abc import Callable

import jax
import optax

from promot_jax import partitioning, trees
from promot_jax.models import Batch, Model
from promot_jax.stages import Stage
from promot_jax.train_state import TrainState

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

    Gradients are taken with respect to `state.trainable` alone. `rng` is the stage's key: the
    dropout of a step depends on it and on the step's number only. Metrics are device scalars:
    `loss` (a mean per target token), `accuracy` (of teacher-forced tokens) and `grad_norm`.
    """
    model = model.with_dropout(stage.dropout_rate)

    def train_step(state, frozen, batch, rng):
        dropout_rng = jax.random.fold_in(rng, state.step) if stage.dropout_rate else None

        def mean_loss(trainable):
            loss = model.loss_fn(
                trees.combine(trainable, frozen),
                batch,
                dropout_rng,
                label_smoothing=stage.label_smoothing,
                z_loss=stage.z_loss,
            )
            return loss.total / loss.weight, loss

        (mean, loss), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.trainable)
        metrics = {
            "loss": mean,
            "accuracy": loss.correct / loss.weight,
            "grad_norm": optax.global_norm(gradients),
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

    step.compiled = compiled
    return step
