"""The paper's methods as gin lists them: what each stage trains, keeps, and hands to the next."""

import dataclasses
import functools
import itertools
import json
import re
import types

import jax
import numpy as np
import pytest

from promot_jax import configuration
from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.base.jsonl import read_jsonl
from promot_jax.data import batching
from promot_jax.experiment import attachments, evaluation
from promot_jax.experiment.runner import Runner
from promot_jax.models import decoding
from promot_jax.models.attached import BARE, Attached
from promot_jax.models.networks.lora import Lora
from promot_jax.tasks import in_context
from promot_jax.training import train
from promot_jax.training.stages import Asked, Method
from tests import tiny
from tests.models.models_test import decoder_model

pytestmark = pytest.mark.long

QUICK = ["TRAIN_STEPS=2", "EVAL_PERIOD=2", "PROMPT_TRAIN_STEPS=2", "PROMPT_EVAL_PERIOD=2"]
QUICK += ["BATCH_SIZE=8", "PROMPT_LENGTH=3", "DROPOUT_RATE=0.0"]

# Method: what trains in each of its stages, in order.
ALL, MODEL, PROMPT, ADAPTERS = "all", "model", "prompt", "adapters"
SINGLE = {
    "pretrained": [],
    "fine_tuning": [MODEL],
    "prompt_tuning": [PROMPT],
    "promot": [PROMPT, MODEL],
    "fine_tuning_1shot": [MODEL],
    "prompt_tuning_1shot": [PROMPT],
    "promot_1shot": [PROMPT, MODEL],
    "joint": [ALL],
    "random_prompt": [MODEL],
    "promot_lora_r2": [ADAPTERS, MODEL],
    "promot_lora_r4": [ADAPTERS, MODEL],
}
MULTI = {
    "pretrained": [],
    "multi_task_fine_tuning": [MODEL],
    "multi_promot": [PROMPT, PROMPT, MODEL],
    "multi_task_fine_tuning_1shot": [MODEL],
    "multi_promot_1shot": [PROMPT, PROMPT, MODEL],
    "sequential_promot": [PROMPT, MODEL, PROMPT, MODEL],
}


def built(name, monkeypatch):
    """Returns an experiment, of a tiny model and few steps, whose evaluations cost nothing."""
    configuration.parse([configuration.experiment_file(name)], [f"--gin.{v}" for v in QUICK])
    found, _, _ = configuration.built()

    def measure(self, params, *, method, stage):
        return {"validation/score": 1.0, "validation/loss": 1.0}

    monkeypatch.setattr(Runner, "_measure", measure)
    return dataclasses.replace(found, model=tiny.model(), initial_checkpoint=None, probes=())


def kind(path):
    if "/prompt/" in path:
        return PROMPT
    return ADAPTERS if "/lora_" in path else MODEL


# These train what another method does: on rows with exemplars, or adapters of another rank.
ALIKE = "1shot|_r4|multi_task_fine_tuning"


@pytest.mark.parametrize(
    ("name", "expected"), [("paper/mini/rte", SINGLE), ("paper/mini/multitask", MULTI)]
)
@pytest.mark.parametrize("alike", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_each_stage_trains_its_leaves_and_keeps_every_bit_of_the_others(
    tmp_path, monkeypatch, name, expected, alike
):
    settings = built(name, monkeypatch)
    assert [method.name for method in settings.selected] == list(expected)
    seen = []

    def recorded(run, params, model, mesh, train_stage=train.train_stage):
        before = trees.flatten(jax.tree.map(np.array, params))
        after = train_stage(run, params, model, mesh)
        seen.append((run.stage, before, trees.flatten(jax.device_get(after))))
        return after

    monkeypatch.setattr("promot_jax.experiment.runner.train_stage", recorded)
    runner = Runner(settings, tmp_path)
    base = set(trees.flatten(runner.start.params(0)))
    chosen = [m for m in settings.selected if bool(re.search(ALIKE, m.name)) == alike]
    assert len(chosen) > 2
    for method in chosen:
        seen.clear()
        params = trees.flatten(runner.trained(method, 0).params)
        assert len(seen) == len(expected[method.name])
        for trains, (stage, before, after) in zip(expected[method.name], seen, strict=True):
            changed = {p for p in before if (before[p] != after[p]).any()}
            chosen = {p for p in before if trains in (ALL, kind(p))}
            # Adafactor's first steps leave a bias or scale now and then as it was.
            assert changed == chosen == trees.select(before, stage.trainable), method.name
            prompts = {p.split("/")[2] for p in before if kind(p) == PROMPT}
            assert prompts == set(stage.prompts)
            assert any(kind(p) == ADAPTERS for p in before) == (stage.lora is not None)
        for path, leaf in seen[-1][2].items() if seen else ():
            assert (leaf == params[path]).all()
        assert base <= set(params)


def test_stages_that_methods_share_train_once(tmp_path, monkeypatch):
    settings = built("paper/mini/rte", monkeypatch)
    trained = []

    def counted(run, *arguments, train=train.train_stage):
        trained.append(run.folder.path.name)
        return train(run, *arguments)

    monkeypatch.setattr("promot_jax.experiment.runner.train_stage", counted)
    runner = Runner(settings, tmp_path)
    for name in ("prompt_tuning", "promot"):
        runner.trained(settings.method(name), 0)
    written = [file.parent.name for file in tmp_path.glob("seed_0/*/stage.json")]
    assert sorted(written) == ["prompt", "prompt-model"]
    assert trained == ["prompt", "prompt", "prompt-model"]


def small(**changes):
    """Two targets; a 1-shot variant, adapters and a stage on the mixture."""
    lengths = {"inputs": 104, "targets": 16}
    tasks = [evaluation.EvalTask("mini_rte", "RTE", "accuracy", tiny.LENGTHS, "", False, "test", 0)]
    tasks[0] = dataclasses.replace(tasks[0], variants=("mini_rte_1shot",))
    tasks.append(evaluation.EvalTask("mini_wmt_enfr", "En-Fr", "exact_match", lengths))
    prompts = {"mini_rte": "rte", "mini_wmt_enfr": "enfr"}
    adapted = Lora(".*attention/(query|value)/kernel", 2, 4.0)
    mixed = {"mixture": "mini_rte_wmt_enfr", "task_feature_lengths": lengths, "prompt_length": 3}
    first = tiny.prompt_stage(name="first")
    second = tiny.prompt_stage(name="second", mixture="mini_wmt_enfr", prompt="enfr")
    return tiny.tiny_experiment(
        targets=tasks,
        methods=[
            Method("shot", "1-shot", [tiny.stage(mixture="mini_rte_1shot")]),
            Method(
                "adapted",
                "LoRA",
                [tiny.stage(name="lora", trainable=(".*/lora_[ab]",), lora=adapted)],
            ),
            Method(
                "multi",
                "Multi",
                [first, second, tiny.stage(prompt=prompts, follow_unseen=True, **mixed)],
            ),
        ],
        **changes,
    )


def test_each_target_is_read_as_its_method_trained_on_it():
    settings = small()
    found = {
        (method.name, task.label): (attachments.of_target(method, task)[0].name, attached)
        for method in settings.methods
        for task in settings.targets
        for attached in [attachments.of_target(method, task)[1]]
    }
    adapters = settings.method("adapted").adapters
    assert found == {
        ("shot", "RTE"): ("mini_rte_1shot", Attached()),
        ("shot", "En-Fr"): ("mini_wmt_enfr", Attached()),
        ("adapted", "RTE"): ("mini_rte", Attached(None, adapters)),
        ("adapted", "En-Fr"): ("mini_wmt_enfr", Attached()),
        ("multi", "RTE"): ("mini_rte", Attached("rte")),
        ("multi", "En-Fr"): ("mini_wmt_enfr", Attached("enfr")),
    }


@pytest.mark.slow
def test_results_of_later_calls_are_added(tmp_path):
    for only in (["shot"], ["multi", "adapted"], ["shot"]):
        Runner(small(only=only), tmp_path).run("test")
        description = json.loads((tmp_path / "run.json").read_text())
        names = [method["name"] for method in description["methods"]]
        assert names == (["shot"] if only == ["shot"] and len(names) == 1 else names)
    assert names == ["shot", "adapted", "multi"]
    results = read_jsonl(tmp_path / "results.jsonl")
    rows = {(r["method"], r["task"]): (r["evaluated_as"], r["prompt"]) for r in results}
    assert len(rows) == len(results) == 3 * 3
    assert rows["shot", "mini_rte"] == ("mini_rte_1shot", None)
    assert rows["multi", "mini_wmt_enfr"] == ("mini_wmt_enfr", "enfr")
    assert rows["multi", "mini_triviaqa_1shot"] == ("mini_triviaqa_1shot", None)
    assert [target["task"] for target in description["targets"]] == ["mini_rte", "mini_wmt_enfr"]
    (mixed,) = tmp_path.glob("seed_0/first-second-model")
    last = read_jsonl(mixed / "metrics.jsonl")[-1]
    pair = [last[f"validation/score/{name}"] for name in ("mini_rte", "mini_wmt_enfr")]
    assert last["validation/score"] == pytest.approx(sum(pair) / 2)
    assert "unseen/label_share/mini_triviaqa_1shot" in last
    stage = json.loads((mixed / "stage.json").read_text())
    assert stage["prompt"] == {"mini_rte": "rte", "mini_wmt_enfr": "enfr"}


def test_adapters_are_attached_to_their_target_alone(tmp_path):
    settings = small(only=["adapted"])
    runner = Runner(settings, tmp_path)
    base = runner.start.params(0)
    trained = runner.trained(settings.method("adapted"), 0)
    params, adapters = trained.params, trained.adapters
    assert adapters == settings.method("adapted").adapters == trained.model.network.config.lora
    task = settings.targets[0]
    options = {"split": "test", "limit": 8}
    bare, same, adapted = (
        runner.measurements.evaluator.loss(tree, task, attached=attached, **options)
        for tree, attached in [
            (base, Attached()),
            (params, Attached()),
            (params, Attached(None, adapters)),
        ]
    )
    assert bare == same != adapted


def test_a_stage_on_what_is_no_target_is_an_error(tmp_path):
    method = Method("other", "Other", [tiny.stage(mixture="mini_cb")])
    with pytest.raises(UserError, match="'model' trains on 'mini_cb', which holds no target"):
        Runner(tiny.tiny_experiment(methods=[method]), tmp_path)


def test_an_unknown_method_is_an_error():
    with pytest.raises(UserError, match="no method 'promt' in this run"):
        tiny.tiny_experiment(only=["promt"])


def test_rows_of_a_mixture_carry_the_number_of_their_prompt():
    numbers = {"mini_rte": 1, "mini_wmt_enfr": 0}
    lengths = {"inputs": 64, "targets": 16}
    options = {"seed": 0, "marks": {"prompt_ids": numbers}}
    batches = batching.train_batches(
        "mini_rte_wmt_enfr", lengths, batching.FixedBatches(64, ((40, 8),)), **options
    )
    vocabulary = tiny.model().vocabulary
    seen = {0: 0, 1: 0}
    for _ in range(4):
        batch = next(batches)
        for tokens, number in zip(batch["encoder_input_tokens"], batch["prompt_ids"], strict=True):
            text = vocabulary.decode([int(token) for token in tokens])
            assert text.startswith("Translate English to French") == (number == 0), text
            seen[int(number)] += 1
    assert min(seen.values()) > 90


def test_a_mixture_is_read_again_in_the_same_order():
    def read(first_step):
        batches = batching.train_batches(
            "mini_rte_wmt_enfr",
            {"inputs": 64, "targets": 16},
            batching.FixedBatches(8),
            seed=3,
            first_step=first_step,
        )
        return [next(batches)["encoder_input_tokens"] for _ in range(3)]

    whole = read(0)
    np.testing.assert_array_equal(whole[2], read(2)[0])
    assert (whole[0] != whole[1]).any()


def test_the_model_says_how_a_task_is_tokenised():
    class Letters(type(tiny.model().vocabulary)):
        def encode_batch(self, texts):
            return [[i + 1 for i in ids] for ids in super().encode_batch(texts)]

    source = tiny.model().vocabulary
    letters = Letters(source.sentencepiece_model_file, extra_ids=source.extra_ids)
    options = {"split": "test", "batch_size": 4, "limit": 4}
    ((ours, _),) = batching.eval_batches("mini_rte", tiny.LENGTHS, **options)
    ((theirs, _),) = batching.eval_batches("mini_rte", tiny.LENGTHS, vocabulary=letters, **options)
    words = ours["encoder_segment_ids"].astype(bool) & (ours["encoder_input_tokens"] > 1)
    assert words.sum() > 40
    moved = ours["encoder_input_tokens"][words] + 1
    np.testing.assert_array_equal(theirs["encoder_input_tokens"][words], moved)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "decoder"])
def test_rows_of_several_tasks_in_one_batch_are_as_in_batches_of_their_own(family):
    model = tiny.model() if family == "t5" else decoder_model()
    model = model.with_prompts({"rte": 3, "enfr": 3})
    params = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    shapes = {path: leaf.shape for path, leaf in trees.flatten(params).items()}
    for path, shape in shapes.items():
        if "/prompt/" in path:
            value = rng.normal(size=shape).astype(np.float32)
            params = trees.unflatten(trees.flatten(params) | {path: value})
    tokens = rng.integers(3, 90, (6, 10)).astype(np.int32)
    lengths = np.array([10, 4, 7, 10, 2, 9])
    inside = (np.arange(10) < lengths[:, None]).astype(np.int32)
    targets = rng.integers(3, 90, (6, 4)).astype(np.int32)
    batch = {
        "encoder_input_tokens": tokens * inside,
        "encoder_segment_ids": inside,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones_like(targets),
        "prompt_ids": np.array([0, 1, -1, 1, -1, 0], np.int32),
    }
    predict = functools.partial(model.predict_batch, decoder=decoding.Beam(2), max_length=4)
    logits, predicted = model.logits(params, batch), predict(params, batch)
    compared = 0
    for number, name in ((0, "rte"), (1, "enfr"), (-1, None)):
        rows = batch["prompt_ids"] == number
        own = {field: values[rows] for field, values in batch.items() if field != "prompt_ids"}
        attached = Attached(name)
        tree = attached.params(model.with_prompts({}), params)
        alone = attached.model(model.with_prompts({}), tree)
        own = attached.batch(own)
        np.testing.assert_allclose(logits[rows], alone.logits(tree, own), rtol=1e-4, atol=1e-5)
        found = alone.predict_batch(tree, own, decoding.Beam(2), 4)
        np.testing.assert_array_equal(predicted[rows], found)
        compared += int(rows.sum())
    assert compared == 6
    # The prompts matter: without them the rows would give other logits.
    bare = trees.keep_prompts(params, ())
    plain = {field: values for field, values in batch.items() if field != "prompt_ids"}
    other = model.with_prompts({}).logits(bare, plain)
    assert np.abs(np.asarray(other - logits))[batch["prompt_ids"] >= 0].max() > 1e-2


@pytest.mark.slow
def test_what_leaves_the_model_as_it_is_is_evaluated_once(tmp_path, monkeypatch):
    settings = tiny.tiny_experiment(seeds=(0, 1))
    run, calls = Runner(settings, tmp_path), itertools.count()
    monkeypatch.setattr(
        run,
        "_measure",
        lambda *_, **__: dict.fromkeys(["validation/score", "validation/loss"], 0.0),
    )

    def numbered(params, task, **options):
        return evaluation.Evaluation(float(next(calls)), {}, *([["a"]] * 4))

    monkeypatch.setattr(run.measurements.evaluator, "evaluate", numbered)
    run.run("test")
    results = read_jsonl(tmp_path / "results.jsonl")
    unseen = {(r["method"], r["seed"]): r["score"] for r in results if "trivia" in r["task"]}
    # Each seed draws a model of its own here, and only the first is asked as it is.
    assert unseen.pop(("prompt_tuning", 0)) == unseen["pretrained", None]
    assert len(unseen) == len(set(unseen.values())) == 6
    target = [r["score"] for r in results if r["task"] == "mini_rte"]
    assert len(target) == len(set(target)) == 7


def test_the_starting_point_of_stages_is_asked_the_unseen_tasks_once(tmp_path, monkeypatch):
    stages = [tiny.stage(name=name, follow_unseen=True) for name in ("one", "two")]
    settings = tiny.tiny_experiment(methods=[Method(s.name, s.name, [s]) for s in stages])
    run, calls = Runner(settings, tmp_path), itertools.count()

    def numbered(params, task, **options):
        return evaluation.Evaluation(float(next(calls)), {}, *([["a"]] * 4))

    monkeypatch.setattr(run.measurements.evaluator, "evaluate", numbered)
    run.run("test")
    one, two = (
        {m["step"]: m.get("unseen/score") for m in lines}
        for lines in (read_jsonl(tmp_path / "seed_0" / s.name / "metrics.jsonl") for s in stages)
    )
    assert one.pop(0) == two.pop(0)
    later = [score for scores in (one, two) for score in scores.values() if score is not None]
    assert len(later) == len(set(later)) > 1


def test_an_interrupted_run_keeps_the_time_and_memory_of_what_it_finished(tmp_path, monkeypatch):
    settings = tiny.tiny_experiment(methods=[Method("one", "1", []), Method("two", "2", [])])
    clock, done = itertools.count(step=100), []
    own_time = types.SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("promot_jax.experiment.run_facts.time", own_time)

    def method(self, method, seed, curve):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(method.name)

    monkeypatch.setattr(Runner, "_run_method", method)
    with pytest.raises(KeyboardInterrupt):
        Runner(settings, tmp_path).run("test")
    path = tmp_path / "run.json"
    killed = json.loads(path.read_text())
    # Until the start, and until it was interrupted.
    assert (killed["seconds"], killed["finished"]) == (200, None)
    path.write_text(json.dumps(killed | {"peak_memory_gib": 1e6}))
    done[:] = ["one", "two"]
    Runner(settings, tmp_path).run("test")
    after = json.loads(path.read_text())
    # And those until the start and the end of the second call.
    assert (after["seconds"], after["peak_memory_gib"]) == (200 + 200, 1e6)
    assert after["finished"]


def test_a_target_is_asked_in_a_methods_own_form_where_no_stage_trains_on_it(tmp_path):
    lengths = {"inputs": 208, "targets": 4}
    asked = [Asked("mini_rte", in_context.task("mini_rte", shots=2), lengths)]
    method = Method("in_context", "In context", asked=asked)
    settings = tiny.tiny_experiment(methods=[Method("pretrained", "Pretrained"), method])
    (target,) = settings.targets
    task, attached = attachments.of_target(method, target)
    assert (task.name, task.task_feature_lengths) == ("mini_rte_asked_2shot", lengths)
    assert attached == BARE
    Runner(settings, tmp_path).run("test")
    found = read_jsonl(tmp_path / "results.jsonl")
    forms = {row["method"]: row["evaluated_as"] for row in found if row["task"] == "mini_rte"}
    assert forms == {"pretrained": "mini_rte", "in_context": "mini_rte_asked_2shot"}
    one, two = (row["score"] for row in found if row["task"] != "mini_rte")
    assert one == two
    about = json.loads((tmp_path / "run.json").read_text())["methods"]
    assert [entry["asked"] for entry in about] == [{}, {"mini_rte": "mini_rte_asked_2shot"}]


@pytest.mark.parametrize(
    ("target", "stages", "message"),
    [
        ("mini_cb", [], "method 'm' asks 'mini_cb', which is no target .mini_rte.; name one"),
        ("mini_rte", [tiny.stage()], "method 'm' is evaluated on 'mini_rte' as its stage 'model'"),
    ],
)
def test_what_a_method_asks_in_vain_is_an_error(tmp_path, target, stages, message):
    asked = [Asked(target, "mini_rte_1shot", tiny.LENGTHS)]
    settings = tiny.tiny_experiment(methods=[Method("m", "M", stages, asked=asked)])
    with pytest.raises(UserError, match=message):
        Runner(settings, tmp_path)
