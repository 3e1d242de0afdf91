import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promot_jax.base.errors import UserError
from promot_jax.models import decoding

EOS = 1

# A chain over pad, eos, a, b. From the start, a (0.6) looks better than b (0.4). After a, every
# token is unlikely (eos 0.3 at best); after b, eos is sure. So greedy takes a eos (0.18) while
# the best sequence is b eos (0.4).
TRAP = np.log(
    [
        [1e-9, 1e-9, 0.6, 0.4],
        [1.0, 1e-9, 1e-9, 1e-9],
        [1e-9, 0.35, 0.34, 0.31],
        [1e-9, 1.0, 1e-9, 1e-9],
    ]
)


def markov(tables):
    """Steps of Markov chains [B, V, V], the chain of a row being chosen by its cache."""
    tables = jnp.asarray(tables, jnp.float32)

    def tokens_to_logits(tokens, cache):
        return tables[cache["row"], tokens[:, 0]], {**cache, "index": cache["index"] + 1}

    return tokens_to_logits


def empty_cache(batch_size, max_length):
    history = jnp.zeros((batch_size, max_length), jnp.int32)
    return {"index": jnp.int32(0), "row": jnp.arange(batch_size), "history": history}


STATIC = ("num_beams", "max_length", "length_penalty", "stop")


@functools.partial(jax.jit, static_argnames=STATIC)
def batch_search(tables, num_beams, max_length, alpha, **rules):
    """Searches each chain of tables [B, V, V]."""
    return decoding.beam_search(
        empty_cache(len(tables), max_length),
        markov(tables),
        batch_size=len(tables),
        num_beams=num_beams,
        max_length=max_length,
        eos_id=EOS,
        alpha=alpha,
        **rules,
    )


def search(table, num_beams, max_length, alpha):
    """Searches one chain [V, V]."""
    sequences, scores = batch_search(jnp.asarray(table)[None], num_beams, max_length, alpha)
    return np.asarray(sequences[0]), np.asarray(scores[0])


@functools.partial(jax.jit, static_argnames="max_length")
def batch_greedy(tables, max_length):
    return decoding.greedy(
        empty_cache(len(tables), max_length),
        markov(tables),
        batch_size=len(tables),
        max_length=max_length,
        eos_id=EOS,
    )


def log_prob_and_length(table, tokens):
    """Walks along one sequence up to its end, in float64."""
    log_probs = np.asarray(table, np.float64)
    log_probs = log_probs - np.logaddexp.reduce(log_probs, axis=1, keepdims=True)
    tokens = list(tokens)
    tokens = tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens
    previous = [decoding.START_ID, *tokens[:-1]]
    return log_probs[previous, tokens].sum(), len(tokens)


def score(table, tokens, alpha):
    log_prob, length = log_prob_and_length(table, tokens)
    return log_prob / ((5 + length) / 6) ** alpha


def random_tables(seed, batch_size, vocab_size=6):
    return np.random.default_rng(seed).normal(size=(batch_size, vocab_size, vocab_size)) * 2


def all_finished(table, max_length, alpha):
    """Every finished sequence of the chain with its score, best first."""
    others = [token for token in range(len(table)) if token != EOS]
    found = []
    for length in range(1, max_length + 1):
        for prefix in itertools.product(others, repeat=length - 1):
            tokens = (*prefix, EOS) + (0,) * (max_length - length)
            found.append((score(table, tokens, alpha), tokens))
    return sorted(found, reverse=True)


def test_greedy_falls_into_the_trap_and_beam_search_does_not():
    tokens, log_probs = batch_greedy(TRAP[None], 4)
    np.testing.assert_array_equal(tokens, [[2, EOS, 0, 0]])
    np.testing.assert_allclose(log_probs, np.log([0.6 * 0.35]), rtol=1e-5)
    sequences, scores = search(TRAP, 2, 4, alpha=0.0)
    np.testing.assert_array_equal(sequences[0], [3, EOS, 0, 0])
    np.testing.assert_allclose(scores[0], np.log(0.4), rtol=1e-5)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), alpha=st.sampled_from([-1.0, 0.0, 0.6, 1.0]))
def test_wide_beams_find_every_sequence_in_order(seed, alpha):
    table = random_tables(seed, 1, vocab_size=4)[0]
    expected = all_finished(table, 4, alpha)
    # 27 sequences without an end have 108 continuations: 54 beams look at all of them.
    sequences, scores = search(table, 54, 4, alpha)
    assert len(expected) == 40
    np.testing.assert_allclose(scores[:40], [value for value, _ in expected], rtol=1e-4)
    np.testing.assert_array_equal(sequences[0], expected[0][1])


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_one_beam_is_greedy(seed):
    tables = random_tables(seed, 3)
    tokens, log_probs = batch_greedy(tables, 5)
    sequences, scores = batch_search(tables, 1, 5, alpha=0.6)
    np.testing.assert_array_equal(sequences[:, 0], tokens)
    for row, table in enumerate(tables):
        expected = log_prob_and_length(table, np.asarray(tokens[row]))[0]
        np.testing.assert_allclose(log_probs[row], expected, rtol=1e-4)
        expected = score(table, np.asarray(tokens[row]), 0.6)
        np.testing.assert_allclose(scores[row, 0], expected, rtol=1e-4)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), num_beams=st.sampled_from([2, 3, 4]))
def test_sequences_are_distinct_and_sorted_and_scored(seed, num_beams):
    tables = random_tables(seed, 2)
    sequences, scores = (np.asarray(x) for x in batch_search(tables, num_beams, 5, alpha=0.6))
    for row, table in enumerate(tables):
        assert len({tuple(tokens) for tokens in sequences[row]}) == num_beams
        expected = [score(table, tokens, 0.6) for tokens in sequences[row]]
        np.testing.assert_allclose(scores[row], expected, rtol=1e-4)
        finished = (sequences[row] == EOS).any(axis=1)
        order = list(zip(~finished, -scores[row], strict=True))
        assert order == sorted(order)


def test_rows_of_a_batch_do_not_mix():
    tables = random_tables(0, 3)
    together = batch_search(tables, 3, 5, alpha=0.6)
    for row, table in enumerate(tables):
        sequences, scores = search(table, 3, 5, alpha=0.6)
        np.testing.assert_array_equal(together[0][row], sequences)
        np.testing.assert_allclose(together[1][row], scores, rtol=1e-6)


def test_the_cache_follows_its_beam():
    """A step function that sees only its cache's history gives what a Markov chain gives."""
    table = jnp.asarray(np.random.default_rng(3).normal(size=(6, 6)) * 2, jnp.float32)

    def from_history(tokens, cache):
        history = cache["history"].at[:, cache["index"]].set(tokens[:, 0])
        # Order two: depends on the last token and the one before it, which is in the cache.
        before = jnp.where(cache["index"] > 0, history[:, cache["index"] - 1], 0)
        new = {**cache, "index": cache["index"] + 1, "history": history}
        return table[tokens[:, 0]] + 2 * table.T[before], new

    sequences, scores = decoding.beam_search(
        empty_cache(1, 4), from_history, batch_size=1, num_beams=4, max_length=4, eos_id=EOS
    )
    for tokens, score in zip(np.asarray(sequences[0]), scores[0], strict=True):
        log_prob, last, before, length = 0.0, 0, 0, 0
        for step, token in enumerate(tokens):
            logits = table[last] + 2 * table.T[before if step else 0]
            log_prob += jax.nn.log_softmax(logits)[token]
            before, last, length = last, token, step + 1
            if token == EOS:
                break
        np.testing.assert_allclose(score, log_prob / ((5 + length) / 6) ** 0.6, rtol=1e-4)


def test_unfinished_sequences_fill_empty_places():
    never = np.array([[-np.inf, -np.inf, np.log(0.6), np.log(0.4)]] * 4)
    sequences, scores = search(never, 2, 3, alpha=1.0)
    np.testing.assert_array_equal(sequences[0], [2, 2, 2])
    np.testing.assert_allclose(scores[0], 3 * np.log(0.6) / (8 / 6), rtol=1e-4)
    rarely = never.copy()
    rarely[0, EOS] = -5.0
    sequences, _ = search(rarely, 2, 3, alpha=1.0)
    np.testing.assert_array_equal(sequences, [[EOS, 0, 0], [2, 2, 2]])


def never_done(live, ended, length, max_length, penalty):
    return jnp.zeros(live.shape, bool)


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 2**31),
    alpha=st.sampled_from([-1.5, 0.0, 0.6, 2.0]),
    penalty=st.sampled_from([decoding.gnmt_penalty, decoding.power_penalty]),
)
def test_settled_rows_cannot_improve(seed, alpha, penalty):
    tables = random_tables(seed, 8)
    common = {"num_beams": 2, "max_length": 7, "alpha": alpha, "length_penalty": penalty}
    never = batch_search(tables, **common, stop=never_done)
    stopped = batch_search(tables, **common)
    np.testing.assert_array_equal(stopped[0], never[0])
    np.testing.assert_allclose(stopped[1], never[1], rtol=1e-6)


def test_a_full_row_stays_as_it_is_while_others_go_on():
    # Each token of the first row is a toss-up between the end and one more; alpha makes the
    # longest the best. The second row cannot end.
    toss_up = np.log([[1e-9, 0.5, 0.5, 1e-9]] * 4)
    never = np.array([[-9.0, -np.inf, 0.0, -0.1]] * 4)
    common = {"num_beams": 2, "max_length": 6, "alpha": 3.0}
    full, _ = batch_search(np.stack([toss_up, never]), **common, stop=decoding.stop_full)
    np.testing.assert_array_equal(full[0], [[EOS, 0, 0, 0, 0, 0], [2, EOS, 0, 0, 0, 0]])
    np.testing.assert_array_equal(full[1, 0], [2] * 6)
    settled, _ = batch_search(np.stack([toss_up, never]), **common)
    np.testing.assert_array_equal(settled[0, 0], [2, 2, 2, 2, 2, EOS])


def test_ends_outside_the_best_beams_are_dropped():
    ends = jnp.array([[True, False, True, False], [False, True, False, True]])
    last, earlier = jnp.array(True), jnp.array(False)
    np.testing.assert_array_equal(decoding.finish_any(ends, last, 2), ends)
    leading = [[True, False, False, False], [False, True, False, False]]
    np.testing.assert_array_equal(decoding.finish_leading(ends, earlier, 2), leading)
    np.testing.assert_array_equal(
        decoding.finish_leading(ends, last, 2), [[True, True, False, False]] * 2
    )


def test_penalties():
    np.testing.assert_allclose(decoding.gnmt_penalty(jnp.array([1, 7]), 0.5), [1, 2**0.5])
    np.testing.assert_allclose(decoding.power_penalty(jnp.array([1, 4]), 0.5), [1, 2])


@pytest.mark.parametrize("decoder", [decoding.Greedy(), decoding.Beam(3), decoding.Sample()])
def test_rows_start_from_their_tokens(decoder):
    tables = jnp.asarray(random_tables(1, 3), jnp.float32)
    starts = jnp.array([4, 0, 2])

    def from_the_start_row(tokens, cache):
        tokens = jnp.where(cache["index"] == 0, starts[cache["row"]][:, None], tokens)
        return markov(tables)(tokens, cache)

    common = {"batch_size": 3, "max_length": 5, "eos_id": EOS}
    expected = decoder(empty_cache(3, 5), from_the_start_row, **common)
    tokens = decoder(empty_cache(3, 5), markov(tables), **common, start_tokens=starts)
    np.testing.assert_array_equal(tokens, expected)
    default = decoder(empty_cache(3, 5), markov(tables), **common)
    assert (default[0] != tokens[0]).any()
    np.testing.assert_array_equal(default[1], tokens[1])


def test_the_search_stops_when_nothing_can_improve():
    sure = np.log([[1e-9, 0.9, 0.05, 0.05]] * 4)

    def steps_of(decode):
        calls = []

        def counted(tokens, cache):
            jax.debug.callback(lambda: calls.append(1))
            return markov([sure, sure])(tokens, cache)

        jax.block_until_ready(decode(counted))
        jax.effects_barrier()
        return len(calls)

    common = {"batch_size": 2, "max_length": 50, "eos_id": EOS}
    cache = empty_cache(2, 50)
    assert steps_of(lambda step: decoding.greedy(cache, step, **common)) == 1
    assert steps_of(lambda step: decoding.beam_search(cache, step, num_beams=2, **common)) < 6


def test_decoders_return_the_best_sequence():
    common = {"batch_size": 1, "max_length": 4, "eos_id": EOS}
    beam = decoding.Beam(num_beams=2, alpha=0.0)(empty_cache(1, 4), markov(TRAP[None]), **common)
    np.testing.assert_array_equal(beam, [[3, EOS, 0, 0]])
    first = decoding.Greedy()(empty_cache(1, 4), markov(TRAP[None]), **common)
    np.testing.assert_array_equal(first, [[2, EOS, 0, 0]])
    assert (decoding.Beam().num_beams, decoding.Greedy().num_beams) == (4, 1)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([5, 128, 1000, 1280, 3001]),
    k=st.sampled_from([1, 4, 8]),
    values=st.sampled_from([3, 10**6]),
)
def test_top_k_in_chunks_equals_top_k(seed, size, k, values):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.integers(values, size=(3, size)), jnp.float32)
    x = jnp.where(rng.random((3, size)) < 0.3, -jnp.inf, x)
    k = min(k, size)
    for ours, expected in zip(decoding.top_k_in_chunks(x, k), jax.lax.top_k(x, k), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_the_first_of_equal_values_wins_across_chunks():
    x = jnp.zeros((1, 4 * decoding.CHUNK))
    x = x.at[0, [7, 200, 201]].set(jnp.array([5.0, 9.0, 5.0]))
    best, index = decoding.top_k_in_chunks(x, 2)
    np.testing.assert_array_equal(best, [[9.0, 5.0]])
    np.testing.assert_array_equal(index, [[200, 7]])


def test_errors_name_the_culprit():
    with pytest.raises(UserError, match=r"Beam\.num_beams = 0"):
        decoding.Beam(num_beams=0)
    with pytest.raises(UserError, match="early_stopping = 'ever'"):
        decoding.huggingface_beam(early_stopping="ever")
    with pytest.raises(ValueError, match="num_beams = 0"):
        search(TRAP, 0, 4, alpha=0.6)
    with pytest.raises(ValueError, match="batch_size = 1"):
        decoding.beam_search(
            empty_cache(2, 4),
            markov(TRAP[None]),
            batch_size=1,
            num_beams=2,
            max_length=4,
            eos_id=EOS,
        )
