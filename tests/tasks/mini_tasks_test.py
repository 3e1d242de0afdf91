"""The tasks of the small world, as texts and as tokens, and their vocabulary."""

import contextlib

import numpy as np
import pytest

from promot_jax.data import batching, tasks
from promot_jax.tasks import mini, mini_pretrain, mini_rows, mini_vocabulary, templates
from promot_jax.tasks import mini_world as world

NAMES = [f"mini_{name}" for name in (*mini_rows.TASKS, "wmt_enfr")]
ALL_NAMES = [name + suffix for name in NAMES for suffix in ("", "_1shot")]
METRICS = {
    "mini_rte": "accuracy",
    "mini_cb": "accuracy",
    "mini_wic": "accuracy",
    "mini_triviaqa": "exact_match",
    "mini_web_questions": "exact_match",
    "mini_wmt_ende": "exact_match",
    "mini_wmt_enro": "exact_match",
    "mini_wmt_enfr": "exact_match",
    "mini_xsum": "rouge2",
    "mini_wikilingua": "rouge2",
}


LENGTHS = {"inputs": 128, "targets": 24}
# Tests of the same process register others, such as tasks that are asked in another way.
SHIPPED = {
    name
    for name in tasks.names()
    if name.startswith("mini_") and isinstance(tasks.get(name), tasks.Task)
}


def tokens_of(name: str, split: str, count: int | None = None) -> list[tasks.Tokens]:
    """Returns a task's rows in order, as the miniature reads them."""
    rows = batching.examples(name, split, count)
    whole = {feature: 2 * length for feature, length in LENGTHS.items()}
    return tasks.task(name).encode(rows, mini.VOCABULARY, whole)


@pytest.fixture(scope="module")
def short_pretraining():
    """Serves a short train split of the mixture, so that no test makes 300,000 rows."""
    patch = pytest.MonkeyPatch()
    patch.setitem(mini_pretrain.SPLIT_SIZES, "train", 20_000)
    for made in (mini_pretrain.rows, mini._rows):
        made.cache_clear()
    yield
    patch.undo()
    for made in (mini_pretrain.rows, mini._rows):
        made.cache_clear()


# ---- vocabulary ----------------------------------------------------------------------------------


def test_special_ids_and_size() -> None:
    vocabulary = mini.VOCABULARY
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)
    assert vocabulary.vocab_size <= 1280
    assert vocabulary.extra_ids == mini_vocabulary.EXTRA_IDS
    first = vocabulary.encode("<extra_id_0>")
    assert first == [vocabulary.vocab_size - 1]
    last = f"<extra_id_{vocabulary.extra_ids - 1}>"
    assert vocabulary.encode(last) == [vocabulary.vocab_size - vocabulary.extra_ids]


def test_every_word_of_the_world_is_one_piece() -> None:
    words = [field for word in (*world.WORDS, *world.CONJUNCTIONS) for field in word]
    words += [entry for country in world.COUNTRIES for entry in country[1:]]
    words += [member for members in world.CATEGORIES.values() for member in members]
    words += [*world.VERBS, *world.SENSES, *mini_pretrain.LABELS]
    words += ["Translate", "English", *world.LANGUAGE_NAMES.values(), "Article", "Q", "A"]
    assert len(words) > 1_000
    assert [word for word in words if len(mini.VOCABULARY.encode(word)) != 1] == []


@pytest.mark.parametrize(
    "text",
    [
        "zebra xylophone, quiz!",
        "Überraschung façade câmpuri țară (5 + 3) = 8",
        "True or False? It's A) or B) & C) at 50%",
        templates.format_openbookqa("what is it?", ["a fox", "x", "y", "z"]),
    ],
)
def test_other_text_is_encoded_and_comes_back(text: str) -> None:
    ids = mini.VOCABULARY.encode(text)
    assert mini.VOCABULARY.unk_id not in ids
    assert mini.VOCABULARY.decode(ids) == text


@pytest.mark.slow
@pytest.mark.long
def test_the_bundled_vocabulary_is_what_training_gives(tmp_path) -> None:
    """Row texts that change without a new vocabulary would be split into letters."""
    path = tmp_path / "again.model"
    mini_vocabulary.train_vocabulary(path)
    assert path.read_bytes() == mini_vocabulary.MODEL_PATH.read_bytes()


# ---- tasks ---------------------------------------------------------------------------------------


def test_names() -> None:
    others = {"mini_rte_randomized", "mini_pretrain"}
    others |= {"mini_entailment", "mini_pretrain_entailment"}
    assert {*ALL_NAMES, *others} == SHIPPED
    assert set(mini.EVALUATION_TASKS) == set(NAMES) - {"mini_rte", "mini_wmt_enfr"}


@pytest.mark.parametrize("name", ALL_NAMES)
def test_rows_are_words_that_the_vocabulary_knows(name: str) -> None:
    task, vocabulary = tasks.task(name), mini.VOCABULARY
    rows_of = mini_rows.one_shot_splits if "1shot" in name else mini_rows.zero_shot_splits
    rows = rows_of(name.removeprefix("mini_").removesuffix("_1shot"))
    assert set(task.splits) == {"train", "validation", "test"}
    for split in ("validation", "test"):
        found = tokens_of(name, split)
        assert len(found) == len(task.rows(split)) == len(rows[split]) == task.source.sizes[split]
        for row, texts in zip(found, rows[split], strict=True):
            for ids, text in zip(row[:2], texts, strict=True):
                assert ids[-1] == vocabulary.eos_id
                assert vocabulary.unk_id not in ids
                assert vocabulary.decode(ids) == " ".join(text.split())
            assert len(row.inputs) <= LENGTHS["inputs"]
            assert len(row.targets) <= LENGTHS["targets"]


@pytest.mark.parametrize("name", ALL_NAMES)
def test_scores_of_right_and_wrong_predictions(name: str) -> None:
    task = tasks.task(name)
    (metric,) = task.metric_fns
    references = [row["targets"] for row in task.rows("test")]

    def score(outputs: list[str]) -> float:
        targets = [task.postprocess(t, example={}, is_target=True) for t in references]
        predictions = [task.postprocess(o, example={}, is_target=False) for o in outputs]
        ((key, value),) = metric(targets, predictions).items()
        assert key == METRICS[name.removesuffix("_1shot")]
        return value

    continued = [f"<extra_id_0> {text} Q: more <extra_id_1>" for text in references]
    assert score(references) == pytest.approx(100.0)
    assert score(continued) == pytest.approx(100.0)
    assert score(["nothing of the sort"] * len(references)) == pytest.approx(0.0)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_randomized_task_has_the_inputs_of_rte_in_order(split: str) -> None:
    plain, shuffled = (tasks.task(f"mini_rte{end}").rows(split) for end in ("", "_randomized"))
    assert [row["inputs"] for row in plain] == [row["inputs"] for row in shuffled]
    targets = [row["targets"] for row in shuffled]
    assert targets != [row["targets"] for row in plain]
    assert targets == [target for _, target in mini_rows.randomized_splits("rte")[split]]


@pytest.mark.parametrize("suffix", ["", "_1shot"])
def test_the_mixture_of_both_targets_draws_them_equally(suffix: str) -> None:
    name = f"mini_rte_wmt_enfr{suffix}"
    assert tasks.rates(name) == {f"mini_rte{suffix}": 0.5, f"mini_wmt_enfr{suffix}": 0.5}
    stream = batching.train_batches(name, LENGTHS, batching.FixedBatches(400), seed=0)
    with contextlib.closing(stream):
        batch = next(stream)
    texts = [mini.VOCABULARY.decode(row) for row in batch["encoder_input_tokens"]]
    blocks = 2 if suffix else 1
    translations = [text.count("Translate English to French:") for text in texts]
    assert set(translations) == {0, blocks}
    assert translations.count(blocks) == 200
    assert {text.count("Is it true or false?") for text in texts} == {0, blocks}


def test_pretraining_lengths_and_targets(short_pretraining) -> None:
    examples = tokens_of("mini_pretrain", "train")
    assert len(examples) == 20_000
    inputs = np.array([len(example.inputs) for example in examples])
    targets = np.array([len(example.targets) for example in examples])
    assert inputs.max() <= 128
    assert targets.max() <= 24
    assert np.mean(inputs <= 64) > 0.9
    tokens = np.concatenate([ids for example in examples for ids in example[:2]])
    assert (tokens != mini.VOCABULARY.unk_id).all()
    assert tokens.max() == mini.VOCABULARY.vocab_size - 1


def test_no_validation_row_of_pretraining_is_a_train_row(short_pretraining) -> None:
    train = set(mini_pretrain.rows("train"))
    validation = mini_pretrain.rows("validation")
    assert len(validation) == mini_pretrain.SPLIT_SIZES["validation"]
    assert not train & set(validation)
