"""What several commands share: flags, and checks of what was given."""

import argparse
import re
from collections.abc import Sequence

from promot_jax.errors import UserError

ANY_CHECKPOINT = "a checkpoint: Hugging Face, T5X or promot_jax folder, .gguf file"
# Flags that are not spelt as Python spells them.
SPELT = {"dry_run": "--dry-run"}
VOCABULARY = "SentencePiece model or tokenizer.json, where the checkpoint has none"


def command(commands, name, function, summary, epilog=None) -> argparse.ArgumentParser:
    """Returns the parser of a new command, which calls `function(arguments, overrides)`."""
    sub = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.set_defaults(command=function)
    return sub


def which_model(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that choose a model of a run."""
    parser.add_argument("--method", help="method that made the model (default: the last trained)")
    parser.add_argument("--seed", type=int, help="its seed (default: the run's first)")


def adapters(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that attaches adapters."""
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="attach a PEFT adapter folder or a prompt in a .npy file; may be repeated",
    )


def dry_run(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that only shows what would happen."""
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be read and written, then stop"
    )


def refuse(arguments, flags: Sequence[str], why: str) -> None:
    """Raises UserError for a flag that was given and would do nothing."""
    for flag in flags:
        if getattr(arguments, flag) not in (None, [], False):
            raise UserError(f"{SPELT.get(flag, f'--{flag}')} {why}; leave it out")


def no_overrides(flags: Sequence[str]) -> None:
    """Raises UserError for gin values, in a command that takes none."""
    if flags:
        raise UserError(f"{flags[0]}: only `promot run` takes --gin values")


def check_seeds(seeds: str | None) -> None:
    """Raises UserError for what are no seeds."""
    if seeds is not None and not re.fullmatch(r"\d+(,\d+)*", seeds):
        raise UserError(f"--seeds {seeds!r}: expected numbers such as 0,1,2")
