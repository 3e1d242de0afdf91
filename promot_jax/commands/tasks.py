"""`promot tasks`: the tasks that experiments can name, and what their rows look like."""

import importlib
import os
import pkgutil
import sys

from promot_jax import configuration
from promot_jax.base import values
from promot_jax.base.errors import UserError
from promot_jax.commands import flags


def add(commands) -> None:
    """Adds the command and its flags."""
    tasks = flags.command(
        commands,
        "tasks",
        _tasks,
        "List the registered tasks, or show rows of one as texts and as tokens.",
        "examples:\n"
        "  promot tasks\n"
        "  promot tasks show mini_triviaqa --shots 1 --count 2\n"
        "  promot tasks show rte --checkpoint SmolLM2-135M.gguf",
    )
    tasks.add_argument(
        "action", nargs="?", choices=("list", "show"), default="list", help="list is the default"
    )
    tasks.add_argument("name", nargs="?", metavar="NAME", help="a task to show")
    tasks.add_argument(
        "--shots",
        type=flags.number(int, values.Whole),
        help="its variant NAME_Kshot, with K exemplars",
    )
    tasks.add_argument("--split", help="default: validation, else test, else train")
    tasks.add_argument(
        "--count", type=flags.number(int, values.Count), help="rows to show (default: 3)"
    )
    tasks.add_argument("--module", help="a Python module that registers further tasks")
    tasks.add_argument(
        "--checkpoint", type=flags.path, help="whose vocabulary to show: " + flags.ANY_CHECKPOINT
    )
    tasks.add_argument(
        "--vocabulary", type=flags.path, help="SentencePiece model or tokenizer.json to show"
    )


def _tasks(arguments, overrides) -> None:
    flags.no_overrides(overrides)
    if arguments.action == "list":
        if arguments.name is not None:
            raise UserError(f"promot tasks list takes no {arguments.name!r}; use `tasks show`")
        only = ("shots", "split", "count", "checkpoint", "vocabulary")
        flags.refuse(arguments, only, "goes with `promot tasks show NAME`")
    elif arguments.name is None:
        raise UserError("`promot tasks show` needs the name of a task; `promot tasks` lists them")
    with configuration.quiet_native_logs():
        from absl import logging

        logging.set_verbosity(logging.ERROR)
        from promot_jax.data import registered

        _register(arguments.module)
        if arguments.action == "list":
            lines = registered.listed()
        else:
            name = arguments.name + (f"_{arguments.shots}shot" if arguments.shots else "")
            words, count = _words(arguments), arguments.count or 3
            lines = list(registered.shown(name, arguments.split, count, words))
    print("\n".join(lines))


def _register(module: str | None) -> None:
    """Imports what registers tasks: the modules of the package, and one of a person's own."""
    package = importlib.import_module("promot_jax.tasks")
    for found in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{found.name}")
    if module is not None:
        sys.path.append(os.getcwd())
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"--module {module}: {error}; run where {module}.py lies") from None


def _words(arguments):
    """Returns the vocabulary that the flags name, else None."""
    if arguments.checkpoint is not None:
        from promot_jax.checkpoints import pretrained

        model, _ = pretrained.open_model(arguments.checkpoint, arguments.vocabulary)
        if model.vocabulary is None:
            raise UserError(f"{arguments.checkpoint} has no vocabulary; give one by --vocabulary")
        return model.vocabulary
    if arguments.vocabulary is not None:
        from promot_jax.checkpoints import pretrained

        return pretrained.find_vocabulary(None, arguments.vocabulary)
    return None
