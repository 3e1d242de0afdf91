"""T5X's own training step, network and Adafactor as a contender, where T5X is installed."""

import functools

import jax
import jax.numpy as jnp
import seqio
from t5x import adafactor, partitioning, train_state, trainer
from t5x import models as t5x_models
from t5x.examples.t5 import network

from benchmarks import shapes
from benchmarks.shapes import Shape
from benchmarks.workers import Subject
from promot_jax.base import trees
from promot_jax.checkpoints.formats import huggingface


def train_step(shape: dict, folder: str, dtype: str) -> Subject:
    """Runs steps of fine-tuning; see `ours.train_step`."""
    shape = Shape(**shape)
    config = {**shape.config, "mlp_activations": tuple(shape.config["mlp_activations"])}
    vocabulary = seqio.PassThroughVocabulary(config["vocab_size"])
    rules = adafactor.standard_logical_factor_rules()
    model = t5x_models.EncoderDecoderModel(
        network.Transformer(network.T5Config(**config, dtype=getattr(jnp, dtype))),
        vocabulary,
        vocabulary,
        optimizer_def=adafactor.Adafactor(decay_rate=0.8, logical_factor_rules=rules),
        loss_normalizing_factor=shape.rows * shape.targets,
    )
    batch = shapes.batch(shape, shapes.full_rows(shape))
    # Segments are for packed rows there.
    batch = {name: array for name, array in batch.items() if "segment" not in name}
    sizes = {name: array.shape for name, array in batch.items()}
    partitioner = partitioning.PjitPartitioner(
        num_partitions=1, logical_axis_rules=partitioning.standard_logical_axis_rules()
    )
    variables = jax.eval_shape(lambda: model.get_initial_variables(jax.random.key(0), sizes))
    source = huggingface.open_checkpoint(folder)
    params = trees.unflatten({path: jnp.asarray(source.read(path)) for path in source.leaves})
    variables = {"params": params, "params_axes": variables["params_axes"]}
    state = train_state.FlaxOptimTrainState.create(model.optimizer_def, variables)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch):
        return trainer.train_with_lr(state, batch, 0.001, jax.random.key(0), model, None)

    def run(count):
        nonlocal state
        losses = []
        with partitioner.mesh:
            for _ in range(count):
                state, metrics = step(state, batch)
                losses.append(metrics["cross_ent_loss"].total)
        jax.block_until_ready(state)
        return {"losses": [float(loss) for loss in losses]}

    return Subject(run)
