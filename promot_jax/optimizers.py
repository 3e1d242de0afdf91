"""Optax recipes: the paper's two Adafactors, and AdamW for pretraining from scratch.

A recipe is a function of no required argument that returns a gradient transformation, so a
configuration names it and changes single numbers. Settings are those of prompt-tuning and T5X;
Adafactor is Shazeer & Stern, 2018.
"""

import jax
import jax.numpy as jnp
import optax

from promot_jax.adafactor import adafactor
from promot_jax.errors import UserError

# Either a constant or optax's function of the step.
Rate = float | optax.Schedule


def model_adafactor(learning_rate: Rate = 0.001) -> optax.GradientTransformation:
    """Adafactor for model tuning: factored, steps relative to each parameter's scale (A.2.4)."""
    return adafactor(learning_rate)


def prompt_adafactor(
    learning_rate: Rate = 0.2, weight_decay: float = 1e-5, relative: bool = False
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
    learning_rate: Rate = 0.001, weight_decay: float = 0.01, clip_norm: float = 1.0
) -> optax.GradientTransformation:
    """AdamW behind a clip of the global gradient norm."""
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(learning_rate, b2=0.98, weight_decay=weight_decay),
    )


def warmup_cosine(peak: float, warmup_steps: int, steps: int) -> optax.Schedule:
    """Rises linearly from 0 to `peak` in `warmup_steps`, then falls as a cosine to `peak / 100`.

    Raises:
      UserError: the warm-up is not shorter than the training.
    """
    if not 0 <= warmup_steps < steps:
        raise UserError(f"warmup_steps = {warmup_steps} must be below the {steps} steps in all")
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, steps, peak / 100)
