import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import seqio

from promot_jax import models
from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.data import batching
from promot_jax.models import architectures, base, decoding
from promot_jax.models.networks import decoder
from promot_jax.models.networks.lora import Lora
from promot_jax.tasks import mini
from tests import tiny
from tests.quick import quick_jit

pytestmark = pytest.mark.long


def decoder_model(vocab_size=1280, vocabulary=None, num_layers=1, **options):
    names = {"prefix_lm", "start_id"} & options.keys()
    fields = {name: options.pop(name) for name in names}
    config = decoder.DecoderConfig(
        vocab_size=vocab_size,
        emb_dim=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        mlp_dim=32,
        num_layers=num_layers,
        logit_scale=0.25,
        **options,
    )
    network = decoder.Transformer(config)
    return models.DecoderOnlyModel(network, vocabulary or mini.vocabulary(), **fields)


KINDS = {
    "encoder_decoder": tiny.model,
    "decoder": decoder_model,
    "decoder_start": functools.partial(decoder_model, start_id=1279),
    "prefix_lm": functools.partial(decoder_model, prefix_lm=True),
    "scanned": functools.partial(decoder_model, scan_layers=True, num_layers=2),
}


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return KINDS[request.param]()


def params_of(model):
    return params_of_network(type(model), model.network)


@functools.cache
def params_of_network(kind, network):
    return quick_jit(kind(network, None).init)(jax.random.key(0))


@pytest.fixture(scope="module")
def batch():
    return next(batching.train_batches("mini_rte", tiny.LENGTHS, batching.FixedBatches(4), seed=0))


def test_scores_sum_to_the_loss(model, batch):
    scores, loss = quick_jit(lambda p, b: (model.score_batch(p, b), model.loss_fn(p, b, None)))(
        params_of(model), batch
    )
    assert scores.shape == (4,)
    assert (scores < 0).all()
    np.testing.assert_allclose(-scores.sum(), loss.total, rtol=1e-5)


def test_a_greedy_answer_is_the_best_continuation_at_every_token(model, batch):
    prompt = jax.random.normal(jax.random.key(1), (3, 16))
    params = trees.add_prompt(params_of(model), "rte", prompt)
    model = model.with_prompts(trees.prompts_of(params))
    batch = {**batch, "prompt_ids": np.array([0, -1, 0, -1])}

    @quick_jit
    def answer(params, batch):
        tokens = model.predict_batch(params, batch, decoding.Greedy(), max_length=4)
        given = {
            "decoder_input_tokens": jnp.pad(tokens[:, :-1], ((0, 0), (1, 0))),
            "decoder_target_tokens": jnp.maximum(tokens, 1),
        }
        return tokens, model.logits(params, batch | given).argmax(axis=-1)

    tokens, best = map(np.asarray, answer(params, batch))
    written = tokens > 0
    assert written.any()
    assert (best[written] == tokens[written]).all()


@pytest.mark.parametrize("kind", ["encoder_decoder", "decoder_start", "prefix_lm"])
def test_buckets_and_neighbours_do_not_change_an_answer(kind, batch):
    model = KINDS[kind]()
    params, beam = params_of(model), decoding.Beam(num_beams=3)
    predict = quick_jit(lambda batch: model.predict_batch(params, batch, beam, 3))
    together = predict(batch)
    length = batch["encoder_segment_ids"][1].sum()
    alone = predict({name: array[1:2, :length] for name, array in batch.items()})
    assert (together[1] == alone[0]).all()


class Ids(seqio.PassThroughVocabulary):
    """Every number is a token, 0 too; 7 ends a sequence."""

    def __init__(self):
        super().__init__(31, 7)

    def _encode(self, s):
        return [int(word) for word in s.split()]

    def _decode(self, ids):
        return " ".join(map(str, ids))


@pytest.mark.parametrize(("start_id", "prefix_lm"), [(None, False), (30, True)])
def test_a_score_is_that_of_the_targets_behind_the_inputs(start_id, prefix_lm):
    model = decoder_model(31, Ids(), num_layers=2, start_id=start_id, prefix_lm=prefix_lm)
    params = params_of(model)
    apply = quick_jit(functools.partial(model.network.apply, enable_dropout=False))
    # Tokens 0 at every place; the second inputs close with the end-of-sequence token, the last are
    # this alone or nothing.
    rows = [([0, 5, 0, 9], [0, 3]), ([4, 0, 7], [8, 0, 7]), ([0], [0]), ([7], [2]), ([], [3, 1])]
    batch = {
        "encoder_input_tokens": np.full((5, 6), 11),
        "encoder_segment_ids": np.zeros((5, 6), int),
        "decoder_target_tokens": np.zeros((5, 4), int),
        "decoder_loss_weights": np.zeros((5, 4), int),
    }
    expected = []
    for i, (inputs, targets) in enumerate(rows):
        batch["encoder_input_tokens"][i, : len(inputs)] = inputs
        batch["encoder_segment_ids"][i, : len(inputs)] = 1
        batch["decoder_target_tokens"][i, : len(targets)] = targets
        batch["decoder_loss_weights"][i, : len(targets)] = 1
        front = ([] if start_id is None else [start_id]) + [t for t in inputs if t != 7]
        # Something must stand before the targets: the inputs as they are, or their padding.
        front = front or inputs or [11]
        # What follows is never seen; it gives all rows one shape.
        width = 10 - len(front) - len(targets)
        marks = [1] * len(front) + [0] * (10 - len(front))
        found = apply(
            {"params": params},
            jnp.array([[*front, *targets, *[9] * width]]),
            decoder_causal_attention=jnp.array([marks]) if prefix_lm else None,
        )
        log_probs = jax.nn.log_softmax(found[0])
        expected.append(sum(log_probs[len(front) + j - 1, t] for j, t in enumerate(targets)))
    found = quick_jit(model.score_batch)(params, batch)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_texts_end_at_the_end_of_sequence():
    vocabulary = Ids()
    rows = np.array([[3, 0, 5, 7, 0, 0], [0, 0, 7, 9, 0, 7], [1, 2, 0, 4, 0, 0]])
    found = decoder_model(31, vocabulary).texts(rows)
    assert found == ["3 0 5", "0 0", "1 2 0 4 0 0"]
    model = decoder_model(31, vocabulary, start_id=5)
    assert model.input_ids("3 0 4") == [3, 0, 4]
    assert tiny.model().input_ids("a")[-1] == mini.vocabulary().eos_id


def test_a_decoder_learns_a_batch(batch):
    model = decoder_model()
    tx = optax.adam(0.01)

    @quick_jit
    def step(params, state):
        def mean(params):
            loss = model.loss_fn(params, batch, None)
            return loss.total / loss.weight

        loss, gradients = jax.value_and_grad(mean)(params)
        updates, state = tx.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss

    params, losses = params_of(model), []
    state = tx.init(params)
    for _ in range(30):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(("kind", "side"), [("encoder_decoder", "encoder"), ("decoder", "decoder")])
def test_prompts_are_added_and_removed_by_name(kind, side):
    params = params_of(KINDS[kind]())
    both = trees.add_prompt(params, "b", np.ones((3, 16), np.float32))
    both = trees.add_prompt(both, "a", np.ones((3, 16), np.float32))
    assert set(both[side]["prompt"]) == {"a", "b"}
    assert trees.prompts_of(both) == {"a": 3, "b": 3}
    assert trees.prompts_of(trees.keep_prompts(both, ["b"])) == {"b": 3}
    assert tiny.leaves_equal(trees.keep_prompts(both, ()), params)
    with pytest.raises(ValueError, match=f"overlap at {side}/prompt/a/prompt"):
        trees.add_prompt(both, "a", np.ones((3, 16), np.float32))
    shapes, _ = KINDS[kind]().with_prompts(trees.prompts_of(both)).shapes_and_axes()
    assert trees.difference(shapes, both) == []


LORA = Lora(".*/wo/kernel", 2, 4.0)


@pytest.mark.parametrize(
    "model",
    [
        tiny.model(lora=LORA),
        decoder_model(rope_scaling=(8.0, 1.0, 4.0, 16), lora=LORA),
        decoder_model(prefix_lm=True, start_id=3).with_prompts({"a": 4}),
    ],
)
def test_stages_that_differ_in_dropout_share_one_trace_of_shapes(model):
    shapes, axes = model.shapes_and_axes()
    before = base._shapes_and_axes.cache_info().misses
    assert model.with_dropout(0.3).with_remat("full").shapes_and_axes() == (shapes, axes)
    assert base._shapes_and_axes.cache_info().misses == before


def test_a_model_is_built_as_it_was_described(model):
    about = json.loads(json.dumps(architectures.describe(model)))
    built = architectures.build(**about, vocabulary=model.vocabulary)
    assert built == model
    assert architectures.describe(built) == about


class Starting(Ids):
    start_id = 4


def test_a_decoder_starts_as_its_vocabulary_does():
    config = architectures.describe(decoder_model(31, Ids()))["config"]
    assert architectures.build("decoder", config, Starting()).start_id == 4
    assert architectures.build("decoder", config, Starting(), start_id=None).start_id is None
    assert architectures.build("decoder", config, Ids()).start_id is None
    assert architectures.build("decoder", config, None).start_id is None


@pytest.mark.parametrize(
    ("family", "changes", "options", "words"),
    [
        ("gpt", {}, {}, "unknown model family 'gpt'; known are decoder, t5"),
        ("decoder", {"emb": 1}, {}, "decoder configuration has no field 'emb'"),
        ("t5", {}, {}, "t5 configuration has no field 'num_kv_heads'"),
        (
            "decoder",
            {},
            {"prefix": 1},
            "decoder model has no field 'prefix'; it has end_ids, prefix_lm",
        ),
        ("decoder", {"lora": {"rank": 2}}, {}, "lora has no pattern, alpha"),
    ],
)
def test_what_cannot_be_built_is_named(family, changes, options, words):
    config = architectures.describe(decoder_model())["config"]
    with pytest.raises(UserError, match=words):
        architectures.build(family, config | changes, None, **options)
    with pytest.raises(UserError, match="decoder configuration has no emb_dim"):
        architectures.build("decoder", {k: v for k, v in config.items() if k != "emb_dim"}, None)
