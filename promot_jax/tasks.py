"""In a checkout the package's tasks stand beside it, in `tasks/` at the top of the repository.

An installed package has them inside, as the folder `promot_jax/tasks`, which Python takes before a
file of that name: this one has no effect there.
"""

import pathlib

__path__ = [str(pathlib.Path(__file__).parent.parent / "tasks")]
