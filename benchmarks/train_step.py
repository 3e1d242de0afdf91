"""Training steps of both stages and of fine-tuning, against transformers and PEFT on torch."""

import dataclasses
import importlib.util
from collections.abc import Iterator
from typing import Any

from benchmarks import workers
from benchmarks.shapes import UNEVEN, Shape

OURS = "promot_jax"
# The stage's name, its label, the contender's.
STAGES = (
    ("prompt", "stage 1, prompt", "transformers + PEFT"),
    ("model", "stage 2, model", "transformers + PEFT"),
    ("fine_tuning", "fine-tuning", "transformers"),
)
# How far the losses of the first step may differ, by the dtype of activations.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}


def measure(
    shape: Shape, folder: str, dtype: str, rounds: int, times: int
) -> Iterator[dict[str, Any]]:
    """Yields the results of each stage as `workers.compare` gives them, with a `name`.

    Raises:
      RuntimeError: the contenders do not compute the same loss from the same weights.
    """
    given = {"shape": dataclasses.asdict(shape), "folder": folder, "dtype": dtype}
    for stage, name, peer in STAGES:
        contenders = {
            OURS: ("benchmarks.ours:train_step", given | {"stage": stage}),
            peer: ("benchmarks.peers:train_step", given | {"stage": stage}),
        }
        if stage == "fine_tuning" and shape.family == "t5" and importlib.util.find_spec("t5x"):
            contenders["T5X"] = ("benchmarks.t5x_step:train_step", given)
        yield _compared(name, contenders, rounds, times, dtype)


def measure_uneven(
    shape: Shape, folder: str, dtype: str, rounds: int, times: int
) -> Iterator[dict[str, Any]]:
    """Yields the results of `measure` for rows of many lengths, of a decoder-only model.

    A timing is of `times` passes over a few batches; what is reported is a step.

    Raises:
      RuntimeError: the contenders do not compute the same loss from the same weights.
    """
    given = {"shape": dataclasses.asdict(shape), "folder": folder, "dtype": dtype}
    for stage, name, peer in STAGES[1:]:
        given["stage"] = stage
        contenders = {
            OURS: ("benchmarks.ours:train_step", given | {"rows": "packed"}),
            f"{OURS}, not packed": ("benchmarks.ours:train_step", given | {"rows": "padded"}),
            peer: ("benchmarks.peers:train_step", given | {"rows": "padded"}),
        }
        if stage == "fine_tuning":
            contenders[f"{peer}, flattened"] = (
                "benchmarks.peers:train_step",
                given | {"rows": "flattened"},
            )
        yield _compared(f"{name}, uneven rows", contenders, rounds, times * UNEVEN, dtype)


def _compared(name, contenders, rounds, times, dtype) -> dict[str, Any]:
    """Returns the result of contenders that compute the same loss."""
    result = workers.compare(contenders, rounds, times)
    return {"name": name, **result, "loss_difference": _difference(result, name, dtype)}


def _difference(result, name, dtype) -> float:
    """Returns how far apart the contenders' losses of the first step are."""
    first = {
        label: facts["facts"]["first"]["losses"][0] for label, facts in result["contenders"].items()
    }
    difference = max(first.values()) - min(first.values())
    if not difference <= TOLERANCE[dtype]:
        raise RuntimeError(f"{name}: the contenders compute different losses: {first}")
    return difference
