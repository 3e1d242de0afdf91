"""gin: experiments by name, values from the command line, errors that suggest the nearest name.

Beside `bindings` the only file that knows gin. It imports neither gin nor jax before a
configuration is read.
"""

import contextlib
import difflib
import inspect
import io
import os
import pathlib
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence

from promot_jax.base import files
from promot_jax.base.errors import UserError
from promot_jax.base.files import write_text
from promot_jax.base.values import Misfit
from promot_jax.configuration import old_names

PACKAGE = pathlib.Path(__file__).parent.parent
# In an installed package gin/ stands inside it, in a checkout beside it.
GIN_FOLDER = next(f for f in (PACKAGE / "gin", PACKAGE.parent / "gin") if f.is_dir())

# Changing these does not make another run: they say where it lies and how much of it is done.
FREE_MACROS = ("MODEL_DIR", "SEEDS", "METHODS", "REUSE")
# Nor do these, which weigh time against memory and change results by rounding alone.
COSTS = ("SCAN_LAYERS", "REMAT", "stages.Stage.pack")

# What a value on the command line may refer to, whether or not the experiment does.
IMPORTS = (
    "from __gin__ import dynamic_registration",
    "from promot_jax.data import batching",
    "from promot_jax.models import decoding",
    "from promot_jax.experiment import evaluation",
    "from promot_jax.experiment import experiment",
    "from promot_jax import models",
    "from promot_jax.training import optimizers",
    "from promot_jax.checkpoints import pretrained",
    "from promot_jax.training import stages",
    "from promot_jax.data import vocabularies",
    "from promot_jax.models.networks import decoder",
    "from promot_jax.models.networks import lora",
    "from promot_jax.models.networks import prompt",
    "from promot_jax.models.networks import t5",
)


# What gin raises when it cannot read something.
GIN_ERRORS = (
    OSError,
    SyntaxError,
    tokenize.TokenError,
    ValueError,
    TypeError,
    ImportError,
    AttributeError,
    NameError,
)


def experiments() -> list[str]:
    """Returns the names of the experiments that come with the package."""
    return sorted(
        str(path.relative_to(GIN_FOLDER / "experiments").with_suffix(""))
        for path in (GIN_FOLDER / "experiments").rglob("*.gin")
    )


def experiment_file(name: str) -> str:
    """Returns the path of an experiment, given by name or by the path of a .gin file.

    Raises:
      UserError: no experiment has this name.
    """
    if name.endswith(".gin"):
        return files.home(name)
    if name not in (known := experiments()):
        near = difflib.get_close_matches(name, known, 1) or [known[0]]
        raise UserError(
            f"no experiment {name!r}; did you mean {near[0]!r}? There are: {', '.join(known)}"
        )
    return str(GIN_FOLDER / "experiments" / f"{name}.gin")


def parse(
    gin_files: Sequence[str], flags: Sequence[str] = (), searched: Sequence[str] = ()
) -> None:
    """Reads gin files and flags (`--gin.NAME=VALUE`) into gin's configuration.

    Args:
      gin_files: their paths; later ones override earlier ones.
      flags: override the files.
      searched: folders to look gin files up in, before the package's own.

    Raises:
      UserError: an unknown name, a missing file, a value that is no Python literal.
    """
    with quiet_native_logs():
        from absl import logging as absl_logging

        import gin

        # The experiment is what every configuration refers to.
        import promot_jax.experiment.experiment  # noqa: F401
        from promot_jax.configuration import bindings

    absl_logging.set_verbosity(absl_logging.ERROR)
    # A person's own tasks lie where they work; `python -m` would find them there too.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for folder in (*searched, str(GIN_FOLDER)):
        if folder not in gin.config._LOCATION_PREFIXES:
            gin.add_config_file_search_path(folder)
    gin.clear_config()
    # gin also takes `models/x.gin` for a file of the package `models`, logs that there is none, and
    # fails where a plain folder has that name. Files alone are looked up here.
    gin.config._FILE_READERS[:] = [(_opened, os.path.isfile)]
    for file in gin_files:
        with _explained(file):
            gin.parse_config_file(file)
    for flag in flags:
        with _explained(flag):
            gin.parse_config([*IMPORTS, old_names.translated(flag.removeprefix("--gin."))])
    bindings.expand_home()


def clear() -> None:
    """Forgets what was parsed, so that nothing else in this process meets it."""
    if "gin" in sys.modules:
        sys.modules["gin"].clear_config()


def _opened(path: str) -> io.StringIO:
    return io.StringIO(old_names.translated(pathlib.Path(path).read_text(encoding="utf-8")))


def check_values(flags: Sequence[str] = ()) -> None:
    """Checks what was parsed, before anything is read: kinds and ranges of all values.

    Raises:
      UserError: names the macro or parameter, its value and what is allowed.
    """
    from promot_jax.configuration import bindings

    bindings.check({_name(flag): flag.split("=", 1)[1].strip() for flag in flags})


def model_dir() -> pathlib.Path:
    """Returns the run folder of what was parsed.

    Raises:
      UserError: it names none.
    """
    import gin

    with _explained("configuration"):
        return pathlib.Path(gin.query_parameter("%MODEL_DIR"))


def reused() -> Sequence[str]:
    """Returns the run folders whose finished stages may be taken."""
    from promot_jax.configuration import bindings

    return bindings.value_of("experiment.Experiment.reuse") or ()


def built():
    """Returns (experiment, model_dir, text) of what was parsed.

    Raises:
      UserError: a value that an experiment cannot have.
    """
    import gin
    from promot_jax.configuration import bindings
    from promot_jax.experiment.experiment import Experiment

    with _explained("configuration"):
        text = gin.config_str(max_line_length=99)
        try:
            experiment = gin.get_configurable(Experiment)()
        except Misfit as misfit:
            raise UserError(bindings.named(misfit)) from misfit
        return experiment, model_dir(), text


def check_tasks(experiment) -> None:
    """Checks the tasks of an experiment by `Experiment.check_tasks`; names what was set.

    Raises:
      UserError: one has another split or metric, or is not registered.
    """
    from promot_jax.configuration import bindings

    try:
        experiment.check_tasks()
    except Misfit as misfit:
        raise UserError(bindings.named(misfit)) from misfit


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turns whatever gin dislikes in a file or flag into a UserError."""
    try:
        yield
    except GIN_ERRORS as error:
        raise UserError(f"{where}: {_explain(error)}") from error


@contextlib.contextmanager
def quiet_native_logs() -> Iterator[None]:
    """Hides what tensorflow's libraries write to stderr when they load; no setting stops it."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def check_all_used(gin_files: Sequence[str], flags: Sequence[str]) -> None:
    """Raises UserError for a value in a person's files or flags that nothing reads.

    Values in files of the package, and in included ones, may go unused: an experiment need not take
    all that they provide.
    """
    from promot_jax.configuration import bindings

    given = [(_name(flag), f"--gin.{_name(flag)}", "") for flag in flags]
    for file in gin_files:
        given += [(name, name, f"{file}: ") for name in _set_in(file)]
    reached = bindings.reached()
    macros = {scope for scope, selector in reached if selector == bindings.MACRO}
    for name, written, where in given:
        if "." not in name:
            if name not in macros and name != "MODEL_DIR":
                raise UserError(
                    f"{where}nothing in this experiment uses {name}{_nearest(name, macros)}"
                )
            continue
        selector = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        if not any(f".{full}".endswith(f".{selector}") for _, full in reached):
            raise UserError(
                f"{where}nothing in this experiment calls {selector}, so {written} would do nothing"
            )


def _name(flag: str) -> str:
    """Returns what `--gin.NAME=VALUE` sets."""
    return flag.removeprefix("--gin.").split("=", 1)[0].strip()


def _set_in(file: str) -> list[str]:
    """Returns what a person's own .gin file sets itself; nothing of a file of the package."""
    from gin import config

    folders = ["", *config._LOCATION_PREFIXES]
    found = (path for f in folders if (path := pathlib.Path(f, file)).is_file())
    path = next(found, None)
    if path is None or path.resolve().is_relative_to(GIN_FOLDER.resolve()):
        return []
    return re.findall(r"^([\w./]+) *=", old_names.translated(path.read_text()), re.MULTILINE)


def _explain(error: Exception) -> str:
    """Returns gin's complaint as one line, with the nearest known name."""
    from gin import config

    # What follows are places in gin's own words, such as lines of joined flags.
    text = re.sub(r" *\(?(In file|In bindings|In call to) .*$", "", " ".join(str(error).split()))
    if "Failed to parse token" in text or isinstance(error, SyntaxError | tokenize.TokenError):
        line = (getattr(error, "text", None) or "").strip()
        place = f" near {line!r}" if line else ""
        return f"""not a Python literal{place}; quote texts twice, as in --gin.NAME="'text'\""""
    if "macro() missing 1 required positional argument" in text:
        from promot_jax.configuration import bindings

        return f"needs {', '.join(bindings.unset())}; give each by --gin.NAME=VALUE"
    selectors = {selector for _, selector in config._CONFIG}
    if found := re.search(r"Configurable '(.+)' doesn't have a parameter named '(.+)'", text):
        called, name = found.groups()
        full = next((s for s in selectors if f".{s}".endswith(f".{called}")), "")
        module, _, attribute = full.rpartition(".")
        takes = getattr(sys.modules.get(module), attribute, None)
        names = inspect.signature(takes).parameters if takes else ()
        return f"{called} has no parameter {name}{_nearest(name, names)}"
    if found := re.search(r"<module '(.+)' from .+> has no attribute (\w+)", text):
        module, name = found.groups()
        return f"{module} has no {name}{_nearest(name, dir(sys.modules[module]))}"
    known = {selector.split(".", 1)[-1] for selector in selectors}
    quoted = re.findall(r"['`]([\w./]+)['`]", text)
    return text + next((hint for name in quoted if (hint := _nearest(name, known - {name}))), "")


def _nearest(name: str, known) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def keep(folder: pathlib.Path, config: str) -> None:
    """Writes a configuration to `folder/config.gin`, or checks that it made the folder.

    A folder takes further methods: what is set in their scopes alone changes nothing in it. Of a
    file that a crash cut off, what is left is checked, and the whole is written again.

    Raises:
      UserError: the folder belongs to another configuration.
    """
    path = folder / "config.gin"
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
        if value and not name.startswith("#") and name not in FREE_MACROS + COSTS
    }


def _changed(ours: dict[str, str], theirs: dict[str, str]) -> str | None:
    """Returns the first setting of `ours` that matters to what `theirs` has, or None."""
    active = re.findall(r"@([\w/]+)/[\w.]+", " ".join(theirs.values()))
    known = {value for name, value in theirs.items() if name.endswith(".Method.name")}
    for name, value in ours.items():
        scope, _, selector = name.rpartition("/")
        if name in theirs:
            matters = value != theirs[name] and selector != "experiment.Experiment.methods"
        elif scope:
            # A scope applies where it begins the active one.
            matters = any(f"{other}/".startswith(f"{scope}/") for other in active)
            matters |= name.endswith(".Method.name") and value in known
        else:
            # A macro that the other has not is one that nothing there refers to.
            matters = "." in selector
        if matters:
            return f"{name} = {value}"
    return None
