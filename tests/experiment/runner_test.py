"""What a runner remembers, writes down and hands to probes."""

import dataclasses
import json
import types

import pytest

from promot_jax.base.errors import UserError
from promot_jax.base.jsonl import read_jsonl
from promot_jax.experiment import evaluation
from promot_jax.experiment.runner import Runner
from promot_jax.models.attached import BARE, Attached
from promot_jax.training.stages import Method
from tests import tiny

pytestmark = pytest.mark.long

TARGETS = [
    evaluation.EvalTask(name, name, "accuracy", tiny.LENGTHS, generative=False, variants=variants)
    for name, variants in {"mini_rte": ("mini_rte_1shot",), "mini_wmt_enfr": ()}.items()
]


class Probe:
    """Says what was attached to the rows of its task."""

    def __init__(self, task):
        self.task = task

    def bind(self, bench):
        return lambda moment: {f"probe/{self.task}": moment.attached}


def runner_of(folder, **changes):
    return Runner(tiny.tiny_experiment(**{"tasks": []} | changes), folder)


def probed(tmp_path, probes, stage):
    method = Method("m", "M", [stage])
    runner = runner_of(tmp_path, probes=[*map(Probe, probes)], targets=TARGETS, methods=[method])
    measurements = runner.measurements
    measurements.evaluate = lambda *given, **options: types.SimpleNamespace(score=1.0)
    measurements.evaluator.loss = lambda *given, **options: 1.0
    found = measurements.in_course({}, method, stage)
    return [found[f"probe/{task}"] for task in probes]


def test_a_probe_reads_its_task_with_what_is_attached_to_that(tmp_path):
    prompts = {"mini_rte": "rte", "mini_wmt_enfr": "enfr"}
    stage = tiny.prompt_stage(mixture="mini_rte_wmt_enfr", prompt=prompts, follow_unseen=True)
    names = ["mini_rte", "mini_wmt_enfr", "mini_rte_1shot"]
    assert probed(tmp_path, names, stage) == [Attached("rte"), Attached("enfr"), Attached("rte")]
    one = tiny.prompt_stage(follow_unseen=True)
    assert probed(tmp_path, ["mini_rte", "mini_qqp"], one) == [Attached("rte")] * 2
    with pytest.raises(UserError, match="a probe reads 'mini_qqp', but stage 'prompt' attaches"):
        probed(tmp_path, ["mini_qqp"], stage)


def test_answers_of_the_start_are_kept_by_all_that_they_depend_on(tmp_path):
    measurements, asked = runner_of(tmp_path).measurements, []

    def evaluate(params, task, **options):
        asked.append((task, options))
        return len(asked)

    measurements.evaluator.evaluate = evaluate
    measurements._start._params = params = {"leaf": object()}
    task = TARGETS[0]
    lengths = [{"inputs": 8, "targets": 4}, {"inputs": 64, "targets": 8}]
    others = [dataclasses.replace(task, task_feature_lengths=value) for value in lengths]
    others += [dataclasses.replace(task, metric="exact_match"), TARGETS[1]]
    for _ in range(2):
        found = [measurements.evaluate(params, t, BARE, "test", 8) for t in (task, *others)]
        for rows in (("validation", 8), ("test", 9)):
            found.append(measurements.evaluate(params, task, BARE, *rows))
        assert found == [1, 2, 3, 4, 5, 6, 7]
    # What has something attached, or is no starting point, is asked anew.
    assert measurements.evaluate(params, task, Attached("rte"), "test", 8) == 8
    assert measurements.evaluate({"leaf": object()}, task, BARE, "test", 8) == 9


def found_of(score):
    texts = ["a", "b", "c"]
    return evaluation.Evaluation(score, {}, texts, texts, texts, texts)


def test_a_method_that_is_killed_between_two_tasks_has_its_time_and_answers_once(
    tmp_path, monkeypatch
):
    methods = [Method("one", "1", [])]
    now, killed = [0.0], []
    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("promot_jax.experiment.run_facts.time", clock)

    def run(kill):
        runner = runner_of(tmp_path, targets=TARGETS, methods=methods)
        measured = runner.measurements
        runner._trained_params = lambda method, seed: {}

        def evaluate(params, task, attached, split, limit):
            now[0] += 10.0
            if task.name == kill:
                # As `kill -9` leaves it: nothing runs any more, but the samples were written.
                killed.append((tmp_path / "run.json").read_text())
                key = {"method": "one", "seed": None, "task": kill}
                result = measured.result(task, BARE, found_of(1))
                runner.folder.record(key, result, measured.samples(found_of(1)))
                killed.append((tmp_path / "results.jsonl").read_text())
                raise KeyboardInterrupt
            return found_of(50.0)

        measured.evaluate = evaluate
        runner.run("test")

    with pytest.raises(KeyboardInterrupt):
        run("mini_wmt_enfr")
    assert json.loads(killed[0])["seconds"] == 10.0
    # Ctrl-C, which can be written down, has all of it.
    assert json.loads((tmp_path / "run.json").read_text())["seconds"] == 20.0
    (tmp_path / "run.json").write_text(killed[0])
    lines = killed[1].splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text(lines[0] + lines[1][:20])
    run(None)
    assert json.loads((tmp_path / "run.json").read_text())["seconds"] == 20.0
    assert [r["task"] for r in read_jsonl(tmp_path / "results.jsonl")] == [
        "mini_rte",
        "mini_wmt_enfr",
    ]
    samples = [(r["task"], r["index"]) for r in read_jsonl(tmp_path / "samples.jsonl")]
    assert samples == [(task.name, i) for task in TARGETS for i in range(3)]


def test_a_damaged_description_of_a_run_is_written_again(tmp_path, capsys):
    (tmp_path / "run.json").write_text('{"seconds": 7')
    runner = runner_of(tmp_path, methods=[Method("pretrained", "Pretrained", [])], eval_examples=1)
    runner.run("test")
    assert "run.json is damaged" in capsys.readouterr().out
    assert json.loads((tmp_path / "run.json").read_text())["finished"]
