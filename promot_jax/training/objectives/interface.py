"""What an objective is given, and how several become one number."""

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp

from promot_jax.base import trees, values
from promot_jax.base.trees import Tree
from promot_jax.data.token_weights import TokenWeights
from promot_jax.models import Batch, Model, losses
from promot_jax.models.losses import Direction
from promot_jax.models.scored import Scored

# (temperature, key) -> answers that the model draws to the rows of a batch, and which of their
# places hold tokens: int32 [B, U] both.
Sample = Callable[[float, jax.Array], tuple[jax.Array, jax.Array]]


@flax.struct.dataclass
class Reference:
    """What a stage keeps of the model that it started from.

    Attributes:
      leaves: those that the stage trains, as they were; all others are frozen and need no copy.
      measured: what each objective measured with that model before the first step.
    """

    leaves: Tree = flax.struct.field(default_factory=dict)
    measured: tuple[Tree, ...] = ()


@dataclasses.dataclass(frozen=True)
class Start:
    """The model that a stage started from, with nothing attached, or with what teaches.

    Attributes:
      model: as it reads.
      leaves: those that the stage trains, as they were.
      frozen: all others.
    """

    model: Model
    leaves: Tree
    frozen: Tree

    def scored(self, batch: Batch) -> Scored:
        """Returns what it says of the targets of a batch, which has the prompts that it reads."""
        return self.model.scored(trees.combine(self.leaves, self.frozen), batch)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The targets of a batch and what two models say of them.

    Attributes:
      batch: as the data has it.
      scored: what the model says that trains.
      start: returns what the reference says; it is computed where an objective asks for it.
      teacher: likewise of the reference with what teaches attached.
    """

    batch: Batch
    scored: Scored
    start: Callable[[], Scored]
    teacher: Callable[[], Scored] | None = None

    @property
    def counted(self) -> jax.Array:
        """Which places hold targets that are learnt, bool `[B, U]`."""
        return self.batch["decoder_loss_weights"] > 0

    @functools.cached_property
    def rows(self) -> jax.Array:
        """The number of each target's row in its line, int `[B, U]`; lines may be packed."""
        if "decoder_segment_ids" not in self.batch:
            return jnp.zeros(self.counted.shape, jnp.int32)
        slots = self.batch["decoder_target_slots"]
        return jnp.take_along_axis(self.batch["decoder_segment_ids"], slots, axis=1)

    @property
    def surprise(self) -> jax.Array:
        """Minus the log-probability of each target, float32 `[B, U]`, without gradient."""
        return self.scored.losses.surprise

    @functools.cached_property
    def reference(self) -> Scored:
        """What the reference says."""
        return self.start()

    @functools.cached_property
    def taught(self) -> Scored:
        """What the reference says with what teaches attached."""
        return self.teacher()

    def divergence(self, direction: Direction) -> jax.Array:
        """Returns the divergence of each prediction from the reference's, float32 `[B, U]`."""
        return self.scored.divergence(self.reference, direction)


class Objective:
    """Adds nothing; subclasses override what they add. They are frozen dataclasses.

    Attributes:
      needs_reference: whether it compares with the model that the stage started from.
      asks_reference: whether that is what the model says of targets: a forward pass more.
      asks_teacher: the same of the reference with what the stage's teacher attaches.
      teaches: whether targets are learnt from its penalty, whatever weights they have.
      needs_exact_reference: whether it also compares parameters with theirs, which must not be
        rounded then.
      samples: whether it is about targets that the model itself writes, see `written`. Rows of
        their own are needed for that: such a stage does not pack them.
      rows: a task whose rows its penalty is of, in place of the stage's; they are read beside these
        in each step, with nothing attached.
      size: how many of them in a step.
      task_feature_lengths: of them; None takes those of the stage.
      token_weights: what finds weights of targets in rows, see `RowWeights`.
      batches: how many batches `measure` sees before the first step.
      mixture: where these come from; None is the stage's own.
    """

    needs_reference: ClassVar[bool] = False
    needs_exact_reference: ClassVar[bool] = False
    asks_teacher: ClassVar[bool] = False
    teaches: ClassVar[bool] = False
    samples: ClassVar[bool] = False
    rows: ClassVar[str | None] = None
    size: ClassVar[int] = 1
    task_feature_lengths: ClassVar[values.Lengths | None] = None
    token_weights: ClassVar[TokenWeights | None] = None
    batches: ClassVar[int] = 0
    mixture: ClassVar[str | None] = None

    def __post_init__(self):
        values.check_fields(self)

    @property
    def asks_reference(self) -> bool:
        """See the class."""
        return self.needs_reference

    @property
    def needs_another_teacher(self) -> bool:
        """Whether it learns nothing from a teacher that is what the stage starts as."""
        return False

    @property
    def measures(self) -> bool:
        """Whether it measures something before the first step."""
        return self.batches > 0

    def check(self, model: Model, leaves: Tree) -> None:
        """Raises UserError where it can do nothing for a stage.

        Args:
          model: bare model.
          leaves: those that the stage trains and the bare model has.
        """

    def read(self, batch: Batch, progress: jax.Array, rng: jax.Array) -> Batch:
        """Returns the batch as the model that trains reads it.

        Args:
          batch: as the data has it.
          progress: share of the stage's steps that are done.
          rng: a key that depends on the step.
        """
        return batch

    def written(self, batch: Batch, sample: Sample, rng: jax.Array) -> Batch:
        """Returns the batch with what the step draws: targets that the model writes, or numbers.

        Args:
          batch: as the data has it; of rows of their own, if it `samples`.
          sample: see `Sample`.
          rng: a key that depends on the step.
        """
        return batch

    def unmeasured(self, leaves: Tree) -> Tree:
        """Returns what stands for its measurement before there is one: its shapes and dtypes."""
        return {}

    def measure(self, start: Start, batch: Batch, rng: jax.Array) -> Tree:
        """Measures one of the first batches, or a microbatch of it, with the reference."""
        return {}

    def settle(self, found: Sequence[Tree]) -> Tree:
        """Returns what is kept of all measurements, in the shapes of `unmeasured`."""
        return {}

    def weights(self, tokens: Tokens, measured: Tree) -> jax.Array | float:
        """Returns what each target's loss is multiplied by, float32 `[B, U]`."""
        return 1.0

    def token_penalty(self, tokens: Tokens, measured: Tree) -> jax.Array | float:
        """Returns what each target adds to the loss, float32 `[B, U]`, in nats."""
        return 0.0

    def leaf_penalty(self, leaves: Tree, reference: Tree, measured: Tree) -> jax.Array | float:
        """Returns what parameters add to the loss.

        Args:
          leaves: those that train.
          reference: those of them that the bare model has, as they were at the start.
          measured: see `settle`.
        """
        return 0.0


def total(
    objectives: Sequence[Objective],
    tokens: Tokens,
    leaves: Tree,
    reference: Reference,
    count: jax.Array,
    parts: int,
    beside: Mapping[int, tuple[Tokens, jax.Array]] = types.MappingProxyType({}),
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns what to differentiate: this microbatch's share of the mean over a batch.

    The sum of the weights never divides it: a weight of 0.1 for all targets is a tenth of the loss
    (as in the code of FLOW). Nor can it be undefined where all weights are 0.

    Args:
      objectives: their weights are multiplied, their penalties added.
      tokens: of a microbatch.
      leaves: those that train.
      reference: of the stage.
      count: targets of the whole batch.
      parts: microbatches of it.
      beside: for the number of each objective that has rows of its own, their tokens and count.

    Returns:
      The number, and scalars whose sums over the microbatches are of the whole batch: `kept`, the
      share of targets that are learnt from, `weight`, the mean weight, and `penalty`.
    """
    mask = tokens.batch["decoder_loss_weights"].astype(jnp.float32)
    weights, of_tokens, of_leaves = jnp.ones_like(mask), jnp.zeros_like(mask), jnp.float32(0)
    of_others = jnp.float32(0)
    for number, objective in enumerate(objectives):
        measured = reference.measured[number]
        weights *= objective.weights(tokens, measured)
        if number in beside:
            others, whole = beside[number]
            found = objective.token_penalty(others, measured)
            of_others += jnp.sum(found * others.counted) / whole
        else:
            of_tokens += objective.token_penalty(tokens, measured)
        of_leaves += objective.leaf_penalty(leaves, reference.leaves, measured)
    weights = jax.lax.stop_gradient(weights)
    penalty = jnp.sum(of_tokens * mask) / count + of_others + of_leaves / parts
    loss = losses.summed(tokens.scored.losses, weights * mask).total / count
    taught = any(objective.teaches for objective in objectives)
    return loss + penalty, {
        "kept": jnp.sum(((weights > 0) | taught) * mask) / count,
        "weight": jnp.sum(weights * mask) / count,
        "penalty": penalty,
    }
