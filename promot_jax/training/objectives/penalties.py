"""Penalties for leaving the start: in what the model predicts, or in its parameters."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import jax
import jax.numpy as jnp

from promot_jax.base import trees, values
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.models import Batch, Model
from promot_jax.models.losses import Direction
from promot_jax.training.objectives.interface import Objective, Start, Tokens


@dataclasses.dataclass(frozen=True)
class KL(Objective):
    """Divergence from the start model on each target of the stage's rows or of others, in nats.

    It is learning without forgetting (Li & Hoiem 2016), with all of a language model's vocabulary.

    Attributes:
      weight: factor of the mean over targets; ASFT's is 0.1.
      direction: "forward" is KL(start || model): what the start held possible stays possible.
        "reverse" is KL(model || start): nothing new becomes likely.
      rows: a task, such as general text or what the start model writes, whose rows are read beside
        those of the stage, with nothing attached, and of which the divergence then is. Their
        targets are not learnt.
      size: rows of it in a step.
      task_feature_lengths: longest inputs and targets of it; None takes those of the stage.
    """

    needs_reference = True
    weight: values.Weight = 0.1
    direction: Direction = "forward"
    rows: Annotated[values.Text | None, values.LATER] = None
    size: Annotated[values.Count, values.LATER] = 32
    task_feature_lengths: Annotated[values.Lengths | None, values.LATER] = None

    @property
    def asks_reference(self) -> bool:
        """See `Objective`."""
        return self.rows is None

    def token_penalty(self, tokens: Tokens, measured: Tree) -> jax.Array:
        """See `Objective`."""
        return self.weight * tokens.divergence(self.direction)


@dataclasses.dataclass(frozen=True)
class L2SP(Objective):
    """Pulls trained parameters to where they began (Li et al. 2018): weight / 2 * distance².

    Prompts and adapters of the stage are left alone: the start model has none.

    Attributes:
      weight: of the sum of squares over all leaves.
    """

    needs_reference = needs_exact_reference = True
    asks_reference = False
    weight: values.Weight

    def check(self, model: Model, leaves: Tree) -> None:
        """See `Objective`."""
        if not leaves:
            name = type(self).__name__
            raise UserError(
                f"objective {name} pulls parameters to where they began, but this stage trains "
                f"prompts or adapters alone; leave it out, or take KL"
            )

    def leaf_penalty(self, leaves: Tree, reference: Tree, measured: Tree) -> jax.Array:
        """See `Objective`."""
        return self.weight / 2 * _squares(leaves, reference, {})


@dataclasses.dataclass(frozen=True)
class EWC(L2SP):
    """L2SP by importance (Kirkpatrick et al. 2017): each square counts by its Fisher information.

    The information of a parameter is the mean over rows of the squared gradient of a row's
    log-likelihood under the start model. It is estimated by the square of one gradient per
    microbatch, of rows with random signs: in the mean over signs, products of two rows vanish.

    Attributes:
      weight: of the sum of squares.
      mixture: task whose rows say what is important, such as text of the kind to keep; None takes
        the stage's own, which protects what its own targets depend on.
      batches: of these rows.
    """

    mixture: values.Text | None = None
    batches: values.Count = 16

    def unmeasured(self, leaves: Tree) -> Tree:
        """See `Objective`."""
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), leaves)

    def measure(self, start: Start, batch: Batch, rng: jax.Array) -> Tree:
        """See `Objective`."""
        mask = batch["decoder_loss_weights"].astype(jnp.float32)
        signs = jax.random.rademacher(rng, (len(mask), 1), jnp.float32)

        def likelihood(leaves):
            scored = dataclasses.replace(start, leaves=leaves).scored(batch)
            return jnp.sum(scored.losses.loss * mask * signs)

        gradients = jax.grad(likelihood)(start.leaves)
        return {
            "squares": jax.tree.map(lambda g: jnp.square(g.astype(jnp.float32)), gradients),
            "rows": jnp.sum(jnp.any(mask > 0, axis=1)),
        }

    def settle(self, found: Sequence[Tree]) -> Tree:
        """See `Objective`."""
        rows = sum(part["rows"] for part in found)
        return jax.tree.map(lambda *parts: sum(parts) / rows, *(part["squares"] for part in found))

    def leaf_penalty(self, leaves: Tree, reference: Tree, measured: Tree) -> jax.Array:
        """See `Objective`."""
        return self.weight / 2 * _squares(leaves, reference, trees.flatten(measured))


def _squares(leaves, reference, factors) -> jax.Array:
    """Returns the sum of squared differences, each times its factor, in float32."""
    found = trees.flatten(leaves)
    return sum(
        jnp.sum(factors.get(path, 1.0) * jnp.square(found[path].astype(jnp.float32) - leaf))
        for path, leaf in trees.flatten(reference).items()
    )
