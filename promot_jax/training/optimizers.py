"""Optax recipes: the paper's two Adafactors, AdamW in their place, and that of pretraining.

A recipe is a function of no required argument that returns a gradient transformation, so a
configuration names it and changes single numbers. Settings are those of prompt-tuning and T5X;
Adafactor is Shazeer & Stern, 2018.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.base.values import (
    LATER,
    Count,
    OptimizerName,
    Pattern,
    Positive,
    Range,
    ScheduleName,
    Share,
    Warmup,
    Weight,
    Whole,
    shown,
)
from promot_jax.training.adafactor import LayerwiseTransformation, adafactor

# Either a constant or optax's function of the step.
Rate = Annotated[
    Positive | Callable[[jax.Array], jax.Array],
    Range("a number above 0, or a schedule such as @optimizers.warmup_cosine()", lambda rate: True),
]
# By name, or what makes one of a learning rate, as optax's own do.
Algorithm = Annotated[OptimizerName | Callable[..., optax.GradientTransformation], LATER]


def model_optimizer(
    learning_rate: Rate = 0.001,
    algorithm: Algorithm = "adafactor",
    weight_decay: Annotated[Weight, LATER] = 0.0,
) -> optax.GradientTransformation:
    """The optimizer of model tuning: `model_adafactor`, AdamW or one of a person's own.

    Args:
      learning_rate: of Adafactor relative to each parameter's scale, of others absolute.
      algorithm: "adafactor", "adamw" (`plain_adamw`) or a function of the rate.
      weight_decay: what is taken off a parameter at each step, as a share of it times the rate.

    Raises:
      UserError: weight decay beside a function, which has its own.
    """
    if algorithm == "adafactor":
        return adafactor(learning_rate, weight_decay=_times(learning_rate, weight_decay))
    return _by_rate(algorithm, learning_rate, weight_decay)


def prompt_optimizer(
    learning_rate: Rate = 0.2,
    weight_decay: Share = 1e-5,
    relative: bool = False,
    algorithm: Algorithm = "adafactor",
) -> optax.GradientTransformation:
    """The optimizer of prompt tuning: `prompt_adafactor`, AdamW or one of a person's own.

    Args:
      learning_rate: as in `prompt_adafactor`.
      weight_decay: what is taken off a prompt at each step, as a share of it; of AdamW times the
        rate.
      relative: as in `prompt_adafactor`.
      algorithm: as in `model_optimizer`; a function of the rate has its own weight decay.
    """
    if algorithm == "adafactor":
        return prompt_adafactor(learning_rate, weight_decay, relative)
    own = weight_decay if isinstance(algorithm, str) else 0.0
    tx = _by_rate(algorithm, learning_rate, own)
    return _in_units_of_the_start(tx) if relative else tx


def _times(learning_rate: Rate, share: float) -> Rate | float:
    if callable(learning_rate) and share:
        return lambda count: share * learning_rate(count)
    return share * learning_rate if share else 0.0


def _by_rate(algorithm, learning_rate: Rate, weight_decay: float) -> optax.GradientTransformation:
    if algorithm == "adamw":
        return plain_adamw(learning_rate, weight_decay)
    if weight_decay:
        raise UserError(
            f"WEIGHT_DECAY = {shown(weight_decay)}: an optimizer of your own has its own; set it "
            "there, and this one to 0"
        )
    return algorithm(learning_rate)


def plain_adamw(learning_rate: Rate, weight_decay: Weight = 0.0) -> optax.GradientTransformation:
    """AdamW with the constants of `torch.optim.AdamW`: 0.9, 0.999 and 1e-8. Nothing is clipped."""
    # Each element moves alone, so stacked layers need no care.
    return LayerwiseTransformation(*optax.adamw(learning_rate, weight_decay=weight_decay))


def model_adafactor(learning_rate: Rate = 0.001) -> optax.GradientTransformation:
    """Adafactor for model tuning: factored, steps relative to each parameter's scale (A.2.4)."""
    return adafactor(learning_rate)


def prompt_adafactor(
    learning_rate: Rate = 0.2, weight_decay: Share = 1e-5, relative: bool = False
) -> optax.GradientTransformation:
    """Adafactor for prompt tuning: unfactored, absolute steps, a little weight decay (A.2.4).

    An absolute step of 0.2 is a fifth of an embedding of size 1, with which T5 begins, but twice
    one of size 0.1. `relative` makes updates a share of the root mean square that the prompt began
    with. (Steps relative to its present one could grow without bound.)
    """
    tx = adafactor(
        learning_rate, factored=False, scale_by_parameter=False, weight_decay=weight_decay
    )
    return _in_units_of_the_start(tx) if relative else tx


def _in_units_of_the_start(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Multiplies updates by the root mean square of each parameter at the first step."""

    def init(params):
        scales = jax.tree.map(lambda leaf: jnp.sqrt(jnp.mean(jnp.square(leaf))), params)
        return scales, tx.init(params)

    def update(gradients, state, params):
        scales, inner = state
        updates, inner = tx.update(gradients, inner, params)
        return jax.tree.map(jnp.multiply, updates, scales), (scales, inner)

    return optax.GradientTransformation(init, update)


def adamw(
    learning_rate: Rate = 0.001, weight_decay: Weight = 0.01, clip_norm: Positive = 1.0
) -> optax.GradientTransformation:
    """AdamW behind a clip of the global gradient norm."""
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(learning_rate, b2=0.98, weight_decay=weight_decay),
    )


def by_pattern(
    parts: Mapping[Pattern, Callable[[], optax.GradientTransformation]],
) -> optax.GradientTransformation:
    """An optimizer for each group of leaves, such as two learning rates.

    Args:
      parts: {pattern of paths: recipe}; each leaf that trains goes to the first that matches it.

    Raises:
      UserError: a leaf that no pattern matches, or a pattern that no leaf is left for.
    """
    recipes = [recipe() for recipe in parts.values()]

    def groups(tree):
        """Splits a tree as the patterns say; every leaf is in one part."""
        found = []
        for pattern in parts:
            own, tree = trees.partition(tree, (pattern,))
            found.append(own)
        if left := trees.flatten(tree):
            raise UserError(
                f"optimizers.by_pattern has no optimizer for {next(iter(left))}; add a pattern"
            )
        return found

    def init(params):
        return tuple(tx.init(own) for tx, own in zip(recipes, groups(params), strict=True))

    def update(gradients, state, params):
        done = [
            tx.update(own, slots, leaves)
            for tx, own, slots, leaves in zip(
                recipes, groups(gradients), state, groups(params), strict=True
            )
        ]
        return trees.combine(*(updates for updates, _ in done)), tuple(slots for _, slots in done)

    return optax.GradientTransformation(init, update)


def warmup_steps(warmup: Warmup, steps: int) -> int:
    """Returns the steps of a warm-up that may be a share: rounded up, but not all of them."""
    return warmup if isinstance(warmup, int) else min(math.ceil(warmup * steps), steps - 1)


def shape(name: ScheduleName, warmup: Warmup, steps: int) -> Callable[[jax.Array], jax.Array]:
    """Returns the course of a rate, as a share of its highest: a function of the steps done.

    It rises linearly from 0, which is that of the first step, and then stays, or falls to 0 along
    a line or half a cosine. These are the numbers of `get_scheduler` in transformers.

    Args:
      name: what it does after the warm-up.
      warmup: its steps, or their share.
      steps: where it ends.
    """
    start = warmup_steps(warmup, steps)

    def share(count):
        done = jnp.clip((count - start) / max(1, steps - start), 0.0, 1.0)
        rest = {
            "constant": jnp.ones_like(done),
            "linear": 1.0 - done,
            "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * done)),
        }[name]
        return jnp.where(count < start, count / max(1, start), rest)

    return share


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A learning rate that rises linearly from 0, and what it does then.

    Attributes:
      recipe: name of the function here that made it.
      peak: the highest rate.
      warmup_steps: steps until there.
      steps: steps until the end, None where there is none.
      last: the rate at the end and after it.
    """

    recipe: str
    peak: float
    warmup_steps: int
    steps: int | None
    last: float

    def __post_init__(self):
        if self.steps is not None and self.warmup_steps >= self.steps:
            raise UserError(
                f"optimizers.{self.recipe}: warmup_steps = {self.warmup_steps} must be below steps "
                f"= {self.steps}, those in all"
            )

    def __call__(self, count: jax.Array) -> jax.Array:
        """Returns the rate after `count` steps."""
        if self.recipe == "warmup_cosine":
            return optax.warmup_cosine_decay_schedule(
                0.0, self.peak, self.warmup_steps, self.steps, self.last
            )(count)
        parts = [optax.linear_schedule(0.0, self.peak, max(self.warmup_steps, 1))]
        after = (self.steps or 0) - self.warmup_steps
        parts += [optax.linear_schedule(self.peak, self.last, max(after, 1))]
        return optax.join_schedules(parts, [self.warmup_steps])(count)


def warmup_cosine(
    peak: Positive,
    warmup_steps: Whole = 0,
    steps: Count | None = None,
    stage_steps: Count | None = None,
) -> Schedule:
    """Rises to `peak` in `warmup_steps`, then falls as a cosine to `peak / 100` at `steps`.

    Args:
      peak: the highest rate.
      warmup_steps: steps until there.
      steps: steps in all; None takes those of the stage.
      stage_steps: these; an experiment's macros for rates give them.

    Raises:
      UserError: the warm-up is not shorter than the training, or nobody says how long that is.
    """
    steps = _lasting("warmup_cosine", steps, stage_steps)
    return Schedule("warmup_cosine", peak, warmup_steps, steps, peak / 100)


def warmup_linear(
    peak: Positive,
    warmup_steps: Whole = 0,
    steps: Count | None = None,
    stage_steps: Count | None = None,
) -> Schedule:
    """Rises to `peak` in `warmup_steps`, then falls along a line to 0 at `steps`.

    Arguments and errors are those of `warmup_cosine`.
    """
    steps = _lasting("warmup_linear", steps, stage_steps)
    return Schedule("warmup_linear", peak, warmup_steps, steps, 0.0)


def warmup_constant(peak: Positive, warmup_steps: Count) -> Schedule:
    """Rises to `peak` in `warmup_steps` and stays there."""
    return Schedule("warmup_constant", peak, warmup_steps, None, peak)


def _lasting(recipe: str, steps: int | None, stage_steps: int | None) -> int:
    if steps is None and stage_steps is None:
        raise UserError(
            f"optimizers.{recipe}.steps has no value; give one by --gin.optimizers.{recipe}."
            "steps=VALUE, or set the schedule by a macro such as LEARNING_RATE"
        )
    return stage_steps if steps is None else steps
