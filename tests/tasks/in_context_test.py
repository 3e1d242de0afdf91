"""Tasks asked in another way: what stands around an input, and how long that gets."""

import hypothesis
import hypothesis.strategies as st
import pytest

from promot_jax.base.errors import UserError
from promot_jax.data import tasks
from promot_jax.tasks import files, in_context, mini

POOL = [("Q: one A:", "1"), ("Q: two A:", "2"), ("Q: three A:", "3")]


def test_words_and_exemplars_stand_in_order():
    wording = in_context.Wording(POOL[:1], 1, "Answer as above.", "In digits:")
    expected = "Answer as above.\n\nQ: one A: 1\n\nQ: four A: In digits:"
    assert wording.around("Q: four A:") == expected
    assert in_context.Wording().around("Q: four A:") == "Q: four A:"
    assert in_context.Wording(instruction="Say it.").around("Q: four A:") == "Q: four A: Say it."


def test_a_row_is_asked_alike_by_everyone_and_scored_as_before():
    name = in_context.task("mini_rte", shots=3)
    assert name == in_context.task("mini_rte", shots=3) != in_context.task("mini_rte", shots=2)
    found, plain = tasks.task(name), tasks.task("mini_rte")
    assert (found.metric_fns, found.postprocess) == (plain.metric_fns, plain.postprocess)
    asked, own = found.rows("validation"), plain.rows("validation")
    assert len(asked) == len(own)
    train = {f"{row['inputs']} {row['targets']}" for row in plain.rows("train")}
    for number in range(5):
        *exemplars, inputs = asked[number]["inputs"].split("\n\n")
        assert inputs == own[number]["inputs"]
        assert len({*exemplars} & train) == 3
        assert asked[number]["targets"] == own[number]["targets"]
    first = found.rows("train")[0]["inputs"].split("\n\n")
    assert all(not exemplar.startswith(first[-1]) for exemplar in first[:-1])


def test_rows_of_ones_own_keep_their_answers(tmp_path):
    for split, count in {"train": 4, "evaluation": 2}.items():
        lines = [f"{split} {i},answer {i}" for i in range(count)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["question,answer", *lines]))
    paths = [str(tmp_path / f"{split}.csv") for split in ("train", "evaluation")]
    own = files.task(*paths, "{question}", "{answer}", "exact_match")
    found = tasks.task(in_context.task(own, shots=2, preamble=in_context.PREAMBLE))
    row = found.rows("test")[0]
    assert row["answers"] == tasks.task(own).rows("test")[0]["answers"]
    preamble, one, two, last = row["inputs"].split("\n\n")
    assert preamble == in_context.PREAMBLE
    assert {one.rpartition("train")[0], two.rpartition("train")[0]} == {""}
    assert last.startswith("evaluation")
    with pytest.raises(UserError, match="train has 4 rows that can stand before"):
        tasks.task(in_context.task(own, shots=5)).rows("test")[0]


def test_what_would_change_nothing_or_cannot_be_asked_is_an_error():
    with pytest.raises(UserError, match="'mini_rte' would be asked as it is; give shots"):
        in_context.task("mini_rte")
    whole = tasks.task("mini_rte")
    try:
        tasks.add(tasks.Task("chatty", whole.source, whole.postprocess, (), mini.vocabulary, list))
        with pytest.raises(UserError, match="task 'chatty' says itself how its rows become tokens"):
            in_context.task("chatty", shots=1)
    finally:
        del tasks._registered["chatty"]


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(TEXT, TEXT, st.lists(st.tuples(TEXT, TEXT), min_size=3, max_size=3, unique=True))
def test_lengths_hold_every_row(preamble, instruction, pool):
    vocabulary = mini.vocabulary()

    def tokens(text):
        return len(vocabulary.encode(text)) + 1

    longest = {
        "inputs": max(tokens(inputs) for inputs, _ in [*pool, ("the end", "")]),
        "targets": max(tokens(target) for _, target in pool),
    }
    pool = [pair for pair in pool if pair[0] != "the end"]
    shots = min(2, len({inputs for inputs, _ in pool}))
    wording = in_context.Wording(pool, shots, preamble, instruction)
    found = in_context.lengths(longest, shots, preamble, instruction)
    assert tokens(wording.around("the end")) <= found["inputs"]
    assert found["targets"] == longest["targets"]
    assert in_context.lengths(None, shots) is None
