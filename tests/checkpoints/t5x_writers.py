"""What writes the two layouts of T5X, by the names that `promot export` gives them."""

from promot_jax.checkpoints.formats import t5x_legacy, t5x_orbax

WRITERS = {"t5x": t5x_legacy.write, "t5x_orbax": t5x_orbax.write}
