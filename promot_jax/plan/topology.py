"""Names of slices, and the devices that they stand for, none of which need be there."""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re

import jax
import numpy as np

from promot_jax.base.errors import UserError
from promot_jax.plan.chips import CHIPS, Chip

# Slices that are usual, by their number of chips: cloud.google.com/tpu/docs, "TPU configurations".
SHAPES = {
    3: {
        4: (2, 2, 1),
        8: (2, 2, 2),
        16: (2, 2, 4),
        32: (2, 4, 4),
        64: (4, 4, 4),
        128: (4, 4, 8),
        256: (4, 8, 8),
        512: (8, 8, 8),
        1024: (8, 8, 16),
        2048: (8, 16, 16),
    },
    2: {
        1: (1, 1),
        4: (2, 2),
        8: (2, 4),
        16: (4, 4),
        32: (4, 8),
        64: (8, 8),
        128: (8, 16),
        256: (16, 16),
    },
}
KNOWN = "v4-128, v5e-64, v5p-128, v6e-64, v4:4x4x4, cpu:8 or gpu"


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice: so many chips of a kind.

    Attributes:
      name: as it was asked for.
      chip: kind of its devices.
      shape: chips along each dimension.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of devices, which is that of chips."""
        return math.prod(self.shape)


def parse(name: str) -> Topology:
    """Returns the topology of a name.

    `v4-N` and `v5p-N` count TensorCores, two for each chip, as Google Cloud does; `v5e-N` (or
    `v5litepod-N`) and `v6e-N` count chips. `v4:4x4x4` gives the shape itself, `cpu:N` is this host
    with N devices, `gpu` this host's GPUs.

    Raises:
      UserError: a name of no kind, or a size without a usual shape.
    """
    plain = name.replace("v5litepod", "v5e")
    if name == "gpu":
        return Topology(name, CHIPS["gpu"], (0,))
    if found := re.fullmatch(r"cpu:([1-9]\d*)", name):
        return Topology(name, CHIPS["cpu"], (int(found[1]),))
    if found := re.fullmatch(r"(v\w+)[-:]([1-9]\d*(?:x[1-9]\d*)*)", plain):
        chip = CHIPS.get(found[1])
        if chip is not None:
            return Topology(name, chip, _shape(name, chip, found[2], ":" in plain))
    raise UserError(f"--topology {name!r} is unknown; give one such as {KNOWN}")


def _shape(name: str, chip: Chip, size: str, explicit: bool) -> tuple[int, ...]:
    numbers = tuple(map(int, size.split("x")))
    if explicit:
        if len(numbers) != chip.dimensions:
            raise UserError(
                f"--topology {name!r}: a slice of {chip.name} has {chip.dimensions} dimensions, "
                f"such as {chip.name}:{'x'.join('4' * chip.dimensions)}"
            )
        return numbers
    usual = SHAPES[chip.dimensions]
    if len(numbers) > 1 or numbers[0] % chip.cores or numbers[0] // chip.cores not in usual:
        sizes = ", ".join(f"{chip.name}-{chips * chip.cores}" for chips in usual)
        raise UserError(
            f"--topology {name!r} is no usual size; there are {sizes}, and shapes such as "
            f"{chip.name}:{'x'.join('4' * chip.dimensions)}"
        )
    return usual[numbers[0] // chip.cores]


def prepare(topology: Topology) -> None:
    """Sets jax up for a topology; to be called before anything else uses jax's devices.

    Raises:
      UserError: libtpu is not installed, or jax already has other devices.
    """
    # A host without a TPU has nobody to ask what it is, and none that two programs could fight for.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # The compiler's own threads have 72 KiB, which it overflows on some large programs.
    os.environ.setdefault("LIBTPU_INIT_ARGS", f"--fibers_default_thread_stack_size={2**22}")
    if topology.chip.name == "gpu":
        return
    if topology.chip.dimensions and importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology {topology.name} needs TPU's compiler: pip install 'promot_jax[tpu]'"
        )
    jax.config.update("jax_platforms", "cpu")
    if topology.chip.name == "cpu":
        if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
            return
        # Too late in a process that has used jax before: `devices` says so.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", topology.size)


def devices(topology: Topology) -> np.ndarray:
    """Returns the devices of a topology; those of TPU slices only serve to compile for.

    Raises:
      UserError: libtpu does not know the shape, or this host has other devices.
    """
    if topology.chip.name == "gpu":
        try:
            return np.array(jax.devices("gpu"))
        except RuntimeError:
            raise UserError("--topology gpu: jax finds no GPU on this host") from None
    if topology.chip.name == "cpu":
        found = np.array(jax.devices("cpu"))
        if found.size != topology.size:
            raise UserError(
                f"--topology {topology.name}: jax has {found.size} CPU devices already; take "
                "xla_force_host_platform_device_count out of XLA_FLAGS"
            )
        return found
    from jax.experimental import topologies

    options = {}
    if topology.chip.name == "v4":
        # Both cores of a chip as one device, which is how jax runs on v4.
        options["chip_config_name"] = "megacore"
    if topology.size == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    shape = f"{topology.chip.name}:{'x'.join(map(str, topology.shape))}"
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=shape, **options)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--topology {topology.name}: {str(error).splitlines()[0]}") from None
    return np.array(found.devices)
