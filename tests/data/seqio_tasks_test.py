"""Our tasks as seqio reads them, row by row against our own reading, for every task there is."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import seqio

from promot_jax.data import foreign, tasks
from promot_jax.data.vocabularies import Tokenizer, native
from promot_jax.tasks import (
    mini,
    mini_entailment,
    mini_pretrain,
    package_rows,
    paper,
    real,
)
from tests.tasks import paper_rows, real_packages
from tests.tasks.real_tasks_test import FOUND_AS

LENGTHS = {"inputs": 48, "targets": 8}
MINI = [name for name in tasks.names() if name.startswith("mini_")]


def compare(name: str, split: str, vocabulary=None, lengths=LENGTHS, most: int = 40) -> int:
    """Compares the two readings of the first rows; returns how many there are."""
    vocabulary = vocabulary or mini.VOCABULARY
    task = tasks.task(name)
    shown = foreign.with_vocabulary(seqio.get_mixture_or_task(name), vocabulary)
    theirs = shown.get_dataset(lengths, split, shuffle=False, try_in_mem_cache=False)
    theirs = list(theirs.take(most).as_numpy_iterator())
    rows = task.rows(split)
    ours = [rows[number] for number in range(min(most, len(rows)))]
    encoded = task.encode(ours, vocabulary, lengths)
    for row, tokens, other in zip(ours, encoded, theirs, strict=True):
        np.testing.assert_array_equal(tokens.inputs, other["inputs"])
        np.testing.assert_array_equal(tokens.targets, other["targets"])
        assert row["targets"] == other["targets_pretokenized"].decode()
        whole = other["inputs_pretokenized"].decode()
        assert row["inputs"] == whole or hasattr(task.encode, "shortened")
        for text in (row["targets"], "True", "something else\nmore"):
            for is_target in (True, False):
                wanted = task.postprocess(text, example=row, is_target=is_target)
                assert shown.postprocess_fn(text, example=other, is_target=is_target) == wanted
    return len(ours)


@pytest.fixture(scope="module")
def short_pretraining():
    """Serves short train splits for pretraining, which has 300,000 rows."""
    made = (mini_pretrain.rows, mini_entailment.rows, mini_entailment.entailment_rows, mini._rows)
    with pytest.MonkeyPatch.context() as patch:
        for module in (mini_pretrain, mini_entailment):
            patch.setitem(module.SPLIT_SIZES, "train", 2_000)
        for function in made:
            function.cache_clear()
        yield
    for function in made:
        function.cache_clear()


@pytest.mark.long
@pytest.mark.parametrize("name", [n for n in MINI if isinstance(tasks.get(n), tasks.Task)])
def test_the_miniature(name, short_pretraining):
    assert all(compare(name, split) for split in tasks.task(name).splits)


def test_mixtures_have_their_parts_and_rates():
    for name in (*(f"mini_rte_wmt_enfr{s}" for s in mini.FORMS), "rte_wmt14_enfr_span"):
        shown = seqio.get_mixture_or_task(name)
        assert {part.name: shown.get_rate(part) for part in shown.tasks} == tasks.get(name).rates


@pytest.mark.long
@pytest.mark.parametrize(
    "suffix", ["_1shot", *(pytest.param(s, marks=pytest.mark.slow) for s in paper.FORMS)]
)
def test_the_papers(suffix):
    with paper_rows.offline():
        for name in (name + suffix for name in paper.DATASETS):
            assert all(compare(name, split) for split in tasks.task(name).splits), name


@pytest.mark.long
def test_randomized_labels():
    with paper_rows.offline():
        for name in paper.RANDOMIZED:
            assert all(compare(name, split) for split in tasks.task(name).splits), name


@pytest.mark.long
def test_the_real_ones(tmp_path, monkeypatch):
    monkeypatch.delenv("PROMOT_BIGBENCH", raising=False)
    for name in FOUND_AS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    real_packages.write(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    package_rows._splits.cache_clear()
    for name in real.NAMES:
        assert all(compare(name, split) for split in ("validation", "test")), name
    package_rows._splits.cache_clear()


def test_rows_of_files(tmp_path):
    from promot_jax.tasks import files, unseen_files

    own, unseen = tmp_path / "own.jsonl", tmp_path / "unseen.jsonl"
    own.write_text("".join(f'{{"text": "a box {i}", "label": "{i % 2}"}}\n' for i in range(9)))
    unseen.write_text('{"input": "the é", "target": ["one", "two"]}\n')
    for shots in (0, 1):
        name = files.task(str(own), str(own), "is {text}?", "{label}", shots=shots)
        assert [compare(name, split) for split in tasks.task(name).splits] == [9, 5, 4]
    ((name, *_),) = unseen_files.tasks([str(unseen)])
    assert compare(name, "test") == 1


def test_a_tokenizer_that_puts_a_space_before_texts(tmp_path):
    """Targets go on from inputs, which begin a text."""
    import tokenizers
    from tokenizers import models, pre_tokenizers

    words = ["▁", *"▁abcdefghijklmnopqrstuvwxyz", "</s>", "?", ".", ":", "'"]
    made = tokenizers.Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, []))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.save(str(tmp_path / "tokenizer.json"))
    vocabulary = Tokenizer(str(tmp_path / "tokenizer.json"), "</s>")
    assert compare("mini_rte", "test", vocabulary, {"inputs": 300, "targets": 8})
    shown = foreign.with_vocabulary(seqio.get_mixture_or_task("mini_rte"), vocabulary)
    assert native(shown.output_features["inputs"].vocabulary) is vocabulary


def test_a_task_that_is_registered_again_replaces_the_old_one():
    old = tasks.get("mini_cb")
    tasks.add(tasks.dataclasses.replace(old, metric_fns=()))
    try:
        assert not seqio.get_mixture_or_task("mini_cb").metric_fns
    finally:
        tasks.add(old)
    assert seqio.get_mixture_or_task("mini_cb").metric_fns == list(old.metric_fns)


def run(*lines: str) -> str:
    """Runs a program of its own; returns what it prints."""
    root = pathlib.Path(__file__).parent.parent.parent
    found = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_our_tasks_need_neither_tensorflow_nor_seqio():
    heavy = ("tensorflow", "seqio", "tensorflow_text", "tensorflow_datasets")
    said = run(
        "import sys",
        "from promot_jax.data import batching, registered",
        "from promot_jax.tasks import files, mini, paper, real, unseen_files",
        "assert batching.examples('mini_rte', 'test', 1)",
        "assert len(registered.listed()) > 100",
        f"print({{name for name in {heavy} if name in sys.modules}})",
    )
    assert said.strip() == "set()"


def test_without_seqio_names_are_looked_up_among_ours():
    said = run(
        "import sys",
        "sys.modules['seqio'] = None",
        "from promot_jax.data import tasks",
        "from promot_jax.tasks import mini",
        "print(tasks.get('mini_rte').name)",
        "try: tasks.get('mini_rtf')",
        "except Exception as error: print(error)",
    )
    assert said.splitlines() == [
        "mini_rte",
        "no task or mixture is registered as 'mini_rtf'; did you mean 'mini_rte'?",
    ]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    "lines",
    [
        ("from promot_jax.tasks import paper", "import seqio"),
        ("import seqio", "from promot_jax.tasks import paper"),
        ("from promot_jax.data import tasks", "import seqio", "from promot_jax.tasks import paper"),
    ],
)
def test_seqio_has_every_name_whatever_was_imported_first(lines):
    said = run(
        *lines,
        "assert set(paper.NAMES) <= set(seqio.TaskRegistry.names())",
        "print(seqio.get_mixture_or_task('rte_wmt14_enfr').name)",
        "import sys",
        "print([type(f).__name__ for f in sys.meta_path if 'promot' in type(f).__module__])",
    )
    assert said.splitlines() == ["rte_wmt14_enfr", "[]"]
