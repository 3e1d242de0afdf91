"""A stage and its training: state, step, loop, optimizers, checkpoints."""
