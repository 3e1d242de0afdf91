"""TensorFlow where rows are read through it; nothing else needs it."""

from typing import Any


def load() -> Any:
    """Returns TensorFlow, which takes some seconds to import.

    The accelerator belongs to jax; TensorFlow only reads and tokenises.
    """
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf
