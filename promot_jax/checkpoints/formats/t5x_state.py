"""What both layouts of T5X checkpoints share: where one is written, and the optimizer's state."""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from promot_jax.base import trees
from promot_jax.base.errors import UserError

# T5X's reason, told for everything in a checkpoint beside the parameters.
NOT_PARAMETERS = "state of T5X's trainer, not parameters"
DTYPES = ("float32", "bfloat16")


def place(folder: pathlib.Path, step: int | None, dtype: str) -> tuple[str, int]:
    """Returns the folder of the checkpoint within `folder` (or "") and its step.

    T5X finds a checkpoint by its name `checkpoint_N`. A `folder` that has such a name is the
    checkpoint; any other becomes a model directory with one checkpoint in it.

    Raises:
      UserError: a step that contradicts the name, or an unknown dtype.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not one that T5X stores; give one of {DTYPES}")
    match = re.fullmatch(r"checkpoint_(\d+)", folder.name)
    if match is None:
        return f"checkpoint_{step or 0}", step or 0
    if step not in (None, int(match[1])):
        raise UserError(f"{folder} names another step than {step}; T5X takes it from the name")
    return "", int(match[1])


def fresh(shapes: Mapping[str, Sequence[int]], step: int) -> dict[str, Any]:
    """Returns the state of T5X's Adafactor before its first step, which its restore asks for.

    Without it, T5X restores parameters for inference only, or with `fallback_to_scratch`. As in
    T5X, matrices with both dimensions of at least 128 are factored.

    Args:
      shapes: {path: shape} of the parameters.
      step: of the checkpoint.
    """
    slots = {path: _adafactor_slots(tuple(shape)) for path, shape in shapes.items()}
    return {"step": np.asarray(step, np.int32), "param_states": trees.unflatten(slots)}


def _adafactor_slots(shape: tuple[int, ...], smallest: int = 128) -> dict[str, np.ndarray]:
    slots = {name: np.zeros((1,), np.float32) for name in ("m", "v", "v_col", "v_row")}
    if len(shape) == 2 and min(shape) >= smallest:
        # Rows are the smaller dimension.
        rows, columns = sorted(shape)
        slots |= {"v_row": np.zeros(rows, np.float32), "v_col": np.zeros(columns, np.float32)}
    else:
        slots["v"] = np.zeros(shape, np.float32)
    return slots
