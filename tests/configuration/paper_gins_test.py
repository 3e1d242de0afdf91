"""The paper's experiments: files build without checkpoint or vocabulary, with A.2.4's settings."""

import re
import shlex

import pytest
import seqio

import gin
from promot_jax import configuration
from promot_jax.base.errors import UserError
from promot_jax.models.decoding import Beam
from promot_jax.paper import catalog, numbers
from promot_jax.paper.results import paper_task
from promot_jax.plan import search, topology
from tests.launch.launch_scripts import ROOT, printed, promot_arguments

SINGLE = [
    *("pretrained", "fine_tuning", "prompt_tuning", "promot"),
    *("fine_tuning_1shot", "prompt_tuning_1shot", "promot_1shot"),
    *("joint", "random_prompt", "promot_lora_r2", "promot_lora_r4"),
]
MULTI = [
    *("pretrained", "multi_task_fine_tuning", "multi_promot"),
    *("multi_task_fine_tuning_1shot", "multi_promot_1shot", "sequential_promot"),
]
TARGETS = {
    "rte": ["rte"],
    "enfr": ["wmt14_enfr"],
    "enfr_long": ["wmt14_enfr"],
    "snli": ["snli"],
    "openbookqa": ["openbookqa"],
    "multitask": ["rte", "wmt14_enfr"],
}
NAMES = [name for name in configuration.experiments() if name.startswith("paper/")]
# The miniature has its own settings.
LARGE = [name for name in NAMES if "/mini/" not in name]
GIVEN = {
    name: [f"--gin.{value}='none'" for value in catalog.REQUIRED.get(name.split("/")[1], ())]
    for name in NAMES
}


@pytest.fixture(autouse=True)
def no_vocabulary(monkeypatch):
    """Fails where a vocabulary is read: those of the paper's models lie in a bucket."""

    def refuse(self):
        raise AssertionError(f"opens {self.sentencepiece_model_file}")

    monkeypatch.setattr(seqio.SentencePieceVocabulary, "_model_context", refuse)


def built(name, *flags):
    file = configuration.experiment_file(name)
    configuration.parse([file], [*GIVEN[name], *flags])
    configuration.check_all_used([file], [*GIVEN[name], *flags])
    return configuration.built()


def stages(experiment):
    return {
        folder: stage
        for method in experiment.selected
        for folder, stage in zip(method.folders, method.stages, strict=True)
    }


def test_there_is_an_experiment_for_every_table():
    assert set(NAMES) >= {
        *(f"paper/mt5_xxl/{run}" for run in TARGETS),
        *("paper/t5_1_1_xxl/rte", "paper/mt5_xl/enfr", "paper/palm_8b/enfr"),
        *(f"paper/mini/{run}" for run in ("rte", "enfr", "multitask")),
    }
    assert {name.split("/")[1] for name in NAMES} == set(catalog.MODELS)


@pytest.mark.parametrize("name", [name for name in NAMES if "multitask" not in name])
def test_a_prompt_has_the_name_of_its_target(name):
    experiment, _, _ = built(name)
    prompts = {stage.prompt for stage in stages(experiment).values()}
    assert prompts == {None, name.split("/")[-1].removesuffix("_long")}


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_has_its_methods_targets_and_folder(name):
    _, model, run = name.split("/")
    experiment, folder, _ = built(name)
    assert folder == catalog.RUNS_FOLDER / model / run
    assert [m.name for m in experiment.selected] == (MULTI if run == "multitask" else SINGLE)
    assert {"gentle_fine_tuning", "lora_fine_tuning"} < {m.name for m in experiment.methods}
    for method in experiment.methods:
        assert catalog.METHODS.get(method.name, method.label) == method.label
    assert [paper_task(task.name) for task in experiment.targets] == TARGETS[run]
    assert all(task.shots == 0 for task in experiment.targets)
    for shots in {task.shots for task in experiment.tasks}:
        tasks = [paper_task(task.name) for task in experiment.tasks if task.shots == shots]
        assert tuple(tasks) == numbers.UNSEEN
    only, _, _ = built(name, "--gin.METHODS=('pretrained',)")
    assert [method.name for method in only.selected] == ["pretrained"]


@pytest.mark.parametrize("name", LARGE)
def test_tasks_are_registered_and_have_what_is_read_of_them(name):
    experiment, _, _ = built(name)
    assert {task.shots for task in experiment.tasks} == {1, 4}
    plain = "palm" in name
    for task in (*experiment.targets, *experiment.tasks):
        found = seqio.get_mixture_or_task(task.name)
        assert task.split in found.splits
        assert (task.split == "validation") == (
            paper_task(task.name) in {"rte", "cb", "wic", "triviaqa"}
        )
        # In the course of training all are read there.
        assert "validation" in found.splits
        assert ("_span" in task.name) != plain
        assert (f"_{task.shots}shot" in task.name) == bool(task.shots)
        assert all(("_span" in other) != plain for other in task.variants)
        if task.family == "Summarization":
            assert task.task_feature_lengths["inputs"] == 1024
    trained = {stage.mixture for stage in stages(experiment).values()}
    assert trained
    for mixture in trained:
        assert {"train", "validation"} <= set(seqio.get_mixture_or_task(mixture).splits)
        assert ("_span" in mixture) != plain


@pytest.mark.parametrize("name", LARGE)
def test_the_settings_are_the_papers(name):
    _, model, run = name.split("/")
    experiment, _, _ = built(name)
    assert isinstance(experiment.decoder, Beam)
    assert experiment.decoder.num_beams == 4
    assert experiment.seeds == (0,)
    palm = model == "palm_8b"
    if palm:
        assert experiment.initial_checkpoint == "none"
    else:
        folder = "gs://t5-data/pretrained_models/t5x"
        assert experiment.initial_checkpoint == f"{folder}/{model}/checkpoint_1000000"
    found = stages(experiment)
    assert len(found) > 6
    for folder, stage in found.items():
        first = stage.name.startswith(("prompt", "lora"))
        long = run == "enfr_long" and not first
        assert stage.batches.size == 64
        assert stage.steps == (5000 if first else 20_000 if long else 1000), folder
        assert stage.eval_period == (1000 if first or long else 100), folder
        assert (stage.dropout_rate, stage.label_smoothing) == (0.0 if first else 0.1, 0.1)
        assert stage.prompt is None or stage.prompt_length == (50 if palm else 100)
        one_shot = stage.name.endswith("_1shot")
        assert stage.mixture.endswith("_1shot") == one_shot
        if one_shot:
            zero_shot = found[folder.replace("_1shot", "")].task_feature_lengths
            assert stage.task_feature_lengths["inputs"] > zero_shot["inputs"]
    for macro, value in {
        "LEARNING_RATE": 0.001,
        "PROMPT_LEARNING_RATE": 0.3 if palm else 0.2,
    }.items():
        assert gin.query_parameter(f"%{macro}") == value


def test_rows_of_the_mixture_run_with_their_own_prompt():
    experiment, _, _ = built("paper/mt5_xxl/multitask")
    found = stages(experiment)
    attached = {}
    for folder in ("prompt_first-prompt_second-model", "prompt_first-prompt_second-model_1shot"):
        tasks = [task.name for task in seqio.get_mixture_or_task(found[folder].mixture).tasks]
        attached |= {task: found[folder].attached_for(task).prompt for task in tasks}
    assert attached == {
        "rte_span": "rte",
        "wmt14_enfr_span": "enfr",
        "rte_span_1shot": "rte",
        "wmt14_enfr_span_1shot": "enfr",
    }


def test_the_cosine_of_gradients_follows_fine_tuning_on_rte():
    for name in LARGE:
        experiment, _, _ = built(name)
        assert bool(experiment.probes) == name.endswith("/rte")
        for probe in experiment.probes:
            assert probe.task == experiment.targets[0].name
            assert {probe.task, probe.randomized} <= set(seqio.TaskRegistry.names())


def test_a_model_without_public_checkpoint_asks_for_one():
    file = configuration.experiment_file("paper/palm_8b/enfr")
    configuration.parse([file])
    with pytest.raises(UserError, match="needs INITIAL_CHECKPOINT_PATH, VOCABULARY; give each"):
        configuration.built()


# --- the page ---

PAGE = ROOT / "docs/reproducing.md"


def page_commands():
    """Returns the commands of the page as words; a launcher also stands for its `promot run`."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", "").splitlines()
    for words in filter(None, (shlex.split(line, comments=True) for line in lines)):
        script = next((word for word in words if word.startswith("launch/")), None)
        if script is None:
            yield words
        elif "--delete" not in words:
            assert printed(ROOT / script, *words[words.index(script) + 1 :])
            place = next(i for i, word in enumerate(words) if word.startswith("paper/"))
            yield ["promot", "run", *words[place:]]


def test_the_pages_commands_name_what_there_is():
    found = {"run": set(), "plan": set(), "paper": set()}
    for words in page_commands():
        if words[0] != "promot" or words[1] not in found:
            continue
        arguments, flags = promot_arguments(words)
        if words[1] == "paper":
            model = arguments.model or catalog.item(arguments.item).model
            assert catalog.runs_of(catalog.item(arguments.item), model)
            found["paper"].add(arguments.item)
            continue
        experiment, _, _ = built(arguments.experiment, *flags)
        chosen = experiment.methods
        if arguments.methods is not None:
            chosen = [experiment.method(name) for name in arguments.methods.split(",")]
        if words[1] == "plan":
            topology.parse(arguments.topology)
            search.axes_of(arguments.mesh)
            folders = {folder for method in chosen for folder in method.folders}
            assert arguments.stage is None or arguments.stage in folders
        found[words[1]].add(arguments.experiment)
    assert found["run"] == set(LARGE)
    # OpenbookQA's rows are as long as SNLI's, and long training is the same step.
    assert found["plan"] == set(LARGE) - {f"paper/mt5_xxl/{n}" for n in ("openbookqa", "enfr_long")}
    assert found["paper"] >= {item.id for item in catalog.ITEMS if item.columns}


def test_the_page_runs_every_method_of_the_tables():
    wanted = {}
    for item in catalog.ITEMS:
        for run, methods in item.runs.items():
            wanted.setdefault(f"paper/{item.model}/{run}", set()).update(methods)
    given = {}
    for words in page_commands():
        if words[:2] == ["promot", "run"]:
            arguments, _ = promot_arguments(words)
            given[arguments.experiment] = set(arguments.methods.split(","))
    assert len(wanted) == 9
    assert {name: given[name] for name in wanted} == wanted
