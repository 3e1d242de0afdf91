"""Optax recipes: the paper's two Adafactors, and AdamW for pretraining from scratch.

A recipe is a function of no required argument that returns a gradient transformation, so a
configuration names it and changes single numbers. Settings are those of prompt-tuning and T5X;
Adafactor is Shazeer & Stern, 2018.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from promot_jax.base.errors import UserError
from promot_jax.base.values import Count, Positive, Range, Share, Weight, Whole
from promot_jax.training.adafactor import adafactor

# Either a constant or optax's function of the step.
Rate = Annotated[
    Positive | Callable[[jax.Array], jax.Array],
    Range("a number above 0, or a schedule such as @optimizers.warmup_cosine()", lambda rate: True),
]


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
