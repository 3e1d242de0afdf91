"""Prompts that begin as exemplars (CPT): against PEFT's, and as stages."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.data import tasks
from promot_jax.data.exemplars import Context, Exemplars
from promot_jax.experiment import attachments
from promot_jax.models import DecoderOnlyModel
from promot_jax.tasks import mini
from promot_jax.training import optimizers, train_state, train_step
from promot_jax.training.selections import NearStart
from tests import tiny
from tests.models.models_test import decoder_model, params_of
from tests.training.train_test import RISING, run_stage

pytestmark = pytest.mark.long

# Two exemplars: a template, an input, a template, a label.
CONTEXT = Context((5, 6, 7, 8, 9, 10, 5, 11, 12, 8, 13, 14), (1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8))
INPUTS = np.array([[20, 21, 22, 23], [24, 25, 0, 0]])
TARGETS = np.array([[30, 31, 32], [33, 34, 0]])
RATE, EPSILONS = 0.02, (0.3, 0.15)


def context_stage(**changes):
    settings = {
        "name": "cpt",
        "trainable": ("decoder/prompt/.*",),
        "prompt_init": None,
        "prompt_length": 24,
        "context": Exemplars("mini_rte", tiny.LENGTHS),
        "selection": NearStart(0.5, 0.25),
        "optimizer": functools.partial(optimizers.plain_adamw, 0.01),
    }
    return tiny.prompt_stage(**settings | changes)


def theirs(model, steps):
    """PEFT's losses of some steps, and its prompt after them."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    config = peft.CPTConfig(
        task_type="CAUSAL_LM",
        cpt_token_ids=list(CONTEXT.ids),
        cpt_mask=[1] * len(CONTEXT.ids),
        cpt_tokens_type_mask=list(CONTEXT.kinds),
        opt_projection_epsilon=EPSILONS[0],
        opt_projection_format_epsilon=EPSILONS[1],
    )
    model = peft.get_peft_model(model, config).eval()
    ids, kinds = np.zeros((2, 7), int), np.zeros((2, 7), int)
    for row, (given, wanted) in enumerate(zip(INPUTS, TARGETS, strict=True)):
        given, wanted = given[given > 0], wanted[wanted > 0]
        size = len(given) + len(wanted)
        ids[row, :size] = [*given, *wanted]
        kinds[row, :size] = [2] * len(given) + [4] * len(wanted)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], RATE, weight_decay=0.0
    )
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor((kinds > 0).astype(int)),
            labels=torch.tensor(ids),
            input_type_mask=torch.tensor(kinds),
        ).loss
        loss.backward()
        losses.append(float(loss))
        optimizer.step()
    with torch.no_grad():
        return losses, model.get_prompt(1)[0].numpy()


def ours(source, network, params, steps):
    """Our losses of the same steps, and our prompt."""
    bare = DecoderOnlyModel(network, None)
    mesh = partitioning.make_mesh()
    stage = context_stage(
        context=CONTEXT,
        prompt_length=len(CONTEXT.ids),
        selection=NearStart(*EPSILONS),
        optimizer=functools.partial(optimizers.plain_adamw, RATE),
    )
    params = attachments.add(params, stage, 0, bare)
    stage = stage.reading(bare)
    state = train_state.sharded_state(stage, params, bare, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = train_step.make_train_step(bare, stage, stage.transformation(), mesh, shardings)
    batch = {
        "encoder_input_tokens": INPUTS,
        "encoder_segment_ids": (INPUTS > 0).astype(int),
        "decoder_target_tokens": TARGETS,
        "decoder_loss_weights": (TARGETS > 0).astype(int),
        "prompt_ids": np.zeros(2, np.int32),
    }
    packed = stage.model(bare).packer([batch], 1, labels=CONTEXT.labels)(batch)
    assert packed["decoder_loss_weights"].sum() == 5 + 2 * 4
    losses = []
    for _ in range(steps):
        state, metrics = step(state, packed, jax.random.key(0))
        losses.append(float(metrics["loss"]))
    return losses, np.asarray(state.trainable["decoder"]["prompt"]["rte"]["prompt"]), state


def test_losses_and_prompts_are_those_of_peft(tmp_path):
    hub = pytest.importorskip("tests.checkpoints.tiny_transformers")
    model = hub.random_model("llama")
    model.save_pretrained(tmp_path / "base")
    source, network, params = hub.load(tmp_path / "base")
    expected, prompt = theirs(model, 6)
    losses, found, state = ours(source, network, params, 6)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    np.testing.assert_allclose(found, prompt, atol=2e-5)
    # All but the labels moved, and some as far as they may.
    distances = np.linalg.norm(
        found - state.opt_state.kept["decoder"]["prompt"]["rte"]["prompt"], axis=1
    )
    labels = np.array(CONTEXT.kinds) % 4 == 0
    assert not distances[labels].any()
    limits = np.where(np.array(CONTEXT.kinds) % 4 == 2, *EPSILONS) * np.sqrt(32 / 2048)
    assert (distances[~labels] > 0).all()
    assert (distances <= limits * (1 + 1e-5)).all()
    assert np.isclose(distances, limits)[~labels].any()


def test_exemplars_are_the_first_training_rows_as_a_model_reads_them():
    vocabulary, rows = mini.vocabulary(), tasks.get("mini_rte").rows("train")
    context = Exemplars("mini_rte", tiny.LENGTHS).read(vocabulary, 90)
    assert len(context.ids) == len(context.kinds) == 90
    text = vocabulary.decode([token for token in context.ids if token != vocabulary.eos_id])
    assert rows[0]["inputs"] in text
    whole = [
        vocabulary.decode(
            [i for i, kind in zip(context.ids, context.kinds, strict=True) if kind == 4 * j + 4]
        )
        for j in range(max(context.kinds) // 4)
    ]
    # The one that fits in part stands first.
    assert whole == [
        rows[len(whole) - 1]["targets"],
        *(row["targets"] for row in list(rows)[: len(whole) - 1]),
    ]
    assert len(whole) > 2
    assert context.labels == [
        (i, context.ids[i]) for i, kind in enumerate(context.kinds) if kind % 4 == 0
    ]
    with pytest.raises(UserError, match="give as many"):
        context.read(vocabulary, 89)
    with pytest.raises(UserError, match="set CPT_LENGTH to"):
        Exemplars("mini_rte", tiny.LENGTHS).read(vocabulary, 10**9)


def test_a_stage_resumes_where_it_was_and_a_next_one_keeps_its_prompt(tmp_path):
    model = decoder_model(num_layers=2)
    stage = context_stage()
    params = attachments.add(params_of(model), stage, 0, model)
    embedding = np.asarray(params["token_embedder"]["embedding"])
    begun = np.asarray(params["decoder"]["prompt"]["rte"]["prompt"])
    ids = stage.context.read(model.vocabulary, 24).ids
    np.testing.assert_array_equal(begun, embedding[list(ids)])
    whole = run_stage(tmp_path / "whole", stage, params, model=model)
    run_stage(tmp_path / "parts", dataclasses.replace(stage, steps=2), params, model=model)
    (tmp_path / "parts" / "stage.json").unlink()
    rest = run_stage(tmp_path / "parts", stage, params, RISING[2:], model=model)
    assert tiny.leaves_equal(whole, rest)
    old, new = trees.flatten(params), trees.flatten(whole)
    moved = {path for path in old if (np.asarray(old[path]) != np.asarray(new[path])).any()}
    assert moved == {"decoder/prompt/rte/prompt"}
    further = {"context": None, "selection": None, "optimizer": optimizers.model_adafactor}
    second = dataclasses.replace(
        stage, name="model", trainable=("(?!.*/prompt/).*",), steps=2, **further
    )
    after = run_stage(tmp_path / "second", second, whole, model=model)["decoder"]
    assert tiny.leaves_equal(after["prompt"], whole["decoder"]["prompt"])
    assert not tiny.leaves_equal(after["layers_0"], whole["decoder"]["layers_0"])


def test_an_encoder_predicts_no_labels_of_its_prompt():
    with pytest.raises(UserError, match=r"'cpt' learns the labels .* take a decoder-only model"):
        attachments.check_context(context_stage(), tiny.model())
    attachments.check_context(context_stage(), decoder_model())
    with pytest.raises(UserError, match="'cpt' learns"):
        attachments.check_context(context_stage(pack=False), decoder_model())


def test_something_else_than_its_prompt_cannot_stay_near_exemplars():
    selection = dataclasses.replace(NearStart(), kinds=(1, 2))
    with pytest.raises(UserError, match="is none of 2 rows"):
        selection.kept({"decoder": {"prompt": {"rte": {"prompt": np.ones((3, 4))}}}})
    with pytest.raises(UserError, match="train the prompt alone"):
        NearStart().kept({"decoder": {"norm": np.ones(4)}})
