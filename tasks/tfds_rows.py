"""Raw rows of the data sets of tfds, as plain Python: any of them at once.

A data set whose files are array_record is read where it lies, without TensorFlow. Of any other
the rows are read once, through TensorFlow, and kept on disk by `row_store`. Rows stand in the order
of the files, whoever reads them.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from promot_jax.base.errors import UserError
from promot_jax.data import host_tensorflow, row_store
from promot_jax.data.tasks import Rows

# Of what is kept on disk; another number is another store.
FORMAT = 1


class Wanted(NamedTuple):
    """What is read of a data set.

    Attributes:
      name: data set, configuration and version.
      fields: of its rows.
      label: the field that is a class label; it becomes the name of its class, and rows without
        one (-1) are dropped.
    """

    name: str
    fields: tuple[str, ...]
    label: str | None = None


@dataclasses.dataclass(frozen=True)
class InPlace:
    """Rows of a source of tfds with random access.

    Attributes:
      source: raw rows.
      wanted: what of them is read.
    """

    source: Rows
    wanted: Wanted

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, number: int, /) -> dict[str, Any]:
        return plain(self.source[number], self.wanted, ())


@functools.lru_cache(maxsize=64)
def read(wanted: Wanted, split: str, limit: int | None = None) -> Rows:
    """Returns the rows of a split.

    Args:
      wanted: what of them.
      split: as tfds names it, such as `train[:90%]`.
      limit: how many; None for all.

    Raises:
      UserError: the data set is not on this machine. Nothing here starts a download, which can be
        gigabytes.
    """
    opened = _opened(wanted.name)
    if wanted.label is None and limit is None and _in_place(opened):
        return InPlace(opened.as_data_source(split), wanted)

    def write(writer: row_store.Writer) -> Mapping[str, Any]:
        labels = names(wanted)
        added = 0
        for raw in _stream(opened, split):
            if added == limit:
                break
            if wanted.label is None or raw[wanted.label] >= 0:
                writer.add(plain(raw, wanted, labels))
                added += 1
        return {}

    return row_store.cached(
        row_store.fingerprint("tfds", FORMAT, wanted, split, limit, _stamp(opened)), write
    )


def names(wanted: Wanted) -> tuple[str, ...]:
    """Returns the names of the classes of the label, none where there is no label."""
    if wanted.label is None:
        return ()
    return tuple(_opened(wanted.name).info.features[wanted.label].names)


def plain(raw: Mapping[str, Any], wanted: Wanted, labels: tuple[str, ...]) -> dict[str, Any]:
    """Returns what is wanted of a raw row as texts, numbers, lists and dicts."""
    row = {field: _plain(raw[field]) for field in wanted.fields}
    if wanted.label is not None:
        row[wanted.label] = labels[int(raw[wanted.label])]
    return row


# Where data sets are, if somebody has said so from within Python.
_places: list[str] = []


def use_place(place: str | None) -> None:
    """Lets data sets be read from a folder; None leaves that as it is."""
    if place is not None and [place] != _places:
        _places[:] = [place]
        read.cache_clear()
        _opened.cache_clear()


def folder_of(name: str) -> str | None:
    """Returns the folder that holds a data set.

    Raises:
      UserError: it is not there.
    """
    usual = os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    place = os.path.expanduser(next(iter(_places), usual))
    folder = os.path.join(place, name.replace(":", "/"))
    if "://" not in place and not os.path.isfile(os.path.join(folder, "dataset_info.json")):
        raise UserError(
            f"data set {name} is not in {place}; "
            f"fetch it with `tfds build {name} --data_dir {place}`"
        )
    return folder


@functools.lru_cache(maxsize=32)
def _opened(name: str) -> Any:
    """Returns tfds' builder of a data set."""
    folder = folder_of(name)
    import tensorflow_datasets as tfds

    # From its folder alone no TensorFlow is needed.
    return tfds.builder(name) if folder is None else tfds.builder_from_directory(folder)


def _in_place(opened: Any) -> bool:
    return getattr(opened.info.file_format, "value", None) == "array_record"


def _stream(opened: Any, split: str) -> Iterator[Mapping[str, Any]]:
    """Yields raw rows in the order of the files."""
    if _in_place(opened):
        source = opened.as_data_source(split)
        yield from (source[number] for number in range(len(source)))
        return
    host_tensorflow.load()
    import tensorflow_datasets as tfds

    in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    yield from opened.as_dataset(
        split=split, read_config=in_order, shuffle_files=False
    ).as_numpy_iterator()


def _stamp(opened: Any) -> str:
    """Returns what tells preparations of a data set apart."""
    about = pathlib.Path(opened.data_path) / "dataset_info.json"
    return about.read_text() if about.is_file() else str(opened.data_path)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
