"""The `promot` command: flags and dispatch.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

import gc
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import promot_jax
from promot_jax.base.errors import UserError, explained
from promot_jax.commands import (
    check,
    convert,
    flags,
    generate,
    inspect,
    methods,
    paper,
    plan,
    report,
    run,
    tasks,
    tune,
)

ADD = (
    run.add,
    tune.add,
    report.add,
    paper.add,
    plan.add,
    inspect.add,
    generate.add,
    check.add,
    convert.add_import,
    convert.add_export,
    tasks.add,
    methods.add,
)
# The exit code where nobody reads the output any more, as after the signal of a closed pipe.
CLOSED = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit code: 0, that of a `UserError`, 130 after Ctrl-C."""
    # Imports and traces make millions of objects that stay: searching them all again and again for
    # garbage takes a tenth of a start.
    gc.set_threshold(50_000)
    try:
        call(sys.argv[1:] if argv is None else argv)
    except BrokenPipeError:
        # Who reads the output, such as `head`, has seen enough. What is buffered is dropped.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED
    except (UserError, OSError, KeyboardInterrupt) as error:
        line, code = explained(error)
        print(f"promot: {line}", file=sys.stderr)
        return code
    return 0


def call(argv: Sequence[str]) -> Any:
    """Runs a command line; returns what the command does: `run` its run folder, others None.

    Raises:
      UserError: bad input.
    """
    arguments, rest = _parser().parse_known_args(argv)
    overrides = [word for word in rest if word.startswith("--") or "words" not in arguments]
    if "words" in arguments:
        # argparse takes only the words before the first flag for positional.
        arguments.words += [word for word in rest if word not in overrides]
    _only_gin_flags(overrides)
    arguments.typed = ["promot", *argv]
    return arguments.command(arguments, overrides)


def _parser() -> flags.Parser:
    parser = flags.Parser(prog="promot", description=promot_jax.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=promot_jax.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in ADD:
        add(commands)
    return parser


def _only_gin_flags(words: Sequence[str]) -> None:
    for flag in words:
        if not re.fullmatch(r"--gin\.[^=]+=.*", flag, re.DOTALL):
            raise UserError(f"unknown argument {flag!r}; values are set by --gin.NAME=VALUE")


if __name__ == "__main__":
    sys.exit(main())
