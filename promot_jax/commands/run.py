"""`promot run`: an experiment from its configuration to its report."""

import contextlib
import fcntl
import pathlib
import re
from collections.abc import Iterator

from promot_jax import configuration
from promot_jax.commands import flags, report
from promot_jax.errors import UserError


def add(commands) -> None:
    """Adds the command and its flags."""
    run = flags.command(
        commands,
        "run",
        _run,
        "Run an experiment: train its stages, evaluate its methods, write the report.",
        "A run that was interrupted continues when the same command is given again.\n\n"
        "examples:\n"
        "  promot run mini --seeds 0\n"
        "  promot run mini --gin.MODEL_DIR=\"'runs/gentle'\" --gin.LEARNING_RATE=0.0005",
    )
    run.add_argument(
        "experiment",
        metavar="EXPERIMENT",
        help=f"one of {', '.join(configuration.experiments())}, or the path of a .gin file",
    )
    run.add_argument("--seeds", help="seeds to run, such as 0,1,2; the same as --gin.SEEDS=(0,1,2)")
    run.add_argument(
        "--gin_file", action="append", default=[], help="a further .gin file; may be repeated"
    )
    run.add_argument(
        "--gin_search_paths",
        default="",
        help="folders, separated by commas, in which .gin files are looked up",
    )
    run.add_argument(
        "--gin.NAME=VALUE",
        dest="_",
        action="store_const",
        const=None,
        help="change one value of the configuration, such as --gin.TRAIN_STEPS=800",
    )


def _run(arguments, overrides) -> None:
    if arguments.seeds is not None:
        if not re.fullmatch(r"\d+(,\d+)*", arguments.seeds):
            raise UserError(f"--seeds {arguments.seeds!r}: expected numbers such as 0,1,2")
        overrides = [*overrides, f"--gin.SEEDS=({arguments.seeds},)"]
    files = [configuration.experiment_file(arguments.experiment), *arguments.gin_file]
    searched = [folder for folder in arguments.gin_search_paths.split(",") if folder]
    configuration.parse(files, overrides, searched)
    configuration.check_all_used(files, overrides)
    experiment, model_dir, config = configuration.built()
    with locked(model_dir):
        configuration.keep(model_dir, config)
        from promot_jax import partitioning, trees
        from promot_jax.experiment import Runner, shorten

        partitioning.use_cpu_cores(trees.count(experiment.model.shapes_and_axes()[0]))
        partitioning.keep_compiled(model_dir / ".compiled")
        Runner(experiment, model_dir).run(shorten())
        report.write(model_dir)


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Holds a run folder for this process alone.

    Raises:
      UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is running in {folder}; wait for it or choose another MODEL_DIR"
            ) from None
        yield
