"""Targets as a vocabulary writes them, and what perfect answers score."""

import itertools
import json

import pytest
import seqio
import tensorflow as tf
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from promot_jax.data import batching, metrics, oracle, scoring, tasks, vocabularies, written
from promot_jax.tasks import files, mini, templates

NUMBERS = itertools.count()
LABELS = ("+", "-", "C++", "yes!", ":)", "A", "5", "-5")
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_vocabulary():
    """A tokenizer that writes any text as it is."""
    tokenizer = tokenizers.Tokenizer(models.BPE({b: i for i, b in enumerate(BYTES)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    return vocabularies.Tokenizer.from_json(tokenizer.to_str(), "</s>")


def word_vocabulary(*words):
    """A tokenizer of whole words and [UNK]."""
    known = {word: number for number, word in enumerate(["[UNK]", "</s>", *words])}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(known, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return vocabularies.Tokenizer.from_json(tokenizer.to_str(), "</s>")


def registered(tmp_path, targets, metric="accuracy"):
    """Registers a task of these targets, each twice."""
    path = tmp_path / f"rows{next(NUMBERS)}.jsonl"
    rows = [{"t": f"row {i}", "y": y} for i, y in enumerate(list(targets) * 2)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return files.task(str(path), str(path), "{t}", "{y}", metric, test=str(path))


def judge(task, vocabulary):
    return scoring.Judge(task, batching.examples(task, "test"), vocabulary)


def asked(task, vocabulary, **changes):
    rows = batching.examples(task, "test")
    return oracle.ask(task, None, rows, vocabulary, **changes)


@pytest.mark.parametrize(
    ("text", "as_written"),
    [
        ("yes，it is", "yes,it is"),
        ("ｙｅｓ", "yes"),
        ("the  box", "the box"),
        ("one\ntwo", "one two"),
        ("ﬁsh", "fish"),
        ("the box", "the box"),
        ("☃ box", "☃ box"),
    ],
)
def test_a_text_is_written_as_sentencepiece_does_unless_it_holds_the_unknown(text, as_written):
    assert written.Writer(mini.vocabulary())(text) == as_written
    assert written.Writer(byte_vocabulary())(text) == text


def test_an_unknown_token_of_a_tokenizer_file_says_nothing():
    write = written.Writer(word_vocabulary("yes", "no"))
    assert write("perhaps") == "perhaps"
    assert write(" yes  no") == "yes no"
    assert write.target(["yes", "perhaps"]) == ["yes", "perhaps"]
    assert write.target({"start": 3}) == {"start": 3}


@pytest.mark.parametrize("metric", metrics.PLAIN)
@pytest.mark.parametrize(
    "targets",
    [
        ("yes，it is", "no，it is not"),
        ("ｙｅｓ", "ｎｏ"),
        ("the  red   box", "the\nred box now"),
        ("Ｑ： what", "yes"),
        LABELS,
        ("a fox. Q: why", "yes"),
        ("tunisia și grecia", "să mergem"),
    ],
    ids="|".join,
)
def test_perfect_answers_score_100(tmp_path, targets, metric):
    for vocabulary in (mini.vocabulary(), byte_vocabulary()):
        found = asked(registered(tmp_path, targets, metric), vocabulary)
        assert found.score == pytest.approx(100.0)


@pytest.mark.parametrize("metric", [name for name in metrics.PLAIN if name != "accuracy"])
@pytest.mark.parametrize("targets", [("我喜欢吃苹果，", "北京"), ("привет,  мир!", "да")])
def test_perfect_answers_of_other_scripts(tmp_path, targets, metric):
    task = registered(tmp_path, targets, metric)
    assert asked(task, byte_vocabulary()).score == pytest.approx(100.0)
    poor = asked(task, mini.vocabulary())
    assert poor.score < 20
    assert "4 of 4 targets hold characters that the vocabulary does not know" in poor.reasons[0]


def test_labels_with_signs_are_told_apart(tmp_path):
    task = registered(tmp_path, LABELS, "exact_match")
    found = asked(task, mini.vocabulary())
    assert (found.score, found.reasons) == (pytest.approx(100.0), [])
    told = judge(task, mini.vocabulary())
    others = dict(zip(LABELS, (*LABELS[1:], LABELS[0]), strict=True))
    answers = [others[target[0]] for target in told.targets]
    assert told.metrics(told.answers(answers)) == {"exact_match": 0.0}


@pytest.mark.parametrize(
    ("targets", "metric", "pair"),
    [
        (
            ("yes!", "yes"),
            "exact_match",
            "by exact_match, as the vocabulary writes them: 'yes'",
        ),
        (("yes,", "yes，"), "accuracy", "'yes,' and 'yes，'"),
        (("C++", "C"), "rouge2", "'C' and 'C++'"),
        (("red box", "the box, red"), "f1", "'red box' and 'the box, red'"),
        (("one  two", "one two"), "bleu", "'one  two' and 'one two'"),
    ],
)
def test_targets_that_count_as_equal_are_named(tmp_path, targets, metric, pair):
    (reason,) = asked(registered(tmp_path, targets, metric), mini.vocabulary()).reasons
    assert pair in reason


def test_what_is_cut_is_named(tmp_path):
    task = registered(tmp_path, ["the box is red and blue", "yes"])
    found = asked(task, mini.vocabulary(), length=4)
    assert found.score == 50.0
    assert found.reasons == [
        "2 of 4 targets are cut at 4 tokens, such as 'the box is red and blue'"
    ]
    assert asked(task, mini.vocabulary(), length=7).score == 100.0


def test_what_post_processing_or_the_metric_spoils_is_named():
    def metric(targets, predictions):
        return {"first": 100.0 * (targets[0] == predictions[0] != "no")}

    def add(name, postprocess_fn, text):
        def rows(split, shuffle_files=False, seed=None):
            return tf.data.Dataset.from_tensor_slices({"inputs": ["a"], "targets": [text]})

        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(rows, splits=("test",)),
            preprocessors=mini.PREPROCESSORS,
            output_features=mini.OUTPUT_FEATURES,
            postprocess_fn=postprocess_fn,
            metric_fns=[metric],
        )

    add("scoring_cut", templates.postprocess_text, "so. Q: why")
    add("scoring_never", None, "no")
    (cut,), (never,) = (asked(name, None).reasons for name in ("scoring_cut", "scoring_never"))
    assert cut == (
        "1 of 1 targets are changed by the post-processing of outputs, such as 'so. Q: why' to "
        "'so.'"
    )
    assert "score less than 100 by the metric even where the answer equals them" in never


def test_the_rule_of_post_processing_is_chosen_once(tmp_path, monkeypatch):
    task = tasks.task(registered(tmp_path, ["yes", "no"]), mini.vocabulary())
    assert task.postprocess("yes. The", is_target=False) == "yes"
    monkeypatch.setattr(files.RowSource, "parts", lambda self: pytest.fail("read again"))
    again = tasks.task(task.name, mini.vocabulary())
    assert again.postprocess("no. The", is_target=False) == "no"


@pytest.mark.parametrize("name", [*mini.EVALUATION_TASKS, "mini_rte", "mini_wmt_enfr"])
def test_every_bundled_task_can_be_answered(name):
    rows = batching.examples(name, "test", 100)
    found = oracle.ask(name, None, rows, mini.vocabulary())
    assert (found.score, found.reasons) == (pytest.approx(100.0), [])
