"""Low-rank adapters that begin as a part of their kernels: what a stage does before its first step.

What they begin with is among the leaves that the stage trains, so that its checkpoints hold it, but
the stage's selection leaves it where it is. Whoever resumes a stage computes nothing again.
"""

import jax
import jax.numpy as jnp

from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.models import Model, attached, moments
from promot_jax.models.networks import lora, lora_inits
from promot_jax.training import train_state
from promot_jax.training.afterwards.transform import layer_names
from promot_jax.training.measured import Read
from promot_jax.training.stages import Stage
from promot_jax.training.train_state import TrainState


def begun(
    stage: Stage, state: TrainState, model: Model, mesh: jax.sharding.Mesh, read: Read
) -> TrainState:
    """Returns the state with adapters that begin as `Lora.init` says; without one, as it is.

    Adapters that an earlier stage has begun stay as they are, too.

    Args:
      stage: the stage.
      state: its state at step 0.
      model: bare model.
      mesh: devices.
      read: see `Read`.

    Raises:
      UserError: the stage's checkpoints would not hold what the adapters begin with.
    """
    adapters = stage.adapters(model)
    if getattr(adapters, "init", None) is None:
        return state
    with partitioning.activate(mesh):
        small = trees.flatten(lora.adapters(state.params))
        firsts = [path for path in small if path.endswith("/lora_a0")]
        if any(bool(jnp.any(small[path])) for path in firsts):
            return state
        trainable, frozen = (trees.flatten(tree) for tree in (state.trainable, state.frozen))
        if not trainable.keys() >= small.keys():
            raise UserError(
                f"stage {stage.name!r} begins its adapters by lora.init, so its checkpoints must "
                "hold lora_a0 and lora_b0: let `trainable` match them too ('.*/lora_[ab]0?')"
            )
        found = _moments(stage, state, model, read) if adapters.init.reads else {}
        for first in firsts:
            stem = first.removesuffix("lora_a0")
            kernel = (frozen | trainable)[f"{stem}kernel"]
            pair = _begin(adapters, f"{stem}kernel", kernel, found)
            for name, leaf in zip(("lora_a", "lora_b"), pair, strict=True):
                trainable |= {f"{stem}{name}": leaf, f"{stem}{name}0": jnp.copy(leaf)}
    params = trees.combine(trees.unflatten(trainable), state.frozen)
    return train_state.sharded_state(stage, params, model, mesh)


def _begin(adapters, path: str, kernel, found) -> tuple[jax.Array, jax.Array]:
    """Returns A and B of one leaf, whose layers may be stacked."""
    names = layer_names(path, kernel)
    layers = [kernel] if names == [path] else list(kernel)
    pairs = [
        lora_inits.begin(adapters.init, layer, found.get(name), adapters.rank, adapters.scale)
        for name, layer in zip(names, layers, strict=True)
    ]
    return pairs[0] if names == [path] else tuple(map(jnp.stack, zip(*pairs, strict=True)))


def _moments(stage, state, model, read) -> dict[str, jax.Array]:
    """Returns the mean second moments of what each adapted kernel reads, by path."""
    adapters = stage.adapters(model)
    params = attached.BARE.params(model, state.params)
    bare = attached.BARE.model(model, params)
    one = jax.jit(lambda params, batch: moments.of_inputs(bare, params, batch, adapters))
    total, rows = None, 0
    with read(adapters.init.mixture) as batches:
        for _, batch in zip(range(adapters.init.batches), batches, strict=False):
            own = one(params, batch)
            total = own if total is None else jax.tree.map(jnp.add, total, own)
            rows += len(batch["decoder_target_tokens"])
    return {path: leaf / rows for path, leaf in total.items()}
