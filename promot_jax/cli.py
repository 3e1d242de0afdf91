"""The `promot` command: flags and dispatch.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

import argparse
import contextlib
import fcntl
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence

import promot_jax
from promot_jax import configuration
from promot_jax.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit code: 0, 2 after bad input, 130 after Ctrl-C."""
    arguments, overrides = _parser().parse_known_args(argv)
    try:
        _only_gin_flags(overrides)
        arguments.command(arguments, overrides)
    except UserError as error:
        # gin adds lines about where it was when it called what failed.
        print(f"promot: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"promot: {error.filename or 'file system'}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("promot: interrupted; the same command continues the run", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="promot", description=promot_jax.__doc__, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=promot_jax.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, function, summary, epilog=None):
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

    run = command(
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

    report = command("report", _report, "Rebuild report.html and report.md of a run.")
    report.add_argument("run", metavar="RUN", type=pathlib.Path, help="folder of a run")

    generate = command(
        "generate",
        _generate,
        "Answer texts with a model of a finished run.",
        'example:\n  promot generate runs/mini --prompt none "Q: what is the capital of mali? A:"',
    )
    generate.add_argument("run", metavar="RUN", type=pathlib.Path, help="folder of a run")
    generate.add_argument("text", nargs="+", help="input texts, quoted")
    generate.add_argument(
        "--prompt", default="none", help="name of the soft prompt to attach, or none"
    )
    _which_model(generate)
    generate.add_argument("--max_length", type=int, default=32, help="longest answer, in tokens")

    export = command(
        "export", _export, "Write a trained model of a run, and its soft prompts, to a folder."
    )
    export.add_argument("run", metavar="RUN", type=pathlib.Path, help="folder of a run")
    export.add_argument("out", metavar="OUT", type=pathlib.Path, help="new folder for the model")
    _which_model(export)
    return parser


def _which_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", help="method that made the model (default: the run's last)")
    parser.add_argument("--seed", type=int, help="its seed (default: the run's first)")


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
    with _locked(model_dir):
        configuration.keep(model_dir, config)
        from promot_jax import partitioning
        from promot_jax.experiment import Runner, shorten

        partitioning.use_cpu_cores()
        partitioning.keep_compiled(model_dir / ".compiled")
        Runner(experiment, model_dir).run(shorten())
        _write_report(model_dir)


def _report(arguments, overrides) -> None:
    _no_overrides(overrides)
    _write_report(arguments.run)


def _write_report(folder: pathlib.Path) -> None:
    from promot_jax.report import build, records, tables

    page = build.build(folder)
    print("\n" + tables.terminal_table(records.read(folder)))
    print(f"\nreport: {page}")


def _generate(arguments, overrides) -> None:
    _no_overrides(overrides)
    runner, method, seed = _open_run(arguments)
    prompt = None if arguments.prompt == "none" else arguments.prompt
    known = [stage.prompt for stage in method.stages if stage.prompt]
    if prompt is not None and prompt not in known:
        names = ", ".join([*sorted(set(known)), "none"])
        raise UserError(f"--prompt {prompt}: method {method.name!r} has none such; use {names}")
    params = runner.trained_params(method, seed, runner.initial_params(seed))
    answers = runner.evaluator.answer(params, arguments.text, arguments.max_length, prompt)
    print("\n".join(answers))


def _export(arguments, overrides) -> None:
    _no_overrides(overrides)
    runner, method, seed = _open_run(arguments)
    import numpy as np

    from promot_jax import checkpoints, models

    params = runner.trained_params(method, seed, runner.initial_params(seed))
    about = {"run": runner.folder.name, "method": method.name, "seed": seed}
    checkpoints.save_params(arguments.out, params, about)
    for name in models.prompts_of(params):
        np.save(arguments.out / f"{name}.npy", params["encoder"]["prompt"][name]["prompt"])
    print(f"wrote {arguments.out}")


def _open_run(arguments):
    """Returns (runner, method, seed) of a finished run, as --method and --seed choose."""
    config = arguments.run / "config.gin"
    if not config.is_file():
        raise UserError(f"{arguments.run} is no run folder: it has no config.gin")
    configuration.parse([str(config)])
    experiment, _, _ = configuration.built()
    from promot_jax.experiment import Runner

    runner = Runner(experiment, arguments.run)
    method = experiment.method(arguments.method or experiment.methods[-1].name)
    seed = experiment.seeds[0] if arguments.seed is None else arguments.seed
    for folder in method.folders:
        if not (arguments.run / f"seed_{seed}" / folder / "stage.json").exists():
            raise UserError(
                f"method {method.name!r} of seed {seed} is not finished in {arguments.run}; "
                "run the experiment to its end first"
            )
    return runner, method, seed


def _only_gin_flags(flags: Sequence[str]) -> None:
    for flag in flags:
        if not re.fullmatch(r"--gin\.[^=]+=.*", flag, re.DOTALL):
            raise UserError(f"unknown argument {flag!r}; values are set by --gin.NAME=VALUE")


def _no_overrides(flags: Sequence[str]) -> None:
    if flags:
        raise UserError(f"{flags[0]}: only `promot run` takes --gin values")


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
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


if __name__ == "__main__":
    sys.exit(main())
