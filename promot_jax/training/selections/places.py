"""Selections by place: what patterns match, and rates that fall from layer to layer."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated

from promot_jax.base import trees, values
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.training.selections import layers
from promot_jax.training.selections.selection import Selection, SelectionState


@dataclasses.dataclass(frozen=True)
class Located(Selection):
    """What patterns match: the last layers, or one matrix as in LocFT-BF (arXiv 2509.22072).

    Attributes:
      patterns: of whole paths in which each layer has its number, such as
        `decoder/layers_7/mlp/wo/kernel`, also where layers are scanned.
    """

    patterns: Annotated[Sequence[values.Pattern], values.SOME]

    def masks(self, state: SelectionState, params: Tree) -> Tree:
        """See `Selection.masks`.

        Raises:
          UserError: a pattern matches no leaf that trains.
        """
        leaves = trees.flatten(params).items()
        names = [name for path, leaf in leaves for name in layers.names(path, leaf)]
        chosen = trees.select(names, self.patterns)
        return layers.by_layer(params, lambda name: name in chosen)


@dataclasses.dataclass(frozen=True)
class LayerRates(Selection):
    """Rates that fall from layer to layer downwards, as in ULMFiT (Howard & Ruder 2018).

    Layer l of L, the lowest being 0, has the rate times decay^(L - 1 - l), and the embedding, below
    all layers, times decay^L. All else outside layers has the whole rate. Encoder and decoder count
    for themselves. A tied embedding, which is the head too, counts as one.

    Attributes:
      decay: factor from a layer to the one below it.
      first: the lowest layer that moves, as a number or as a share of the layers, rounded down.
        Those below it are frozen, and so is the embedding.
    """

    decay: values.Probability = 0.95
    first: values.Whole | values.Share = 0

    def __post_init__(self):
        super().__post_init__()
        if self.decay == 1 and not self.first:
            raise values.Misfit(
                self,
                "{decay} and {first} change nothing; leave the selection out",
                "decay",
                "first",
            )

    def masks(self, state: SelectionState, params: Tree) -> Tree:
        """See `Selection.masks`.

        Raises:
          UserError: no layer trains, or all are below the first.
        """
        stacks = layers.stacks(params)
        deepest = max(map(len, stacks.values()), default=0)
        if all(self._frozen(len(numbers)) >= len(numbers) for numbers in stacks.values()):
            raise UserError(
                f"selections.LayerRates.first = {self.first}: there are {deepest} layers that "
                "train, so none would; give less"
            )

        def rate(name):
            if found := layers.LAYER.fullmatch(name):
                numbers = stacks[found[1]]
                place = numbers.index(int(found[2]))
                moves = place >= self._frozen(len(numbers))
                return self.decay ** (len(numbers) - 1 - place) if moves else 0.0
            if name.startswith("token_embedder/"):
                return 0.0 if self.first else self.decay**deepest
            return 1.0

        return layers.by_layer(params, rate)

    def _frozen(self, layers: int) -> int:
        return self.first if isinstance(self.first, int) else math.floor(self.first * layers)
