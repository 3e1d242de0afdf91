"""Measurements as text for a terminal and as plain values for JSON."""

import dataclasses
from typing import Any

from promot_jax.plan import roofline, search
from promot_jax.plan.chips import GIB, Chip
from promot_jax.plan.costs import COLLECTIVES
from promot_jax.plan.measure import Measured


def lines(measured: Measured, chip: Chip) -> list[str]:
    """Returns what one program needs and does on each device, one fact a line."""
    return [
        _title(measured),
        *(f"  {line}" for line in (*_memory(measured, chip), *_work(measured, chip))),
        f"  on this host: traced in {measured.trace_seconds:.1f} s, "
        f"compiled in {measured.compile_seconds:.1f} s",
    ]


def _title(measured: Measured) -> str:
    program = measured.program
    users = f" ({', '.join(program.users)})" if program.users else ""
    parts = f" in {program.microbatches} microbatches" if program.microbatches > 1 else ""
    return (
        f"{program.name}{users}: {program.rows} rows of {program.inputs} + {program.targets} "
        f"tokens{parts}, mesh {_mesh(measured)}"
    )


def _mesh(measured: Measured) -> str:
    return ",".join(f"{axis}={size}" for axis, size in measured.mesh.items())


def _memory(measured: Measured, chip: Chip) -> list[str]:
    held, memory = measured.held, measured.memory
    rows = [
        ("parameters that train", held.trainable),
        ("parameters that do not", held.frozen),
        ("optimizer slots", held.slots),
    ]
    if memory is not None:
        rows.append(("temporaries", memory.temporaries))
    rows = [f"{name:<22}{_binary(size):>12}" for name, size in rows]
    if memory is not None and memory.peak:
        rows[-1] += f"  ({_binary(memory.laid_out)} as laid out, with gaps)"
    limit = ""
    if chip.usable is not None:
        fits = "fits" if search.fits(measured, chip) else "DOES NOT FIT"
        limit = f" of the {_binary(chip.usable)} that a program may take: {fits}"
    rows.append(f"{'memory in all':<22}{_binary(measured.needed):>12}{limit}")
    if measured.refusal:
        rows.append(f"compiler: {measured.refusal}")
    if change := search.advice(measured, chip):
        rows.append(f"try {change} (an estimate; --search compiles to know)")
    return rows


def _work(measured: Measured, chip: Chip) -> list[str]:
    costs = measured.costs
    if costs is None:
        return [
            f"compute: {_si(measured.asked_flops)}FLOP asked for, an equal share of each device"
        ]
    repeated = costs.flops / measured.asked_flops - 1 if measured.asked_flops else 0.0
    note = f", {repeated:.0%} more than an equal share of the program" if repeated > 0.02 else ""
    rows = [f"compute: {_si(costs.flops)}FLOP{note}", f"memory traffic: {_si(costs.bytes)}B"]
    if measured.xla:
        rows.append(
            f"XLA's own count, loop bodies once: {_si(measured.xla.get('flops', 0.0))}FLOP, "
            f"{_si(measured.xla.get('bytes accessed', 0.0))}B"
        )
    kinds = [
        f"{kind} {_si(sent)}B in {number}"
        for kind in COLLECTIVES
        for number, sent in [costs.collectives.get(kind, (0, 0.0))]
        if number
    ]
    rows.append(f"sent: {_si(costs.sent)}B" + (f" ({', '.join(kinds)})" if kinds else ""))
    if costs.unknown_loops:
        rows.append(
            f"loops of unknown length, such as a search's, count once: {costs.unknown_loops}"
        )
    if estimate := roofline.of(measured, chip):
        rows.append(
            f"a run takes {_ms(estimate.seconds)} at least, bound by {estimate.bound}: compute "
            f"{_ms(estimate.compute)}, memory {_ms(estimate.memory)}, links {_ms(estimate.links)}"
        )
    return rows


def table(found: list[Measured], chip: Chip) -> list[str]:
    """Returns a search's measurements as a table, best first."""
    rows = [("mesh", "microbatches", "memory", "fits", "compute", "traffic", "sent", "at least")]
    for measured in search.best_first(found, chip):
        estimate, costs = roofline.of(measured, chip), measured.costs
        rows.append(
            (
                _mesh(measured),
                str(measured.program.microbatches),
                _binary(measured.needed),
                "yes" if search.fits(measured, chip) else "no",
                "" if costs is None else f"{_si(costs.flops)}FLOP",
                "" if costs is None else f"{_si(costs.bytes)}B",
                "" if costs is None else f"{_si(costs.sent)}B",
                "" if estimate is None else f"{_ms(estimate.seconds)} ({estimate.bound})",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def plain(measured: Measured, chip: Chip) -> dict[str, Any]:
    """Returns a measurement as plain values; bytes, operations and seconds of one device."""
    estimate = roofline.of(measured, chip)
    program = {
        field.name: getattr(measured.program, field.name)
        for field in dataclasses.fields(measured.program)
        if field.name != "trace"
    }
    return {
        **program,
        "mesh": measured.mesh,
        "held": dataclasses.asdict(measured.held),
        "needed": measured.needed if measured.needed != float("inf") else None,
        "fits": search.fits(measured, chip),
        "memory": measured.memory and dataclasses.asdict(measured.memory),
        "asked_flops": measured.asked_flops,
        "costs": measured.costs and dataclasses.asdict(measured.costs),
        "xla": measured.xla,
        "roofline": estimate and dataclasses.asdict(estimate),
        "trace_seconds": round(measured.trace_seconds, 2),
        "compile_seconds": round(measured.compile_seconds, 2),
        "refusal": measured.refusal,
    }


def _si(value: float) -> str:
    """Returns a number with a decimal prefix: 21.2 T."""
    for prefix, scale in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}"
    return f"{value:.3g} "


def _binary(size: float) -> str:
    """Returns bytes with a binary prefix: 7.44 GiB."""
    if size == float("inf"):
        return "unknown"
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
