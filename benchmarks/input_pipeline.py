"""Training batches from rows of text, without a model, against torch's DataLoader."""

import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks import workers
from benchmarks.train_step import OURS

BATCH = {"rows": 32, "inputs": 40, "targets": 4}
# Batches of one timing; whole epochs differ in the rows of their last batches alone.
TIMES = 125
TOKENS = 0.02
# Where a stage of a file of many rows is resumed.
MANY, STEP = 1_000_000, 100_000


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
    several = f"{OURS}, {os.cpu_count()} processes"
    for name, given in (("a task", ours), ("rows of a file", ours | {"file": file})):
        contenders = {
            OURS: ("benchmarks.ours:batches", given),
            several: ("benchmarks.ours:batches", given | {"processes": os.cpu_count()}),
            **peers,
        }
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
    with tempfile.TemporaryDirectory() as folder:
        yield {"name": f"a first batch of {MANY:,} rows", **_resumed(folder, ours, rounds)}


def _resumed(folder: str, ours: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Compares the first batch of a start with that of a stage that goes on."""
    file = str(pathlib.Path(folder, "rows.jsonl"))
    workers.Worker("benchmarks.ours:write_many_rows", {"file": file, "count": MANY}).close()
    given = ours | {"file": file}
    contenders = {
        f"{OURS}, step {step:,}": ("benchmarks.ours:first_batch", given | {"step": step})
        for step in (0, STEP)
    }
    return workers.compare(contenders, rounds, 5)
