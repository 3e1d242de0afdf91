"""What several commands share: flags, and checks of what was given."""

import argparse
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from promot_jax.base import files, values
from promot_jax.base.errors import UserError

ANY_CHECKPOINT = "a checkpoint: Hugging Face, T5X or promot_jax folder, .gguf file"
# Flags that are not spelt as Python spells them.
SPELT = {"dry_run": "--dry-run"}
VOCABULARY = "SentencePiece model or tokenizer.json, where the checkpoint has none"


class Parser(argparse.ArgumentParser):
    """Complains in one line, as everything else does."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        text = message.removeprefix("argument ").replace(": = ", " = ", 1)
        raise UserError(f"{text}; `{self.prog} --help` tells more")


def number(kind: Callable[[str], Any], hint: Any) -> Callable[[str], Any]:
    """Returns what reads an int, a float or a word that a hint of `values` allows."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = text
        if found := values.fault(value, hint):
            raise argparse.ArgumentTypeError(f"= {text}: expected {found.allowed}")
        return value

    return read


def whole_or_float(text: str) -> int | float:
    """Returns an int where the digits are those of one, else a float."""
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


def path(text: str) -> str:
    """Returns a path that was given, with the home folder for `~`."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"= {text!r} is no path")
    return files.home(text)


def folder(text: str) -> pathlib.Path:
    """Returns a local path that was given, as `path` does."""
    return pathlib.Path(path(text))


def add_gin_files(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Adds `--gin_file`, which may be repeated."""
    parser.add_argument("--gin_file", action="append", default=[], type=path, help=meaning)


def add_gin_values(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Shows `--gin.NAME=VALUE` in the help; what is given so reaches a command as overrides."""
    parser.add_argument(
        "--gin.NAME=VALUE", dest="_", action="store_const", const=None, help=meaning
    )


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
    parser.add_argument(
        "--seed", type=number(int, values.Seed), help="its seed (default: the run's first)"
    )
    parser.add_argument(
        "--at",
        type=number(float, values.Positive),
        help="a point of its curve, which `promot run` scores: 0.5 is halfway from the model that "
        "it started from (default: 1, what it ended with)",
    )


def adapters(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that attach adapters."""
    parser.add_argument(
        "--adapter",
        action="append",
        type=path,
        default=[],
        metavar="[NAME=]PATH",
        help="attach a PEFT adapter folder, a prompt in a .npy file or a delta of this model; may "
        "be repeated",
    )
    parser.add_argument(
        "--merge_deltas",
        metavar="HOW",
        help="what several deltas become: their sum (the default), mean, ties, or ties:DENSITY, "
        "the share of each that counts (default: 0.2)",
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


def seeds(text: str) -> str:
    """Returns seeds that were given, such as `0,1,2`."""
    found = re.fullmatch(r"\d{1,18}(,\d{1,18})*", text) and [int(n) for n in text.split(",")]
    if not found or max(found) >= 2**32:
        raise argparse.ArgumentTypeError(f"= {text!r}: expected numbers such as 0,1,2")
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"= {text!r} names a seed twice; give each of them once")
    return ",".join(map(str, found))


def curve(text: str) -> Any:
    """Returns the points of curves that were given: `none`, `auto`, or such as `0.3,0.5`."""
    if text in ("none", "auto"):
        return () if text == "none" else text
    try:
        points = tuple(map(float, text.split(",")))
    except ValueError:
        points = ()
    if not points or any(values.fault(point, values.Weight) for point in points):
        raise argparse.ArgumentTypeError(
            f"= {text!r}: expected none, auto, or numbers of at least 0 such as 0.3,0.5,0.7"
        )
    if 1 in points:
        raise argparse.ArgumentTypeError(
            f"= {text!r}: 1 is what a method ends with, which is scored anyway; leave it out"
        )
    if len(set(points)) < len(points):
        raise argparse.ArgumentTypeError(f"= {text!r} names a point twice; give each of them once")
    return points


def names(text: str) -> str:
    """Returns names of methods that were given, such as `promot,promot+kl`."""
    if not re.fullmatch(r"\w+(\+\w+)*(,\w+(\+\w+)*)*", text):
        raise argparse.ArgumentTypeError(f"= {text!r}: expected names such as promot,promot+kl")
    if len(set(text.split(","))) < len(text.split(",")):
        raise argparse.ArgumentTypeError(f"= {text!r} names a method twice; give each of them once")
    return text
