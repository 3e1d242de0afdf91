"""A function is its name, its numbers and its source: never an address or a printout."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import seqio

import gin
from promot_jax.data import batching, vocabularies
from promot_jax.experiment import settings
from promot_jax.models.networks import prompt
from promot_jax.tasks import mini, mini_vocabulary
from promot_jax.training import adafactor, optimizers

pytestmark = pytest.mark.long

RATE = 0.5
GIVEN = {"rate": 0.5, "layers": [1, 2]}


def text(value) -> str:
    return json.dumps(settings.describe(value), sort_keys=True)


def held(**changes):
    """An optimizer that was made already, as a lambda holds it."""
    given = {"learning_rate": 0.1} | changes
    tx = adafactor.adafactor(**given)
    return lambda: tx


def made(kind, **changes):
    return lambda: kind(**changes)


class Own:
    """A person's own optimizer, with a number that only its method knows."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self):
        return optax.sgd(self.rate * RATE)


def cosine(**changes):
    given = {"peak": 0.1, "warmup_steps": 3, "steps": 9} | changes
    schedule = optimizers.warmup_cosine(**given)
    return lambda: optimizers.adamw(schedule)


def own_rate():
    return optax.sgd(RATE)


def own_settings():
    return optax.sgd(GIVEN["rate"])


def own_default(rate=RATE):
    return optax.sgd(rate)


def of_a_helper():
    return own_rate()


VARIANTS = {
    "adafactor": [
        *(held(), held(learning_rate=0.2), held(decay_rate=0.7), held(factored=False)),
        *(held(scale_by_parameter=False), held(clipping_threshold=2.0), held(weight_decay=0.1)),
    ],
    "prompt": [
        optimizers.prompt_adafactor,
        functools.partial(optimizers.prompt_adafactor, 0.1),
        functools.partial(optimizers.prompt_adafactor, weight_decay=0.0),
        functools.partial(optimizers.prompt_adafactor, relative=True),
        held(learning_rate=0.2, factored=False, scale_by_parameter=False, weight_decay=1e-5),
        made(optimizers._in_units_of_the_start, tx=held()()),
    ],
    "schedule": [cosine(), cosine(peak=0.2), cosine(warmup_steps=4), cosine(steps=10)],
    "adamw": [
        functools.partial(optimizers.adamw, clip_norm=1.0),
        functools.partial(optimizers.adamw, clip_norm=2.0),
        functools.partial(optimizers.adamw, optax.constant_schedule(0.1)),
        functools.partial(optimizers.adamw, optax.constant_schedule(0.2)),
        functools.partial(optimizers.adamw, optax.linear_schedule(0.1, 0.0, 10)),
    ],
    "own": [Own(0.1), Own(0.2), own_rate, own_settings, own_default, of_a_helper],
    # Two on one line, of the same numbers.
    "one line": [lambda: optax.sgd(2.0 - 1.0), lambda: optax.sgd(1.0 - 2.0)],
    "arrays": [np.zeros(3), np.zeros(3, np.float32), np.zeros((3, 1)), jnp.ones(3), [0.0] * 3],
    "batches": [
        *(batching.FixedBatches(8), batching.FixedBatches(9), batching.TokenBatches(8, ((8, 8),))),
        batching.FixedBatches(8, ((8, 8),)),
    ],
    "plain": [None, False, 0, 0.0, "", "0", (), {}, frozenset(), {"a": 1}, {"a": 2}, {1: "a"}],
    "init": [
        *(prompt.symmetric_uniform, functools.partial(prompt.symmetric_uniform, scale=0.1)),
        *(prompt.uniform(0.1), prompt.uniform(0.2)),
        functools.partial(prompt.class_labels, labels=("a", "b"), vocabulary=mini.vocabulary()),
        functools.partial(prompt.class_labels, labels=("b", "a"), vocabulary=mini.vocabulary()),
    ],
}


@pytest.mark.parametrize("group", VARIANTS)
def test_whatever_differs_is_described_otherwise(group):
    found = [text(value) for value in VARIANTS[group]]
    expected = len(found) - 1 if group == "plain" else len(found)  # () and [] are one
    assert len(set(found)) >= expected
    assert found == [text(value) for value in VARIANTS[group]]


def test_equal_settings_are_described_alike():
    partial = functools.partial
    assert text(partial(optimizers.adamw, 0.1)) == text(
        partial(optimizers.adamw, learning_rate=0.1)
    )
    assert text(optimizers.adamw) == text(partial(optimizers.adamw, clip_norm=1.0))
    assert text(held()) == text(held(decay_rate=0.8))
    assert text(cosine()) == text(cosine())
    assert text({"b": 1, "a": 2}) == text({"a": 2, "b": 1})
    assert text(jax.jit(own_rate)) == text(own_rate)


@pytest.mark.parametrize("name", ["RATE", "GIVEN"])
def test_what_a_persons_function_refers_to_counts(name, monkeypatch):
    users = {"RATE": [own_rate, of_a_helper, Own(0.1)], "GIVEN": [own_settings]}[name]
    before = [text(user) for user in users]
    monkeypatch.setitem(globals(), name, 0.25 if name == "RATE" else {"rate": 0.25})
    assert not set(before) & {text(user) for user in users}


MODULE = """
import optax
from some_numbers import rates


def make():
    {words}
    return optax.sgd(rates.RATE{change})
"""


def test_a_module_of_ones_own_counts_by_what_it_does(tmp_path):
    def described(words, change="", rate=0.1, first=""):
        (tmp_path / "some_numbers").mkdir(exist_ok=True)
        (tmp_path / "some_numbers" / "rates.py").write_text(f"RATE = {rate}\n")
        source = first + MODULE.format(words=words, change=change)
        (tmp_path / "own_optimizer.py").write_text(source)
        code = "import json, own_optimizer; from promot_jax.experiment import settings; "
        code += "print(json.dumps(settings.describe(own_optimizer.make)))"
        environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        return subprocess.check_output([sys.executable, "-c", code], env=environment)

    found = described('"""Makes it."""')
    assert described("# A remark.", first="A = 1\n" * 9) == found
    others = {described("", " * 2"), described("", rate=0.2)}
    assert len(others | {found}) == 3


def test_files_and_vocabularies_count_by_content(tmp_path):
    for name, value in {"a": 1, "b": 1, "c": 2}.items():
        np.save(tmp_path / f"{name}.npy", np.full((3, 16), value, np.float32))
    init = functools.partial
    a, b, c = (text(init(prompt.from_file, path=str(tmp_path / f"{n}.npy"))) for n in "abc")
    assert a == b != c
    file = tmp_path / "moved" / "other.model"
    file.parent.mkdir()
    file.write_bytes(pathlib.Path(mini_vocabulary.MODEL_PATH).read_bytes())
    whole = seqio.SentencePieceVocabulary(str(mini_vocabulary.MODEL_PATH), 4)
    moved = seqio.SentencePieceVocabulary(str(file), 4)
    _ = moved.tokenizer
    others = [
        seqio.SentencePieceVocabulary(str(file), 5),
        seqio.SentencePieceVocabulary(str(file), 4, reverse_extra_ids=False),
        seqio.ByteVocabulary(),
        seqio.ByteVocabulary(3),
    ]
    assert text(whole) == text(moved)
    assert len({text(vocabulary) for vocabulary in [whole, *others]}) == 5


def test_tokenizers_count_by_content():
    def tokenizer(words, eos="</s>", name="a"):
        vocabulary = {word: i for i, word in enumerate(words)}
        model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "x"}
        return vocabularies.Tokenizer.from_json(json.dumps({"model": model}), eos, name)

    words = ["x", "</s>", "y"]
    fresh, used = tokenizer(words), tokenizer(words, name="b")
    used.encode("y x")
    assert text(fresh) == text(used)
    others = {text(tokenizer(["y", "</s>", "x"])), text(tokenizer(words, "y"))}
    assert len(others | {text(fresh)}) == 3


BOUND = """
from __gin__ import dynamic_registration
from promot_jax.training import optimizers
from promot_jax.experiment import experiment
from promot_jax.training import stages
{first}
RATE = {rate}
one/optimizers.adamw.learning_rate = @one/optimizers.warmup_cosine()
one/optimizers.warmup_cosine.peak = %RATE
optimizers.warmup_cosine.warmup_steps = 2
optimizers.warmup_cosine.steps = {steps}
other/optimizers.adamw.learning_rate = 3.0
{last}
stages.Stage.optimizer = @{scope}/optimizers.adamw
"""


def bound(rate=0.1, steps=10, first="", last="", scope="one"):
    """Describes an optimizer that gin configures."""
    gin.clear_config()
    gin.parse_config(BOUND.format(rate=rate, steps=steps, first=first, last=last, scope=scope))
    return text(gin.get_bindings("promot_jax.training.stages.Stage")["optimizer"])


def test_what_gin_binds_counts_where_it_is_in_force():
    found = bound()
    assert bound(rate="1e-1") == found
    assert bound(first="one/optimizers.adamw.clip_norm = 1.0") == found
    # Another scope, or another function, changes nothing here.
    assert bound(last="other/optimizers.warmup_cosine.steps = 77") == found
    assert bound(last="optimizers.model_adafactor.learning_rate = 7.0") == found
    others = [
        *(bound(rate=0.2), bound(steps=11), bound(scope="other")),
        *(
            bound(first="one/optimizers.adamw.clip_norm = 2.0"),
            bound(first="optimizers.adamw.weight_decay = 1.0"),
        ),
    ]
    assert len({found, *others}) == 6
    gin.clear_config()


def test_experiments_are_described_alike_in_every_process():
    code = """
import json
from promot_jax import configuration
from promot_jax.experiment import settings
for name in ("mini", "mini_pretrain"):
    configuration.parse([configuration.experiment_file(name)])
    experiment, _, _ = configuration.built()
    print(json.dumps(settings.describe([stage for m in experiment.methods for stage in m.stages])))
"""
    found = set()
    for seed, checks in (("1", "0"), ("2", "1")):
        environment = {"PYTHONHASHSEED": seed, "JAX_ENABLE_CHECKS": checks}
        found.add(
            subprocess.check_output(
                [sys.executable, "-c", code], env=os.environ | environment, text=True
            )
        )
    assert len(found) == 1
    assert "0x" not in found.pop()
