"""A trained stage is reused by runs of the same lineage, and never by another's."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest
import seqio

from promot_jax import configuration
from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.data import batching
from promot_jax.experiment import lineage
from promot_jax.experiment.runner import Runner
from promot_jax.models import decoding
from promot_jax.models.networks import prompt
from promot_jax.models.networks.lora import Lora
from promot_jax.training import optimizers
from promot_jax.training.stages import Method
from tests import tiny

pytestmark = pytest.mark.long


def lineage_of(parent="base", seed=0, measured="", embedding=(1280, 16), **changes):
    embedding = np.zeros(embedding, np.float32)
    return lineage.of_stage(parent, tiny.prompt_stage(**changes), seed, measured, embedding)


def rate(value):
    return {"optimizer": functools.partial(optimizers.prompt_adafactor, value)}


def scaled(value):
    return {"prompt_init": functools.partial(prompt.symmetric_uniform, scale=value)}


def test_equal_settings_have_one_lineage():
    # New functions each time: their addresses do not count.
    assert lineage_of(**rate(0.1)) == lineage_of(**rate(0.1))
    assert lineage_of(**scaled(0.1)) == lineage_of(**scaled(0.1))
    # Nor does what changes nothing but the cost.
    assert lineage_of(pack=False) == lineage_of(pack=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"parent": "other"},
        {"seed": 1},
        {"measured": "beam"},
        {"steps": 5},
        {"mixture": "mini_rte_1shot"},
        {"dropout_rate": 0.1},
        {"prompt_length": 4},
        {"prompt": "other"},
        {"optimizer": optimizers.model_adafactor},
        {"prompt_init": prompt.symmetric_uniform},
        rate(0.1),
        scaled(0.1),
    ],
    ids=lambda changes: "-".join(changes),
)
def test_whatever_decides_the_training_is_part_of_it(changes):
    others = {lineage_of(), lineage_of(**rate(0.3)), lineage_of(**scaled(0.3))}
    assert len(others) == 3
    assert lineage_of(**changes) not in others


def test_numbers_in_a_prompt_file_are_part_of_it(tmp_path):
    found = set()
    for value in (1, 2):
        np.save(tmp_path / "prompt.npy", np.full((3, 16), value, np.float32))
        init = functools.partial(prompt.from_file, path=str(tmp_path / "prompt.npy"))
        found.add(lineage_of(prompt_init=init))
    assert len(found) == 2


def test_every_bit_of_the_model_is_part_of_it():
    params = tiny.model().init(jax.random.key(0))
    moved = jax.tree.map(np.array, params)
    moved["decoder"]["decoder_norm"]["scale"][3] += 1e-6
    found = [lineage.of_model(tiny.model(), tree) for tree in (params, moved, params)]
    assert found[0] == found[2] != found[1]
    assert lineage.of_model(tiny.model(mlp_activations=("gelu",)), params) != found[0]
    other = dataclasses.replace(tiny.model(), vocabulary=seqio.ByteVocabulary())
    assert lineage.of_model(other, params) != found[0]


def test_it_is_made_of_settings_and_not_of_what_jax_prints():
    plain = lineage_of(), lineage_of(**rate(0.1))
    with jax.default_matmul_precision("float32"), jax.enable_checks(True):
        assert (lineage_of(), lineage_of(**rate(0.1))) == plain


# Made before stages and their optimizers could do more, by this scheme, for an embedding of 8 x 4.
EARLIER = {
    ("results/mini/config.gin", "model"): "2:2c48f46080ac785b",
    ("results/mini/config.gin", "prompt"): "2:306c9c02040b68ef",
    ("results/paper_mini/multitask/config.gin", "prompt_first"): "2:7bfec76685514a6f",
    ("gin/experiments/mini.gin", "model_gentle"): "2:a6a0bf493c1e330f",
    ("gin/experiments/mini_pretrain.gin", "first-second"): "2:57fc280fdb2b7d89",
    ("gin/experiments/paper/mt5_xxl/rte.gin", "model"): "2:0879a86f26a2fc91",
}
SCHEDULED = (
    "--gin.LEARNING_RATE=@optimizers.warmup_cosine()",
    "--gin.optimizers.warmup_cosine.peak=0.001",
)


def lineages(file, *flags):
    """Returns the lineage of each stage of an experiment, for an embedding of 8 x 4."""
    configuration.parse([file], flags)
    embedding = np.zeros((8, 4), np.float32)
    return {
        folder: lineage.of_stage("", stage, 0, "", embedding)
        for method in configuration.built()[0].methods
        for folder, stage in zip(method.folders, method.stages, strict=True)
    }


def test_lineages_of_earlier_versions_stand():
    kept = {file: lineages(file) for file in dict.fromkeys(file for file, _ in EARLIER)}
    assert {key: kept[key[0]][key[1]] for key in EARLIER} == EARLIER
    scheduled = lineages("gin/experiments/mini.gin", *SCHEDULED)
    assert scheduled["model"] == "2:1e758532855999bc"


@pytest.mark.parametrize(
    ("flag", "moves"),
    [
        ("LR_SCHEDULE='linear'", {"model", "prompt"}),
        ("WARMUP=0.1", {"model", "prompt"}),
        ("OPTIMIZER='adamw'", {"model", "prompt"}),
        ("GRADIENT_CLIP=1.0", {"model", "prompt"}),
        ("PATIENCE=2", {"model", "prompt"}),
        ("WEIGHT_DECAY=0.1", {"model"}),
        ("PROMPT_WEIGHT_DECAY=0.1", {"prompt"}),
        ("PROMPT_PATIENCE=2", {"prompt"}),
        ("PATIENCE=None", set()),
        # The steps that it comes to are what counts.
        ("EPOCHS=3", set()),
    ],
)
def test_how_a_stage_is_trained_is_part_of_it(flag, moves):
    file = "gin/experiments/mini.gin"
    before, after = lineages(file), lineages(file, f"--gin.{flag}")
    assert {name for name in ("model", "prompt") if before[name] != after[name]} == moves


OWN = {
    "trainable": ("other",),
    "batches": batching.FixedBatches(4),
    "task_feature_lengths": {"inputs": 65, "targets": 4},
    "lora": Lora(".*", 2, 4.0),
    "label_smoothing": 0.2,
    "z_loss": 1e-4,
    "microbatches": 2,
    "frozen_dtype": "bfloat16",
    "eval_period": 3,
    "follow_unseen": True,
}


def test_every_setting_of_a_stage_is_part_of_it():
    found = [lineage_of(**{name: value}) for name, value in OWN.items()]
    assert len({lineage_of(), *found}) == len(OWN) + 1
    lengths = {"targets": 4, "inputs": 64}
    assert lineage_of(task_feature_lengths=lengths) == lineage_of()


def test_stacked_layers_and_what_is_stored_are_no_part_of_it():
    layers = {"num_encoder_layers": 3, "num_decoder_layers": 2}
    params = tiny.model(**layers).init(jax.random.key(0))
    plain = lineage.of_model(tiny.model(**layers), params)
    scanned = tiny.model(**layers, scan_layers=True, remat="minimal")
    stacked = trees.stack_layers(params)
    assert lineage.of_model(scanned, stacked) == plain
    stacked["decoder"]["layers"]["mlp"]["wo"]["kernel"] *= 2
    assert lineage.of_model(scanned, stacked) != plain


def trained(folder, reuse=(), seeds=(0,), second=None, model=None, **changes):
    """Runs ProMoT; returns its parameters and the folder of its prompt."""
    methods = tiny.methods(**changes)[3:]
    if second:
        stages = [methods[0].stages[0], tiny.stage(prompt="rte", prompt_length=3, **second)]
        methods = [Method("promot", "ProMoT", stages)]
    settings = tiny.tiny_experiment(
        model=model or tiny.model(),
        methods=methods,
        reuse=reuse,
        seeds=seeds,
        tasks=[],
        decoder=decoding.Greedy(),
    )
    runner = Runner(settings, folder)
    runner.run("test")
    params = runner.trained(methods[0], seeds[0]).params
    return trees.flatten(params), folder / f"seed_{seeds[0]}/prompt"


@pytest.mark.slow
def test_a_prompt_trained_once_serves_later_runs_of_its_lineage_alone(tmp_path):
    path = "encoder/prompt/rte/prompt"
    first, kept = trained(tmp_path / "first")
    reuse = [str(tmp_path / "first")]
    second, taken = trained(tmp_path / "second", reuse, second={"steps": 1})
    summary = json.loads((taken / "stage.json").read_text())
    assert summary["reused_from"] == str(kept)
    assert not (taken / "checkpoints").exists()
    assert (first[path] == second[path]).all()
    assert any((first[p] != second[p]).any() for p in first)
    # A run that took it hands it on.
    _, again = trained(tmp_path / "third", [str(tmp_path / "second")], second={"steps": 3})
    assert json.loads((again / "stage.json").read_text())["reused_from"] == str(kept)
    # Another seed, or another stage 1, trains its own.
    for name, changes in {"seed": {"seeds": (1,)}, "steps": {"steps": 2}}.items():
        _, own = trained(tmp_path / name, reuse, **changes)
        assert "reused_from" not in json.loads((own / "stage.json").read_text())
        assert (own / "checkpoints").exists()
    # What it was taken from may be trained anew, as another one, or go.
    there = (kept / "stage.json").read_text()
    (kept / "stage.json").write_text(there.replace('"2:', '"2:f'))
    with pytest.raises(UserError, match=r"was taken from .*, which holds another one now"):
        trained(tmp_path / "second", reuse, second={"steps": 1})
    shutil.rmtree(kept)
    with pytest.raises(UserError, match=r"was taken from .*, which is gone"):
        trained(tmp_path / "second", reuse, second={"steps": 1})


@pytest.mark.slow
def test_a_folder_goes_on_with_stacked_layers(tmp_path):
    layers = {"num_encoder_layers": 2, "num_decoder_layers": 2}
    first, prompt_folder = trained(tmp_path, model=tiny.model(**layers))
    written = (prompt_folder / "stage.json").stat().st_mtime_ns
    scanned = tiny.model(**layers, scan_layers=True, remat="minimal")
    second, _ = trained(tmp_path, model=scanned)
    # The prompt was finished.
    assert (prompt_folder / "stage.json").stat().st_mtime_ns == written
    assert tiny.leaves_equal(first, trees.flatten(trees.unstack_layers(trees.unflatten(second))))
    # And from the middle of the prompt's training, with the model frozen.
    (prompt_folder / "stage.json").unlink()
    shutil.rmtree(prompt_folder / "checkpoints/4")
    again, _ = trained(tmp_path / "again", model=tiny.model(**layers))
    shutil.copytree(prompt_folder, tmp_path / "half" / "seed_0" / "prompt")
    half, half_folder = trained(tmp_path / "half", model=scanned)
    assert json.loads((half_folder / "stage.json").read_text())["best_step"]
    path = "encoder/prompt/rte/prompt"
    np.testing.assert_allclose(half[path], again[path], rtol=1e-3, atol=1e-4)


def test_a_stage_of_another_lineage_is_refused(tmp_path, capsys):
    first, folder = trained(tmp_path)
    kept = folder / "stage.json"
    ours = kept.read_text()
    # Lineages of earlier versions were made of what jax printed; such stages open, with a word.
    old = json.loads(ours) | {"fingerprint": "0123456789abcdef"}
    kept.write_text(json.dumps(old))
    capsys.readouterr()
    again, _ = trained(tmp_path)
    assert f"{folder}: trained by an earlier version" in capsys.readouterr().out
    assert all((first[path] == again[path]).all() for path in first)
    kept.write_text(ours)
    with pytest.raises(UserError, match="prompt was trained from another model, data or settings"):
        trained(tmp_path, steps=2, second={"steps": 2})
