"""Mesh, logical-axis rules and shardings.

Parameters name their axes (`embed`, `mlp`, …); rules map these names to the axes of the mesh:

* `data` divides the batch; each part of it holds all parameters;
* `fsdp` divides the batch and the `embed` axis of parameters, which are gathered layer by layer
  (T5X's two-dimensional parameter partitioning);
* `model` divides heads, MLP and vocabulary, within one row of the batch (T5X's standard rules).

A soft prompt is replicated. The same code runs on one device, where every rule is without effect.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from flax.linen import partitioning as flax_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree

RULES = (
    ("batch", ("data", "fsdp")),
    ("vocab", "model"),
    ("mlp", "model"),
    ("heads", "model"),
    ("joined_kv", "model"),
    ("kv", None),
    # Of activations, whose batch axis has it already, `embed` stays whole.
    ("embed", "fsdp"),
    ("embed", None),
    ("relpos_buckets", None),
    ("length", None),
    ("prompt", None),
    ("prompt_embed", None),
    ("lora", None),
    ("layers", None),
)


# Memory of the host that devices can read.
HOST = "pinned_host"
# Parameters up to which a device a core pays.
SMALL = 20_000_000


def use_cpu_cores(parameters: int) -> None:
    """Makes a device of each CPU core, so that a host without accelerator trains on all of them.

    XLA runs small programs on one core; dividing the batch over a device a core is faster (on 2
    cores the miniature's step takes 0.6 of the time). Large matrix products occupy all cores by
    themselves, and each device would hold a copy of the parameters: such a model stays on one.

    Call it before anything else uses jax. A number that the environment already sets, or devices
    that exist, stay as they are. The number is a power of two, at most 8, so that usual batch sizes
    divide.

    Args:
      parameters: of the model that will be trained.
    """
    if parameters > SMALL:
        return
    given = jax.config.jax_num_cpu_devices >= 0
    if given or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    cores = min(os.cpu_count() or 1, 8)
    # Too late in a process that has used jax before.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", 1 << (cores.bit_length() - 1))


# Where programs for all runs of a person are kept, and how many bytes of them.
COMPILED, KEPT = "~/.cache/promot_jax/compiled", 2**30


def keep_compiled(folder: pathlib.Path | None = None) -> None:
    """Keeps compiled programs in `folder`, unless the environment names another one.

    What was compiled once is then read in a fraction of the time: by other seeds, resumed runs, and
    runs of the same shapes. A folder that cannot be written is done without.

    Args:
      folder: where; None is a person's own, from which what was not used for longest is removed.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    if folder is None:
        folder = pathlib.Path(os.path.expanduser(COMPILED))
        if not folder.is_absolute():  # nobody's home
            return
        jax.config.update("jax_compilation_cache_max_size", KEPT)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
        # A start compiles dozens of programs of some hundredths of a second.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)


# Parameters from which on no device holds all of them.
LARGE = 100_000_000


def make_mesh(
    model_parallel: int = 1,
    fsdp: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    parameters: int = 0,
) -> Mesh:
    """Returns a mesh of all devices, `data` × `fsdp` × `model`.

    Args:
      model_parallel: devices on the `model` axis, neighbours of each other.
      fsdp: devices on the `fsdp` axis; `data` takes those that remain. None is all that
        `model` leaves for a large model, and 1 for others.
      devices: those of another machine, for which a program is only compiled; None takes all here.
      parameters: of the model, to tell a large one.

    Raises:
      UserError: the axes do not divide the number of devices.
    """
    devices = np.array(jax.devices() if devices is None else devices)
    if fsdp is None:
        fsdp = max(1, devices.size // model_parallel) if parameters >= LARGE else 1
    for name, size in (("model_parallel", model_parallel), ("fsdp", fsdp)):
        if size < 1:
            raise UserError(f"{name} = {size}; give a number of devices, at least 1")
    if devices.size % (model_parallel * fsdp):
        raise UserError(
            f"model_parallel = {model_parallel} and fsdp = {fsdp} do not divide the "
            f"{devices.size} devices; choose divisors"
        )
    return Mesh(devices.reshape(-1, fsdp, model_parallel), ("data", "fsdp", "model"))


def row_parts(mesh: Mesh) -> int:
    """Returns into how many parts the rows of a batch are divided."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


@contextlib.contextmanager
def activate(mesh: Mesh) -> Iterator[None]:
    """Within it, the network's sharding constraints mean this mesh and `RULES`."""
    with jax.set_mesh(mesh), flax_partitioning.axis_rules(RULES):
        yield


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a value that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def rows_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array whose first axis is the rows of a batch."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def params_sharding(mesh: Mesh, axes: Tree, params: Tree) -> Tree:
    """Returns the sharding of each leaf of `params`, whose logical axis names stand in `axes`.

    A dimension that its mesh axis does not divide stays whole.
    """
    names = trees.flatten(axes)

    def sharding(path, leaf):
        spec = flax_partitioning.logical_to_mesh_axes(names[path], RULES)
        fits = [
            axis if axis is None or size % mesh.shape[axis] == 0 else None
            for axis, size in zip(spec, leaf.shape, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*fits))

    return trees.unflatten({p: sharding(p, leaf) for p, leaf in trees.flatten(params).items()})


def to_host(leaf: jax.Array) -> jax.Array:
    """Moves an array out of the devices' memory into that of their hosts, divided as it is."""
    if leaf.sharding.memory_kind == HOST:
        return leaf
    place = leaf.sharding.with_memory_kind(HOST)
    moved = jax.device_put(leaf, place).block_until_ready()
    leaf.delete()
    return moved


def on_device(leaf: jax.Array) -> jax.Array:
    """Returns an array in the memory of its devices; one that is there is itself."""
    if leaf.sharding.memory_kind != HOST:
        return leaf
    return jax.device_put(leaf, leaf.sharding.with_memory_kind("device"))


def divisible(mesh: Mesh, rows: int, microbatches: int = 1) -> int:
    """Returns a number of rows, raised to a multiple of `row_parts` times microbatches."""
    parts = row_parts(mesh) * microbatches
    return -(-rows // parts) * parts


def padded(batch: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """Returns a host batch with empty rows behind its own, so that there are `rows` of them.

    All of an empty row is 0, its weights in the loss too.
    """
    missing = rows - len(next(iter(batch.values())))
    if missing <= 0:
        return batch
    return {
        name: np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
        for name, array in batch.items()
    }


def share(mesh: Mesh) -> tuple[int, int]:
    """Returns which part of the rows of a batch the devices of this process hold.

    Returns:
      (number, count): part `number` of `count` equal ones, each one behind the other. Processes
      whose devices divide a row have the same part. (0, 1), the whole batch, where the devices of a
      process hold no such part.
    """
    # [parts, devices that hold each part]
    devices = mesh.devices.reshape(row_parts(mesh), -1)
    held: dict[int, set[int]] = {}
    for part, members in enumerate(devices):
        for device in members:
            held.setdefault(device.process_index, set()).add(part)
    size = len(held[min(held)])
    starts = {min(parts) for parts in held.values()}
    equal = all(
        parts == set(range(min(parts), min(parts) + size)) and min(parts) % size == 0
        for parts in held.values()
    )
    if not equal or size * len(starts) != len(devices):
        return 0, 1
    return min(held[jax.process_index()]) // size, len(starts)


def shard_batch(
    mesh: Mesh, batch: dict[str, np.ndarray], held: tuple[int, int] = (0, 1)
) -> dict[str, jax.Array]:
    """Places a host batch on the mesh, rows divided over `data` and `fsdp`.

    Args:
      mesh: devices.
      batch: rows that this process has of it.
      held: which part of the batch these are, see `share`; (0, 1) is the whole, of which the
        process then keeps the rows of its own devices.

    Raises:
      UserError: the batch size is not a multiple of `row_parts`.
    """
    sharding, (number, count) = rows_sharding(mesh), held
    own = len(next(iter(batch.values())))
    rows, first = own * count, own * number
    if rows % row_parts(mesh):
        raise UserError(
            f"a batch of {rows} rows cannot be divided over {row_parts(mesh)} devices; fill it up "
            "with `padded`"
        )

    def placed(array: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(rows)
            return array[start - first : stop - first]

        return jax.make_array_from_callback((rows, *array.shape[1:]), sharding, part)

    return {name: placed(array) for name, array in batch.items()}
