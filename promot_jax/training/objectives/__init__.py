"""Objectives: what a stage adds to its cross-entropy, as `Stage.objective` lists them.

An objective weighs the targets of a batch, adds penalties, or changes what the model reads. Several
add up: their weights are multiplied, their penalties summed. Many compare with the reference, which
is the model that the stage started from, with nothing attached.
"""

from promot_jax.training.objectives.distillation import Distillation, OnPolicy
from promot_jax.training.objectives.interface import (
    Objective,
    Reference,
    Sample,
    Start,
    Tokens,
    total,
)
from promot_jax.training.objectives.masked_thought import MaskedThought
from promot_jax.training.objectives.own_losses import ASFT, DFT, OTR, RowWeights
from promot_jax.training.objectives.penalties import EWC, KL, L2SP
from promot_jax.training.objectives.quadrants import QTuning
from promot_jax.training.objectives.start_losses import FLOW, STM, SSToken

__all__ = [
    "ASFT",
    "DFT",
    "EWC",
    "FLOW",
    "KL",
    "L2SP",
    "OTR",
    "STM",
    "Distillation",
    "MaskedThought",
    "Objective",
    "OnPolicy",
    "QTuning",
    "Reference",
    "RowWeights",
    "SSToken",
    "Sample",
    "Start",
    "Tokens",
    "total",
]
