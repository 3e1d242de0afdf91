"""The `promot` command: flags, gin, dispatch. The only file that knows gin.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

import argparse
import contextlib
import difflib
import fcntl
import logging
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence

import promot_jax
from promot_jax.errors import UserError

PACKAGE = pathlib.Path(__file__).parent
# In an installed package gin/ stands inside it, in a checkout beside it.
GIN_FOLDER = next(f for f in (PACKAGE / "gin", PACKAGE.parent / "gin") if f.is_dir())

# Changing these does not make another run: they say where it lies and how much of it is done.
FREE_MACROS = ("MODEL_DIR", "SEEDS")

# What a value on the command line may refer to, whether or not the experiment does.
IMPORTS = (
    "from __gin__ import dynamic_registration",
    *(
        f"from promot_jax import {name}"
        for name in (
            "data",
            "decoding",
            "evaluation",
            "experiment",
            "models",
            "optimizers",
            "stages",
        )
    ),
    "from promot_jax.networks import prompt",
    "from promot_jax.networks import t5",
)


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
        help=f"one of {', '.join(_experiments())}, or the path of a .gin file",
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
    files = [_experiment_file(arguments.experiment), *arguments.gin_file]
    searched = [folder for folder in arguments.gin_search_paths.split(",") if folder]
    _parse(files, overrides, searched)
    _check_all_used(files, overrides)
    experiment, model_dir, config = _built()
    with _locked(model_dir):
        _keep_config(model_dir, config)
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
    _parse([str(config)])
    experiment, _, _ = _built()
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


def _experiments() -> list[str]:
    return sorted(
        str(path.relative_to(GIN_FOLDER / "experiments").with_suffix(""))
        for path in (GIN_FOLDER / "experiments").rglob("*.gin")
    )


def _experiment_file(name: str) -> str:
    if name.endswith(".gin"):
        return name
    if name not in (known := _experiments()):
        near = difflib.get_close_matches(name, known, 1) or [known[0]]
        raise UserError(
            f"no experiment {name!r}; did you mean {near[0]!r}? There are: {', '.join(known)}"
        )
    return str(GIN_FOLDER / "experiments" / f"{name}.gin")


def _only_gin_flags(flags: Sequence[str]) -> None:
    for flag in flags:
        if not re.fullmatch(r"--gin\.[^=]+=.*", flag, re.DOTALL):
            raise UserError(f"unknown argument {flag!r}; values are set by --gin.NAME=VALUE")


def _no_overrides(flags: Sequence[str]) -> None:
    if flags:
        raise UserError(f"{flags[0]}: only `promot run` takes --gin values")


def _parse(files: Sequence[str], flags: Sequence[str] = (), searched: Sequence[str] = ()) -> None:
    """Reads gin files and flags into gin's configuration."""
    with _quiet_native_logs():
        from absl import logging as absl_logging

        import gin
        import promot_jax.experiment  # noqa: F401 — what every configuration refers to

    absl_logging.set_verbosity(absl_logging.ERROR)
    # A person's own tasks lie where they work; `python -m` would find them there too.
    sys.path.append(os.getcwd())
    for folder in (*searched, str(GIN_FOLDER)):
        gin.add_config_file_search_path(folder)
    gin.clear_config()
    # gin logs every search path that does not hold a file.
    logging.disable(logging.ERROR)
    with _explained():
        bindings = [*IMPORTS, *(flag.removeprefix("--gin.") for flag in flags)]
        gin.parse_config_files_and_bindings(list(files), bindings, finalize_config=False)
    logging.disable(logging.NOTSET)


def _built():
    """Returns (experiment, model_dir, text) of what was parsed."""
    import gin
    from promot_jax.experiment import Experiment

    with _explained():
        text = gin.config_str(max_line_length=99)
        experiment = gin.get_configurable(Experiment)()
        return experiment, pathlib.Path(gin.query_parameter("%MODEL_DIR")), text


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turns whatever gin dislikes into a UserError."""
    try:
        yield
    except (OSError, SyntaxError, ValueError, TypeError, ImportError, AttributeError) as error:
        raise UserError(_explain(error)) from error


@contextlib.contextmanager
def _quiet_native_logs() -> Iterator[None]:
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


def _check_all_used(files: Sequence[str], flags: Sequence[str]) -> None:
    """Raises UserError for a value in these files or flags that nothing reads.

    Values in included files may go unused: an experiment need not take all that they provide.
    """
    from gin import config

    given = [flag.removeprefix("--gin.").split("=", 1)[0].strip() for flag in flags]
    given += [name for file in files for name in _macros_of(file)]
    bindings = config._CONFIG  # gin has no public view of all bindings
    referred = {
        scope
        for scope, selector in (r.config_key for r in config.iterate_references(bindings))
        if selector == "gin.macro"
    }
    reached = {selector for _, selector in _reached(bindings)}
    for name in given:
        if "." not in name:
            if name not in referred | set(FREE_MACROS):
                raise UserError(f"nothing in this experiment uses {name}{_nearest(name, referred)}")
            continue
        selector = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        if not any(f".{full}".endswith(f".{selector}") for full in reached):
            raise UserError(
                f"nothing in this experiment calls {selector}, so --gin.{name} would do nothing"
            )


def _macros_of(file: str) -> list[str]:
    """Returns the macros that a .gin file sets itself."""
    path = pathlib.Path(file)
    text = path.read_text() if path.is_file() else ""
    return re.findall(r"^(\w+) *=", text, re.MULTILINE)


def _reached(bindings) -> set[tuple[str, str]]:
    """Returns (scope, selector) of everything that building the experiment can call."""
    from gin import config

    seen: set[tuple[str, str]] = set()
    waiting = [("", "promot_jax.experiment.Experiment")]
    while waiting:
        scope, selector = waiting.pop()
        if (scope, selector) in seen:
            continue
        seen.add((scope, selector))
        # A binding applies where its scope begins the active one.
        for (bound_scope, bound_selector), values in bindings.items():
            if bound_selector == selector and f"{scope}/".startswith(f"{bound_scope}/".lstrip("/")):
                for reference in config.iterate_references(values):
                    inner, called = reference.config_key
                    waiting.append((inner or scope, called))
    return seen


def _explain(error: Exception) -> str:
    """Returns gin's complaint as one line, with the nearest known name."""
    from gin import config

    text = " ".join(str(error).split())
    text = re.sub(r" (In file|In bindings) .*$", lambda m: f" ({m[0].strip()})", text)
    quoted = re.findall(r"['`]([\w./]+)['`]", text)
    known = {selector.split(".", 1)[-1] for _, selector in config._CONFIG}
    known |= {
        f"{selector.split('.', 1)[-1]}.{name}"
        for (_, selector), values in config._CONFIG.items()
        for name in values
    }
    hint = next((h for name in quoted if (h := _nearest(name, known - {name}))), "")
    if isinstance(error, SyntaxError):
        hint = """; values are Python literals: quote texts twice, as in --gin.NAME="'text'\""""
    return f"configuration: {text}{hint}"


def _nearest(name: str, known) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


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


def _keep_config(folder: pathlib.Path, config: str) -> None:
    """Writes config.gin, or checks that it is the one that made the folder.

    Raises:
      UserError: the folder belongs to another configuration.
    """
    path = folder / "config.gin"
    if path.exists():
        ours, theirs = (_settings(text) for text in (config, path.read_text()))
        if changed := [line for line in ours if line not in theirs]:
            changed += [line for line in theirs if line not in ours]
            raise UserError(
                f"{folder} belongs to another configuration (first difference: {changed[0]}); "
                "choose a new MODEL_DIR or remove the folder"
            )
    path.write_text(config)


def _settings(config: str) -> list[str]:
    """Returns the statements of a configuration that decide results."""
    joined = re.sub(r"\\\n\s*", "", config)
    return [
        line
        for line in joined.splitlines()
        if line and not line.startswith("#") and line.split(" =")[0] not in FREE_MACROS
    ]


if __name__ == "__main__":
    sys.exit(main())
