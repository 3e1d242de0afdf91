"""Greedy search, sampling and beam search over a step function.

A search sees the network as `tokens_to_logits(tokens, cache)`, which takes the last tokens, int32
`[N, 1]`, and a tree of arrays, and returns logits `[N, V]` and the next cache. Cache leaves have
the batch as their first axis; scalars, such as a position, belong to all rows. What the beams of a
row have in common, as keys and values of its inputs, is the step function's own and once a row. All
searches run under `jit` and stop early. Decoding starts from the token 0 unless `start_tokens` says
otherwise, and 0 fills up after the end-of-sequence token, which is part of the result.
"""

from promot_jax.models.decoding.beam import (
    Beam,
    beam_search,
    finish_any,
    finish_leading,
    gnmt_penalty,
    huggingface_beam,
    power_penalty,
    stop_estimate,
    stop_full,
    stop_settled,
)
from promot_jax.models.decoding.interface import (
    PAD_ID,
    START_ID,
    Cache,
    Decoder,
    TokensToLogits,
    started,
    until_end,
)
from promot_jax.models.decoding.token_by_token import Greedy, Sample, greedy, keep_probable, sample
from promot_jax.models.decoding.top_k import CHUNK, top_k_in_chunks

__all__ = [
    "CHUNK",
    "PAD_ID",
    "START_ID",
    "Beam",
    "Cache",
    "Decoder",
    "Greedy",
    "Sample",
    "TokensToLogits",
    "beam_search",
    "finish_any",
    "finish_leading",
    "gnmt_penalty",
    "greedy",
    "huggingface_beam",
    "keep_probable",
    "power_penalty",
    "sample",
    "started",
    "stop_estimate",
    "stop_full",
    "stop_settled",
    "top_k_in_chunks",
    "until_end",
]
