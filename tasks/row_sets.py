"""Where rows are: a file, a split of a folder of files, or of a data set of the Hugging Face hub.

A folder is what `save_to_disk` of the `datasets` library writes, or has files of rows whose names
say the split, as the hub's data sets have them: `data/train-00000-of-00001.parquet`, `dev.jsonl`,
`test/0.csv`. `FOLDER:SPLIT` names one of its splits, `hf://datasets/OWNER/NAME:SPLIT` one of the
hub, `hf://datasets/OWNER/NAME@REVISION/CONFIG` one of several data sets there.
"""

import collections
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from promot_jax.base.errors import UserError, first_line
from promot_jax.tasks import row_arrow, row_files
from promot_jax.tasks.row_files import Record

HUB = "hf://datasets/"
# Splits by the name of a flag, the likeliest first.
TRAIN = ("train",)
EVALUATION = ("validation", "test")
TEST = ("test", "validation")

_ADDRESS = re.compile(
    rf"{HUB}(?P<name>[^/@:]+/[^/@:]+)(?:@(?P<revision>[^/:]+))?(?:/(?P<config>[^:]+?))?/*"
    r"(?::(?P<split>[^:]+))?"
)
# Words of the names of files, as the hub reads them.
_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "dev", "val"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_SHARD = re.compile(r"(?P<split>\w[\w.]*?)-\d{5}-of-\d{5}\b")
# What describes rows and holds none.
_DESCRIPTIONS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_READ = 1 << 20


def chosen(path: str, wanted: Sequence[str]) -> str:
    """Returns the path of a file as it is, that of a data set with the split that is meant.

    Args:
      path: of a file, a folder or the hub, with or without a split.
      wanted: names of splits, the likeliest first.

    Raises:
      UserError: a data set without rows, or with several splits of which none is wanted.
    """
    where, split = _parted(path)
    if split is not None or not (path.startswith(HUB) or os.path.isdir(path)):
        return path
    known = list(_hub(where) if path.startswith(HUB) else _splits(where))
    begins = [name for name in known if re.split(r"\W|_", name)[0] == wanted[0]]
    if len(known) == 1:
        split = known[0]
    elif found := [name for name in wanted if name in known]:
        split = found[0]
    elif len(begins) == 1:
        split = begins[0]
    else:
        raise UserError(f"{path} has the splits {', '.join(known)}; name one: {where}:{known[0]}")
    return f"{where}:{split}"


def absolute(path: str) -> str:
    """Returns a path that holds in any working folder."""
    return path if path.startswith(HUB) else os.path.abspath(path)


def base_name(path: str) -> str:
    """Returns the name of a file without its suffix, or that of a data set."""
    where, _ = _parted(path)
    name = os.path.basename(where.rstrip("/"))
    if path.startswith(HUB) or os.path.isdir(where):
        return name
    return os.path.splitext(name.removesuffix(".gz"))[0]


def records(path: str) -> Iterator[Record]:
    """Yields the rows of a file or of a split, each with the place to name it by.

    Raises:
      UserError: there is none, or a file or line that cannot be read.
    """
    if path.startswith(HUB):
        rows = _rows_of_hub(path)
        yield from row_arrow.rows(path, rows.column_names, rows.with_format("arrow").iter(4096))
        return
    for file in _files(path):
        yield from row_files.records(file)


def stamp(path: str) -> list[Any]:
    """Returns what changes when a file, or one of a split, is written anew; JSON can hold it.

    Raises:
      UserError: there is no such file.
    """
    stamps = []
    for file in _files(path):
        about = os.stat(file)
        # A copy may keep the time of change and the size; then another file lies here.
        when = about.st_mtime_ns, about.st_size, about.st_ctime_ns, about.st_ino
        stamps.append([os.path.abspath(file), *when])
    return stamps


def exists(path: str) -> bool:
    """Says whether a path has files; of those that are gone a run knows what it needs."""
    try:
        _files(path)
    except UserError:
        return False
    return True


def changed(path: str) -> float:
    """Returns when a file, or the last one of a split, has changed: seconds, as `time` counts."""
    return max(max(os.stat(f).st_mtime, os.stat(f).st_ctime) for f in _files(path))


def digest(path: str) -> str:
    """Returns a digest of the bytes of a file or of all files of a split."""
    found = hashlib.sha256()
    for name in _files(path):
        with open(name, "rb") as file:
            while block := file.read(_READ):
                found.update(block)
    return found.hexdigest()


def _parted(path: str) -> tuple[str, str | None]:
    """Returns where a data set is, and the split that a path names."""
    if path.startswith(HUB):
        if not (match := _ADDRESS.fullmatch(path)):
            raise UserError(f"{path}: expected {HUB}OWNER/NAME, with /CONFIG or :SPLIT behind it")
        return path.removesuffix(f":{match['split']}"), match["split"]
    where, colon, split = path.rpartition(":")
    if colon and split and not os.path.exists(path) and os.path.isdir(where):
        return where, split
    return path, None


def _files(path: str) -> list[str]:
    """Returns the files that hold the rows of a path: one, or those of a split."""
    if path.startswith(HUB):
        return [file["filename"] for file in _rows_of_hub(path).cache_files]
    where, split = _parted(path)
    if os.path.isdir(where):
        known = _splits(where)
        split = split if split is not None else _only(where, known)
        if split not in known:
            raise UserError(f"{where} has no split {split!r}; it has {', '.join(known)}")
        return known[split]
    if not os.path.exists(path):
        raise UserError(f"{path}: there is no such file; check the path")
    return [path]


def _only(where: str, known: dict[str, list[str]]) -> str:
    if len(known) > 1:
        raise UserError(f"{where} has the splits {', '.join(known)}; name one as {where}:SPLIT")
    return next(iter(known))


def _splits(folder: str) -> dict[str, list[str]]:
    """Returns the files of each split of a folder.

    Raises:
      UserError: it holds no rows, or those of a split twice.
    """
    if names := _json(folder, "dataset_dict.json").get("splits"):
        return {name: _saved(os.path.join(folder, name)) for name in names}
    if state := _json(folder, "state.json"):
        return {state.get("_split") or "train": _saved(folder)}
    found = collections.defaultdict(list)
    for file in _data_files(folder):
        found[_split_of(os.path.relpath(file, folder))].append(file)
    unnamed = found.pop(None, [])
    found = dict(found) or ({"train": unnamed} if unnamed else {})
    if not found:
        raise UserError(f"{folder} is a folder without rows; name a file, or a folder of files")
    for split, files in found.items():
        kinds = {os.path.splitext(file.lower().removesuffix(".gz"))[1] for file in files}
        folders = {os.path.dirname(file) for file in files}
        if len(kinds) > 1 or len(folders) > 1:
            one, other = files[0], files[-1]
            raise UserError(
                f"{folder}: the split {split} has {one} and {other}, which may be the same rows; "
                "name a file, or the folder of one of them"
            )
    return found


def _saved(folder: str) -> list[str]:
    """Returns the files that `save_to_disk` has written into a folder."""
    files = [part["filename"] for part in _json(folder, "state.json").get("_data_files", [])]
    paths = [os.path.join(folder, name) for name in files]
    if missing := [path for path in paths if not os.path.isfile(path)]:
        raise UserError(f"{missing[0]}: there is no such file; copy the whole folder again")
    if not paths:
        raise UserError(f"{folder} holds no rows of a data set; save it again")
    return paths


def _json(folder: str, name: str) -> dict[str, Any]:
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); save it again") from None


def _data_files(folder: str) -> list[str]:
    """Returns the files of rows in a folder and those below it, sorted."""
    found = []
    for where, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith((".", "_")))
        for name in sorted(names):
            suffix = os.path.splitext(name.lower().removesuffix(".gz"))[1]
            if suffix in row_files.READERS and name not in _DESCRIPTIONS and name[0] not in "._":
                found.append(os.path.join(where, name))
    return found


def _split_of(name: str) -> str | None:
    """Returns the split that the name of a file says, or those of its folders."""
    *folders, file = name.split(os.sep)
    if shard := _SHARD.match(file):
        return shard["split"]
    for part in (file, *reversed(folders)):
        words = re.split(r"[^a-z]+", part.lower())
        if known := [_WORDS[word] for word in words if word in _WORDS]:
            return known[0]
    return None


def _rows_of_hub(path: str) -> Any:
    where, split = _parted(path)
    known = _hub(where)
    split = split if split is not None else _only(where, known)
    if split not in known:
        raise UserError(f"{where} has no split {split!r}; it has {', '.join(known)}")
    return known[split]


@functools.lru_cache(maxsize=8)
def _hub(where: str) -> Any:
    """Returns {split: data set} of the hub, from its copy on this machine where there is one."""
    try:
        import datasets
    except ImportError:
        raise UserError(f"{where} needs datasets; run `pip install 'promot_jax[datasets]'`") from (
            None
        )
    address = _ADDRESS.fullmatch(where)
    try:
        return datasets.load_dataset(
            address["name"], address["config"], revision=address["revision"]
        )
    except Exception as error:  # the library raises those of many others
        raise UserError(f"{where} cannot be read ({first_line(error)}); check its name") from None
