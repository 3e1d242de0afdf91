"""Opens the models that commands are given: of runs, or of checkpoints."""

import pathlib

from promot_jax import configuration
from promot_jax.base.errors import UserError
from promot_jax.experiment.run_folder import RunFolder


def checkpoint_tools():
    """Imports what reads and writes checkpoints, without its native libraries' remarks."""
    with configuration.quiet_native_logs():
        from promot_jax.checkpoints import conversion
        from promot_jax.experiment import evaluation  # noqa: F401
    return conversion


def open_checkpoint(arguments):
    """Returns (model, parameters) of a checkpoint with its adapters."""
    conversion = checkpoint_tools()
    from promot_jax.base import partitioning
    from promot_jax.checkpoints import pretrained

    model, source = pretrained.open_model(arguments.checkpoint, arguments.vocabulary)
    if model.vocabulary is None:
        raise UserError(f"{arguments.checkpoint} has no vocabulary; give one by --vocabulary")
    params = pretrained.load(source, model, partitioning.make_mesh())
    for adapter in arguments.adapter:
        model, params = pretrained.attach(model, params, *conversion.named(adapter))
    return model, params


def open_run(run: pathlib.Path, arguments):
    """Returns (runner, method, seed) of a finished run, as --method and --seed choose."""
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
    seed = experiment.seeds[0] if arguments.seed is None else arguments.seed
    if arguments.method is not None:
        method = experiment.method(arguments.method)
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
