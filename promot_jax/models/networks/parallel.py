"""Parallel adapters (He et al. 2022): beside an MLP stands a narrow one, whose output is added.

Beside the leaves of `X/mlp` stand `X/mlp/adapter_down` [H, w] and `X/mlp/adapter_up` [w, H]; of
scanned layers both have a first axis of layers. Leaves are added and removed by `lora`.
"""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from promot_jax.base import values
from promot_jax.models.networks.parameters import parameter

LEAVES = ("adapter_down", "adapter_up")
# Of PEFT's matrices A and of the authors' way down alike: uniform within 1 / sqrt(in).
init_down = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Which MLPs have an adapter beside them, and of what size.

    An MLP's output becomes `mlp(x) + scale * relu(x @ adapter_down) @ adapter_up` (He et al. 2022,
    table 1, the scaled parallel adapter); `x` is what the MLP reads. There are no biases.

    Attributes:
      pattern: regular expression that matches whole paths of MLPs, such as `.*/mlp`.
      width: w, columns of `adapter_down`; the paper has 512 for mBART-large.
      scale: of what is added; the paper's best is 4.
    """

    pattern: values.Pattern
    width: values.Count
    scale: values.Positive = 4.0

    def __post_init__(self):
        values.check_fields(self)

    def adapts(self, path: str) -> bool:
        """Says whether the kernel at `path` is changed: none is."""
        return False

    def stands_beside(self, path: str) -> bool:
        """Says whether the MLP at `path` has an adapter."""
        return re.fullmatch(self.pattern, path) is not None


def beside(module: nn.Module, x: jax.Array, adapter: Parallel) -> jax.Array:
    """Returns what an adapter adds to the MLP `module`, to be called in its compact method.

    Declares float32 `adapter_down` [H, w] and, zero at first, `adapter_up` [w, H] there.

    Args:
      module: the MLP.
      x: its input [B, X, H]; the result has its shape and dtype.
      adapter: the setting.
    """
    shape = (x.shape[-1], adapter.width)
    down = parameter(module, "adapter_down", init_down, shape, ("embed", "lora"))
    up = parameter(module, "adapter_up", nn.initializers.zeros, shape[::-1], ("lora", "embed"))
    hidden = nn.relu(jnp.dot(x, down.astype(x.dtype)))
    return jnp.dot(hidden, up.astype(x.dtype)) * adapter.scale
