"""The paper's tasks over tfds, offline: Table 4 row by row, splits, labels, training, docs."""

import collections
import functools
import pathlib

import numpy as np
import pytest
import seqio

from promot_jax.data import batching
from promot_jax.tasks import dataset, mini, paper
from tests.tasks import paper_rows

pytestmark = pytest.mark.long

DOCS = (pathlib.Path(__file__).parent.parent.parent / "docs" / "tasks.md").read_text()
LENGTHS = {"inputs": 128, "targets": 16}

Golden = collections.namedtuple("Golden", "split inputs target exemplar output answer")
# The template's input and target of the only test row, its one exemplar, and what the
# post-processing makes of an output.
GOLDEN = {
    "rte": Golden(
        "validation",
        "A cat sleeps. question: A cat runs. Is it true or false? answer:",
        "False",
        "It rains in Lima. question: Lima is dry. Is it true or false? answer: False",
        "<extra_id_0> False. It sleeps. <extra_id_1>",
        "False",
    ),
    "cb": Golden(
        "validation",
        "A cat sleeps. question: A cat runs. Is it true or false or neither? answer:",
        "False",
        "The shop is open. question: Nobody can shop. Is it true or false or neither? answer: True",
        "False, it sleeps",
        "False",
    ),
    "snli": Golden(
        "test",
        "A cat sleeps. question: A cat runs. Is it true or false or neither? answer:",
        "Neither",
        "The shop is open. question: Nobody can shop. Is it true or false or neither? answer: True",
        "Neither\n\nA dog runs. question:",
        "Neither",
    ),
    "wic": Golden(
        "validation",
        "The palm fell. The palm rose. question: The word palm is used in the same way in the two"
        " sentences. Is it true or False? answer:",
        "True",
        "The light fell. The light rose. question: The word light is used in the same way in the"
        " two sentences. Is it true or False? answer: True",
        "True Q: more",
        "True",
    ),
    "openbookqa": Golden(
        "test",
        "Q: what is ice A) a ice B) b ice C) c ice D) d ice A:",
        "C",
        "Q: who wrote hamlet A) a hamlet B) b hamlet C) c hamlet D) d hamlet A: A",
        "<extra_id_0> C) c ice",
        "C",
    ),
    "triviaqa": Golden(
        "validation",
        "Q: who was sartre A:",
        "Jean-Paul Sartre",
        "Q: what do cows drink A: Answer 1",
        "the J P Sartre Q: who was kant A: Kant",
        "the J P Sartre",
    ),
    "web_questions": Golden(
        "test",
        "Q: where is rome A:",
        "Italy",
        "Q: who painted guernica A: Answer 4",
        "<extra_id_0> europe. <extra_id_1> is",
        "europe.",
    ),
    "wmt14_enfr": Golden(
        "test",
        "Translate English to French: it snows",
        "it snows (fr)",
        "Translate English to French: two birds two birds (fr)",
        "it snows (fr) Translate English to French: we eat",
        "it snows (fr)",
    ),
    "wmt16_ende": Golden(
        "test",
        "Translate English to German: it snows",
        "it snows (de)",
        "Translate English to German: good morning good morning (de)",
        "<extra_id_0> it snows (de) <extra_id_1>",
        "it snows (de)",
    ),
    "wmt16_enro": Golden(
        "test",
        "Translate English to Romanian: it snows",
        "it snows (ro)",
        "Translate English to Romanian: two birds two birds (ro)",
        "it snows (ro)",
        "it snows (ro)",
    ),
    "xsum": Golden(
        "test",
        "Article: a ship sank off malta One sentence summary:",
        "a ship sank",
        "Article: the team won One sentence summary: won",
        "a ship sank Article: more",
        "a ship sank",
    ),
    "wikilingua": Golden(
        "test",
        "Article: boil the water first One sentence summary:",
        "boil water",
        "Article: a cat was found One sentence summary: found",
        "<extra_id_0> boil water",
        "boil water",
    ),
}
LABELLED = [name for name, used in paper.DATASETS.items() if used.label]


@pytest.fixture(autouse=True, scope="module")
def _offline():
    with paper_rows.offline():
        yield


def read(name: str, split: str, lengths=None, **options) -> list[dict]:
    task = batching.with_vocabulary(name, mini.VOCABULARY)
    options = {"shuffle": False, "try_in_mem_cache": False} | options
    return list(task.get_dataset(lengths, split, **options).as_numpy_iterator())


rows = functools.cache(read)


def texts(name: str, split: str, **options) -> list[tuple[str, str]]:
    fields = ("inputs_pretokenized", "targets_pretokenized")
    found = read(name, split, **options) if options else rows(name, split)
    return [tuple(row[f].decode() for f in fields) for row in found]


@pytest.mark.parametrize("name", paper.DATASETS)
def test_table_4_and_its_variants(name):
    split, inputs, target, exemplar, *_ = GOLDEN[name]
    one_shot, span_target = f"{exemplar}\n\n{inputs}", f"<extra_id_0> {target} <extra_id_1>"
    assert texts(name, split) == [(inputs, target)]
    assert texts(f"{name}_span_1shot", split) == [(f"{one_shot} <extra_id_0>", span_target)]


@pytest.mark.parametrize("name", ["rte", "triviaqa"])
def test_other_variants(name):
    split, inputs, target, exemplar, *_ = GOLDEN[name]
    span_target = f"<extra_id_0> {target} <extra_id_1>"
    assert texts(f"{name}_1shot", split) == [(f"{exemplar}\n\n{inputs}", target)]
    assert texts(f"{name}_span", split) == [(f"{inputs} <extra_id_0>", span_target)]
    ((four_shot, plain_target),) = texts(f"{name}_4shot", split)
    blocks = four_shot.split("\n\n")
    assert len(set(blocks)) == 5
    assert (blocks[0], blocks[4], plain_target) == (exemplar, inputs, target)
    assert texts(f"{name}_span_4shot", split) == [(f"{four_shot} <extra_id_0>", span_target)]


@pytest.mark.parametrize("name", paper.DATASETS)
def test_each_name_is_what_it_says(name):
    """No registration reads another data set, number of exemplars or form than its name tells."""
    used = paper.DATASETS[name]
    for suffix in paper.FORMS:
        task = seqio.TaskRegistry.get(name + suffix)
        steps = {step.func.__name__: step.keywords for step in task.preprocessors[1:-2]}
        assert task.source is used.source
        assert steps.pop("join") == {"span": "_span" in suffix}
        assert steps.pop("cut_articles", None) == (
            {"span": "_span" in suffix} if used.cut else None
        )
        shots = steps.pop("choose_exemplars", {"shots": 0})["shots"]
        assert shots == int(suffix[-5]) if suffix.endswith("shot") else shots == 0
        assert not steps


@pytest.mark.parametrize("suffix", ["", "_span_1shot"])
@pytest.mark.parametrize("name", paper.DATASETS)
def test_outputs_are_cleaned_and_scored(name, suffix):
    golden = GOLDEN[name]
    task = batching.with_vocabulary(name + suffix, mini.VOCABULARY)
    (row,) = rows(name + suffix, golden.split)
    (metric,) = task.predict_metric_fns

    def score(output):
        reference = row["targets_pretokenized"].decode()
        target = task.postprocess_fn(reference, example=row, is_target=True)
        answer = task.postprocess_fn(output, example=row, is_target=False)
        return answer, metric([target] * 2, [answer] * 2)

    key = paper.DATASETS[name].metric_fn.__name__
    key = {"trivia_qa": "exact_match", "squad": "exact_match"}.get(key, key)
    answer, scores = score(golden.output)
    assert (answer, scores) == (golden.answer, {key: pytest.approx(100.0)})
    assert score(golden.target)[1] == {key: pytest.approx(100.0)}
    assert score("nothing else")[1] == {key: pytest.approx(0.0)}


def test_every_name_is_registered_and_nothing_is_read():
    assert len(paper.NAMES) == len(set(paper.NAMES)) == 12 * 6 + 2
    assert set(paper.NAMES) <= seqio.TaskRegistry.names()
    # The file of the default vocabulary lies on a server.
    assert dataset.VOCABULARY._model is None


@pytest.mark.parametrize("name", paper.DATASETS)
def test_only_splits_with_answers_are_offered(name):
    used = paper.DATASETS[name]
    task = seqio.TaskRegistry.get(name)
    assert {"train", "validation"} <= set(task.splits)
    assert used.evaluated_on in task.splits
    assert ("test" in task.splits) == (name not in {"rte", "cb", "wic", "triviaqa"})


@pytest.mark.parametrize("name", LABELLED)
def test_labels_go_by_the_names_of_tfds(name):
    used = paper.DATASETS[name]
    names = used.source.tfds_dataset.info.features[used.label].names
    assert set(used.words) == set(names)
    train = paper_rows.ROWS[used.source.tfds_dataset.info.full_name]["train"]
    expected = [used.words[row[used.label]] for row in train if row[used.label] != -1]
    assert [target for _, target in texts(name, "train")] == expected
    assert len(set(expected)) == len(names)


def test_web_questions_splits_its_train_rows():
    splits = [texts("web_questions", split) for split in ("train", "validation")]
    assert [len(split) for split in splits] == [5, 1]
    assert not set(splits[0]) & set(splits[1])


def test_sentinels_are_single_tokens():
    (row,) = rows("rte_span_1shot", "validation")
    first, second = (mini.VOCABULARY.encode(f"<extra_id_{i}>")[0] for i in (0, 1))
    assert row["inputs"].tolist()[-2:] == [first, mini.VOCABULARY.eos_id]
    true_false = mini.VOCABULARY.encode("False")
    assert row["targets"].tolist() == [first, *true_false, second, mini.VOCABULARY.eos_id]


@pytest.mark.parametrize("suffix", ["", "_span"])
def test_randomized_labels(suffix):
    plain, shuffled = (texts(name + suffix, "train") for name in ("rte", "rte_randomized"))
    assert [row[0] for row in plain] == [row[0] for row in shuffled]
    assert [row[1] for row in plain] != [row[1] for row in shuffled]
    assert sorted(row[1] for row in plain) == sorted(row[1] for row in shuffled)
    again = texts("rte_randomized" + suffix, "train", shuffle=True, seed=3)
    assert sorted(again) == sorted(shuffled)


@pytest.mark.parametrize("name", ["rte_4shot", "triviaqa_span_1shot"])
def test_exemplars_are_the_same_in_every_reading_and_never_the_row(name):
    fixed = texts(name, "train")
    assert len(fixed) >= 6
    orders = [texts(name, "train", shuffle=True, seed=seed) for seed in (1, None)]
    assert any(order != fixed for order in orders)
    for order in orders:
        assert sorted(order) == sorted(fixed)
    for inputs, _ in fixed:
        *exemplars, own = inputs.removesuffix(" <extra_id_0>").split("\n\n")
        assert exemplars
        assert not any(exemplar.startswith(own) for exemplar in exemplars)
    assert len({inputs.split("\n\n")[0] for inputs, _ in fixed}) > 1
    assert texts(name, "validation", seed=1) == texts(name, "validation")


@pytest.mark.parametrize("name", ["triviaqa_span_4shot", "rte_wmt14_enfr_1shot"])
def test_training_batches_resume(name):
    def batches(first, count):
        stream = batching.train_batches(
            name,
            LENGTHS,
            batching.FixedBatches(4),
            seed=1,
            first_step=first,
            vocabulary=mini.VOCABULARY,
        )
        return [next(stream)["encoder_input_tokens"] for _ in range(count)]

    # 6 rows an epoch: several epochs.
    np.testing.assert_array_equal(batches(0, 5)[3:], batches(3, 2))


def test_cut_articles_keep_their_cues():
    sentinel = mini.VOCABULARY.encode("<extra_id_0>")
    cue = mini.VOCABULARY.encode("One sentence summary:")
    long = [{"document": "rain " * 300 + "fell", "summary": "rain"}]
    changed = {"train": paper_rows.ROWS["xsum/1.1.0"]["train"] + long, "test": long}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(paper_rows.ROWS, "xsum/1.1.0", changed)
        for name, end in (("xsum", cue), ("xsum_span_4shot", cue + sentinel)):
            (row,) = read(name, "test", {"inputs": 100, "targets": 8})
            ids = row["inputs"].tolist()
            assert 90 <= len(ids) <= 100
            assert ids[-1 - len(end) :] == [*end, mini.VOCABULARY.eos_id]


@pytest.mark.parametrize("name", paper.DATASETS)
def test_docs_tell_each_task(name):
    used = paper.DATASETS[name]
    (line,) = [line for line in DOCS.splitlines() if line.startswith(f"| `{name}` ")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    sizes = [
        f"{used.sizes[s]:,}" if s in used.sizes else "–" for s in ("train", "validation", "test")
    ]
    assert cells[1] == f"`{used.tfds_name}`"
    assert cells[3].startswith(used.metric_fn.__name__)
    assert cells[4:7] == sizes
    assert cells[7] == used.evaluated_on
