"""Time from the command to the end of its first training step, and of `promot --help`."""

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


def measure(weights: str, file: str, tokenizer: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Yields results like those of `workers.compare`.

    Args:
      weights: a folder of the shape `mini`.
      file: rows, see `ours.write_rows`.
      tokenizer: a SentencePiece model.
      rounds: how often each command is timed.
    """
    peer = [sys.executable, "-m", "benchmarks.peers", weights, file, tokenizer]
    peer += [str(n) for n in (SHAPES["mini"].prompt, *BATCH.values())]
    seconds = {OURS: [], "transformers + PEFT": []}
    helped = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            seconds[OURS].append(_until("step 1/1", _run_command(file, folder)))
        seconds["transformers + PEFT"].append(_until("step 1/1", peer))
        helped.append(_until("usage:", [*PROMOT, "--help"]))
    yield _result("first step of prompt tuning", seconds)
    yield _result("promot --help", {OURS: helped})


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


def _until(text: str, command: Sequence[str]) -> float:
    """Returns the seconds from the start of a command to the line that holds a text."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=pathlib.Path(__file__).parent.parent,
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
