"""Optax recipes: the paper's two Adafactors, and AdamW for pretraining from scratch.

A recipe is a function of no required argument that returns a gradient transformation, so a
configuration names it and changes single numbers. Settings are those of prompt-tuning and T5X;
Adafactor is Shazeer & Stern, 2018.
"""

import optax

from promot_jax.adafactor import adafactor
from promot_jax.errors import UserError

# Either a constant or optax's function of the step.
Rate = float | optax.Schedule


def model_adafactor(learning_rate: Rate = 0.001) -> optax.GradientTransformation:
    """Adafactor for model tuning: factored, steps relative to each parameter's scale (A.2.4)."""
    return adafactor(learning_rate)


def prompt_adafactor(
    learning_rate: Rate = 0.2, weight_decay: float = 1e-5
) -> optax.GradientTransformation:
    """Adafactor for prompt tuning: unfactored, absolute steps, a little weight decay (A.2.4)."""
    return adafactor(
        learning_rate, factored=False, scale_by_parameter=False, weight_decay=weight_decay
    )


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
