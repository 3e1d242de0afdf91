"""Rotary embeddings in a `config.json`: `rope_scaling` and `rope_theta`, or `rope_parameters`."""

import math
from collections.abc import Mapping
from typing import Any

from promot_jax.base.errors import UserError

Scaling = tuple[str | float | int | bool, ...]

_ORIGINAL = "original_max_position_embeddings"
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL)
_NAMES = ("default", "linear", "dynamic", "yarn", "llama3")


def read(
    about: Mapping[str, Any], file: str, base: float, max_positions: int | None
) -> tuple[float, Scaling | None]:
    """Returns the base and the scaling, as `networks.rotary` takes them.

    Args:
      about: content of the file.
      file: its name, for errors.
      base: where it names none.
      max_positions: the longest row that the model was made for.

    Raises:
      UserError: a kind of scaling that we do not compute, or one that lacks a number.
    """
    rope = about.get("rope_scaling") or about.get("rope_parameters") or {}
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise UserError(f"{file}: rope_parameters differ between layers, which is not supported")
    fraction = rope.get("partial_rotary_factor", about.get("partial_rotary_factor", 1.0))
    if fraction != 1.0:
        raise UserError(f"{file}: partial_rotary_factor is {fraction}; only 1.0 is supported")
    base = positive(rope.get("rope_theta") or about.get("rope_theta") or base, "rope_theta", file)
    name = rope.get("rope_type", rope.get("type", "default"))
    if name not in _NAMES:
        raise UserError(f"{file}: rope_type is {name}; supported are {', '.join(_NAMES)}")
    if name == "default":
        return base, None
    known = {_ORIGINAL: about.get(_ORIGINAL) or max_positions, **rope}

    def need(key: str) -> float:
        if known.get(key) is None:
            raise UserError(f"{file}: the {name} rope parameters lack {key}")
        return positive(known[key], key, file)

    if name == "linear":
        return base, ("linear", need("factor"))
    if name == "dynamic":
        if max_positions is None:
            raise UserError(f"{file}: the dynamic rope parameters lack max_position_embeddings")
        return base, ("dynamic", need("factor"), int(max_positions))
    if name == "yarn":
        if known.get("factor") is None and max_positions is not None:
            known["factor"] = max_positions / need(_ORIGINAL)
        return base, _yarn(known, need, file)
    factor, low, high, length = map(need, _LLAMA3)
    if low >= high:
        raise UserError(f"{file}: low_freq_factor is {low}, expected less than {high}")
    return base, (factor, low, high, int(length))


def _yarn(known: Mapping[str, Any], need, file: str) -> Scaling:
    factor = need("factor")

    def grown(scale: float = 1.0) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    magnitude = known.get("attention_factor")
    if magnitude is None:
        one, other = known.get("mscale"), known.get("mscale_all_dim")
        magnitude = grown(one) / grown(other) if one and other else grown()
    return (
        "yarn",
        factor,
        int(need(_ORIGINAL)),
        float(known.get("beta_fast") or 32),
        float(known.get("beta_slow") or 1),
        positive(magnitude, "attention_factor", file),
        bool(known.get("truncate", True)),
    )


def write(scaling: Scaling | None) -> dict[str, Any] | None:
    """Returns the `rope_scaling` of a `config.json`; inverse of `read`."""
    if scaling is None:
        return None
    if not isinstance(scaling[0], str):
        return {"rope_type": "llama3", **dict(zip(_LLAMA3, scaling, strict=True))}
    about = {"rope_type": scaling[0], "factor": scaling[1]}
    if scaling[0] == "yarn":
        keys = (_ORIGINAL, "beta_fast", "beta_slow", "attention_factor", "truncate")
        about |= dict(zip(keys, scaling[2:], strict=True))
    return about


def positive(value: Any, key: str, file: str) -> float:
    """Returns a number of the file as a float.

    Raises:
      UserError: it is not above 0.
    """
    number = float(value)
    if not 0 < number < float("inf"):
        raise UserError(f"{file}: {key} is {value}, expected a number above 0")
    return number
