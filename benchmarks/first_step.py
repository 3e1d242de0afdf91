"""Time from the command to the end of its first training step, and of `promot --help`."""

import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import workers
from benchmarks.input_pipeline import BATCH
from benchmarks.shapes import SHAPES
from benchmarks.train_step import OURS

PROMOT = (sys.executable, "-m", "promot_jax.cli")
COLD = f"{OURS}, its first start on a machine"


def measure(weights: str, file: str, tokenizer: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Yields results like those of `workers.compare`.

    promot_jax keeps what it compiled, so its first start takes longer than all later ones.

    Args:
      weights: a folder of the shape `mini`.
      file: rows, see `ours.write_rows`.
      tokenizer: a SentencePiece model.
      rounds: how often each command is timed.
    """
    peer = [sys.executable, "-m", "benchmarks.peers", weights, file, tokenizer]
    peer += [str(n) for n in (SHAPES["mini"].prompt, *BATCH.values())]
    seconds = {name: [] for name in (OURS, COLD, "transformers + PEFT")}
    helped = []
    with tempfile.TemporaryDirectory() as kept:
        _start(file, kept)
        for _ in range(rounds):
            seconds[OURS].append(_start(file, kept))
            with tempfile.TemporaryDirectory() as empty:
                seconds[COLD].append(_start(file, empty))
            seconds["transformers + PEFT"].append(_until("step 1/1", peer))
            helped.append(_until("usage:", [*PROMOT, "--help"]))
    yield _result("first step of prompt tuning", seconds)
    yield _result("promot --help", {OURS: helped})


def _start(file: str, home: str) -> float:
    """Returns the seconds to the first step of a new run of someone with this home folder."""
    with tempfile.TemporaryDirectory() as folder:
        return _until("step 1/1", _run_command(file, folder), HOME=home)


def _run_command(file: str, folder: str) -> list[str]:
    """Returns the command that tunes a prompt of the miniature for one step."""
    bindings = {
        "MODEL_DIR": repr(folder + "/run"),
        "PROMPT_LENGTH": SHAPES["mini"].prompt,
        "PROMPT_TRAIN_STEPS": 1,
        "PROMPT_EVAL_PERIOD": 1,
        "EVAL_EXAMPLES": BATCH["rows"],
        "VALIDATION_EXAMPLES": BATCH["rows"],
    }
    return [
        *(*PROMOT, "run", "your_data", "--methods", "prompt_tuning"),
        *("--train", file, "--eval", file, "--template", "{text}", "--target", "{label}"),
        *(f"--gin.{name}={value}" for name, value in bindings.items()),
    ]


def _until(text: str, command: Sequence[str], **environment: str) -> float:
    """Returns the seconds from the start of a command to the line that holds a text."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=pathlib.Path(__file__).parent.parent,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            for line in process.stdout:
                if text in line:
                    return time.perf_counter() - started
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        errors.seek(0)
        raise RuntimeError(f"{' '.join(command)} never said {text!r}:\n{errors.read()[-4000:]}")


def _result(name, seconds) -> dict[str, Any]:
    rows = {label: {"seconds": workers.spread(values)} for label, values in seconds.items()}
    return {"name": name, "contenders": rows, "ratio": workers.ratios(seconds)}
