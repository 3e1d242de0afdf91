"""Files of the safetensors format, read and written one tensor at a time without torch.

A file is a little-endian uint64 N, N bytes of JSON {name: {dtype, shape, data_offsets}}, and the
tensors' bytes without gaps (https://huggingface.co/docs/safetensors). The package `safetensors`
reads no bfloat16 into numpy and writes only what is in memory as a whole; this file does both.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np

from promot_jax.base.errors import UserError

# Longer headers are damage: the format itself allows no more.
_LONGEST_HEADER = 100_000_000
_BLOCK = 1 << 24
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where one tensor lies.

    Attributes:
      file: of the format.
      name: in that file.
      dtype: as the file spells it, such as `BF16`.
      shape: dimensions.
      start: first byte in the file.
      size: bytes.
    """

    file: pathlib.Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def numpy_dtype(self) -> np.dtype:
        """The dtype in numpy.

        Raises:
          UserError: not a floating-point tensor of 16, 32 or 64 bits.
        """
        if self.dtype not in _DTYPES:
            raise UserError(
                f"{self.file}: {self.name} has the dtype {self.dtype}, expected one of "
                f"{', '.join(_DTYPES)}; convert quantised weights back first"
            )
        return _DTYPES[self.dtype]


def read_header(file: str | os.PathLike) -> dict[str, Tensor]:
    """Returns {name: tensor} of a file without reading the tensors.

    Raises:
      UserError: the file is missing, is of another format, or is shorter than its header says.
    """
    file = pathlib.Path(file)
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = stream.read(min(length, _LONGEST_HEADER))
            total = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    if total < 8 + length:
        raise UserError(f"{file} is cut off or not a safetensors file; download it again")
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        return {name: _tensor(file, 8 + length, total, name, entries[name]) for name in entries}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{file} is not a safetensors file: its header is damaged; download it again"
        ) from None


def _tensor(file: pathlib.Path, data: int, total: int, name: str, entry: Mapping) -> Tensor:
    begin, end = entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (begin, end, *entry["shape"])):
        raise UserError(
            f"{file} is damaged: {name} has the shape {entry['shape']} at bytes {begin} to {end}; "
            "download it again"
        )
    tensor = Tensor(file, name, entry["dtype"], tuple(entry["shape"]), data + begin, end - begin)
    if data + end > total:
        raise UserError(
            f"{file} is cut off: {name} ends at byte {data + end}, the file at {total}; "
            "download it again"
        )
    if tensor.dtype in _DTYPES:
        expected = math.prod(tensor.shape) * tensor.numpy_dtype.itemsize
        if expected != tensor.size:
            raise UserError(
                f"{file} is damaged: {name} has {tensor.size} bytes, not {expected}; "
                "download it again"
            )
    return tensor


def read(tensor: Tensor) -> np.ndarray:
    """Reads one tensor.

    Raises:
      UserError: the file is gone or cut off, or the dtype is none of the four that are read.
    """
    dtype = tensor.numpy_dtype
    try:
        with tensor.file.open("rb") as stream:
            count = math.prod(tensor.shape)
            array = np.fromfile(stream, dtype, count, offset=tensor.start)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{tensor.file}: {tensor.name} cannot be read: {reason}") from None
    if array.size != count:
        raise UserError(f"{tensor.file} is cut off within {tensor.name}; download it again")
    return array.reshape(tensor.shape)


def same(a: Tensor, b: Tensor) -> bool:
    """Says whether two tensors hold the same bits, comparing them block by block.

    Raises:
      UserError: a file is gone.
    """
    if (a.dtype, a.shape, a.size) != (b.dtype, b.shape, b.size):
        return False
    sizes = [min(_BLOCK, a.size - at) for at in range(0, a.size, _BLOCK)]
    try:
        with a.file.open("rb") as left, b.file.open("rb") as right:
            left.seek(a.start)
            right.seek(b.start)
            return all(left.read(size) == right.read(size) for size in sizes)
    except OSError as error:
        raise UserError(f"{a.file}: {a.name} cannot be read: {error.strerror}") from None


def write(
    file: str | os.PathLike,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype,
    fetch: Callable[[str], np.ndarray],
) -> None:
    """Writes one file, holding one tensor at a time.

    Args:
      file: to write.
      shapes: {name: shape}, in the order of the file.
      dtype: of all tensors in the file.
      fetch: returns the tensor of a name; it is cast to `dtype`.
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
    header = json.dumps(entries, separators=(",", ":")).encode()
    # Readers map the file into memory and want the tensors aligned.
    header += b" " * (-len(header) % 8)
    with open(file, "wb") as stream:
        stream.write(len(header).to_bytes(8, "little"))
        stream.write(header)
        for name, shape in shapes.items():
            array = np.ascontiguousarray(fetch(name), dtype)
            if array.shape != tuple(shape):
                raise ValueError(f"{name} has shape {array.shape}, announced as {shape}")
            array.tofile(stream)
