"""Reads the text of an optimized XLA program: computations, instructions, shapes, loop counts."""

import dataclasses
import math
import re
from collections.abc import Iterator

# Bits of an element, by the type's name in the text. What is not here has no size of its own.
BITS = {
    **dict.fromkeys(("s2", "u2"), 2),
    **dict.fromkeys(("s4", "u4"), 4),
    **dict.fromkeys(("pred", "s8", "u8"), 8),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 16),
    **dict.fromkeys(("s32", "u32", "f32"), 32),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 64),
    "c128": 128,
}
ARRAY = re.compile(r"([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) (?:\(.*\) -> .*)?\{$")
OPCODE = re.compile(r"([\w-]+)\(")
NAME = re.compile(r"%([\w.-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's result: element type, dimensions, and whether it lies in the
    device's main memory; the others lie in the small memories of its cores."""

    dtype: str
    dims: tuple[int, ...]
    in_main_memory: bool = True

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes without padding."""
        bits = BITS.get(self.dtype, 8 if self.dtype.startswith("f8") else 0)
        return -(-self.size * bits // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction: its arrays (several for a tuple), its operands' names, its attributes."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    arguments: str
    attributes: str
    root: bool

    def called(self, key: str) -> str | None:
        """Returns the computation that an attribute such as `body` names."""
        found = re.search(rf"\b{key}=%?([\w.-]+)", self.attributes)
        return found and found[1]


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: its computations by name, and the name of the one that runs."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """Returns the program of a text such as `compiled.as_text()` gives.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    current: Computation | None = None
    entry = None
    for line in text.splitlines():
        if not line.startswith(" "):
            found = COMPUTATION.match(line)
            current = None
            if found:
                current = computations[found[2]] = {}
                entry = found[2] if found[1] else entry
        elif current is not None and (instruction := _instruction(line.strip())):
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("no ENTRY computation in this text")
    return Module(computations, entry)


def _instruction(line: str) -> Instruction | None:
    left, equals, rest = line.partition(" = ")
    if not equals:
        return None
    end = _closing(rest, 0) if rest.startswith("(") else rest.find(" ")
    opcode = OPCODE.match(rest, end + 1 + rest.startswith("("))
    if opcode is None:
        return None
    stop = _closing(rest, opcode.end() - 1)
    arguments = rest[opcode.end() : stop]
    return Instruction(
        name=left.removeprefix("ROOT ").lstrip("%"),
        opcode=opcode[1],
        arrays=tuple(_arrays(rest[:end])),
        operands=tuple(NAME.findall(arguments)),
        arguments=arguments,
        attributes=rest[stop + 1 :],
        root=left.startswith("ROOT "),
    )


def _closing(text: str, opening: int) -> int:
    """Returns where the parenthesis at `opening` closes."""
    depth = 0
    for place in re.finditer(r"[()]", text[opening:]):
        depth += 1 if place[0] == "(" else -1
        if not depth:
            return opening + place.start()
    return len(text)


def _arrays(shape: str) -> Iterator[Array]:
    for dtype, dims, layout in ARRAY.findall(shape):
        numbers = tuple(int(size) for size in dims.split(",") if size)
        yield Array(dtype, numbers, re.search(r"S\([1-9]", layout) is None)


def root(computation: Computation) -> Instruction:
    """Returns the instruction whose value a computation returns."""
    return next(i for i in computation.values() if i.root)


def trip_count(module: Module, loop: Instruction) -> int | None:
    """Returns how often the body of a `while` runs, None where the text does not tell.

    XLA notes the number for some backends. Otherwise it is read from a condition
    `counter < constant` of a counter from 0, which is how jax writes its scans, and from what the
    body adds to the counter: TPU's compiler unrolls loops, which then count by 2.
    """
    noted = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if noted:
        return int(noted[1])
    condition = module.computations.get(loop.called("condition") or "")
    if not condition:
        return None
    test = _through_fusion(module, root(condition))
    if test is None or "direction=LT" not in test[0].attributes:
        return None
    compared, values = test
    left, right = (values.get(name) for name in compared.operands)
    if left is None or right is None or left.opcode != "get-tuple-element":
        return None
    bound = _number(right)
    return None if bound is None else -(-bound // _step(module, loop, left))


def _number(instruction: Instruction | None) -> int | None:
    """Returns the value of an integer constant, None of anything else."""
    if instruction is None or instruction.opcode != "constant":
        return None
    return int(instruction.arguments) if instruction.arguments.isdigit() else None


def _step(module: Module, loop: Instruction, counter: Instruction) -> int:
    """Returns what a loop's body adds to the counter that its condition reads, 1 if unclear."""
    place = re.search(r"index=(\d+)", counter.attributes)
    body = module.computations.get(loop.called("body") or "", {})
    if place is None or not body or (result := root(body)).opcode != "tuple":
        return 1
    added = body.get(result.operands[int(place[1])])
    if added is None or added.opcode != "add":
        return 1
    numbers = [_number(body.get(name)) for name in added.operands]
    return next((number for number in numbers if number), 1)


def _through_fusion(module, test) -> tuple[Instruction, Computation] | None:
    """Returns a comparison and what its operands are, though it stands in a fusion of its own."""
    home = next(c for c in module.computations.values() if c.get(test.name) is test)
    if test.opcode == "compare":
        return test, home
    inside = module.computations.get(test.called("calls") or "")
    if inside is None or (compared := root(inside)).opcode != "compare":
        return None
    given = {}
    for name in compared.operands:
        value = inside[name]
        if value.opcode == "parameter":
            value = home.get(test.operands[int(value.arguments)])
        given[name] = value
    return compared, given
