"""Opens the models that commands are given: of runs, or of checkpoints."""

import pathlib

from promot_jax import configuration
from promot_jax.base import files, values
from promot_jax.base.errors import UserError
from promot_jax.experiment.run_folder import RunFolder


def checkpoint_tools():
    """Imports what reads and writes checkpoints, without its native libraries' remarks."""
    with configuration.quiet_native_logs():
        from promot_jax.checkpoints import conversion
        from promot_jax.experiment import loaded  # noqa: F401
    return conversion


def load(path: str, method: str | None, seed: int | None, at: float | None, vocabulary: str | None):
    """Returns the `LoadedModel` of a run or a checkpoint, see `promot_jax.load`."""
    checkpoint_tools()
    from promot_jax.experiment import loaded

    path = files.home(path)
    if not RunFolder(pathlib.Path(path)).config.is_file():
        if (method, seed, at) != (None, None, None):
            raise UserError(f"{path} is no run folder; leave out method, seed and at")
        return loaded.of_checkpoint(path, vocabulary)
    if vocabulary is not None:
        raise UserError(f"{path} is a run, which has a vocabulary; leave out the one given")
    if wrong := values.fault(at, values.Positive | None):
        raise UserError(f"at = {at!r}: expected {wrong.allowed}")
    return loaded.of_run(*open_run(pathlib.Path(path), method, seed), at)


def with_adapters(path: str, arguments):
    """Returns the `LoadedModel` of a checkpoint, with what `flags.adapters` attach to it."""
    conversion = checkpoint_tools()
    from promot_jax.base import partitioning
    from promot_jax.experiment import loaded

    partitioning.keep_compiled()
    deltas, adapters, by = conversion.with_deltas_apart(arguments.adapter, arguments.merge_deltas)
    model = loaded.of_checkpoint(path, arguments.vocabulary)
    model = model.with_deltas(deltas, by) if deltas else model
    for adapter in adapters:
        name, path = conversion.named(adapter)
        model = model.attach(path, name)
    return model


def open_run(run: pathlib.Path, name: str | None, seed: int | None):
    """Returns (runner, method, seed) of a finished run.

    Args:
      run: its folder.
      name: of the method; None takes the last one that was trained.
      seed: None takes the first of the run.

    Raises:
      UserError: no run folder, or a method that is not finished in it.
    """
    folder = RunFolder(run)
    folder.check()
    config = folder.config
    if not config.is_file():
        raise UserError(f"{run} is no run folder: it has no {config.name}")
    if not config.read_bytes().strip(b"\0\n"):
        raise UserError(f"{config} is empty; give the command of the run again, which mends it")
    configuration.parse([str(config)])
    experiment, _, _ = configuration.built()
    from promot_jax.experiment.runner import Runner

    runner = Runner(experiment, run)
    seed = experiment.seeds[0] if seed is None else seed
    if name is not None:
        method = experiment.method(name)
    else:
        # Of all that the folder has, whatever the last call was asked to run.
        trained = [m for m in experiment.methods if m.stages and folder.finished(seed, m.folders)]
        method = (trained or experiment.selected)[-1]
    if not folder.finished(seed, method.folders):
        raise UserError(
            f"method {method.name!r} of seed {seed} is not finished in {run}; "
            "run the experiment to its end first"
        )
    return runner, method, seed
