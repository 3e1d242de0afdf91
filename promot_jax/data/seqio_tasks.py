"""Our tasks and mixtures as seqio's, for T5X; importing this registers them, now and later.

The texts of a row are made by the same Python that `Task.rows` reads them with; seqio's own
preprocessors then make tokens of them.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio

from promot_jax.data import host_tensorflow, tasks
from promot_jax.data.continuation import continuing
from promot_jax.data.seqio_vocabularies import seqio_vocabulary
from promot_jax.data.tasks import Mixture, Row, Task
from promot_jax.data.vocabularies import Vocabulary, native

tf = host_tensorflow.load()

# From texts to tokens.
USUAL = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim]
# Names of ours in seqio's registries.
_shown: dict[str, Any] = {}


def register(found: Task | Mixture) -> None:
    """Registers a task or mixture with seqio; one of ours of the same name is replaced."""
    if (registry := _shown.pop(found.name, None)) is not None:
        registry.remove(found.name)
    if isinstance(found, Mixture):
        _shown[found.name] = seqio.MixtureRegistry
        seqio.MixtureRegistry.add(found.name, list(found.rates.items()))
        return
    _shown[found.name] = seqio.TaskRegistry
    # A source of a data set of tfds lets seqio read its files, and makes texts of its raw rows.
    if hasattr(found.source, "from_raw"):
        source = seqio.TfdsDataSource(found.source.tfds_name, splits=dict(found.source.tfds_splits))
        first = [
            functools.partial(_from_raw, found.source, source.tfds_dataset),
            seqio.CacheDatasetPlaceholder(),
        ]
    else:
        source = seqio.FunctionDataSource(
            functools.partial(_rows, found),
            splits=found.splits,
            num_input_examples=getattr(found.source, "sizes", None),
        )
        first = []
    seqio.TaskRegistry.add(
        found.name,
        source=source,
        preprocessors=[*first, *_encoding(found)],
        output_features=features(found.vocabulary()),
        postprocess_fn=_postprocess(found.postprocess),
        metric_fns=list(found.metric_fns),
    )


def features(vocabulary: Vocabulary) -> dict[str, seqio.Feature]:
    """Returns seqio's output features of a task whose texts are encoded by a vocabulary."""
    return {
        "inputs": seqio.Feature(vocabulary=seqio_vocabulary(vocabulary)),
        "targets": seqio.Feature(vocabulary=seqio_vocabulary(continuing(vocabulary))),
    }


def _rows(task: Task, split: str, shuffle_files: bool = False, seed: int | None = None):
    """Returns the rows of a split in their fixed order, as texts."""
    del shuffle_files, seed
    rows = task.rows(split)
    if not len(rows):
        return tf.data.Dataset.from_tensor_slices({"inputs": [""], "targets": [""]}).take(0)
    fields = _fields(rows[0])

    @tf.autograph.experimental.do_not_convert
    def read(number):
        return _called(lambda place: rows[int(place)], fields, number)

    return tf.data.Dataset.range(len(rows)).map(read)


def _fields(row: Row) -> dict[str, bool]:
    """Returns the fields of a row that are texts, and whether each is a list of them."""
    return {
        name: isinstance(value, list)
        for name, value in row.items()
        if isinstance(value, str)
        or (isinstance(value, list) and all(isinstance(text, str) for text in value))
    }


def _called(make: Callable[..., Row], fields: Mapping[str, bool], *given: tf.Tensor) -> dict:
    """Returns the fields of the row that a function makes of values, as tensors."""

    def call(*values):
        row = make(*values)
        return [_encoded(row[name], several) for name, several in fields.items()]

    found = tf.numpy_function(call, given, [tf.string] * len(fields), stateful=False)
    for tensor, several in zip(found, fields.values(), strict=True):
        tensor.set_shape([None] if several else [])
    return dict(zip(fields, found, strict=True))


def _encoded(value: str | Sequence[str], several: bool) -> np.ndarray:
    texts = [text.encode(errors="replace") for text in (value if several else [value])]
    # Of object, so that trailing zero bytes stay.
    array = np.array([*texts, None], object)[:-1]
    return array if several else array.reshape([])


def _from_raw(source: Any, dataset: Any, rows: tf.data.Dataset) -> tf.data.Dataset:
    """Makes texts of the raw rows of tfds, and leaves out those that are none of the task."""
    # Not from inside the pipeline, whose threads should not open another one.
    source.prepare(dataset.data_dir)

    def tree(raw):
        return {name: raw[name] for name in source.raw_fields}

    def packed(raw, function):
        return lambda *values: function(tf.nest.pack_sequence_as(tree(raw), list(values)))

    @tf.autograph.experimental.do_not_convert
    def kept(raw):
        given = tf.nest.flatten(tree(raw))
        keep = tf.numpy_function(packed(raw, source.keeps), given, tf.bool, stateful=False)
        return tf.ensure_shape(keep, [])

    @tf.autograph.experimental.do_not_convert
    def write(raw):
        return _called(packed(raw, source.from_raw), source.fields, *tf.nest.flatten(tree(raw)))

    return rows.filter(kept).map(write)


def _encoding(task: Task) -> list[Callable]:
    """Returns the preprocessors from the texts of a task to tokens."""
    if task.encode is tasks.encode_texts:
        return USUAL
    if hasattr(task.encode, "shortened"):
        return [functools.partial(_shortened, task.encode.shortened), *USUAL]
    return [functools.partial(_tokens, task.encode)]


def _shortened(
    shorten: Callable[..., Row],
    rows: tf.data.Dataset,
    sequence_length: Mapping[str, int] | None,
    output_features: Mapping[str, seqio.Feature],
) -> tf.data.Dataset:
    """Cuts texts to the lengths; without lengths nothing is cut."""
    names = list(rows.element_spec)
    kept = {
        name: bool(rows.element_spec[name].shape.rank)
        for name in ("inputs", "targets", "answers")
        if name in names
    }
    if sequence_length is None:
        return rows.map(lambda row: {name: row[name] for name in kept})
    vocabulary = native(output_features["inputs"].vocabulary)
    # A bad file is found here, before TensorFlow hides the error.
    _ = vocabulary.vocab_size

    def cut(*values):
        row = {
            name: [t.decode() for t in value] if np.ndim(value) else value.decode()
            for name, value in zip(names, values, strict=True)
        }
        return shorten(row, vocabulary, sequence_length)

    @tf.autograph.experimental.do_not_convert
    def write(row):
        return _called(cut, kept, *(row[name] for name in names))

    return rows.map(write)


def _tokens(
    encode: tasks.Encode,
    rows: tf.data.Dataset,
    sequence_length: Mapping[str, int] | None,
    output_features: Mapping[str, seqio.Feature],
) -> tf.data.Dataset:
    """Makes tokens by the task's own way; which targets count in the loss is not told."""
    vocabulary = native(output_features["inputs"].vocabulary)
    _ = vocabulary.vocab_size
    names = list(rows.element_spec)
    lengths = sequence_length or dict.fromkeys(("inputs", "targets"), np.iinfo(np.int32).max)

    def call(*values):
        row = {
            name: [t.decode() for t in value] if np.ndim(value) else value.decode()
            for name, value in zip(names, values, strict=True)
        }
        tokens = encode([row], vocabulary, lengths)[0]
        return tokens.inputs, tokens.targets

    @tf.autograph.experimental.do_not_convert
    def encoded(row):
        found = tf.numpy_function(call, list(row.values()), [tf.int32] * 2, stateful=False)
        ids = {
            name: tf.ensure_shape(tensor, [None])
            for name, tensor in zip(("inputs", "targets"), found, strict=True)
        }
        whole = {f"{name}_pretokenized": row[name] for name in ids}
        return {**row, **whole, **ids}

    return rows.map(encoded)


class _Postprocess:
    """Post-processing that seqio calls with its own examples."""

    def __init__(self, own: tasks.Postprocess):
        self.own = own

    def __call__(self, output: str, *, example: Mapping[str, Any] | None = None, **options) -> Any:
        return self.own(output, example=_row(example), **options)


class _ToldPostprocess(_Postprocess):
    """The same of one that is told how a vocabulary writes texts."""

    def written_by(self, writer: Any) -> "_Postprocess":
        return _postprocess(self.own.written_by(writer))


def _postprocess(own: tasks.Postprocess) -> _Postprocess:
    return (_ToldPostprocess if hasattr(own, "written_by") else _Postprocess)(own)


def _row(example: Mapping[str, Any] | None) -> Row | None:
    """Returns the texts of an example of seqio as our rows have them."""
    if example is None:
        return None
    row = {}
    for name, value in example.items():
        values = np.ravel(np.asarray(value, object)).tolist()
        if all(isinstance(text, bytes | str) for text in values):
            texts = [t.decode(errors="replace") if isinstance(t, bytes) else t for t in values]
            row[name] = texts if np.ndim(value) else texts[0]
    whole = {
        name: row[f"{name}_pretokenized"]
        for name in ("inputs", "targets")
        if f"{name}_pretokenized" in row
    }
    return {**row, **whole}


tasks.watch(register)
