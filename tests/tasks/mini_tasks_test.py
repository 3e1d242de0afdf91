"""The seqio tasks of the small world, through their whole pipeline, and their vocabulary."""

import numpy as np
import pytest
import seqio

from promot_jax.tasks import mini, mini_pretrain, mini_rows, mini_vocabulary, templates
from promot_jax.tasks import mini_world as world

pytestmark = pytest.mark.long

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


def examples_of(name: str, split: str, count: int | None = None) -> list[dict]:
    """Reads a task's examples in order."""
    dataset = seqio.get_mixture_or_task(name).get_dataset(None, split=split, shuffle=False)
    return list(dataset.take(-1 if count is None else count).as_numpy_iterator())


@pytest.fixture(scope="module")
def short_pretraining():
    """Serves a short train split of the mixture, so that no test makes 300,000 rows."""
    patch = pytest.MonkeyPatch()
    patch.setitem(mini_pretrain.SPLIT_SIZES, "train", 20_000)
    mini_pretrain.rows.cache_clear()
    yield
    patch.undo()
    mini_pretrain.rows.cache_clear()


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


def test_the_bundled_vocabulary_is_what_training_gives(tmp_path) -> None:
    """Row texts that change without a new vocabulary would be split into letters."""
    path = tmp_path / "again.model"
    mini_vocabulary.train_vocabulary(path)
    assert path.read_bytes() == mini_vocabulary.MODEL_PATH.read_bytes()


# ---- tasks ---------------------------------------------------------------------------------------


def test_names() -> None:
    registered = {name for name in seqio.TaskRegistry.names() if name.startswith("mini_")}
    others = {"mini_rte_randomized", "mini_pretrain"}
    others |= {"mini_entailment", "mini_pretrain_entailment"}
    assert registered == {*ALL_NAMES, *others}
    assert set(mini.EVALUATION_TASKS) == set(NAMES) - {"mini_rte", "mini_wmt_enfr"}


@pytest.mark.parametrize("name", ALL_NAMES)
def test_pipeline(name: str) -> None:
    task = seqio.get_mixture_or_task(name)
    vocabulary = task.output_features["inputs"].vocabulary
    rows_of = mini_rows.one_shot_splits if "1shot" in name else mini_rows.zero_shot_splits
    rows = rows_of(name.removeprefix("mini_").removesuffix("_1shot"))
    assert set(task.splits) == {"train", "validation", "test"}
    for split in ("validation", "test"):
        examples = examples_of(name, split)
        assert len(examples) == len(rows[split]) == task.num_input_examples(split)
        for example, (inputs, targets) in zip(examples, rows[split], strict=True):
            for feature, text in (("inputs", inputs), ("targets", targets)):
                ids = example[feature].tolist()
                assert ids[-1] == vocabulary.eos_id
                assert vocabulary.unk_id not in ids
                assert vocabulary.decode(ids) == " ".join(text.split())
            assert len(example["inputs"]) <= 128
            assert len(example["targets"]) <= 24


@pytest.mark.parametrize("name", ALL_NAMES)
def test_scores_of_right_and_wrong_predictions(name: str) -> None:
    task = seqio.get_mixture_or_task(name)
    (metric,) = task.metric_fns
    references = [example["targets_pretokenized"].decode() for example in examples_of(name, "test")]

    def score(outputs: list[str]) -> float:
        targets = [task.postprocess_fn(t, example={}, is_target=True) for t in references]
        predictions = [task.postprocess_fn(o, example={}, is_target=False) for o in outputs]
        ((key, value),) = metric(targets, predictions).items()
        assert key == METRICS[name.removesuffix("_1shot")]
        return value

    continued = [f"<extra_id_0> {text} Q: more <extra_id_1>" for text in references]
    assert score(references) == pytest.approx(100.0)
    assert score(continued) == pytest.approx(100.0)
    assert score(["nothing of the sort"] * len(references)) == pytest.approx(0.0)


def test_training_split_and_shuffling_keep_the_rows() -> None:
    task = seqio.get_mixture_or_task("mini_rte_1shot")
    shuffled = task.get_dataset(
        {"inputs": 128, "targets": 24}, split="train", shuffle=True, seed=0
    ).as_numpy_iterator()
    texts = [example["inputs_pretokenized"].decode() for example in shuffled]
    rows = [inputs for inputs, _ in mini_rows.one_shot_splits("rte")["train"]]
    assert texts != rows
    assert sorted(texts) == sorted(rows)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_randomized_task_has_the_inputs_of_rte_in_order(split: str) -> None:
    count = 100
    plain = examples_of("mini_rte", split, count)
    shuffled = examples_of("mini_rte_randomized", split, count)
    for one, other in zip(plain, shuffled, strict=True):
        np.testing.assert_array_equal(one["inputs"], other["inputs"])
    equal = [a["targets_pretokenized"] for a in plain] == [
        b["targets_pretokenized"] for b in shuffled
    ]
    assert not equal
    rows = mini_rows.randomized_splits("rte")[split]
    expected = [target for _, target in rows[:count]]
    assert [b["targets_pretokenized"].decode() for b in shuffled] == expected
    task = seqio.get_mixture_or_task("mini_rte_randomized")
    assert task.num_input_examples(split) == len(rows)


@pytest.mark.parametrize("suffix", ["", "_1shot"])
def test_the_mixture_of_both_targets_draws_them_equally(suffix: str) -> None:
    mixture = seqio.get_mixture_or_task(f"mini_rte_wmt_enfr{suffix}")
    assert {task.name for task in mixture.tasks} == {f"mini_rte{suffix}", f"mini_wmt_enfr{suffix}"}
    rows = mixture.get_dataset(
        {"inputs": 128, "targets": 24}, "train", shuffle=True, num_epochs=None, seed=0
    )
    decode = mini.VOCABULARY.decode
    texts = [decode(row["inputs"].tolist()) for row in rows.take(400).as_numpy_iterator()]
    blocks = 2 if suffix else 1
    translations = [text.count("Translate English to French:") for text in texts]
    assert set(translations) == {0, blocks}
    assert 150 < translations.count(blocks) < 250
    assert {text.count("Is it true or false?") for text in texts} == {0, blocks}


def test_pretraining_lengths_and_targets(short_pretraining) -> None:
    examples = examples_of("mini_pretrain", "train")
    assert len(examples) == 20_000
    inputs = np.array([len(example["inputs"]) for example in examples])
    targets = np.array([len(example["targets"]) for example in examples])
    assert inputs.max() <= 128
    assert targets.max() <= 24
    assert np.mean(inputs <= 64) > 0.9
    tokens = np.concatenate([e[f] for e in examples for f in ("inputs", "targets")])
    assert (tokens != mini.VOCABULARY.unk_id).all()
    assert tokens.max() == mini.VOCABULARY.vocab_size - 1


def test_no_validation_row_of_pretraining_is_a_train_row(short_pretraining) -> None:
    train = set(mini_pretrain.rows("train"))
    validation = mini_pretrain.rows("validation")
    assert len(validation) == mini_pretrain.SPLIT_SIZES["validation"]
    assert not train & set(validation)
