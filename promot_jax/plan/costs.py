"""What one device does in a run of a compiled program: operations, memory traffic, collectives.

XLA's own analysis counts the body of a loop once, however often it runs. Here it counts as often
as the loop runs: a scan over 24 layers is 24 layers.
"""

import dataclasses
import math
import re

from promot_jax.plan import hlo
from promot_jax.plan.hlo import Array, Computation, Instruction, Module

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
# They name or rearrange what is there; nothing moves.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("partition-id", "replica-id", "opt-barrier", "add-dependency"),
    *("while", "call", "conditional", "async-start", "async-update", "async-done"),
}
# Within a fusion they are computed for those elements only that are asked of them.
REARRANGES = {"bitcast", "convert", "copy", "reshape", "transpose"}
READS_PART = {"dynamic-slice", "slice", "gather"}


@dataclasses.dataclass
class Costs:
    """Of one device and one run of the program.

    Attributes:
      flops: multiplications and additions of matrix products and convolutions.
      bytes: read from and written to the device's main memory.
      collectives: kind -> (number, bytes that the device sends).
      unknown_loops: loops whose number of rounds the text does not tell; they count once.
    """

    flops: float = 0.0
    bytes: float = 0.0
    collectives: dict[str, tuple[int, float]] = dataclasses.field(default_factory=dict)
    unknown_loops: int = 0

    @property
    def sent(self) -> float:
        """Bytes that the device sends in all collectives."""
        return sum(sent for _, sent in self.collectives.values())


def count(text: str, devices: int) -> Costs:
    """Returns the costs of an optimized program, given as text.

    Bytes sent are those of a ring: of n devices that hold or get X bytes each, an all-gather or
    all-to-all sends X (n-1)/n, a reduce-scatter as much of its operand, an all-reduce twice that, a
    permutation X.

    Args:
      text: `compiled.as_text()`.
      devices: of the whole mesh, for collectives that name no groups.
    """
    module = hlo.parse(text)
    costs = Costs()
    _add(module, module.entry, 1, costs, devices, fused=False)
    return costs


def _add(module, name, times, costs, devices, fused) -> None:
    computation = module.computations[name]
    for instruction in computation.values():
        costs.flops += times * flops(instruction, computation)
        if not fused:
            costs.bytes += times * traffic(instruction, computation, module)
        if kind := collective(instruction):
            new = bytes_sent(kind, instruction, computation, devices)
            if name.startswith("all-reduce-scatter"):
                # What TPU's compiler makes of a reduce-scatter: in such a fusion, an all-reduce of
                # which every device keeps its part.
                kind, new = "reduce-scatter", new / 2
            number, sent = costs.collectives.get(kind, (0, 0.0))
            costs.collectives[kind] = number + times, sent + times * new
        if instruction.opcode == "while":
            trips = hlo.trip_count(module, instruction)
            costs.unknown_loops += trips is None
            body = instruction.called("body")
            _add(module, body, times * (1 if trips is None else trips), costs, devices, fused)
        elif instruction.opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
            names = hlo.NAME.findall(branches[1]) if branches else []
            names += filter(
                None, map(instruction.called, ("true_computation", "false_computation"))
            )
            for branch in names:
                _add(module, branch, times, costs, devices, fused)
        elif instruction.opcode in ("fusion", "async-start", "call"):
            inner = instruction.called("calls") or instruction.called("to_apply")
            if inner in module.computations:
                inside = fused or instruction.opcode == "fusion"
                _add(module, inner, times, costs, devices, inside)


def flops(instruction: Instruction, computation: Computation) -> float:
    """Returns the operations of a matrix product or convolution, 0 of anything else."""
    if instruction.opcode == "convolution":
        return _convolution_flops(instruction, computation)
    # XLA's `dot`, and the calls of a library's product, whose configuration has the longer name.
    found = re.search(
        r'"?lhs_contracting_dim(?:ension)?s"?[=:]\s*[{\[]([^}\]]*)', instruction.attributes
    )
    if found is None or instruction.opcode not in ("dot", "custom-call"):
        return 0.0
    dims = [int(number) for number in re.findall(r"\d+", found[1])]
    left = computation[instruction.operands[0]].arrays[0]
    return 2.0 * instruction.arrays[0].size * math.prod(left.dims[i] for i in dims)


def _convolution_flops(instruction: Instruction, computation: Computation) -> float:
    """Counts the pairs of input and kernel element that meet; TPU's products are convolutions."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    left, right = (computation[name].arrays[0] for name in instruction.operands[:2])
    window = dict(re.findall(r"(\w+)=([\d_x-]+)", _between(instruction.attributes, "window={")))
    pairs = 1.0
    for number in range(len(re.findall(r"\d", labels[1]))):
        size_in = left.dims[labels[1].index(str(number))]
        kernel = right.dims[labels[2].index(str(number))]
        size_out = instruction.arrays[0].dims[labels[3].index(str(number))]

        def setting(key, default, number=number):
            return window[key].split("x")[number] if key in window else default

        low = int(setting("pad", "0_0").split("_")[0])
        pairs *= _meetings(
            size_in,
            kernel,
            size_out,
            stride=int(setting("stride", 1)),
            low=low,
            left_step=int(setting("lhs_dilate", 1)),
            right_step=int(setting("rhs_dilate", 1)),
        )
    batch = instruction.arrays[0].dims[labels[3].index("b")]
    features = instruction.arrays[0].dims[labels[3].index("f")]
    # A kernel's input features are those of one group already.
    inputs = right.dims[labels[2].index("i")]
    groups = re.search(r"batch_group_count=(\d+)", instruction.attributes)
    return 2.0 * pairs * batch * features * inputs / (int(groups[1]) if groups else 1)


def _meetings(size_in, kernel, size_out, *, stride, low, left_step, right_step) -> int:
    """Returns how many places of kernel and output along a dimension read an input element."""
    if kernel == 1 and low == 0 and left_step == 1:
        return size_out
    last = (size_in - 1) * left_step
    return sum(
        0 <= place <= last and place % left_step == 0
        for k in range(kernel)
        for place in range(k * right_step - low, k * right_step - low + size_out * stride, stride)
    )


def _between(text: str, opening: str) -> str:
    start = text.find(opening)
    return "" if start < 0 else text[start + len(opening) : text.index("}", start)]


def traffic(instruction: Instruction, computation: Computation, module: Module) -> float:
    """Returns the bytes that an instruction reads from and writes to main memory.

    Of a large array that is only sliced or updated in part, the part counts.
    """
    opcode = instruction.opcode
    if opcode in FREE or opcode.endswith("-done") or "AllocateBuffer" in instruction.attributes:
        return 0.0
    operands = [computation[name] for name in instruction.operands if name in computation]
    written = _main(instruction.arrays)
    if opcode == "fusion":
        inside = module.computations.get(instruction.called("calls") or "", {})
        read = sum(
            min(_main(operand.arrays), _needed_of(module, inside, number))
            for number, operand in enumerate(operands)
        )
        return read + (_written_by(module, inside, instruction) if inside else written)
    if opcode.endswith("-start"):
        # The result of a start names its operands, its results and what it synchronises with.
        read = sum(_main(operand.arrays) for operand in operands)
        return read + max(0.0, written - read)
    if opcode in READS_PART:
        return _part(instruction, operands[0])
    if opcode == "dynamic-update-slice":
        return 2 * _main(operands[1].arrays)
    if opcode == "scatter":
        updates = operands[len(operands) // 2 + 1 :]
        return 3 * sum(_main(update.arrays) for update in updates)
    return written + sum(_main(operand.arrays) for operand in operands)


def _main(arrays: tuple[Array, ...]) -> float:
    return float(sum(array.bytes for array in arrays if array.in_main_memory))


def _part(instruction: Instruction, source: Instruction) -> float:
    """Bytes of reading a part of `source`, and of writing it."""
    size = sum(array.bytes for array in instruction.arrays)
    return (size if _main(source.arrays) else 0.0) + _main(instruction.arrays)


def _needed_of(module: Module, inside: Computation, number: int) -> float:
    """Bytes that a fusion needs of one of its operands: infinity for all of them."""
    names = {
        i.name for i in inside.values() if i.opcode == "parameter" and i.arguments == str(number)
    }
    needed = 0.0
    for instruction in inside.values():
        places = [n for n, name in enumerate(instruction.operands) if name in names]
        if not places:
            continue
        if instruction.opcode in REARRANGES:
            names.add(instruction.name)
        elif instruction.opcode in READS_PART and places == [0]:
            needed += sum(array.bytes for array in instruction.arrays)
        elif instruction.opcode == "fusion":
            inner = module.computations[instruction.called("calls")]
            needed += sum(_needed_of(module, inner, place) for place in places)
        elif instruction.opcode != "dynamic-update-slice" or places != [0]:
            return math.inf
    return needed


def _written_by(module: Module, inside: Computation, fusion: Instruction) -> float:
    """Bytes that a fusion writes; of an array that it updates in part, that part."""
    result = hlo.root(inside)
    parts = [inside[name] for name in result.operands] if result.opcode == "tuple" else [result]
    if len(parts) != len(fusion.arrays):
        return _main(fusion.arrays)
    total = 0.0
    for part, array in zip(parts, fusion.arrays, strict=True):
        home = inside
        while part.opcode in ("bitcast", "fusion"):
            if part.opcode == "bitcast":
                part = home[part.operands[0]]
            else:
                home = module.computations[part.called("calls")]
                part = hlo.root(home)
        if part.opcode == "dynamic-update-slice":
            update = home[part.operands[1]].arrays[0]
            array = dataclasses.replace(update, in_main_memory=array.in_main_memory)
        total += _main((array,))
    return total


def collective(instruction: Instruction) -> str | None:
    """Returns the kind of a collective; of a pair of start and done, the start counts."""
    kind = instruction.opcode.removesuffix("-start")
    return kind if kind in COLLECTIVES else None


def bytes_sent(kind: str, instruction: Instruction, computation: Computation, devices: int):
    """Returns the bytes that one device sends in a collective; see `count`."""
    operands = [computation[name] for name in instruction.operands if name in computation]
    given = sum(array.bytes for operand in operands for array in operand.arrays)
    if kind == "collective-permute":
        return float(given)
    size = group_size(instruction.attributes, devices)
    if kind == "all-gather":
        return float(given * (size - 1))
    return given * (size - 1) / size * (2 if kind == "all-reduce" else 1)


def group_size(attributes: str, devices: int) -> int:
    """Returns how many devices take part in each group of a collective."""
    if named := re.search(r"replica_groups=mesh\['?([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'?(\w+)'?=(\d+)", named[1]))
        axes = re.findall(r"\w+", named[2])
        return math.prod(int(sizes[axis]) for axis in axes)
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(listed[1].split(","))
    return devices
