"""Parameters of modules, with the logical axes by which a mesh divides them."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

# Draws a new parameter: (key, shape, dtype) -> array of that shape.
Initializer = Callable[..., jax.Array]


def parameter(
    module: nn.Module,
    name: str,
    init_fn: Initializer,
    shape: Sequence[int],
    axes: tuple[str, ...],
) -> jax.Array:
    """Returns a float32 parameter of a module: the one that is there, or a new one.

    Flax would trace `init_fn` for each parameter that is there, to compare its shape. That takes a
    quarter of the time of tracing a network, and whoever loads parameters has compared them.

    Args:
      module: the module, in its compact method or in `setup`.
      name: of the parameter.
      init_fn: draws a new one.
      shape: of a new one.
      axes: logical names of its axes, see `base.partitioning`.
    """
    if module.has_variable("params", name):
        return partitioning.with_sharding_constraint(module.get_variable("params", name), axes)
    return partitioning.param_with_axes(name, init_fn, shape, jnp.float32, axes=axes, module=module)
