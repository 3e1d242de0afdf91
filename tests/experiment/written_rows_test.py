"""Rows that the start model writes: which they are, what is kept on disk, what trains on them."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.data import batching, generated, metrics, row_store, tasks
from promot_jax.data.chat import Chat
from promot_jax.data.generated import Asking, Continuation, Rewriting
from promot_jax.experiment import attachments, written_rows
from promot_jax.experiment.runner import Runner
from promot_jax.experiment.written_rows import Author
from promot_jax.models import decoding
from promot_jax.models.attached import BARE, Attached
from promot_jax.tasks import mini
from promot_jax.training import row_parts
from promot_jax.training.replay import Replay
from promot_jax.training.stages import Method
from tests import tiny
from tests.data.chat_template_test import CALLED, opened, turns

pytestmark = pytest.mark.long

GREEDY = Asking(tokens=3, temperature=None)
WORDS = mini.vocabulary()


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Rows are kept in a folder of the test's own, a few in a part; nothing is registered after."""
    monkeypatch.setenv(row_store.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(written_rows, "PART", 8)
    monkeypatch.setattr(written_rows, "BATCH", 4)
    monkeypatch.setattr(tasks, "_registered", dict(tasks._registered))


@pytest.fixture(scope="module")
def params():
    return tiny.model().init(jax.random.key(0))


class Said(Author):
    """An author whose answers are given; it counts how often it is asked."""

    def __init__(self, say):
        super().__init__(tiny.model(), partitioning.make_mesh())
        self.say, self.asked = say, []

    def _answers(self, asking, rows, number, params, attached):
        texts = [WORDS.decode(row.inputs[:-1].tolist()) for row in rows]
        self.asked += texts
        self.attached = attached
        return [self.say(text) for text in texts]


def rows_of(name):
    return [*map(dict, tasks.task(name).rows("train"))]


def test_nothing_is_read_before_it_is_written():
    name = generated.continued(None, 5)
    assert len(tasks.task(name).rows("train")) == 5
    # By which seqio registers it.
    assert tasks.task(name).vocabulary().eos_id is not None
    with pytest.raises(UserError, match="has not written these rows"):
        tasks.task(name).rows("train")[0]


def test_rows_are_samples_of_the_model_that_do_not_depend_on_parts(params, monkeypatch):
    author = Author(tiny.model(), partitioning.make_mesh())
    name = generated.continued("mini_triviaqa", 10, asking=Asking(tokens=4))
    author.write(name, params, "start")
    first = rows_of(name)
    originals = tasks.task("mini_triviaqa").rows("train")
    assert [row["inputs"] for row in first] == [originals[i]["inputs"] for i in range(10)]
    assert len({row["targets"] for row in first}) > 5
    # Another start model writes them anew, by the same draws here.
    monkeypatch.setattr(written_rows, "PART", 4)
    author.write(name, params, "again")
    assert rows_of(name) == first
    other = generated.continued("mini_triviaqa", 10, asking=Asking(tokens=4, seed=1))
    author.write(other, params, "start")
    assert rows_of(other) != first


def test_a_beginning_is_its_first_tokens():
    name = generated.continued("mini_triviaqa", 4, 3)
    author = Said(lambda text: "so")
    author.write(name, {"a": {}}, "start")
    assert all(len(WORDS.encode(text)) == 3 for text in author.asked)
    assert {row["targets"] for row in rows_of(name)} == {"so"}


def test_what_was_written_is_read_again_and_a_killed_run_loses_a_part_at_most():
    name = generated.continued("mini_triviaqa", 20)

    def killed(text, count=[0]):  # noqa: B006
        count[0] += 1
        if count[0] > 13:
            raise KeyboardInterrupt
        return text[::-1]

    with pytest.raises(KeyboardInterrupt):
        Said(killed).write(name, {"a": {}}, "start")
    rest = Said(lambda text: text[::-1])
    rest.write(name, {"a": {}}, "start")
    assert len(rest.asked) == 12
    assert [row["targets"] for row in rows_of(name)] == [r["inputs"][::-1] for r in rows_of(name)]
    none = Said(lambda text: "")
    none.write(name, {"a": {}}, "start")
    assert none.asked == []
    none.write(name, {"a": {}}, "another start")
    assert len(none.asked) == 20


def test_a_target_is_the_models_own_words_where_these_are_right(capsys):
    name = generated.rewritten("mini_rte", Rewriting("{input} => {target}"), GREEDY)
    gold = tasks.task("mini_rte").rows("train")
    asked = {f"{gold[i]['inputs'].strip()} => {gold[i]['targets'].strip()}": i for i in range(40)}

    def say(text):
        number = asked.get(text, 0)
        right = gold[number]["targets"]
        wrong = "False" if right.strip() == "True" else "True"
        return [right, wrong, f"Reference answer: {right}", ""][number % 4]

    source = generated.source(name)
    source._count = 40
    Said(say).write(name, {"a": {}}, "start")
    found = rows_of(name)
    assert [row["targets"] for row in found] == [gold[i]["targets"] for i in range(40)]
    assert [row["kept"] for row in found] == [i % 4 == 0 for i in range(40)]
    assert "10 of 40 targets (25.0 %) are the model's own words" in capsys.readouterr().out
    # What is evaluated is the task itself.
    for split in ("validation", "test"):
        assert tasks.task(name).rows(split)[0] == tasks.task("mini_rte").rows(split)[0]


def test_a_teacher_answers_with_its_prompt_and_is_followed_where_it_is_right(tmp_path):
    name = generated.answered("mini_rte", GREEDY)
    source, gold = generated.source(name), tasks.task("mini_rte").rows("train")
    source._count = 20
    with pytest.raises(UserError, match="the teacher has not written these rows"):
        tasks.task(name).rows("train")[0]
    right = {gold[i]["inputs"].strip(): gold[i]["targets"] for i in range(20)}
    taught = Said(lambda text: right[text] if len(text) % 2 else "no idea")
    taught.write(name, {"a": {}}, "stage one", Attached("rte"))
    assert taught.attached == Attached("rte")
    assert sorted(taught.asked) == sorted(right)
    assert [row["targets"] for row in rows_of(name)] == [gold[i]["targets"] for i in range(20)]
    kept = [len(gold[i]["inputs"].strip()) % 2 == 1 for i in range(20)]
    assert [row["kept"] for row in rows_of(name)] == kept
    # Of the same model with nothing attached the answers are others.
    bare = Said(lambda text: "")
    bare.write(name, {"a": {}}, "stage one")
    assert len(bare.asked) == 20


@pytest.mark.slow
def test_a_teacher_reads_with_what_is_attached(params):
    author = Author(tiny.model(), partitioning.make_mesh())
    rows = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32) * 3
    whole = trees.add_prompt(params, "rte", rows)
    asked = tasks.encode_texts(
        [*map(dict, tasks.task("mini_rte").rows("train")[:4])], WORDS, tiny.LENGTHS
    )
    found = [
        author._answers(GREEDY, asked, 0, attached.params(tiny.model(), whole), attached)
        for attached in (BARE, Attached("rte"))
    ]
    assert found[0] != found[1]
    fields = batching.fields([*asked], (64, 4)) | {"prompt_ids": np.zeros(4, np.int32)}
    prompted = tiny.model().with_prompts({"rte": 3})
    ids = prompted.predict_batch(whole, fields, decoding.Greedy(), 3)
    assert found[1] == prompted.texts(np.asarray(ids))


def test_stages_learn_from_the_teacher_that_they_start_from(tmp_path, monkeypatch):
    asked = []

    def write(author, name, params, lineage, attached=BARE):
        asked.append((name, attached, lineage, trees.prompts_of(params)))
        generated.source(name).bind(tasks.task("mini_rte").rows("train"))

    monkeypatch.setattr(Author, "write", write)
    first = tiny.prompt_stage(steps=2)
    attached = row_parts.with_answers(
        tiny.stage(steps=2, prompt="rte", prompt_length=3), asking=GREEDY
    )
    bare = dataclasses.replace(attached, name="bare", prompt=None, teacher=Attached("rte"))
    methods = [Method("a", "A", [first, attached]), Method("b", "B", [first, bare])]
    methods.append(dataclasses.replace(methods[0], name="c", targets=BARE))
    experiment = tiny.tiny_experiment(methods=methods, tasks=[])
    Runner(experiment, tmp_path / "run").run("")
    one, other = asked
    assert one == other
    assert one[1:2] + one[3:] == (Attached("rte"), {"rte": 3})
    # Named by what the teacher comes from, which is stage one.
    assert (
        one[2] == json.loads((tmp_path / "run/seed_0/prompt/stage.json").read_text())["fingerprint"]
    )
    results = map(json.loads, (tmp_path / "run" / "results.jsonl").read_text().splitlines())
    assert {r["method"]: r["prompt"] for r in results} == {"a": "rte", "b": None, "c": None}


@pytest.mark.parametrize(
    ("answer", "kept"), [("so: {}!", True), ("{}", True), ("another", False), ("", False)]
)
def test_free_answers_need_to_hold_the_target(answer, kept):
    task = tasks.task("mini_xsum_1shot", WORDS)
    row = task.rows("train")[0]
    said = answer.format(row["targets"])
    (found,) = Rewriting().rows(task, [row], [said], WORDS)
    assert (found["kept"], found["targets"]) == (kept, said if kept else row["targets"])


def test_the_template_needs_both_texts():
    with pytest.raises(UserError, match=r"no \{target\}; put it in"):
        Rewriting("{input}")
    # What stands in an input is no place for the target.
    row = {"inputs": "a {target} b", "targets": "{input}"}
    asked = Rewriting("{input}|{target}").asked(row, WORDS)
    assert asked == {"inputs": "a {target} b|{input}", "targets": ""}


def test_parts_change_the_rows_and_nothing_else():
    stage = tiny.stage(
        mixture="mini_rte_wmt_enfr", prompt={"mini_rte": "rte", "mini_wmt_enfr": None},
        prompt_length=3,
    )  # fmt: skip
    changed = row_parts.with_rewritten(stage)
    (one, first), (other, second) = changed.prompt.items()
    assert (first, second) == ("rte", None)
    assert [generated.original(name) for name in (one, other)] == ["mini_rte", "mini_wmt_enfr"]
    assert [*changed.rates.values()] == [*stage.rates.values()]
    restored = dataclasses.replace(changed, mixture=stage.mixture, prompt=stage.prompt)
    assert restored == stage
    alone = row_parts.with_rewritten(tiny.stage())
    (target,) = tiny.tiny_experiment().targets
    assert attachments.names_in(alone, target) == [alone.mixture]


def test_a_run_trains_on_what_its_start_model_wrote(tmp_path):
    replayed = generated.continued("mini_triviaqa", 10, asking=GREEDY)
    stage = tiny.stage(steps=2, replay=Replay(replayed, 0.5))
    stage = row_parts.with_rewritten(stage, asking=GREEDY)
    generated.source(stage.mixture)._count = 20
    experiment = tiny.tiny_experiment(methods=[Method("m", "M", [stage])], tasks=[])
    Runner(experiment, tmp_path / "run").run("")
    (result,) = map(json.loads, (tmp_path / "run" / "results.jsonl").read_text().splitlines())
    assert (result["task"], result["evaluated_as"]) == ("mini_rte", stage.mixture)
    assert len(rows_of(replayed)) == 10
    # A finished stage does not need them.
    for name in (replayed, stage.mixture):
        generated.source(name).bind(None)
    assert Runner(experiment, tmp_path / "run").trained(experiment.methods[0], 0).params
    assert len(tasks.task(replayed).rows("train")) == 10
    with pytest.raises(UserError, match="has not written"):
        rows_of(replayed)


def test_of_a_conversation_the_last_answer_is_written():
    _, template, words = opened("smollm2")
    chat = Chat(template)
    row = {"messages": turns(("hi", "one", "and?", "a two")), "answers": ["a two"]}
    row |= dict(zip(("inputs", "targets"), chat.texts(row), strict=True))
    source = tasks.FromFunction(lambda split: [row])
    task = tasks.Task("chat", source, tasks.as_it_is, (metrics.f1,), lambda: words, chat)
    tasks.add(task)
    writing = Rewriting("{input} / {target}")
    (asked,) = chat([writing.asked(row, words)], words, written_rows.UNCUT)
    text = words.tokenizer.decode(asked.inputs[:-1].tolist(), skip_special_tokens=False)
    assert text.endswith(template.render(turns(("and? / a two",)), prompt=True)[-40:])
    right, wrong = writing.rows(task, [row, row], ["It is a two.", "three"], words)
    assert (right["kept"], wrong["kept"]) == (True, False)
    assert chat.texts(right) == (row["inputs"], "It is a two.")
    assert chat.texts(wrong) == (row["inputs"], "a two")
    (own,) = Continuation().rows(task, [row], ["well"], words)
    # What the model did not say itself is not learnt.
    assert chat.preview(own, words, written_rows.UNCUT).count("⟦") == 1
    assert chat.texts(own) == (row["inputs"], "well")
    with pytest.raises(UserError, match="continued as a whole"):
        Continuation(3).asked(row, words)
    alone = {"messages": turns(("hi", "one"))[1:], "targets": "one"}
    assert writing.asked(alone, words) == alone | {"turns": "last"}
    called = {"messages": CALLED[:2], "targets": "f()"}
    assert writing.asked(called, words) == called | {"turns": "last"}
    assert not writing.rows(task, [called], ["f()"], words)[0]["kept"]
