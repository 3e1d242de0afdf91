"""Weights from rows, or from the losses of the model that trains."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from promot_jax.base import values
from promot_jax.base.trees import Tree
from promot_jax.data import packing
from promot_jax.data.token_weights import TokenWeights
from promot_jax.training.objectives.interface import Objective, Tokens
from promot_jax.training.objectives.penalties import KL


@dataclasses.dataclass(frozen=True)
class RowWeights(Objective):
    """Each target weighs what its row says.

    Attributes:
      token_weights: what finds that, `token_weights.ByPattern` or `token_weights.Given`.
    """

    token_weights: TokenWeights

    def weights(self, tokens: Tokens, measured: Tree) -> jax.Array:
        """See `Objective`."""
        return tokens.batch[packing.SCALES]


@dataclasses.dataclass(frozen=True)
class DFT(Objective):
    """Dynamic fine-tuning (Wu et al. 2025): each target weighs its own probability."""

    def weights(self, tokens: Tokens, measured: Tree) -> jax.Array:
        """See `Objective`."""
        return jnp.exp(-tokens.surprise)


@dataclasses.dataclass(frozen=True)
class ASFT(KL):
    """Anchored fine-tuning (Zhu et al. 2025): dynamic fine-tuning with a divergence beside it."""

    def weights(self, tokens: Tokens, measured: Tree) -> jax.Array:
        """See `Objective`."""
        return jnp.exp(-tokens.surprise)


@dataclasses.dataclass(frozen=True)
class OTR(Objective):
    """One-token rollout (Ming et al. 2025) with all tokens in place of a sample.

    There, tokens are drawn from the model. The target is rewarded by 1, every other token by
    `beta`. Under the model, `p ∇log p` of all tokens sums to 0, so those of the wrong ones sum to
    minus the target's. The expected gradient is therefore (1 - beta) p ∇log p of the target alone.
    This holds for draws at temperature 1.

    Attributes:
      beta: reward of a wrong token.
    """

    beta: Annotated[float, values.Range("a number below 1", lambda beta: beta < 1)] = -0.1

    def weights(self, tokens: Tokens, measured: Tree) -> jax.Array:
        """See `Objective`."""
        return (1 - self.beta) * jnp.exp(-tokens.surprise)
