"""Tasks that only seqio knows, read natively: texts, ids, examples, and what is kept on disk."""

import dataclasses
import functools
import importlib.util
import json
import pathlib

import numpy as np
import pytest
import seqio
import tensorflow as tf

from promot_jax.base.errors import UserError
from promot_jax.data import batching, code_digest, foreign, metrics, row_store, scoring, tasks
from promot_jax.data.vocabularies import ByteVocabulary
from promot_jax.tasks import mini

LENGTHS = {"inputs": 12, "targets": 4}
ROWS = {
    "inputs": ["the box is red", "a cat é", "the old house is red and the box is blue"],
    "targets": ["yes", "no", "yes yes yes yes yes yes"],
    "answers": [["yes", "aye"], ["no", "nay"], ["yes", ""]],
    "idx": [3, 4, 5],
}


@dataclasses.dataclass
class Sources:
    """Registers tasks, which are removed after the test."""

    folder: pathlib.Path
    names: list[str] = dataclasses.field(default_factory=list)

    def add(self, preprocessors=None, source=None, **options) -> str:
        name = f"foreign_{len(self.names)}"
        self.names.append(name)
        source = source or seqio.FunctionDataSource(rows, splits=("train", "test"))
        steps = mini.PREPROCESSORS if preprocessors is None else preprocessors
        options = {"output_features": mini.OUTPUT_FEATURES} | options
        seqio.TaskRegistry.add(name, source=source, preprocessors=steps, **options)
        return name

    def file(self) -> seqio.TextLineDataSource:
        path = self.folder / "lines.txt"
        if not path.exists():
            path.write_text("the box is red\na cat\n")
        return seqio.TextLineDataSource({"test": str(path)})


def rows(split, shuffle_files=False, seed=None):
    return tf.data.Dataset.from_tensor_slices(ROWS)


@pytest.fixture
def registered(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMOT_CACHE", str(tmp_path / "cache"))
    found = Sources(tmp_path)
    yield found
    for name in found.names:
        seqio.TaskRegistry.remove(name)


def theirs(name, lengths=None, vocabulary=None):
    task = seqio.TaskRegistry.get(name)
    if vocabulary is not None:
        task = foreign.with_vocabulary(task, vocabulary)
    found = task.get_dataset(lengths, "test", shuffle=False, try_in_mem_cache=False)
    return list(found.as_numpy_iterator())


def compare(name, vocabulary):
    """Compares tokens with seqio's."""
    task = tasks.task(name)
    found = task.encode(batching.first_rows(task.rows("test"), None), vocabulary, LENGTHS)
    for tokens, row in zip(found, theirs(name, LENGTHS, vocabulary), strict=True):
        np.testing.assert_array_equal(tokens.inputs, row["inputs"])
        np.testing.assert_array_equal(tokens.targets, row["targets"])
    return found


def shorter(dataset):
    """Tokens that are not those of the texts."""
    return dataset.map(lambda row: {**row, "inputs": row["inputs"][1:]})


@pytest.mark.parametrize("vocabulary", [mini.VOCABULARY, ByteVocabulary()])
@pytest.mark.parametrize("more", [(), (shorter,)])
def test_tokens_are_those_of_seqio_by_any_vocabulary(registered, vocabulary, more):
    name = registered.add([*mini.PREPROCESSORS, *more])
    row = tasks.task(name).rows("test")[1]
    assert (row["inputs"], row["targets"]) == ("a cat é", "no")
    assert row["of_texts"] == (not more)
    assert len(compare(name, vocabulary)) == 3


def test_a_task_of_an_earlier_version_names_our_vocabulary(registered):
    features = {
        name: seqio.Feature(mini.VOCABULARY, add_eos=name == "targets") for name in foreign.FEATURES
    }
    name = registered.add(output_features=features)
    assert tasks.task(name).vocabulary() is mini.VOCABULARY
    first, *_ = compare(name, mini.VOCABULARY)
    # As the task says.
    assert first.inputs.tolist() == mini.VOCABULARY.encode("the box is red")
    assert first.targets.tolist() == [*mini.VOCABULARY.encode("yes"), 1]


def test_ids_without_texts(registered):
    feature = seqio.Feature(seqio.PassThroughVocabulary(8), add_eos=False)
    ids = {"inputs": [[0, 5, 0], [0, 0, 7]], "targets": [[0, 1], [3, 0]]}
    name = registered.add(
        [],
        seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(ids),
            splits=["test"],
        ),
        output_features={"inputs": feature, "targets": feature},
    )
    found = compare(name, tasks.task(name).vocabulary())
    assert [row.inputs.tolist() for row in found] == ids["inputs"]


def test_the_example_is_what_seqio_gives(registered):
    def shapes(dataset):
        def more(row):
            count = tf.size(row["inputs"])
            table = tf.reshape(tf.range(2 * count), [count, 2])
            return row | {"table": table, "half": 0.1, "bytes": b"\xff\0", "none": table[:0]}

        return dataset.map(more)

    seen = []

    def postprocess(output, example, is_target):
        seen.append(example)
        return (output, is_target)

    name = registered.add([*mini.PREPROCESSORS, shapes], postprocess_fn=postprocess)
    task = tasks.task(name)
    for number, expected in enumerate(theirs(name)):
        row = task.rows("test")[number]
        assert task.postprocess("x", example=row, is_target=True) == ("x", True)
        assert seen[-1].keys() == expected.keys()
        for field, value in expected.items():
            got = seen[-1][field]
            assert type(got) is type(value), field
            assert np.shape(got) == np.shape(value), field
            assert getattr(got, "dtype", None) == getattr(value, "dtype", None), field
            assert np.all(np.equal(got, value)), field


def test_scores_and_how_a_vocabulary_writes(registered):
    class Told:
        def __init__(self, writer=None):
            self.writer = writer

        def written_by(self, writer):
            return Told(writer)

        def __call__(self, output, example, is_target):
            return self.writer(output) if is_target else output.strip()

    name = registered.add(postprocess_fn=Told(), metric_fns=[metrics.accuracy])
    examples = batching.examples(name, "test")
    judge = scoring.Judge(name, examples, mini.VOCABULARY)
    assert judge.metrics(judge.answers(["yes", "no", "no"])) == {"accuracy": pytest.approx(200 / 3)}
    plain = registered.add()
    assert tasks.task(plain).postprocess("as it is", example=examples[0]) == "as it is"


def test_mixtures_names_and_what_is_missing(registered):
    one, two = registered.add(), registered.add()
    seqio.MixtureRegistry.add("foreign_mixed", [(one, 1.0), (two, 3.0), ("mini_rte", 4.0)])
    try:
        assert tasks.rates("foreign_mixed") == {one: 0.125, two: 0.375, "mini_rte": 0.5}
        assert {"foreign_mixed", one, "mini_rte"} <= set(tasks.known())
        assert tasks.get("mini_rte").source.origin == "the miniature"
        with pytest.raises(UserError, match="'foreign_mixd'; did you mean 'foreign_mixed'"):
            tasks.get("foreign_mixd")
    finally:
        seqio.MixtureRegistry.remove("foreign_mixed")
    alone = registered.add(
        [seqio.preprocessors.tokenize], output_features={"inputs": mini.OUTPUT_FEATURES["inputs"]}
    )
    with pytest.raises(UserError, match="has no feature 'targets'; a task needs both"):
        tasks.task(alone).rows("test")
    with pytest.raises(UserError, match=r"no split 'dev'; it has train, test"):
        tasks.task(one).rows("dev")


def test_rows_that_depend_on_lengths_are_refused(registered):
    def doubled(dataset, sequence_length):
        return dataset.repeat(1 if sequence_length is None else 2)

    task = tasks.task(registered.add([*mini.PREPROCESSORS, shorter, doubled]))
    with pytest.raises(UserError, match="makes 3 rows of its split test, but 6 where it knows"):
        task.encode([task.rows("test")[0]], mini.VOCABULARY, LENGTHS)


def test_a_vocabulary_that_is_not_here_does_no_harm(registered):
    feature = seqio.Feature(seqio.SentencePieceVocabulary("/nowhere/spiece.model"))
    name = registered.add(output_features={"inputs": feature, "targets": feature})
    assert tasks.task(name).rows("test")[0]["inputs"] == "the box is red"
    compare(name, mini.VOCABULARY)


# --- what is kept on disk ---


def as_row(line):
    return {"inputs": line, "targets": "yes"}


@seqio.map_over_dataset
def as_rows(line):
    return as_row(line)


def fresh(name):
    """Reads as another process would."""
    for read in (foreign._read, foreign._tokens, foreign._task):
        read.cache_clear()
    return [row["inputs"] for row in batching.examples(name, "test")]


def test_files_are_read_once_until_they_change(registered, monkeypatch):
    name = registered.add([as_rows, *mini.PREPROCESSORS], registered.file())
    assert fresh(name) == ["the box is red", "a cat"]
    calls = []
    read = foreign._dataset
    monkeypatch.setattr(foreign, "_dataset", lambda *given: calls.append(given) or read(*given))
    assert fresh(name) == ["the box is red", "a cat"]
    assert not calls
    (registered.folder / "lines.txt").write_text("a dog\n")
    assert fresh(name) == ["a dog"]
    assert len(calls) == 1


def test_what_a_function_reads_is_read_anew(registered):
    file = registered.folder / "rows.json"

    def read(split, shuffle_files=False, seed=None):
        return tf.data.Dataset.from_tensor_slices(json.loads(file.read_text()))

    name = registered.add(source=seqio.FunctionDataSource(read, splits=("test",)))
    for text in ("one", "two"):
        file.write_text(json.dumps({"inputs": [text], "targets": ["yes"]}))
        assert fresh(name) == [text]
    assert not row_store.place().exists()


def test_code_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "told_apart.py"
    found = set()
    for body in ("return 1", "return 2"):
        path.write_text(f"def step(x):\n    {body}\n")
        spec = importlib.util.spec_from_file_location("told_apart", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        partials = [functools.partial(module.step, n) for n in (1, 2, 2)]
        digests = [code_digest.digest(partial) for partial in partials]
        assert digests[1] == digests[2]
        found |= set(digests)
    assert len(found) == 4
    with pytest.raises(code_digest.Untold):
        code_digest.digest([object()])
