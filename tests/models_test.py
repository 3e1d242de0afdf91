import jax
import numpy as np
import pytest

from promot_jax import data, decoding, models
from tests import tiny


@pytest.fixture(scope="module")
def params():
    return tiny.model().init(jax.random.key(0))


@pytest.fixture(scope="module")
def batch():
    return next(data.train_batches("mini_rte", tiny.LENGTHS, data.FixedBatches(4), seed=0))


def test_scores_sum_to_the_loss(params, batch):
    model = tiny.model()
    scores = model.score_batch(params, batch)
    loss = model.loss_fn(params, batch, None)
    assert scores.shape == (4,)
    assert (scores < 0).all()
    np.testing.assert_allclose(-scores.sum(), loss.total, rtol=1e-5)


def test_a_greedy_answer_is_the_best_continuation_at_every_token(params, batch):
    model = tiny.model()
    tokens = np.asarray(model.predict_batch(params, batch, decoding.Greedy(), max_length=4))
    given = {
        "encoder_input_tokens": batch["encoder_input_tokens"],
        "decoder_input_tokens": np.pad(tokens[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": np.maximum(tokens, 1),
    }
    best = np.asarray(model.logits(params, given).argmax(axis=-1))
    written = tokens > 0
    assert written.any()
    assert (best[written] == tokens[written]).all()


def test_prompts_are_added_and_removed_by_name(params):
    both = models.add_prompt(params, "b", np.ones((3, 16), np.float32))
    both = models.add_prompt(both, "a", np.ones((3, 16), np.float32))
    assert models.prompts_of(both) == {"a": 3, "b": 3}
    assert models.prompts_of(models.keep_prompts(both, ["b"])) == {"b": 3}
    assert tiny.leaves_equal(models.keep_prompts(both, ()), params)
    with pytest.raises(ValueError, match="overlap at encoder/prompt/a/prompt"):
        models.add_prompt(both, "a", np.ones((3, 16), np.float32))
