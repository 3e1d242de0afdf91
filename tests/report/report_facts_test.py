"""Which outputs a report shows first, and what it says of stages and setting."""

import json

import pytest

from promot_jax.report.charts import palette
from promot_jax.report.numbers import facts
from promot_jax.report.pages import markdown, outputs
from promot_jax.report.records import records
from tests.report.report_run import change_about, write_json, write_lines, write_run


@pytest.fixture
def run(tmp_path):
    """A run of one seed with two targets."""
    return write_run(tmp_path / "run", (0,), targets=("rte", "en_fr"), probes=True)


def sample(method, task, index, prediction, text="input"):
    return {
        "method": method,
        "seed": None if method == "pretrained" else 0,
        "task": task,
        "index": index,
        "input": text,
        "target": "bamako",
        "prediction": prediction,
    }


def shown(folder):
    """Returns task → the indices of its examples as they are shown."""
    return {
        task.name: [next(iter(answers.values())).index for answers in examples]
        for task, examples in outputs.samples_by_task(records.read(folder))
    }


def test_examples_that_tell_methods_apart_come_first(run):
    answers = {
        0: ("bamako", "bamako"),  # Nothing to see.
        1: ("lima", "cairo"),  # Different, both wrong.
        2: ("bamako", "lima"),  # One is right.
        3: ("lima", "True."),  # A label of the target.
    }
    rows = [
        sample(method, task, index, given)
        for task in ("trivia_qa", "cb", "rte")
        for index, pair in answers.items()
        for method, given in zip(("pretrained", "fine_tuning"), pair, strict=True)
    ]
    write_lines(run / "samples.jsonl", rows)
    # "True" is an honest answer to CB, which is no task of free text, and to the target itself.
    assert shown(run) == {"rte": [2, 1, 3, 0], "trivia_qa": [3, 2, 1, 0], "cb": [2, 1, 3, 0]}


def test_a_leak_is_named_by_its_target(run):
    found = records.read(run)
    task = next(task for task in found.tasks if task.name == "trivia_qa")
    leaks = {
        answers["fine_tuning"].prediction: outputs.leaked_from(found, task, answers["fine_tuning"])
        for other, examples in outputs.samples_by_task(found)
        for answers in examples
        if other == task
    }
    assert leaks == {"True": "RTE"}


def test_samples_with_another_input_are_no_answers_to_the_same_example(run):
    rows = [sample("fine_tuning", "rte", 0, "True"), sample("promot", "rte", 0, "True", "1-shot")]
    write_lines(run / "samples.jsonl", rows)
    examples = outputs.samples_by_task(records.read(run))[0][1]
    assert [list(answers) for answers in examples] == [["fine_tuning"], ["promot"]]


def test_few_examples_are_shown(run):
    write_lines(run / "samples.jsonl", [sample("promot", "rte", i, "True") for i in range(9)])
    assert shown(run) == {"rte": [0, 1, 2, 3, 4]}


def test_stages_tell_where_they_come_from_and_what_is_attached(run):
    path = run / "seed_0" / "prompt" / "stage.json"
    write_json(path, json.loads(path.read_text()) | {"lora": {"rank": 4, "alpha": 8.0}})
    found = records.read(run)
    model, prompt, tuned = (
        facts.stage_facts(found, name) for name in ("model", "prompt", "prompt-model")
    )
    assert tuned["lineage"] == "mini_base → prompt → model"
    assert model["attached"] == "none"
    assert tuned["attached"] == "prompt rte_prompt for rte; prompt en_fr_prompt for en_fr"
    assert prompt["attached"] == f"{tuned['attached']}; LoRA of rank 4"
    assert "mini\\_base → prompt → model" in markdown.markdown(found, [])


@pytest.mark.parametrize(
    ("checkpoint", "origin", "told"),
    [
        ("gs://t5-data/mt5_xxl/", "mt5_xxl", "gs://t5-data/mt5_xxl/"),
        (None, "random parameters", "none: random parameters"),
    ],
)
def test_initial_checkpoint_is_told(run, checkpoint, origin, told):
    change_about(run, initial_checkpoint=checkpoint)
    found = records.read(run)
    assert facts.stage_facts(found, "model")["lineage"] == f"{origin} → model"
    assert dict(facts.setting(found))["Initial checkpoint"] == told


@pytest.mark.parametrize(
    ("lora", "told"),
    [
        ({"rank": 4, "form": "dora"}, "DoRA of rank 4"),
        ({"width": 64, "scale": 4.0}, "parallel adapters of width 64"),
    ],
)
def test_adapters_are_told_by_their_kind(run, lora, told):
    path = run / "seed_0" / "model" / "stage.json"
    write_json(path, json.loads(path.read_text()) | {"lora": lora})
    assert facts.stage_facts(records.read(run), "model")["attached"] == told


def test_methods_of_one_kind_in_several_runs_look_different(run):
    methods = [{"name": f"m{i}", "label": f"M{i}", "stages": ["model"]} for i in range(16)]
    change_about(run, methods=methods)
    styles = palette.styles(records.read(run)).values()
    # And one for all that do not stand out.
    assert len({(style.light, style.marker) for style in styles}) == 16 + 1
