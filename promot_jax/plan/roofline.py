"""How long a step takes at least, if the slowest of three resources is busy all the time."""

import dataclasses

from promot_jax.plan.chips import Chip
from promot_jax.plan.measure import Measured


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds that each resource of a device is busy in one run of a program."""

    compute: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """The longest of the three: the others are taken to run beside it."""
        return max(self.compute, self.memory, self.links)

    @property
    def bound(self) -> str:
        """Which resource that is."""
        return max(("compute", "memory", "links"), key=lambda name: getattr(self, name))


def of(measured: Measured, chip: Chip) -> Roofline | None:
    """Returns the roofline of a compiled program.

    None where the chip's figures are not known, or the program does not compile.
    """
    costs = measured.costs
    if costs is None or chip.flops is None:
        return None
    return Roofline(
        compute=costs.flops / chip.flops,
        memory=costs.bytes / chip.memory_bandwidth,
        links=costs.sent / chip.link_bandwidth,
    )


def assumptions(chip: Chip) -> str:
    """Returns what the estimate rests on, as a sentence."""
    return (
        f"at least: a {chip.name} chip at its peak of {chip.flops / 1e12:.0f} TFLOP/s (bfloat16), "
        f"{chip.memory_bandwidth / 1e9:.0f} GB/s of memory and {chip.link_bandwidth / 1e9:.0f} "
        "GB/s over all its links one way, each busy all the time and beside each other"
    )
