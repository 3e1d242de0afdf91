"""Training batches from rows of text, without a model, against torch's DataLoader."""

import os
from collections.abc import Iterator
from typing import Any

from benchmarks import workers
from benchmarks.train_step import OURS

BATCH = {"rows": 32, "inputs": 40, "targets": 4}
# Batches of one timing; whole epochs differ in the rows of their last batches alone.
TIMES = 125
TOKENS = 0.02


def measure(file: str, tokenizer: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Yields results as `workers.compare` gives them, with a `name` and tokens per second.

    Args:
      file: rows of the miniature's RTE, see `ours.write_rows`.
      tokenizer: a SentencePiece model.
      rounds: how often each contender is timed.

    Raises:
      RuntimeError: the contenders do not read the same rows.
    """
    ours = {"task": "mini_rte", **BATCH}
    theirs = {"file": file, "tokenizer": tokenizer, **BATCH}
    peers = {
        "DataLoader, in the process": ("benchmarks.peers:batches", theirs | {"processes": 0}),
        f"DataLoader, {os.cpu_count()} processes": (
            "benchmarks.peers:batches",
            theirs | {"processes": os.cpu_count()},
        ),
    }
    for name, given in (("a seqio task", ours), ("rows of a file", ours | {"file": file})):
        contenders = {OURS: ("benchmarks.ours:batches", given), **peers}
        result = workers.compare(contenders, rounds, TIMES)
        rates = {}
        for label, row in result["contenders"].items():
            read = row["facts"]["then"]
            rates[label] = read["tokens"] / read["rows"]
            row["rows_per_second"] = BATCH["rows"] / row["seconds"]["median"]
            row["tokens_per_second"] = row["rows_per_second"] * rates[label]
        if max(rates.values()) > min(rates.values()) * (1 + TOKENS):
            raise RuntimeError(f"the contenders read different rows; tokens of a row: {rates}")
        yield {"name": name, **result}
