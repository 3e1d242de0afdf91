"""The bank: every item's rule, halves, exemplars, sizes, and answers as the metric counts them."""

import collections
import itertools
import json
import subprocess
import sys

import pytest

from promot_jax import configuration
from promot_jax.data import batching, scoring, tasks
from promot_jax.tasks import bank, mini
from promot_jax.tasks.bank import inference_texts, rows, rules
from promot_jax.tasks.bank.items import Item

NAMES = list(rows.FAMILIES)
HALVES = ("validation", "test")
LANGUAGES = {"en", "de", "fr", "es", "it"}


def every(name):
    return [item for items in rows.family(name).splits.values() for item in items]


def alike(name):
    """Yields the items of each kind in one language."""
    found = collections.defaultdict(list)
    for item in every(name):
        found[item.kind, item.language].append(item)
    return found


def same_answer(item, other):
    """Whether two items of a kind want the same, so that the answer of one is right for both."""
    match item.rule, other.rule:
        case ((rules.Equal() | rules.Exact()), (rules.Equal() | rules.Exact())):
            plain = map(rules.plain, item.rule.accepted)
            if isinstance(item.rule, rules.Exact):
                return other.right in item.rule.accepted
            return rules.Equal((other.right,), item.language)._known & item.rule._known or (
                rules.plain(other.right) in plain
            )
        case rules.Number(), rules.Number():
            return item.rule.value == other.rule.value
        case rules.Mentions(), rules.Mentions():
            return item.rule.needed == other.rule.needed
    return item.rule == other.rule


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_accepts_the_right_answer_and_refuses_three_wrong_ones(name):
    for item in every(name):
        assert item.rule.accepts(item.right), item
        assert len(set(item.wrong)) == 3, item
        for wrong in item.wrong:
            assert wrong.strip(), item
            assert not item.rule.accepts(wrong), (item, wrong)
        assert not item.rule.accepts("")
        assert not item.rule.accepts(" . ")


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_refuses_what_is_right_elsewhere(name):
    for items in alike(name).values():
        for number, item in enumerate(items):
            for other in itertools.islice(itertools.cycle(items), number + 1, number + 21):
                if not same_answer(item, other):
                    assert not item.rule.accepts(other.right), (item, other)
                    both = f"{item.right} or {other.right}"
                    assert not item.rule.accepts(both), (item, both)


def test_no_question_twice_and_all_in_one_line():
    asked = [item.asked for name in NAMES for item in every(name)]
    assert len(asked) == len(set(asked))
    for text in (*asked, *(item.right for name in NAMES for item in every(name))):
        assert text == text.strip()
        assert "\n" not in text
        assert "  " not in text
        assert "Question:" not in text


def test_the_halves_are_large_alike_and_of_all_kinds():
    counts = bank.coverage()
    totals = {split: sum(n for key, n in counts.items() if key[3] == split) for split in HALVES}
    # A share of a half is known to two points with 2,500 rows.
    assert min(totals.values()) >= 2_500
    for name in NAMES:
        sizes = [len(rows.family(name).splits[half]) for half in HALVES]
        assert min(sizes) >= 200
        assert max(sizes) < 1.25 * min(sizes)
    kinds = {key[:3] for key in counts}
    assert {language for _, language, _ in kinds} == LANGUAGES
    for kind in kinds:
        assert all(counts.get((*kind, half), 0) >= 2 for half in HALVES), kind
    assert sum(counts.values()) == sum(len(every(name)) for name in NAMES)


def test_halves_are_fixed_and_new_items_move_no_other(monkeypatch):
    where = {
        item.asked: split
        for split, items in rows.family("questions").splits.items()
        for item in items
    }
    assert where["What is the capital of Belgium?"] == "test"
    assert where["What is the capital of France?"] == "train"
    assert where["What is the chemical symbol of carbon?"] in HALVES
    make, label = rows.FAMILIES["questions"]

    def more():
        yield from make()
        new = next(make())
        for number in range(50):
            yield Item(new.kind, "en", f"New {number}?", new.right, new.wrong, new.rule)

    monkeypatch.setitem(rows.FAMILIES, "questions", (more, label))
    again = rows.family.__wrapped__("questions")
    for split, items in again.splits.items():
        for item in items:
            assert where.get(item.asked, split) == split
    assert sum(map(len, again.splits.values())) == len(where) + 50


def test_labels_are_balanced():
    for kind, items in alike("inference").items():
        counts = collections.Counter(item.right for item in items)
        assert len(counts) == 3, kind
        assert max(counts.values()) - min(counts.values()) <= 1, kind
    for kind, items in alike("unknown").items():
        known = sum(item.side == "known" for item in items)
        assert abs(2 * known - len(items)) <= 0.1 * len(items), kind
    for half in HALVES:
        for name, most in (("inference", 0.42), ("unknown", 0.57)):
            items = rows.family(name).splits[half]
            sides = collections.Counter(
                inference_texts.LABELS[item.language].index(item.right)
                if name == "inference"
                else item.side
                for item in items
            )
            assert max(sides.values()) < most * len(items), (name, half)


@pytest.mark.parametrize("name", NAMES)
def test_exemplars_are_never_asked_and_do_not_tell(name):
    family = rows.family(name)
    shown = {item.asked for item in family.splits["train"]}
    telling = 0
    for half in HALVES:
        for item in family.splits[half]:
            assert item.asked not in shown
            pair = rows.exemplars(name, item)
            assert len({each.asked for each in pair}) == 2
            for each in pair:
                assert each.asked in shown
                assert each.language == item.language
            if item.side:
                assert {each.kind for each in pair} == {item.kind}
                assert pair[0].side != pair[1].side
            else:
                assert pair[0].kind != item.kind == pair[1].kind
                telling += sum(rows._tells(each, item) for each in pair)
    # A letter or a digit can be in all exemplars of a kind.
    if name in ("questions", "translation", "summary", "structured"):
        assert telling <= 0.02 * sum(len(family.splits[half]) for half in HALVES)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_exemplars_question_and_cue(name):
    read = batching.examples(f"bank_{name}", "test")
    items = rows.family(name).splits["test"]
    assert len(read) == len(items)
    for row, item in zip(read, items, strict=True):
        *shown, last = row["inputs"].split("\n\n")
        assert len(shown) == 2
        for block in shown:
            assert block.startswith("Question: ")
            assert "\nAnswer: " in block
        assert last == f"Question: {item.asked}\nAnswer:"
        assert row["targets"] == f" {item.right}"
        assert rows.asked(row["inputs"]) == item.asked


def test_train_rows_can_be_read_too():
    for name in NAMES:
        assert 10 < len(batching.examples(f"bank_{name}", "train")) < 200


@pytest.mark.parametrize("name", NAMES)
def test_exact_match_counts_what_the_rules_accept(name):
    read = batching.examples(f"bank_{name}", "validation")[:150]
    items = rows.family(name).splits["validation"][:150]
    judge = scoring.Judge(f"bank_{name}", read, mini.VOCABULARY)

    def score(outputs):
        answers = judge.answers(outputs)
        assert all(isinstance(answer, str) for answer in answers)
        return judge.metrics(answers)["exact_match"]

    assert score([f" {item.right}" for item in items]) == 100
    assert score([f"\n\nAnswer: {item.right}\nQuestion: what?" for item in items]) == 100
    assert score([f" {item.right}. Question: what?" for item in items]) == 100
    for place in range(3):
        assert score([f" {item.wrong[place]}" for item in items]) == 0
    assert score([""] * len(items)) == 0


def test_what_the_metric_would_forgive_is_marked():
    item = _of("forms", "capitals")
    row = rows.row("forms", item)
    post = tasks.task("bank_forms").postprocess
    assert post(item.right, example=row) == item.right
    assert post(item.right.lower(), example=row) == f"≠ {item.right.lower()}"
    # What is wrong anyway stays as it is said.
    assert post(" a bird\nand more", example=row) == "a bird"
    # A vocabulary that knows no capitals can say no other.
    told = post.written_by(str.lower)
    assert told(item.right.lower(), example=row) == item.right.lower()
    assert post(f" {item.right} ", example=row, is_target=True) == item.right


def test_inputs_that_were_cut_are_still_scored_by_their_targets():
    item = _of("questions", "capital")
    row = {"inputs": rows.text("questions", item)[:-30], "targets": f" {item.right}"}
    post = tasks.task("bank_questions").postprocess
    assert post(f" {item.right}", example=row) == item.right
    assert post(" else", example=row) == "else"


def _of(name, kind):
    return next(item for item in rows.family(name).splits["test"] if item.kind == kind)


def test_an_answer_is_the_first_line_with_text():
    assert rows.answer("\n  \n Paris\nLondon") == "Paris"
    assert rows.answer("Answer:\nParis") == "Paris"
    assert rows.answer(" Answer: Paris Question: where?") == "Paris"
    assert rows.answer("") == rows.answer("\n\n") == ""


def test_gin_has_every_family_with_lengths_that_fit():
    file = configuration.experiment_file("mini")
    configuration.parse([file, "tasks/bank.gin"], [])
    found = {task.name: task for task in configuration.built()[0].tasks}
    named = bank.families()
    assert list(found) == [name for name, *_ in named] == [f"bank_{name}" for name in NAMES]
    for (name, label, metric, generative), family in zip(named, NAMES, strict=True):
        task = found[name]
        assert (task.label, task.metric, task.generative) == (label, metric, generative)
        assert task.shots == rows.SHOTS
        needed = bank.lengths(family)
        for feature, longest in task.task_feature_lengths.items():
            assert needed[feature] <= longest < needed[feature] + 32


def test_importing_is_cheap_and_building_takes_a_moment():
    program = (
        "import sys, time, json\n"
        "import promot_jax.tasks.bank as bank\n"
        "from promot_jax.tasks.bank import rows\n"
        "assert not rows.family.cache_info().currsize\n"
        "start = time.process_time()\n"
        "bank.coverage()\n"
        "took = time.process_time() - start\n"
        "loaded = [m for m in ('jax', 'tensorflow', 'seqio', 'flax') if m in sys.modules]\n"
        "print(json.dumps([took, loaded]))"
    )
    said = subprocess.check_output([sys.executable, "-c", program], text=True)
    took, loaded = json.loads(said)
    assert not loaded
    assert took < 1
