"""The configuration of a run folder: what is kept there, and what the folder accepts again."""

import ast
import inspect
import os
import pathlib
import re
from collections.abc import Iterable

from promot_jax.base.errors import UserError
from promot_jax.base.files import write_text
from promot_jax.configuration import old_names
from promot_jax.experiment import costs
from promot_jax.experiment.run_folder import RunFolder

# Changing these does not make another run: they say where it lies and how much of it is done.
FREE_MACROS = ("MODEL_DIR", "SEEDS", "METHODS", "PAPER_METHODS", "REUSE")
# They are printed, and decide nothing.
FOR_PEOPLE = ("stages.Method.source", "parts.Part.source")
# What there is to choose from.
LISTS = ("experiment.Experiment.methods", "experiment.Experiment.parts")


def keep(folder: pathlib.Path, config: str) -> None:
    """Writes a configuration to `folder/config.gin`, or checks that it made the folder.

    A folder takes further methods: what is set in their scopes alone changes nothing in it. Of a
    file that a crash cut off, what is left is checked, and the whole is written again.

    Raises:
      UserError: the folder belongs to another configuration.
    """
    path = RunFolder(folder).config
    if path.exists():
        kept, whole = _whole_statements(path.read_text(encoding="utf-8", errors="replace"))
        ours, theirs = _settings(config), _settings(kept)
        if changed := (_changed(ours, theirs) if whole else None) or _changed(theirs, ours):
            raise UserError(
                f"{folder} belongs to another configuration (first difference: {changed}); "
                "choose a new MODEL_DIR or remove the folder"
            )
    write_text(path, config)


def _whole_statements(config: str) -> tuple[str, bool]:
    """Returns a configuration without its last statement if it was cut off, and whether not."""
    last = config.rstrip("\n").rpartition("\n")[2]
    open_end = not last or last.startswith("#") or last.endswith(("\\", ",", "\0"))
    if config.endswith("\n") and not config.endswith("\n\n") and not open_end:
        return config, True
    return "\n".join(re.split(r"\n(?=\S)", config)[:-1]), False


def _settings(config: str) -> dict[str, str]:
    """Returns the values of a configuration that decide results, by name."""
    # Runs of before paths were expanded have them as they were given.
    config = re.sub(
        r"(?<=')~(?=/)", lambda _: os.path.expanduser("~"), old_names.translated(config)
    )
    joined = re.sub(r" *\\?\n +", " ", config)
    statements = [line.partition(" = ") for line in joined.splitlines()]
    return {
        name: value
        for name, _, value in statements
        if value
        and not name.startswith("#")
        and not {name, name.rpartition("/")[2]} & {*FREE_MACROS, *FOR_PEOPLE, *costs.CONFIGURED}
    }


def _changed(ours: dict[str, str], theirs: dict[str, str]) -> str | None:
    """Returns the first setting of `ours` that matters to what `theirs` has, or None."""
    called, bound = _called(theirs), {name.rpartition("/")[2] for name in theirs}
    known = {value for name, value in theirs.items() if name.endswith(".Method.name")}
    for name, value in ours.items():
        scope, _, parameter = name.rpartition("/")
        selector = parameter.rpartition(".")[0]
        if name in theirs:
            matters = value != theirs[name] and name not in LISTS
        elif name in LISTS:
            matters = False
        else:
            # A macro that the other has not is one that nothing there refers to.
            matters = bool(selector) and _applies(scope, called.get(selector, ()))
            matters &= parameter in bound or not _is_default(parameter, value, ours)
            matters |= name.endswith(".Method.name") and value in known
        if matters:
            return f"{name} = {value}"
    return None


def _is_default(parameter: str, value: str, settings: dict[str, str]) -> bool:
    """Says whether a setting of a stage or an optimizer is what it is where nothing sets it."""
    # What no experiment has begun to read needs no jax.
    from promot_jax.training import optimizers, stages

    module, _, rest = parameter.partition(".")
    called, _, name = rest.rpartition(".")
    found = getattr({"stages": stages, "optimizers": optimizers}.get(module), called, None)
    if not callable(found) or name not in (takes := inspect.signature(found).parameters):
        return False
    while value.startswith("%"):
        value = settings.get(value[1:], "")
    try:
        return ast.literal_eval(value) == takes[name].default
    except (SyntaxError, ValueError):
        return False


def _called(settings: dict[str, str]) -> dict[str, set[str]]:
    """Returns {selector: the scopes in which it may be called}."""
    references = re.findall(r"@((?:\w+/)*)([\w.]+)", " ".join(settings.values()))
    # What a macro stands for is called in a scope of the macro's name.
    scopes = {"", *(scope for scope, _ in references)}
    scopes |= {f"{name}/" for name in settings if "." not in name}
    called = {"experiment.Experiment": {""}}
    for scope, selector in references:
        # A reference without a scope is called in that of whoever refers to it.
        called.setdefault(selector, set()).update({scope} if scope else scopes)
    return called


def _applies(scope: str, called: Iterable[str]) -> bool:
    """Says whether a scope's settings apply in one of others: whether it begins one."""
    begins = f"{scope}/" if scope else ""
    return any(other.startswith(begins) for other in called)
