"""The paper's tasks over tfds, offline: Table 4 row by row, splits, labels, training, docs."""

import collections
import contextlib
import pathlib

import numpy as np
import pytest
import seqio

from promot_jax.base.errors import UserError
from promot_jax.data import batching, foreign, tasks
from promot_jax.tasks import dataset, few_shot, mini, paper, tfds_rows
from tests.tasks import paper_rows

pytestmark = pytest.mark.long

DOCS = (pathlib.Path(__file__).parent.parent.parent / "docs" / "tasks.md").read_text()
LENGTHS = {"inputs": 128, "targets": 16}
FOLDER_OF = tfds_rows.folder_of

Golden = collections.namedtuple("Golden", "split inputs target exemplar output answer")
# The template's input and target of the only test row, its one exemplar, and what the
# post-processing makes of an output.
GOLDEN = {
    "rte": Golden(
        "validation",
        "A cat sleeps. question: A cat runs. Is it true or false? answer:",
        "False",
        "Ana reads a book. question: Ana has a book. Is it true or false? answer: True",
        "<extra_id_0> False. It sleeps. <extra_id_1>",
        "False",
    ),
    "cb": Golden(
        "validation",
        "A cat sleeps. question: A cat runs. Is it true or false or neither? answer:",
        "False",
        "A dog runs. question: An animal moves. Is it true or false or neither? answer: True",
        "False, it sleeps",
        "False",
    ),
    "snli": Golden(
        "test",
        "A cat sleeps. question: A cat runs. Is it true or false or neither? answer:",
        "Neither",
        "A dog runs. question: An animal moves. Is it true or false or neither? answer: True",
        "Neither\n\nA dog runs. question:",
        "Neither",
    ),
    "wic": Golden(
        "validation",
        "The palm fell. The palm rose. question: The word palm is used in the same way in the two"
        " sentences. Is it true or False? answer:",
        "True",
        "The light fell. The light rose. question: The word light is used in the same"
        " way in the two sentences. Is it true or False? answer: True",
        "True Q: more",
        "True",
    ),
    "openbookqa": Golden(
        "test",
        "Q: what is ice A) a ice B) b ice C) c ice D) d ice A:",
        "C",
        "Q: what do cows drink A) a drink B) b drink C) c drink D) d drink A: B",
        "<extra_id_0> C) c ice",
        "C",
    ),
    "triviaqa": Golden(
        "validation",
        "Q: who was sartre A:",
        "Jean-Paul Sartre",
        "Q: where is lima A: Answer 2",
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
        "Translate English to French: my house my house (fr)",
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
        "Translate English to Romanian: we eat we eat (ro)",
        "it snows (ro)",
        "it snows (ro)",
    ),
    "xsum": Golden(
        "test",
        "Article: a ship sank off malta One sentence summary:",
        "a ship sank",
        "Article: a cat was found One sentence summary: found",
        "a ship sank Article: more",
        "a ship sank",
    ),
    "wikilingua": Golden(
        "test",
        "Article: boil the water first One sentence summary:",
        "boil water",
        "Article: rain fell on rome One sentence summary: rome",
        "<extra_id_0> boil water",
        "boil water",
    ),
}
LABELLED = [name for name, used in paper.DATASETS.items() if used.label]


@pytest.fixture(autouse=True, scope="module")
def _offline():
    with paper_rows.offline():
        yield


def rows(name: str, split: str) -> list[dict]:
    return batching.examples(name, split)


def texts(name: str, split: str) -> list[tuple[str, str]]:
    return [(row["inputs"], row["targets"]) for row in rows(name, split)]


def tokens(name: str, split: str, lengths=LENGTHS) -> list[tasks.Tokens]:
    return tasks.task(name).encode(rows(name, split), mini.VOCABULARY, lengths)


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
        task, span = tasks.task(name + suffix), "_span" in suffix
        assert (task.source.dataset, task.source.span) == (used, span)
        assert task.source.shots == (int(suffix[-5]) if suffix.endswith("shot") else 0)
        expected = few_shot.CutArticles(span) if used.cut else tasks.encode_texts
        assert task.encode == expected
        assert task.source.origin == f"tfds {used.tfds_name}"


@pytest.mark.parametrize("suffix", ["", "_span_1shot"])
@pytest.mark.parametrize("name", paper.DATASETS)
def test_outputs_are_cleaned_and_scored(name, suffix):
    golden = GOLDEN[name]
    task = tasks.task(name + suffix)
    (row,) = rows(name + suffix, golden.split)
    (metric,) = task.metric_fns

    def score(output):
        target = task.postprocess(row["targets"], example=row, is_target=True)
        answer = task.postprocess(output, example=row, is_target=False)
        return answer, metric([target] * 2, [answer] * 2)

    key = paper.DATASETS[name].metric_fn.__name__
    key = {"trivia_qa": "exact_match", "squad": "exact_match"}.get(key, key)
    answer, scores = score(golden.output)
    assert (answer, scores) == (golden.answer, {key: pytest.approx(100.0)})
    assert score(golden.target)[1] == {key: pytest.approx(100.0)}
    assert score("nothing else")[1] == {key: pytest.approx(0.0)}


def test_every_name_is_registered_and_nothing_is_read():
    assert len(paper.NAMES) == len(set(paper.NAMES)) == 12 * 6 + 2
    assert set(paper.NAMES) <= set(tasks.names())
    # The file of the default vocabulary lies on a server: nothing asked for it.
    assert tasks.task("rte").vocabulary() is dataset.VOCABULARY


@pytest.mark.parametrize("name", paper.DATASETS)
def test_only_splits_with_answers_are_offered(name):
    used = paper.DATASETS[name]
    task = tasks.task(name)
    assert {"train", "validation"} <= set(task.splits)
    assert used.evaluated_on in task.splits
    assert ("test" in task.splits) == (name not in {"rte", "cb", "wic", "triviaqa"})


@pytest.mark.parametrize("name", LABELLED)
def test_labels_go_by_the_names_of_tfds(name):
    used = paper.DATASETS[name]
    names = tfds_rows.names(used.wanted)
    assert set(used.words) == set(names)
    train = paper_rows.ROWS[used.tfds_name.replace(":", "/")]["train"]
    expected = [used.words[row[used.label]] for row in train if row[used.label] != -1]
    assert [target for _, target in texts(name, "train")] == expected
    assert len(set(expected)) == len(names)


def test_web_questions_splits_its_train_rows():
    splits = [texts("web_questions", split) for split in ("train", "validation")]
    assert [len(split) for split in splits] == [5, 1]
    assert not set(splits[0]) & set(splits[1])


def test_sentinels_are_single_tokens():
    (row,) = tokens("rte_span_1shot", "validation")
    first, second = (mini.VOCABULARY.encode(f"<extra_id_{i}>")[0] for i in (0, 1))
    assert row.inputs.tolist()[-2:] == [first, mini.VOCABULARY.eos_id]
    true_false = mini.VOCABULARY.encode("False")
    assert row.targets.tolist() == [first, *true_false, second, mini.VOCABULARY.eos_id]


@pytest.mark.parametrize("suffix", ["", "_span"])
def test_randomized_labels(suffix):
    plain, shuffled = (texts(name + suffix, "train") for name in ("rte", "rte_randomized"))
    assert [row[0] for row in plain] == [row[0] for row in shuffled]
    assert [row[1] for row in plain] != [row[1] for row in shuffled]
    assert sorted(row[1] for row in plain) == sorted(row[1] for row in shuffled)


@pytest.mark.parametrize("name", ["rte_4shot", "triviaqa_span_1shot"])
def test_exemplars_are_the_same_in_every_reading_and_never_the_row(name):
    fixed = texts(name, "train")
    assert len(fixed) >= 6
    task = foreign.with_vocabulary(seqio.TaskRegistry.get(name), mini.VOCABULARY)
    orders = []
    for seed in (1, 2):
        found = task.get_dataset(None, "train", seed=seed, try_in_mem_cache=False)
        features = [f"{feature}_pretokenized" for feature in ("inputs", "targets")]
        orders.append(
            [tuple(row[f].decode() for f in features) for row in found.as_numpy_iterator()]
        )
    assert any(order != fixed for order in orders)
    for order in orders:
        assert sorted(order) == sorted(fixed)
    for inputs, _ in fixed:
        *exemplars, own = inputs.removesuffix(" <extra_id_0>").split("\n\n")
        assert exemplars
        assert not any(exemplar.startswith(own) for exemplar in exemplars)
    assert len({inputs.split("\n\n")[0] for inputs, _ in fixed}) > 1


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
        with contextlib.closing(stream):
            return [next(stream)["encoder_input_tokens"] for _ in range(count)]

    # 6 rows an epoch: several epochs.
    np.testing.assert_array_equal(batches(0, 5)[3:], batches(3, 2))


def test_cut_articles_keep_their_cues(tmp_path):
    sentinel = mini.VOCABULARY.encode("<extra_id_0>")
    cue = mini.VOCABULARY.encode("One sentence summary:")
    long = [{"document": "rain " * 300 + "fell", "summary": "rain"}]
    changed = {"train": paper_rows.ROWS["xsum/1.1.0"]["train"] + long, "test": long}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(paper_rows.ROWS, "xsum/1.1.0", changed)
        paper_rows.forget()
        patch.setenv("PROMOT_CACHE", str(tmp_path))
        for name, end in (("xsum", cue), ("xsum_span_4shot", cue + sentinel)):
            (row,) = tokens(name, "test", {"inputs": 100, "targets": 8})
            ids = row.inputs.tolist()
            assert 90 <= len(ids) <= 100
            assert ids[-1 - len(end) :] == [*end, mini.VOCABULARY.eos_id]
            # Whoever judges answers sees the whole.
            (whole,) = rows(name, "test")
            assert long[0]["document"] in whole["inputs"]
    paper_rows.forget()


def test_a_data_set_that_is_not_here_is_one_line(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds_rows, "folder_of", FOLDER_OF)
    paper_rows.forget()
    with pytest.raises(UserError) as found:
        tasks.task("snli_1shot").rows("test")
    assert str(found.value) == (
        f"data set snli:1.1.0 is not in {tmp_path}; fetch it with "
        f"`tfds build snli:1.1.0 --data_dir {tmp_path}`"
    )
    paper_rows.forget()


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
