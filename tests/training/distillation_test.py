"""The start with a prompt or adapters teaches the model: on given targets, and on drawn ones."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.experiment.runner import Runner
from promot_jax.models import attached
from promot_jax.models.attached import Attached
from promot_jax.models.networks import lora, prompt
from promot_jax.training import objectives, teaching, train_step
from promot_jax.training.objectives import Distillation, OnPolicy, Reference, Tokens
from promot_jax.training.stages import Method
from tests import meshes, tiny
from tests.models.chunked_loss_test import network
from tests.training.objective_stages_test import host_batch, one_step
from tests.training.objectives_test import padded_and_packed, random_logits, scored
from tests.training.train_test import RISING, run_stage

pytestmark = pytest.mark.long

PROMPT = "encoder/prompt/rte/prompt"
TAUGHT = Attached("rte")
ADAPTERS = lora.Lora(".*attention/(query|value)/kernel", 2, 4.0)


def stage(*chosen, **changes):
    """The model trains without a prompt; the start with one teaches."""
    settings = {"teacher": TAUGHT, "prompt_length": 3, "dropout_rate": 0.0, "label_smoothing": 0.0}
    return tiny.stage(**settings | {"objective": chosen} | changes)


def strong_params():
    """The start and a prompt that changes what it says."""
    rows = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32) * 3
    return trees.add_prompt(tiny.model().init(jax.random.key(0)), "rte", rows)


def with_other_prompt(params):
    """The same and a prompt that learns from the other one; it is the second by name."""
    rows = np.random.default_rng(1).normal(size=(3, 16)).astype(np.float32)
    return trees.add_prompt(params, "wic", rows)


@functools.partial(jax.jit, static_argnames=("model", "direction", "adapters"))
def distances(model, params, batch, direction="forward", adapters=None):
    """How far the bare model is from the one with a prompt or adapters, of each learnt target."""
    without = attached.BARE.params(model, params)
    own = model.scored(without, attached.bare_batch(batch))
    prompts = trees.prompts_of(params)
    teacher = model.with_prompts(prompts).with_lora(adapters)
    found = own.divergence(teacher.scored(params, batch), direction)
    return found * batch["decoder_loss_weights"]


def total(chosen, own, teacher, targets, learnt, **fields):
    batch = {"decoder_loss_weights": learnt, "decoder_target_tokens": targets} | fields
    tokens = Tokens(batch, scored(own, targets), lambda: None, lambda: scored(teacher, targets))
    return objectives.total([chosen], tokens, {}, Reference(measured=({},)), learnt.sum(), 1)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("gold", ["unsolved", "all", "none"])
def test_solved_rows_follow_the_teacher_and_others_their_targets(gold, direction):
    own, teacher, targets, learnt = random_logits(3, (6, 4, 5))
    # The teacher is right about the first three rows.
    teacher[:3] += 9 * np.eye(5, dtype=np.float32)[targets[:3]]
    solved = ((teacher.argmax(-1) == targets) | (learnt == 0)).all(1)
    assert solved[:3].all()
    assert not solved.all()
    logits = torch.tensor(own, requires_grad=True)
    log_p, log_q = logits.log_softmax(-1), torch.tensor(teacher).log_softmax(-1)
    first, second = (log_q, log_p) if direction == "forward" else (log_p, log_q)
    each = (first.exp() * (first - second)).sum(-1)
    nll = -log_p.gather(-1, torch.tensor(targets)[..., None])[..., 0]
    row = torch.tensor(solved)[:, None] if gold == "unsolved" else torch.tensor(gold == "none")
    follows = row if gold == "unsolved" else torch.tensor(True)
    learns = ~row if gold == "unsolved" else torch.tensor(gold == "all")
    mask = torch.tensor(learnt)
    expected = ((nll * learns + 0.7 * each * follows) * mask).sum() / mask.sum()
    expected.backward()

    def of(own):
        return total(Distillation(0.7, direction, gold), own, teacher, targets, learnt)

    (found, scalars), gradient = jax.value_and_grad(of, has_aux=True)(jnp.asarray(own))
    np.testing.assert_allclose(found, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, logits.grad, atol=1e-6)
    # No row is left out, so nothing stops the stage.
    assert scalars["kept"] == 1


def test_without_a_prompt_the_model_learns_what_it_says_with_one():
    params, batch = strong_params(), host_batch()
    batch = batch | {"prompt_ids": np.array([0, 0, 0, -1, 0, 0, -1, 0], np.int32)}
    chosen = Distillation(1.0, gold="none")
    metrics, state = one_step(stage(chosen), params=params, batch=batch)
    each, mask = distances(tiny.model(), params, batch), batch["decoder_loss_weights"]
    # Rows that are replayed have no prompt: of these the start itself is the teacher.
    assert (np.asarray(each).sum(1) > 1e-5).tolist() == (batch["prompt_ids"] == 0).tolist()
    np.testing.assert_allclose(metrics["penalty"], each.sum() / mask.sum(), rtol=1e-4)
    assert (trees.flatten(state.frozen)[PROMPT] == trees.flatten(params)[PROMPT]).all()
    # A model that has the prompt says what its teacher does, until it has moved.
    chosen = dataclasses.replace(chosen, gold="all")
    metrics, _ = one_step(stage(chosen, prompt="rte"), params=params, batch=batch)
    assert abs(metrics["penalty"]) < 1e-9
    # Nothing pulls: the gradient is that of the targets alone.
    chosen = dataclasses.replace(chosen, weight=0.0)
    alone, _ = one_step(stage(chosen, prompt="rte"), params=params, batch=batch)
    assert abs(metrics["grad_norm"] - alone["grad_norm"]) < 1e-6


@pytest.mark.parametrize("family", ["t5", pytest.param("decoder", marks=pytest.mark.slow)])
def test_a_prompt_learns_from_another(family):
    """Against whole logits; packed rows as those of their own, and replayed rows from the start."""
    learnt = [[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 0, 0]]
    batch, packed = padded_and_packed([5, 1, 9, 7], learnt, prompt_length=3)
    model, params = (tiny.model(), strong_params()) if family == "t5" else decoder_case()
    params, trainable = with_other_prompt(params), (".*/prompt/wic/.*",)
    chosen = stage(Distillation(0.5, gold="all"), prompt="wic", trainable=trainable)
    batch |= {"prompt_ids": np.array([1, 1, 1, -1], np.int32)}
    metrics, state = one_step(chosen, model, params, batch)

    def logits(name):
        kept = trees.keep_prompts(params, (name,))
        alone = batch | {"prompt_ids": np.minimum(batch["prompt_ids"], 0)}
        return jax.nn.log_softmax(model.with_prompts({name: 3}).logits(kept, alone))

    own, taught = (
        np.asarray(jax.jit(logits, static_argnums=0)(name), np.float64) for name in ("wic", "rte")
    )
    mask = batch["decoder_loss_weights"]
    each = (np.exp(taught) * (taught - own)).sum(-1) * mask
    assert (each.sum(1) > 1e-5).tolist() == [True, True, True, False]
    np.testing.assert_allclose(metrics["penalty"], 0.5 * each.sum() / mask.sum(), rtol=1e-4)
    assert {*trees.flatten(state.trainable)} == {p for p in trees.flatten(params) if "/wic/" in p}
    if family == "decoder":
        whole = batch | {"prompt_ids": np.ones(4, np.int32)}
        slots = packed["decoder_prompts"]
        packed = packed | {"decoder_prompts": np.where(slots < 0, slots, slots + 3)}
        found = [one_step(chosen, model, params, fields) for fields in (whole, packed)]
        for one, other in zip(*map(jax.tree.leaves, found), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_adapters_teach_too():
    params = lora.add(tiny.model().init(jax.random.key(0)), ADAPTERS, jax.random.key(1))
    leaves = trees.flatten(params)
    params = trees.unflatten(
        {p: leaf + 0.3 if p.endswith("lora_b") else leaf for p, leaf in leaves.items()}
    )
    batch = {name: array for name, array in host_batch().items() if name != "prompt_ids"}
    each, mask = (
        distances(tiny.model(), params, batch, adapters=ADAPTERS),
        batch["decoder_loss_weights"],
    )
    chosen = stage(
        Distillation(gold="none"),
        teacher=Attached(adapters=ADAPTERS),
        trainable=("(?!.*/lora_).*",),
    )
    metrics, state = one_step(chosen, params=params, batch=batch)
    np.testing.assert_allclose(metrics["penalty"], each.sum() / mask.sum(), rtol=1e-4)
    assert metrics["penalty"] > 1e-4
    # They are frozen, and kept for what reads them.
    assert {path for path in trees.flatten(state.frozen) if "lora_" in path}
    # With them attached, and no teacher named, the model begins where its teacher stands.
    own = dataclasses.replace(
        chosen, objective=[Distillation(gold="all")], teacher=None, lora=ADAPTERS
    )
    metrics, _ = one_step(own, params=params, batch=batch)
    assert abs(metrics["penalty"]) < 1e-9


@pytest.mark.slow
def test_a_student_of_adapters_needs_no_second_copy():
    params = lora.add(strong_params(), ADAPTERS, jax.random.key(1))
    chosen = stage(Distillation(gold="none"), trainable=(".*/lora_[ab]",), lora=ADAPTERS)
    metrics, state = one_step(chosen, params=params, batch=host_batch())
    assert metrics["penalty"] > 1e-4
    assert state.reference.leaves == {}
    assert all("lora_" in path for path in trees.flatten(state.trainable))


def test_a_weight_of_nothing_is_fine_tuning_bit_for_bit():
    changes = {"dropout_rate": 0.1, "label_smoothing": 0.1}
    bare = {name: array for name, array in host_batch().items() if name != "prompt_ids"}
    _, plain = one_step(tiny.stage(**changes), batch=bare)
    _, found = one_step(stage(Distillation(0.0, gold="all"), **changes), batch=host_batch())
    assert tiny.leaves_equal(plain.trainable, found.trainable)


def test_resumed_equals_never_interrupted(tmp_path):
    distilled = stage(OnPolicy(share=0.5), dropout_rate=0.1)
    before = distilled.params(strong_params(), tiny.model())
    whole = run_stage(tmp_path / "whole", distilled, before)
    with pytest.raises(IndexError):
        run_stage(tmp_path / "parts", distilled, before, RISING[:2])
    assert tiny.leaves_equal(whole, run_stage(tmp_path / "parts", distilled, before, RISING[2:]))
    old, new = trees.flatten(before), trees.flatten(whole)
    assert (old[PROMPT] == new[PROMPT]).all()
    assert all((old[path] != new[path]).any() for path in old if "/mlp/" in path)


def decoder_case():
    model = network("decoder", num_layers=2)
    rows = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    return model, trees.add_prompt(model.init(jax.random.key(0)), "rte", rows)


@pytest.mark.slow
def test_packed_rows_are_taught_as_rows_of_their_own():
    model, params = decoder_case()
    learnt = [[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 0, 0]]
    batch, packed = padded_and_packed([5, 1, 9, 7], learnt, prompt_length=3)
    trainable = ("token_embedder/.*", "decoder/(?!prompt/).*")
    chosen = stage(Distillation(gold="all"), Distillation(), trainable=trainable)
    found = [one_step(chosen, model, params, fields) for fields in (batch, packed)]
    (own, first), (shared, second) = found
    assert own["penalty"] > 1e-3
    found = ((own, first.trainable), (shared, second.trainable))
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", ["t5", pytest.param("decoder", marks=pytest.mark.slow)])
def test_a_text_as_prompt_teaches_what_the_text_in_front_does(family):
    model = tiny.model() if family == "t5" else decoder_case()[0]
    params, batch = model.init(jax.random.key(0)), host_batch()
    ids = np.array([5, 9, 300, 7], np.int32)

    class Words:
        def encode(self, text):
            return ids.tolist()

    table = params["token_embedder"]["embedding"]
    rows = prompt.from_text(table, len(ids), jax.random.key(0), "words", Words())
    side = "encoder" if family == "t5" else "decoder"
    whole = trees.combine(params, {side: {"prompt": {"context": {"prompt": rows}}}})
    front = np.tile(ids, (8, 1))
    longer = batch | {
        name: np.concatenate([front if "tokens" in name else front * 0 + 1, batch[name]], axis=1)
        for name in ("encoder_input_tokens", "encoder_segment_ids")
    }

    @jax.jit
    def surprises(params, whole):
        prompted = model.with_prompts({"context": len(ids)})
        one = prompted.scored(whole, batch).losses.surprise
        return one, model.scored(params, attached.bare_batch(longer)).losses.surprise

    one, other = surprises(params, whole)
    counted = batch["decoder_loss_weights"] > 0
    np.testing.assert_allclose(one[counted], other[counted], rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "decoder"])
def test_answers_are_the_model_s_own(family):
    """The step learns from the very answers that the model draws, up to the first end."""
    learnt = [[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]]
    batch, _ = padded_and_packed([5, 1, 9, 7], learnt, prompt_length=3)
    seen = {}

    @dataclasses.dataclass(frozen=True)
    class Spy(OnPolicy):
        def written(self, batch, sample, rng):
            found = super().written(batch, sample, rng)
            jax.debug.callback(lambda found: seen.update(found), found)
            return found

    model, params = (tiny.model(), strong_params()) if family == "t5" else decoder_case()
    # Microbatches draw part by part.
    parts = 2 if family == "t5" else 1
    distilled = stage(Spy(), trainable=("(?!.*/prompt/).*",), microbatches=parts)
    metrics, _ = one_step(distilled, model, params, batch)
    jax.effects_barrier()
    weights, targets = seen["decoder_loss_weights"], np.asarray(seen["decoder_target_tokens"])
    lengths = np.asarray(weights).sum(1)
    # An empty row gets no answer.
    assert seen["drawn"][:, 0].tolist() == [True, True, False, True]
    assert lengths[2] == 0
    assert (lengths[[0, 1, 3]] >= 1).all()
    for row, length in zip(targets, lengths, strict=True):
        assert not set(row[: length - 1]) & {*model.ends} or length == 0
    shifted = np.asarray(seen["decoder_input_tokens"])[:, 1:]
    assert (shifted == targets[:, :-1]).all()
    # The same numbers, computed apart: reverse divergence from the start with the prompt.
    drawn = batch | {name: np.asarray(array) for name, array in seen.items()}
    each = distances(model, params, drawn, "reverse")
    np.testing.assert_allclose(metrics["penalty"], each.sum() / lengths.sum(), rtol=1e-3)
    assert metrics["weight"] == 0


def test_an_answer_ends_with_its_first_end_and_stays_with_its_row():
    class Echo:
        """Answers each row with its inputs."""

        ends = (1, 9)

        def predict_batch(self, params, batch, decoder, length, rng):
            return batch["encoder_input_tokens"][:, :length]

    inputs = np.array([[5, 1, 7, 1], [9, 5, 5, 5], [5, 6, 7, 8], [0, 5, 9, 0]], np.int32)
    batch = {
        "encoder_input_tokens": inputs,
        "encoder_segment_ids": np.ones_like(inputs),
        "decoder_target_tokens": np.zeros((4, 4), np.int32),
    }
    for parts in (1, 2):
        chosen = stage(OnPolicy(), microbatches=parts)
        draw = functools.partial(train_step._sampled, chosen, Echo(), {}, temperature=1.0)
        answers, held = jax.jit(draw)(batch, rng=jax.random.key(0))
        assert np.asarray(held).sum(1).tolist() == [2, 1, 4, 3]
        assert (np.asarray(answers) == inputs * np.asarray(held)).all()


def test_draws_come_to_the_exact_mean():
    """Of one target the divergence does not depend on what is drawn; the draws have the model's
    own frequencies."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=4).astype(np.float32)
    rows = 20_000
    batch = {
        "decoder_loss_weights": np.ones((rows, 1), np.int32),
        "decoder_target_tokens": np.zeros((rows, 1), np.int32),
    }

    def sample(temperature, key):
        drawn = jax.random.categorical(key, jnp.asarray(logits) / temperature, shape=(rows, 1))
        return drawn, jnp.ones((rows, 1), jnp.int32)

    found = OnPolicy(share=0.25, temperature=2.0).written(batch, sample, jax.random.key(0))
    drawn = np.asarray(found["drawn"])[:, 0]
    assert abs(drawn.mean() - 0.25) < 0.01
    assert not np.asarray(found["decoder_target_tokens"])[~drawn].any()
    answers = np.asarray(found["decoder_target_tokens"])[drawn, 0]
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum()
    np.testing.assert_allclose(np.bincount(answers) / drawn.sum(), expected, atol=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": None}, "attaches nothing that could teach it"),
        ({"prompt": "rte", "trainable": (".*",)}, "trains the prompt 'rte' that its teacher"),
    ],
)
def test_what_cannot_teach_is_one_line(changes, message, tmp_path):
    chosen = stage(Distillation(), **changes)
    with pytest.raises(UserError, match=message):
        teaching.check(chosen, tiny.model())
    # Before anything trains.
    experiment = tiny.tiny_experiment(methods=[Method("own", "Own", [chosen])])
    with pytest.raises(UserError, match=message):
        Runner(experiment, tmp_path)


@pytest.mark.parametrize("objective", [OnPolicy(), Distillation(gold="none")])
@pytest.mark.parametrize("teacher", [None, Attached("rte")])
def test_who_starts_as_the_teacher_must_learn_from_targets_too(objective, teacher):
    chosen = stage(objective, prompt="rte", prompt_length=3, teacher=teacher)
    with pytest.raises(UserError, match="'model' starts as its own teacher, prompt and all, and"):
        teaching.check(chosen, tiny.model())
    teaching.check(stage(objective), tiny.model())
    for other in (OnPolicy(share=0.5), Distillation()):
        teaching.check(dataclasses.replace(chosen, objective=[other]), tiny.model())


def test_adapters_of_a_teacher_are_those_of_its_stage():
    other = lora.Lora(".*attention/query/kernel", 2, 4.0)
    with pytest.raises(UserError, match=r"lora = .*, and its teacher has another one"):
        stage(Distillation(), teacher=Attached(adapters=ADAPTERS), lora=other)
    with pytest.raises(UserError, match="prompt_length = 0"):
        stage(Distillation(), prompt_length=0)


# A step that draws answers, and reads rows beside its own, on one device and on a mesh.
ON_MESHES = """
import sys
import jax, numpy as np, optax
from promot_jax.base import partitioning, trees
from promot_jax.models import chunked_loss
from promot_jax.training import objectives, train_state, train_step
from tests import tiny
from tests.training import distillation_test, rows_beside_test
from tests.training.objective_stages_test import host_batch

chunked_loss.CHUNK, chunked_loss.FEWEST_COLUMNS = 1, 32
found, model = {}, tiny.model()
stage = distillation_test.stage(
    objectives.OnPolicy(share=0.5, gold="all"), rows_beside_test.KL, microbatches=2,
    optimizer=lambda: optax.sgd(1.0),
)
for name, devices, sizes in (("one", 1, (1, 1)), ("eight", 8, (2, 2))):
    mesh = partitioning.make_mesh(*sizes, jax.devices()[:devices])
    params = jax.tree.map(jax.numpy.copy, stage.params(distillation_test.strong_params(), model))
    state = train_state.sharded_state(stage, params, model, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = train_step.make_train_step(model, stage, stage.transformation(), mesh, shardings)
    batch = partitioning.shard_batch(mesh, host_batch())
    batch["beside"] = {"1": partitioning.shard_batch(mesh, rows_beside_test.other_batch())}
    state, metrics = step(state, batch, jax.random.key(0))
    for what, leaf in {**metrics, **trees.flatten(state.trainable)}.items():
        found[f"{name}:{what}"] = np.asarray(leaf)
np.savez(sys.argv[1], **found)
"""


@pytest.mark.slow
def test_eight_devices_equal_one(tmp_path):
    found = meshes.found(ON_MESHES, tmp_path)
    assert found["one:penalty"] > 1e-4
    meshes.check_equal(found, meshes.names(found), atol=1e-5)
