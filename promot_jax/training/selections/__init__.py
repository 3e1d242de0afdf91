"""Which elements of the trainable leaves move: half of the matrices, the most changed entries, …

A selection stands around the stage's whole transformation, schedule and weight decay included. What
it leaves out keeps every bit. Gradients are clipped, and Adafactor scales, as if all of it moved.
Two say how all of it moves: near the start, or to an average.
Masks are the same whether or not layers are stacked.
"""

from promot_jax.training.selections.averages import Average
from promot_jax.training.selections.changes import MoFO, MostChanged
from promot_jax.training.selections.draws import Half, RandomSparse
from promot_jax.training.selections.near_start import NearStart
from promot_jax.training.selections.places import LayerRates, Located
from promot_jax.training.selections.selection import Selection, SelectionState

__all__ = [
    "Average",
    "Half",
    "LayerRates",
    "Located",
    "MoFO",
    "MostChanged",
    "NearStart",
    "RandomSparse",
    "Selection",
    "SelectionState",
]
