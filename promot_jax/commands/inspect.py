"""`promot inspect`: what a checkpoint or adapter is."""

from promot_jax.base import values
from promot_jax.commands import flags, models


def add(commands) -> None:
    """Adds the command and its flags."""
    inspect = flags.command(
        commands,
        "inspect",
        _inspect,
        "Say what a checkpoint or adapter is: format, sizes, leaves, prompts.",
    )
    inspect.add_argument(
        "path",
        metavar="PATH",
        type=flags.path,
        help=flags.ANY_CHECKPOINT + ", an adapter or a prompt",
    )
    inspect.add_argument("--vocabulary", type=flags.path, help=flags.VOCABULARY)
    inspect.add_argument("--leaves", action="store_true", help="one line for each leaf")
    inspect.add_argument(
        "--nearest",
        type=flags.number(int, values.Whole),
        default=0,
        metavar="K",
        help="K nearest tokens of each prompt row",
    )


def _inspect(arguments, overrides) -> None:
    flags.no_overrides(overrides)
    for line in models.checkpoint_tools().inspect(
        arguments.path,
        vocabulary=arguments.vocabulary,
        leaves=arguments.leaves,
        nearest=arguments.nearest,
    ):
        print(line)
