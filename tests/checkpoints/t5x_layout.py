"""T5X's legacy layout by hand, from its description alone: msgpack, gzip, JSON and numpy.

An independent reader and writer for tests; nothing here comes from the package, from flax or from
TensorStore.
"""

import gzip
import itertools
import json
import pathlib

import ml_dtypes
import msgpack
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# A driver, and what it says beside the path; the path of old TensorStore stood elsewhere.
KVSTORES = {
    "gfile": {"driver": "gfile"},
    "gcs": {"driver": "gcs", "bucket": "t5x-dummy-bucket"},
    "file": {"driver": "file"},
    "before 0.1.14": {"driver": "gfile"},
}


def _zarr_dtype(dtype):
    return "bfloat16" if dtype == BFLOAT16 else np.dtype(dtype).newbyteorder("<").str


def _numpy_dtype(name):
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def grid(shape, chunks):
    """Yields the name of each chunk's file and the part of the array that it covers."""
    counts = [-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)]
    for index in itertools.product(*map(range, counts)):
        covered = tuple(slice(i * c, i * c + c) for i, c in zip(index, chunks, strict=True))
        yield ".".join(map(str, index)) or "0", covered


def write_zarr(folder, array, chunks):
    folder.mkdir()
    about = {
        "chunks": list(chunks),
        "compressor": {"id": "gzip", "level": 1},
        "dtype": _zarr_dtype(array.dtype),
        "fill_value": None,
        "filters": None,
        "order": "C",
        "shape": list(array.shape),
        "zarr_format": 2,
    }
    (folder / ".zarray").write_text(json.dumps(about))
    for name, covered in grid(array.shape, chunks):
        part = array[covered]
        # Chunks at the border are whole in the file.
        chunk = np.zeros(chunks, array.dtype)
        chunk[tuple(map(slice, part.shape))] = part
        (folder / name).write_bytes(gzip.compress(chunk.tobytes()))


def read_zarr(folder):
    about = json.loads((folder / ".zarray").read_text())
    assert about["compressor"]["id"] == "gzip"
    assert (about["zarr_format"], about["order"], about["filters"]) == (2, "C", None)
    dtype, shape, chunks = _numpy_dtype(about["dtype"]), about["shape"], about["chunks"]
    array = np.empty(shape, dtype)
    for name, covered in grid(shape, chunks):
        raw = gzip.decompress((folder / name).read_bytes())
        chunk = np.frombuffer(raw, dtype).reshape(chunks)
        array[covered] = chunk[tuple(map(slice, array[covered].shape))]
    return array


def _pack_array(value):
    if isinstance(value, np.ndarray):
        content = msgpack.packb((value.shape, value.dtype.name, value.tobytes()))
        return msgpack.ExtType(1, content)
    raise TypeError(value)


def _unpack_array(code, content):
    assert code == 1
    shape, name, raw = msgpack.unpackb(content)
    return np.frombuffer(raw, _numpy_dtype(name)).reshape(shape)


def nest(leaves):
    tree = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        inner = tree
        for name in parents:
            inner = inner.setdefault(name, {})
        inner[last] = leaf
    return tree


def walk(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict) and "kvstore" not in value:
            yield from walk(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def compose(folder, leaves, *, kvstore="gfile", chunks=None, version=3):
    """Writes {path: array}; `chunks` names those with a folder: {path: chunk shape}."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    stored = {}
    for path, array in leaves.items():
        stored[path] = array
        if path in (chunks or {}):
            name = "target." + path.replace("/", ".")
            write_zarr(folder / name, array, chunks[path])
            place = dict(KVSTORES[kvstore])
            spec = {"driver": "zarr", "kvstore": place, "metadata": {"shape": list(array.shape)}}
            spec["metadata"]["dtype"] = _zarr_dtype(array.dtype)
            (spec if kvstore == "before 0.1.14" else place)["path"] = name
            stored[path] = spec
    slots = {f"{path}/{slot}": np.zeros(1, np.float32) for path in leaves for slot in ("m", "v")}
    state = {"step": np.asarray(7, np.int32), "param_states": nest(slots)}
    index = {"version": version, "optimizer": {"target": nest(stored), "state": state}}
    (folder / "checkpoint").write_bytes(msgpack.packb(index, default=_pack_array))


def read(folder):
    """Returns version, {path: array} of the parameters, and {path: array} of the state."""
    folder = pathlib.Path(folder)
    index = msgpack.unpackb((folder / "checkpoint").read_bytes(), ext_hook=_unpack_array)

    def fetch(leaf):
        if isinstance(leaf, np.ndarray):
            return leaf
        assert leaf["driver"] == "zarr"
        array = read_zarr(folder / leaf["kvstore"]["path"])
        assert list(array.shape) == leaf["metadata"]["shape"]
        assert array.dtype.name == leaf["dtype"]
        return array

    optimizer = index["optimizer"]
    trees = [dict(walk(optimizer[name])) for name in ("target", "state")]
    return index["version"], *({p: fetch(leaf) for p, leaf in tree.items()} for tree in trees)
