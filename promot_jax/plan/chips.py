"""What one chip of each kind can do, as its maker states it."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator, which jax sees as one device. What is not known of it is None.

    Attributes:
      name: its name in topologies.
      memory: bytes that it holds.
      usable: bytes of them that a program may take, the rest is the system's.
      flops: bfloat16 operations a second at most.
      memory_bandwidth: bytes a second between the chip and its memory.
      link_bandwidth: bytes a second that it sends to its neighbours, over all of its links.
      cores: what a cloud name such as v4-128 counts, for each chip.
      dimensions: of the torus that its slices form; 0 for none.
    """

    name: str
    memory: float | None = None
    usable: float | None = None
    flops: float | None = None
    memory_bandwidth: float | None = None
    link_bandwidth: float | None = None
    cores: int = 1
    dimensions: int = 0


# docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, "System architecture", 2026-11: memory, peak and
# bandwidths of each chip. The pages give the interconnect of v4 as 2400 Gbit/s, that of the others
# in both directions together; here it is one direction. `usable` is what the compiler of libtpu
# 0.0.42 names when a program does not fit.
CHIPS = {
    "v4": Chip(
        "v4", 32 * GIB, 30.75 * GIB, 275e12, 1228e9, link_bandwidth=300e9, cores=2, dimensions=3
    ),
    "v5e": Chip("v5e", 16 * GIB, 15.75 * GIB, 197e12, 819e9, link_bandwidth=200e9, dimensions=2),
    "v5p": Chip(
        "v5p", 95 * GIB, 95.74 * GIB, 459e12, 2765e9, link_bandwidth=600e9, cores=2, dimensions=3
    ),
    "v6e": Chip("v6e", 32 * GIB, 31.25 * GIB, 918e12, 1638e9, link_bandwidth=400e9, dimensions=2),
    "cpu": Chip("cpu"),
    "gpu": Chip("gpu"),
}
