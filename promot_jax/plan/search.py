"""Which meshes and microbatches a program could run with, and which of them is best."""

from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.experiment.experiment import Experiment
from promot_jax.plan import roofline
from promot_jax.plan.chips import Chip
from promot_jax.plan.measure import Measured
from promot_jax.plan.programs import Program

AXES = ("data", "fsdp", "model")
# Devices that share a matrix product at most: beyond it, links are busier than they compute.
MOST_MODEL = 16
# Of what a program may take; the rest is for what the estimate does not know.
SAFE = 0.95


def axes_of(text: str | None) -> dict[str, int]:
    """Returns the axes that `--mesh data=16,fsdp=1,model=4` names; each may be missing.

    Raises:
      UserError: another axis, or no number.
    """
    axes = {}
    for part in filter(None, (text or "").split(",")):
        name, _, size = part.partition("=")
        if name not in AXES or not size.isdigit() or int(size) < 1 or name in axes:
            raise UserError(
                f"--mesh {text!r}: expected sizes of axes, such as data=4,fsdp=1,model=16"
            )
        axes[name] = int(size)
    return axes


def mesh_of(
    devices: np.ndarray, axes: Mapping[str, int], experiment: Experiment
) -> jax.sharding.Mesh:
    """Returns a mesh of all devices; `data` or else `fsdp` takes what the others leave.

    Sizes that are not given are those of the experiment.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    model = axes.get("model", experiment.model_parallel)
    fsdp = axes.get("fsdp", experiment.fsdp)
    if fsdp is None and "data" in axes:
        fsdp = max(1, devices.size // (axes["data"] * model))
    parameters = trees.count(experiment.model.shapes_and_axes()[0])
    mesh = partitioning.make_mesh(model, fsdp, devices, parameters)
    if axes.get("data", mesh.shape["data"]) != mesh.shape["data"]:
        raise UserError(
            f"--mesh: data={axes['data']}, fsdp={mesh.shape['fsdp']} and model={model} do not "
            f"multiply to the {devices.size} devices of this topology; give sizes that do"
        )
    return mesh


def meshes(devices: int, fixed: Mapping[str, int], rows: int) -> Iterator[dict[str, int]]:
    """Yields the meshes to try: the rest of the devices once on `fsdp` and once on `data`.

    Args:
      devices: how many there are.
      fixed: axes that are given.
      rows: of a batch; `data` times `fsdp` divides it.
    """
    for exponent in range(MOST_MODEL.bit_length()):
        model = 2**exponent
        if devices % model:
            continue
        rest = devices // model
        for fsdp in dict.fromkeys((rest, 1)):
            mesh = {"data": rest // fsdp, "fsdp": fsdp, "model": model}
            if rows % rest == 0 and all(mesh[axis] == size for axis, size in fixed.items()):
                yield mesh


def search(
    make: Callable[[int], Program],
    devices: np.ndarray,
    fixed: Mapping[str, int],
    chip: Chip,
    measure: Callable[[Program, jax.sharding.Mesh], Measured],
) -> Iterator[Measured]:
    """Compiles a program for each mesh of `meshes`, in more microbatches where it does not fit.

    Args:
      make: returns the program in so many microbatches.
      devices: of the topology.
      fixed: axes that are given.
      chip: kind of the devices.
      measure: compiles a program.

    Raises:
      UserError: no mesh divides the devices and the batch.
    """
    rows = make(1).rows
    chosen = list(meshes(devices.size, fixed, rows))
    if not chosen:
        raise UserError(
            f"--search: no mesh with these axes divides {devices.size} devices and a batch of "
            f"{rows} rows; change BATCH_SIZE or --mesh"
        )
    for axes in chosen:
        mesh = partitioning.make_mesh(axes["model"], axes["fsdp"], devices)
        parts: int | None = 1
        while parts is not None:
            measured = measure(make(parts), mesh)
            yield measured
            parts = more_microbatches(measured, chip)


def more_microbatches(measured: Measured, chip: Chip) -> int | None:
    """Returns in how many microbatches a program that does not fit may fit.

    None where it fits, or where no number would do: what a device holds all the time stays.
    """
    if chip.usable is None or fits(measured, chip):
        return None
    held, parts = measured.held.total, 2
    data, fsdp = measured.mesh["data"], measured.mesh["fsdp"]
    rows = measured.program.rows // (data * fsdp * measured.program.microbatches)
    others = max(measured.needed - held, 0.0)
    while held + others / parts > SAFE * chip.usable:
        parts *= 2
        if parts > rows:
            return None
    return None if rows % parts else parts * measured.program.microbatches


def best_first(found: list[Measured], chip: Chip) -> list[Measured]:
    """Sorts: what fits before what does not, then by estimated time, then by memory."""

    def key(measured):
        estimate = roofline.of(measured, chip)
        seconds = float("inf") if estimate is None else estimate.seconds
        return not fits(measured, chip), seconds, measured.needed

    return sorted(found, key=key)


def fits(measured: Measured, chip: Chip) -> bool:
    """Whether a device has the memory; where its size is not known, whether it compiled."""
    if measured.memory is None:
        return False
    return chip.usable is None or measured.needed <= chip.usable


def advice(measured: Measured, chip: Chip) -> str | None:
    """Returns what to change so that a program fits, None where it fits.

    An estimate: what a device holds shrinks with `fsdp` times `model`, all else with the rows that
    it has at a time. `--search` compiles to know.
    """
    if chip.usable is None or fits(measured, chip):
        return None
    held, room = measured.held.total, SAFE * chip.usable
    data, fsdp, model = (measured.mesh[axis] for axis in AXES)
    if held > room / 2 and data > 1:
        factor = 2
        while held / factor > room / 2 and factor < data:
            factor *= 2
        return f"--mesh fsdp={min(factor, data) * fsdp},model={model}"
    if parts := more_microbatches(measured, chip):
        return f"--microbatches {parts}"
    if fsdp > 1 and model < MOST_MODEL:
        return f"--mesh fsdp={fsdp // 2},model={2 * model}"
    return "more chips or shorter rows"
