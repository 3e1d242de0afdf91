"""Experiments by name, gin files and flags: read, checked, built.

It imports neither gin nor jax before a configuration is read.
"""

import contextlib
import difflib
import io
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

from promot_jax.base import files
from promot_jax.base.errors import UserError
from promot_jax.base.values import Misfit
from promot_jax.configuration import bindings, methods, old_names
from promot_jax.configuration.complaints import explained

PACKAGE = pathlib.Path(__file__).parent.parent
# In an installed package gin/ stands inside it, in a checkout beside it.
GIN_FOLDER = next(f for f in (PACKAGE / "gin", PACKAGE.parent / "gin") if f.is_dir())

# What a value on the command line may refer to, whether or not the experiment does.
IMPORTS = (
    "from __gin__ import dynamic_registration",
    "from promot_jax.data import batching",
    "from promot_jax.models import decoding",
    "from promot_jax.experiment import evaluation",
    "from promot_jax.experiment import experiment",
    "from promot_jax import models",
    "from promot_jax.training import afterwards",
    "from promot_jax.training import optimizers",
    "from promot_jax.checkpoints import pretrained",
    "from promot_jax.training import stages",
    "from promot_jax.data import vocabularies",
    "from promot_jax.models.networks import decoder",
    "from promot_jax.models.networks import lora",
    "from promot_jax.models.networks import lora_inits",
    "from promot_jax.models.networks import parallel",
    "from promot_jax.models.networks import prompt",
    "from promot_jax.models.networks import t5",
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
) -> Sequence[str] | None:
    """Reads gin files and flags (`--gin.NAME=VALUE`) into gin's configuration.

    An experiment that lists no methods gets those of the configuration, see `methods.list_all`.

    Args:
      gin_files: their paths; later ones override earlier ones.
      flags: override the files.
      searched: folders to look gin files up in, before the package's own.

    Returns:
      Names of the methods that the files say should run, None for all.

    Raises:
      UserError: an unknown name, a missing file, a value that is no Python literal.
    """
    with quiet_native_logs():
        from absl import logging as absl_logging

        import gin

        # The experiment is what every configuration refers to.
        import promot_jax.experiment.experiment  # noqa: F401

        absl_logging.set_verbosity(absl_logging.ERROR)
    # A person's own tasks lie where they work; `python -m` would find them there too.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    gin.config._LOCATION_PREFIXES[:] = ["", *searched, str(GIN_FOLDER)]
    gin.clear_config()
    # gin also takes `models/x.gin` for a file of the package `models`, logs that there is none, and
    # fails where a plain folder has that name. Files alone are looked up here.
    gin.config._FILE_READERS[:] = [(_opened, os.path.isfile)]
    for file in gin_files:
        with explained(file):
            gin.parse_config_file(file)
    usual = methods.asked()
    for flag in flags:
        with explained(flag):
            gin.parse_config([*IMPORTS, old_names.translated(flag.removeprefix("--gin."))])
    with explained("configuration"):
        methods.list_all()
    bindings.expand_home()
    return usual


def _opened(path: str) -> io.StringIO:
    return io.StringIO(old_names.translated(pathlib.Path(path).read_text(encoding="utf-8")))


def clear() -> None:
    """Forgets what was parsed, so that nothing else in this process meets it."""
    if "gin" in sys.modules:
        sys.modules["gin"].clear_config()


def model_dir() -> pathlib.Path:
    """Returns the run folder of what was parsed.

    Raises:
      UserError: it names none.
    """
    import gin

    with explained("configuration"):
        return pathlib.Path(gin.query_parameter("%MODEL_DIR"))


def reused() -> Sequence[str]:
    """Returns the run folders whose finished stages may be taken."""
    return bindings.value_of("experiment.Experiment.reuse") or ()


def built():
    """Returns (experiment, model_dir, text) of what was parsed.

    Raises:
      UserError: a value that an experiment cannot have.
    """
    import gin
    from promot_jax.experiment.experiment import Experiment

    with explained("configuration"):
        text = gin.config_str(max_line_length=99)
        try:
            experiment = gin.get_configurable(Experiment)()
        except Misfit as misfit:
            raise UserError(bindings.named(misfit)) from misfit
        return experiment, model_dir(), text


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
