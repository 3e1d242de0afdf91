"""Training batches from rows of text, without a model, against torch's DataLoader."""

import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks import workers
from benchmarks.train_step import OURS

BATCH = {"rows": 32, "inputs": 40, "targets": 4}
# Rows as long as articles are, which cost enough to share among processes.
ARTICLES = {"rows": 32, "inputs": 1024, "targets": 4}
WORDS, ROWS = 400, 5000
# Batches of one timing: whole epochs, which differ in the rows of their last batches alone, and
# many beside those that were read ahead between two timings.
TIMES = 1000
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
            f"{OURS}, later epochs": ("benchmarks.ours:batches", given | {"first_epoch": False}),
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
        yield {"name": f"rows of {WORDS} words", **_shared(folder, rounds)}
        yield {"name": f"a first batch of {MANY:,} rows", **_resumed(folder, ours, rounds)}


def _shared(folder: str, rounds: int) -> dict[str, Any]:
    """Compares one reader of long rows with several."""
    file = str(pathlib.Path(folder, "articles.jsonl"))
    sizes = {"file": file, "count": ROWS, "words": WORDS}
    workers.Worker("benchmarks.ours:write_articles", sizes).close()
    given = {"task": "mini_rte", "file": file, **ARTICLES}
    contenders = {
        label: ("benchmarks.ours:batches", given | {"processes": processes})
        for label, processes in (
            (f"{OURS}, a thread", 0),
            *((f"{OURS}, {count} processes", count) for count in range(1, os.cpu_count() + 1)),
        )
    }
    return workers.compare(contenders, rounds, TIMES)


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
