"""Tasks and mixtures that only seqio knows, such as those of a person's own module, as ours.

Rows are read once, through TensorFlow. They are kept on disk for later runs where what they depend
on can be told: the task's code, its files or its data set. What a function reads cannot be told:
its rows are read anew by each process.

A row has the texts that seqio keeps beside the tokens (`inputs_pretokenized`). Where the task's
tokens are others than those of its texts, it is asked for tokens by each vocabulary.
"""

import atexit
import dataclasses
import functools
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio

from promot_jax.base.errors import UserError
from promot_jax.data import code_digest, host_tensorflow, row_store, tasks
from promot_jax.data.continuation import continuing
from promot_jax.data.seqio_vocabularies import HashableBytes, seqio_vocabulary
from promot_jax.data.tasks import Lengths, Mixture, Row, Task, Tokens
from promot_jax.data.vocabularies import Vocabulary, native

tf = host_tensorflow.load()

# Of what is kept on disk; another number is another store.
FORMAT = 1
FEATURES = ("inputs", "targets")


def names() -> set[str]:
    """Returns all names that are registered with seqio."""
    return set(seqio.TaskRegistry.names()) | set(seqio.MixtureRegistry.names())


def get(name: str) -> Task | Mixture | None:
    """Returns a task or mixture of seqio; None where it has none of this name."""
    if name not in names():
        return None
    found = seqio.get_mixture_or_task(name)
    if isinstance(found, seqio.Mixture):
        return Mixture(name, {part.name: found.get_rate(part) for part in found.tasks})
    return _task(found)


@functools.lru_cache(maxsize=256)
def _task(found: seqio.Task) -> Task:
    source = ForeignSource(found)
    told = hasattr(found.postprocessor, "written_by")
    return Task(
        found.name,
        source,
        (ToldPostprocess if told else Postprocess)(found),
        tuple(found.predict_metric_fns),
        lambda: native(found.output_features["targets"].vocabulary),
        source.encode,
    )


class Postprocess:
    """seqio's post-processing of a task, called with one of our rows."""

    def __init__(self, task: seqio.Task):
        self._task = task

    def __call__(self, output: str, *, example: Row | None = None, is_target: bool = False) -> Any:
        """See `tasks.Postprocess`."""
        example = None if example is None else example["example"]
        return self._task.postprocess_fn(output, example=example, is_target=is_target)


class ToldPostprocess(Postprocess):
    """The same of one that is told how a vocabulary writes texts."""

    def written_by(self, writer: Any) -> Postprocess:
        """See `tasks.Task.postprocess`."""
        told = self._task.postprocessor.written_by(writer)
        return Postprocess(self._task.replace(postprocess_fn=told))


@dataclasses.dataclass(frozen=True)
class ForeignSource:
    """The rows of a task of seqio.

    Attributes:
      task: seqio's.
    """

    task: seqio.Task

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.task.splits)

    @property
    def origin(self) -> str:
        """Where seqio has the rows from."""
        if dataset := getattr(self.task.source, "tfds_dataset", None):
            return f"tfds {dataset.name}"
        return "a function" if isinstance(self.task.source, seqio.FunctionDataSource) else "files"

    def rows(self, split: str) -> "Examples":
        """Returns the rows of a split.

        Raises:
          UserError: the task has no inputs or no targets, or its vocabulary cannot be read.
        """
        return Examples(_read(self.task, split), split)

    def encode(self, rows: Sequence[Row], vocabulary: Vocabulary, lengths: Lengths) -> list[Tokens]:
        """See `tasks.Encode`."""
        if all(row["of_texts"] for row in rows):
            return tasks.encode_texts(rows, vocabulary, lengths)
        asked = tuple(sorted(lengths.items()))
        found = {
            split: _tokens(self.task, split, vocabulary, asked)
            for split in dict.fromkeys(row["split"] for row in rows)
        }
        for split, tokens in found.items():
            if len(tokens) != (count := len(self.rows(split))):
                raise UserError(
                    f"task {self.task.name!r} makes {count} rows of its split {split}, but "
                    f"{len(tokens)} where it knows the lengths {dict(lengths)}; promot reads tasks "
                    "that make the same rows for each"
                )
        return [_as_tokens(found[row["split"]][row["number"]], lengths) for row in rows]


def _as_tokens(ids: Mapping[str, list[int]], lengths: Lengths) -> Tokens:
    return Tokens(*(np.array(ids[name][: lengths[name]], np.int32) for name in FEATURES))


@dataclasses.dataclass(frozen=True)
class Examples:
    """Rows that are kept on disk.

    Attributes:
      stored: what seqio made of each.
      split: theirs.
    """

    stored: row_store.Stored
    split: str

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, number: int, /) -> Row:
        """Returns a row: its texts, and as `example` what seqio gives to post-processing."""
        stored, dtypes = self.stored[number], self.stored.facts["dtypes"]
        return {
            **stored["texts"],
            "example": {name: _loaded(v, dtypes[name]) for name, v in stored["example"].items()},
            "of_texts": self.stored.facts["of_texts"],
            "split": self.split,
            "number": number,
        }


@functools.lru_cache(maxsize=64)
def _read(task: seqio.Task, split: str) -> row_store.Stored:
    """Reads the rows of a split without lengths."""
    if missing := set(FEATURES) - task.output_features.keys():
        raise UserError(f"task {task.name!r} has no feature {min(missing)!r}; a task needs both")
    readable = _readable(task)
    features = readable.output_features
    words = {name: native(features[name].vocabulary) for name in FEATURES}

    def write(writer: row_store.Writer) -> Mapping[str, Any]:
        rows = _dataset(readable, None, split)
        dtypes = {name: spec.dtype.name for name, spec in rows.element_spec.items()}
        of_texts = True
        for example in rows.as_numpy_iterator():
            texts = {}
            for name in FEATURES:
                ids = np.asarray(example[name])
                whole = example.get(f"{name}_pretokenized")
                if of_texts:
                    of_texts = isinstance(whole, bytes) and _made_of(whole, ids, words[name])
                if isinstance(whole, bytes):
                    texts[name] = whole.decode(errors="replace")
                else:
                    texts[name] = str(words[name].decode(ids))
            plain = {name: _plain(value) for name, value in example.items()}
            writer.add({"texts": texts, "example": plain})
        return {"dtypes": dtypes, "of_texts": of_texts}

    return _kept(readable, write, split)


def _made_of(text: bytes, ids: np.ndarray, words: Vocabulary) -> bool:
    expected = [*words.encode(text.decode(errors="replace")), words.eos_id]
    return ids.ndim == 1 and ids.tolist() == expected


@functools.lru_cache(maxsize=64)
def _tokens(
    task: seqio.Task, split: str, vocabulary: Vocabulary, lengths: tuple[tuple[str, int], ...]
) -> row_store.Stored:
    """Reads the tokens of a split as a vocabulary makes them."""
    told = with_vocabulary(task, vocabulary)

    def write(writer: row_store.Writer) -> Mapping[str, Any]:
        for row in _dataset(told, dict(lengths), split).as_numpy_iterator():
            writer.add({name: np.asarray(row[name]).tolist() for name in FEATURES})
        return {}

    return _kept(told, write, split, lengths)


def with_vocabulary(task: seqio.Task, vocabulary: Vocabulary) -> seqio.Task:
    """Returns a task of seqio whose texts are encoded by one of our vocabularies."""
    shown = {"targets": seqio_vocabulary(continuing(vocabulary))}
    features = {
        name: dataclasses.replace(
            feature, vocabulary=shown.get(name) or seqio_vocabulary(vocabulary)
        )
        for name, feature in task.output_features.items()
    }
    return task.replace(output_features=features)


def _dataset(task: seqio.Task, lengths: Mapping[str, int] | None, split: str) -> tf.data.Dataset:
    # What `seqio.get_dataset` does, without its memory cache: that complains of partial reads.
    return task.get_dataset(lengths, split, shuffle=False, try_in_mem_cache=False)


def _readable(task: seqio.Task) -> seqio.Task:
    """Returns a task that can be read here: with bytes as tokens if its vocabulary's file is not.

    Texts are the same; tokens are made by the vocabulary of the model.
    """
    words = {name: feature.vocabulary for name, feature in task.output_features.items()}
    try:
        for name, vocabulary in words.items():
            _ = vocabulary.vocab_size
            # One of ours, where that was one of seqio's in earlier versions.
            if isinstance(vocabulary, Vocabulary):
                words[name] = seqio_vocabulary(vocabulary)
    except Exception:  # of file systems, local and remote, and of SentencePiece
        words = dict.fromkeys(words, HashableBytes())
    features = {
        name: dataclasses.replace(feature, vocabulary=words[name])
        for name, feature in task.output_features.items()
    }
    return task.replace(output_features=features)


def _kept(
    task: seqio.Task,
    write: Callable[[row_store.Writer], Mapping[str, Any]],
    *asked: Any,
) -> row_store.Stored:
    """Returns rows that are kept on disk, or by this process alone if nobody can tell their age."""
    try:
        parts = (FORMAT, seqio.__version__, tf.__version__, task.name, *asked, _told(task))
        return row_store.cached(row_store.fingerprint("seqio", *parts), write)
    except code_digest.Untold:
        pass
    folder = pathlib.Path(tempfile.mkdtemp(prefix="promot-rows-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    writer = row_store.Writer(folder)
    writer.finish("", write(writer))
    return row_store.Stored(folder)


def _told(task: seqio.Task) -> list[str]:
    """Returns what the rows of a task depend on.

    Raises:
      Untold: nobody can tell.
    """
    features = [
        [name, feature.add_eos, feature.required, str(feature.dtype), feature.rank]
        for name, feature in task.output_features.items()
    ]
    words = [native(feature.vocabulary).identity() for feature in task.output_features.values()]
    steps = [s for s in task.preprocessors if not isinstance(s, seqio.CacheDatasetPlaceholder)]
    return [code_digest.digest(part) for part in (features, words, steps, _files(task.source))]


def _files(source: seqio.DataSource) -> Any:
    """Returns what tells the files of a source from others of their names; raises as `_told`."""
    # seqio has no public view of either.
    if type(source) is seqio.TfdsDataSource:
        dataset = source.tfds_dataset
        about = pathlib.Path(str(dataset.builder.data_path), "dataset_info.json")
        if not about.is_file():
            raise code_digest.Untold(dataset.name)
        return [dataset.name, repr(dataset._split_map), about.read_text()]
    if type(source) in (seqio.TextLineDataSource, seqio.TFExampleDataSource):
        files = sorted({file for split in source.splits for file in source.list_shards(split)})
        stats = [tf.io.gfile.stat(file) for file in files]
        changed = [[f, s.length, s.mtime_nsec] for f, s in zip(files, stats, strict=True)]
        return [repr(source), code_digest.digest(source._reader), changed]
    raise code_digest.Untold(source)


def _plain(value: Any) -> Any:
    """Returns a value of an example as JSON can hold it."""
    if hasattr(value, "to_list"):  # ragged
        value = value.to_list()
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    if isinstance(value, np.ndarray) and value.ndim > 1:
        return {"shape": value.shape, "flat": _plain(value.reshape(-1))}
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _loaded(value: Any, dtype: str) -> Any:
    """Returns a value as seqio gives it: an array, a number of numpy, or bytes."""
    if isinstance(value, dict):
        return _loaded(value["flat"], dtype).reshape(value["shape"])
    if dtype == "string":
        if isinstance(value, str):
            return value.encode(errors="surrogateescape")
        return np.array([*(_loaded(text, dtype) for text in value), None], object)[:-1]
    return np.array(value, dtype)[()]


tasks.look_also(sys.modules[__name__])
