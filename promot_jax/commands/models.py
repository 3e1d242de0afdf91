"""Opens the models that commands are given: of runs, or of checkpoints."""

import pathlib

from promot_jax import configuration
from promot_jax.errors import UserError


def checkpoint_tools():
    """Imports what reads and writes checkpoints, without its native libraries' remarks."""
    with configuration.quiet_native_logs():
        from promot_jax import conversion, evaluation  # noqa: F401
    return conversion


def open_checkpoint(arguments):
    """Returns (model, parameters) of a checkpoint with its adapters."""
    conversion = checkpoint_tools()
    from promot_jax import partitioning, pretrained

    model, source = pretrained.open_model(arguments.checkpoint, arguments.vocabulary)
    if model.vocabulary is None:
        raise UserError(f"{arguments.checkpoint} has no vocabulary; give one by --vocabulary")
    params = pretrained.load(source, model, partitioning.make_mesh())
    for adapter in arguments.adapter:
        model, params = pretrained.attach(model, params, *conversion.named(adapter))
    return model, params


def open_run(run: pathlib.Path, arguments):
    """Returns (runner, method, seed) of a finished run, as --method and --seed choose."""
    config = run / "config.gin"
    if not config.is_file():
        raise UserError(f"{run} is no run folder: it has no config.gin")
    configuration.parse([str(config)])
    experiment, _, _ = configuration.built()
    from promot_jax.runner import Runner

    runner = Runner(experiment, run)
    method = experiment.method(arguments.method or experiment.selected[-1].name)
    seed = experiment.seeds[0] if arguments.seed is None else arguments.seed
    for folder in method.folders:
        if not (run / f"seed_{seed}" / folder / "stage.json").exists():
            raise UserError(
                f"method {method.name!r} of seed {seed} is not finished in {run}; "
                "run the experiment to its end first"
            )
    return runner, method, seed
