"""Programs that run with eight CPU devices, and what they find."""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping

import numpy as np


def found(program: str, folder) -> Mapping[str, np.ndarray]:
    """Returns the arrays that a program writes to its first argument, an npz file."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": os.getcwd()}
    file = folder / "found.npz"
    subprocess.run([sys.executable, "-c", program, file], env=environment, check=True)
    return np.load(file)


def names(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Returns what arrays are named behind `one:`; `eight:` has the same."""
    return [name.removeprefix("one:") for name in arrays if name.startswith("one:")]


def check_equal(arrays: Mapping[str, np.ndarray], names: Iterable[str], atol: float) -> None:
    """Checks that eight devices have found what one has, to a thousandth."""
    for name in names:
        options = {"rtol": 1e-3, "atol": atol, "err_msg": name}
        np.testing.assert_allclose(arrays[f"one:{name}"], arrays[f"eight:{name}"], **options)
