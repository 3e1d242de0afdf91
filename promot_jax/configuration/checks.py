"""Checks of what was parsed: values, names, and what was given and nothing reads."""

import pathlib
import re
from collections.abc import Sequence

from promot_jax.base.errors import UserError
from promot_jax.base.values import Misfit
from promot_jax.configuration import bindings, methods, old_names, stage_settings
from promot_jax.configuration.complaints import nearest
from promot_jax.configuration.reading import GIN_FOLDER


def check_values(flags: Sequence[str] = ()) -> None:
    """Checks what was parsed, before anything is read: kinds and ranges of all values.

    Raises:
      UserError: names the macro or parameter, its value and what is allowed.
    """
    typed = {set_by(flag): flag.split("=", 1)[1].strip() for flag in flags}
    bindings.check(typed)
    methods.check()
    stage_settings.check_rates()


def check_all_used(gin_files: Sequence[str], flags: Sequence[str]) -> None:
    """Raises UserError for a value in a person's files or flags that nothing reads.

    Values in files of the package, and in included ones, may go unused: an experiment need not take
    all that they provide.
    """
    given = [(set_by(flag), f"--gin.{set_by(flag)}", "") for flag in flags]
    for file in gin_files:
        given += [(name, name, f"{file}: ") for name in _set_in(file)]
    reached = bindings.reached()
    macros = bindings.macros(reached)
    for name, written, where in given:
        if "." not in name:
            if name not in macros and name != "MODEL_DIR":
                raise UserError(
                    f"{where}nothing in this experiment uses {name}{nearest(name, macros)}"
                )
            continue
        selector = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        if not any(f".{full}".endswith(f".{selector}") for _, full in reached):
            raise UserError(
                f"{where}nothing in this experiment calls {selector}, so {written} would do nothing"
            )


def check_methods_read(flags: Sequence[str], usual: Sequence[str] | None) -> None:
    """Raises UserError for a macro in flags that only methods read which do not run.

    What the experiment runs by itself may be set in every call: a folder takes one configuration.

    Args:
      flags: those of a person.
      usual: names of the methods that run when no flag says otherwise; None for all.
    """
    asked = methods.asked()
    if usual is None or asked is None:
        return
    running = bindings.macros(methods.reached({*usual, *asked}))
    every = bindings.macros(bindings.reached())
    for name in map(set_by, flags):
        if "." in name or name in running or name not in every:
            continue
        readers = []
        for listed in (methods.listed(), methods.listed("parts")):
            # A part reads what fine-tuning reads as well.
            readers = readers or [
                one for one in listed if one and name in bindings.macros(methods.reached({one}))
            ]
        if readers:
            raise UserError(
                f"no method that runs uses {name}; to run one that does, name it in --methods: "
                f"{', '.join(readers)}"
            )


def check_tasks(experiment) -> None:
    """Checks the tasks of an experiment by `Experiment.check_tasks`; names what was set.

    Raises:
      UserError: one has another split or metric, or is not registered.
    """
    try:
        experiment.check_tasks()
    except Misfit as misfit:
        raise UserError(bindings.named(misfit)) from misfit


def set_by(flag: str) -> str:
    """Returns what `--gin.NAME=VALUE` sets, by its name of today."""
    return old_names.translated(flag.removeprefix("--gin.").split("=", 1)[0].strip())


def _set_in(file: str) -> list[str]:
    """Returns what a person's own .gin file sets itself; nothing of a file of the package."""
    from gin import config

    folders = ["", *config._LOCATION_PREFIXES]
    found = (path for f in folders if (path := pathlib.Path(f, file)).is_file())
    path = next(found, None)
    if path is None or path.resolve().is_relative_to(GIN_FOLDER.resolve()):
        return []
    return re.findall(r"^([\w./]+) *=", old_names.translated(path.read_text()), re.MULTILINE)
