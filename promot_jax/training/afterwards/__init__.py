"""Parameters that are made of a start and an end without training: points of a curve, merges.

An end is what the stages of a method made of the start. Each transform goes through the leaves
that both have. What an end has alone, its soft prompts and adapters, is left as it is unless the
transform is about adapters. Arithmetic is in float32, and leaves keep their dtype and sharding.
"""

from promot_jax.training.afterwards.adapters import AdapterScale, Intruders
from promot_jax.training.afterwards.interpolation import Interpolation
from promot_jax.training.afterwards.merging import Dare, Ties, ties
from promot_jax.training.afterwards.resetting import HalfReset
from promot_jax.training.afterwards.transform import ADAPTERS, MODEL, Transform

__all__ = [
    "ADAPTERS",
    "MODEL",
    "AdapterScale",
    "Dare",
    "HalfReset",
    "Interpolation",
    "Intruders",
    "Ties",
    "Transform",
    "ties",
]
