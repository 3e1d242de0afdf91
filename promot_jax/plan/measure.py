"""Compiles a program for a mesh and measures it."""

import dataclasses
import re
import time

import jax

from promot_jax.base.errors import UserError
from promot_jax.plan import costs, flops
from promot_jax.plan.chips import GIB
from promot_jax.plan.costs import Costs
from promot_jax.plan.programs import Held, Program


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device while a compiled program runs.

    Attributes:
      arguments, results: what goes in and comes out.
      aliased: results that take the place of arguments.
      laid_out: temporaries as the compiler lays them out, with gaps; T5X and others quote this.
      code: the program itself.
      peak: all of it but the code at the worst moment, without gaps; TPU's compiler refuses a
        program by this number. None for other compilers, which mean something else by it.
    """

    arguments: float
    results: float
    aliased: float
    laid_out: float
    code: float
    peak: float | None = None

    @property
    def needed(self) -> float:
        """Bytes that decide whether the program fits."""
        return self.peak or self.kept + self.laid_out

    @property
    def kept(self) -> float:
        """Bytes of arguments and of the results that need a place of their own."""
        return self.arguments + self.results - self.aliased

    @property
    def temporaries(self) -> float:
        """Bytes beyond those at the worst moment."""
        return max(self.needed - self.kept, 0.0)


@dataclasses.dataclass(frozen=True)
class Measured:
    """A program, compiled for a mesh.

    Attributes:
      program: what was compiled.
      mesh: size of each axis.
      held: what a device holds between two steps.
      asked_flops: operations of matrix products that the program asks for, an equal share for each
        device: the scans of its jaxpr counted as often as they run.
      needed: bytes that a device needs.
      trace_seconds, compile_seconds: on this host.
      memory: of what `needed` is made; None if the compiler gave up.
      costs: what a device does, from the optimized program; None if the compiler gave up.
      xla: XLA's own `flops` and `bytes accessed`, which count the body of a loop once.
      refusal: the compiler's words when the program does not fit.
    """

    program: Program
    mesh: dict[str, int]
    held: Held
    asked_flops: float
    needed: float
    trace_seconds: float
    compile_seconds: float
    memory: Memory | None = None
    costs: Costs | None = None
    xla: dict[str, float] = dataclasses.field(default_factory=dict)
    refusal: str | None = None


def measure(program: Program, mesh: jax.sharding.Mesh, usable: float | None = None) -> Measured:
    """Traces and compiles a program; nothing runs and no array is made.

    Args:
      program: what to compile.
      mesh: devices.
      usable: bytes of a device, None if not known; a state that is larger is not compiled.

    Raises:
      UserError: the mesh does not fit the program's batch, or the compiler fails.
    """
    started = time.monotonic()
    traced, held = program.trace(mesh)
    asked = flops.of_jaxpr(traced.jaxpr.jaxpr) / mesh.size
    lowered = traced.lower()
    traced_at = time.monotonic()
    known = {
        "program": program,
        "mesh": dict(mesh.shape),
        "held": held,
        "asked_flops": asked,
        "trace_seconds": traced_at - started,
    }
    if usable is not None and held.total > usable:
        words = "not asked: parameters and slots alone are more than a device holds"
        return Measured(**known, needed=held.total, compile_seconds=0.0, refusal=words)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise UserError(
                f"{program.name}: the compiler failed: {str(error).splitlines()[0]}"
            ) from error
        return Measured(
            **known,
            needed=_needed(str(error)),
            compile_seconds=time.monotonic() - traced_at,
            refusal=str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: "),
        )
    seconds = time.monotonic() - traced_at
    on_tpu = mesh.devices.flat[0].platform == "tpu"
    memory = _memory(compiled.memory_analysis(), on_tpu)
    analysis = compiled.cost_analysis() or {}
    return Measured(
        **known,
        needed=memory.needed,
        memory=memory,
        costs=costs.count(compiled.as_text(), mesh.size),
        xla={key: analysis[key] for key in ("flops", "bytes accessed") if key in analysis},
        compile_seconds=seconds,
    )


def _memory(found, on_tpu: bool) -> Memory:
    return Memory(
        arguments=found.argument_size_in_bytes,
        results=found.output_size_in_bytes,
        aliased=found.alias_size_in_bytes,
        laid_out=found.temp_size_in_bytes,
        code=found.generated_code_size_in_bytes,
        peak=found.peak_memory_in_bytes if on_tpu else None,
    )


def _needed(refusal: str) -> float:
    """Returns the bytes that a refused program asked for, as the compiler words it."""
    scale = {"K": 2**10, "M": 2**20, "G": GIB}
    found = re.search(r"\(?([\d.]+)([KMG])\)? (?:of|exceeds|exceed)", refusal)
    return float(found[1]) * scale[found[2]] if found else float("inf")
