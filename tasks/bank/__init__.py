"""A bank of general questions that comes with the package: what a model can do besides its task.

Importing this registers a task for each family, `bank_FAMILY`. The split `train` has the exemplars,
which are never asked; `validation` is the half that may steer a search, `test` the half that
certifies, once. No item is in two of them.
"""

from promot_jax.data import tasks
from promot_jax.tasks.bank.rows import FAMILIES, coverage, families, lengths, task

__all__ = ["FAMILIES", "coverage", "families", "lengths"]

for name in FAMILIES:
    tasks.add(task(name))
