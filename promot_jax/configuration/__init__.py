"""gin: experiments by name, values from the command line, errors that suggest the nearest name.

The only room that knows gin. It imports neither gin nor jax before a configuration is read.
"""

from promot_jax.configuration.checks import (
    check_all_used,
    check_methods_read,
    check_tasks,
    check_values,
)
from promot_jax.configuration.kept import keep
from promot_jax.configuration.reading import (
    GIN_FOLDER,
    PACKAGE,
    built,
    clear,
    experiment_file,
    experiments,
    model_dir,
    parse,
    quiet_native_logs,
    reused,
)
from promot_jax.configuration.stage_settings import passes

__all__ = [
    "GIN_FOLDER",
    "PACKAGE",
    "built",
    "check_all_used",
    "check_methods_read",
    "check_tasks",
    "check_values",
    "clear",
    "experiment_file",
    "experiments",
    "keep",
    "model_dir",
    "parse",
    "passes",
    "quiet_native_logs",
    "reused",
]
