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
    arguments, rest = _parser().parse_known_args(argv)
    overrides = [word for word in rest if word.startswith("--") or "words" not in arguments]
    if "words" in arguments:
        # argparse takes only the words before the first flag for positional.
        arguments.words += [word for word in rest if word not in overrides]
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


ANY_CHECKPOINT = "a checkpoint: Hugging Face, T5X or promot_jax folder, .gguf file"
VOCABULARY = "SentencePiece model or tokenizer.json, where the checkpoint has none"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="promot", description=promot_jax.__doc__, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=promot_jax.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_run, _add_report, _add_inspect, _add_generate, _add_import, _add_export):
        add(commands)
    return parser


def _command(commands, name, function, summary, epilog=None) -> argparse.ArgumentParser:
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


def _add_run(commands) -> None:
    run = _command(
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


def _add_report(commands) -> None:
    report = _command(commands, "report", _report, "Rebuild report.html and report.md of a run.")
    report.add_argument("run", metavar="RUN", type=pathlib.Path, help="folder of a run")


def _add_inspect(commands) -> None:
    inspect = _command(
        commands,
        "inspect",
        _inspect,
        "Say what a checkpoint or adapter is: format, sizes, leaves, prompts.",
    )
    inspect.add_argument("path", metavar="PATH", help=ANY_CHECKPOINT + ", an adapter or a prompt")
    inspect.add_argument("--vocabulary", help=VOCABULARY)
    inspect.add_argument("--leaves", action="store_true", help="one line for each leaf")
    inspect.add_argument(
        "--nearest", type=int, default=0, metavar="K", help="K nearest tokens of each prompt row"
    )


def _add_generate(commands) -> None:
    generate = _command(
        commands,
        "generate",
        _generate,
        "Answer texts with a model of a finished run, or of a checkpoint.",
        "examples:\n"
        '  promot generate runs/mini --prompt none "Q: what is the capital of mali? A:"\n'
        '  promot generate --checkpoint SmolLM2-135M.gguf "The capital of France is"',
    )
    generate.add_argument("words", nargs="+", metavar="[RUN] TEXT", help="texts to answer, quoted")
    generate.add_argument("--checkpoint", help="instead of a run: " + ANY_CHECKPOINT)
    generate.add_argument("--vocabulary", help=VOCABULARY)
    _adapters(generate)
    generate.add_argument(
        "--prompt", default="none", help="name of the soft prompt to attach, or none"
    )
    _which_model(generate)
    generate.add_argument("--max_length", type=int, default=32, help="longest answer, in tokens")
    generate.add_argument("--beams", type=int, help="beam search; 1 is greedy")
    generate.add_argument("--temperature", type=float, help="sample; with --top_k, --top_p")
    generate.add_argument("--top_k", type=int, default=0, help="sample from the K most probable")
    generate.add_argument("--top_p", type=float, default=1.0, help="sample from this probability")


def _add_import(commands) -> None:
    load = _command(
        commands,
        "import",
        _import,
        "Turn a checkpoint of another program into a model folder of promot_jax.",
        "example:\n  promot import hf://google/mt5-small models/mt5_small --dry-run",
    )
    load.add_argument("source", metavar="PATH", help=ANY_CHECKPOINT)
    load.add_argument("out", metavar="OUT", type=pathlib.Path, help="new folder for the model")
    load.add_argument("--vocabulary", help=VOCABULARY)
    _adapters(load)
    for flag, meaning in [
        ("--may_miss", "leaves that are initialised where the checkpoint has none"),
        ("--may_skip", "names in the checkpoint that the model has no place for"),
    ]:
        load.add_argument(
            flag, action="append", default=[], metavar="PATTERN", help=f"{meaning}; may be repeated"
        )
    _dry_run(load)


def _add_export(commands) -> None:
    export = _command(
        commands,
        "export",
        _export,
        "Write a model of a run, or of a checkpoint, for promot_jax or for another program.",
        "examples:\n"
        "  promot export runs/mini models/mini_rte\n"
        "  promot export models/mini_rte hf/mini_rte --format huggingface",
    )
    export.add_argument("source", metavar="RUN", help="folder of a run, or " + ANY_CHECKPOINT)
    export.add_argument("out", metavar="OUT", type=pathlib.Path, help="new folder")
    export.add_argument(
        "--format",
        choices=("native", "huggingface", "t5x", "t5x_orbax", "peft"),
        default="native",
        help="native: for promot_jax (the default); peft: one soft prompt or low-rank adapter",
    )
    export.add_argument("--prompt", help="the soft prompt that --format peft writes")
    export.add_argument("--vocabulary", help=VOCABULARY)
    export.add_argument(
        "--merge_lora", action="store_true", help="add the low-rank adapter to the kernels first"
    )
    _which_model(export)
    _dry_run(export)


def _which_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", help="method that made the model (default: the run's last)")
    parser.add_argument("--seed", type=int, help="its seed (default: the run's first)")


def _adapters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="attach a PEFT adapter folder or a prompt in a .npy file; may be repeated",
    )


def _dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be read and written, then stop"
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
    with _locked(model_dir):
        configuration.keep(model_dir, config)
        from promot_jax import partitioning, trees
        from promot_jax.experiment import Runner, shorten

        partitioning.use_cpu_cores(trees.count(experiment.model.shapes_and_axes()[0]))
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


def _inspect(arguments, overrides) -> None:
    _no_overrides(overrides)
    for line in _conversion().inspect(
        arguments.path,
        vocabulary=arguments.vocabulary,
        leaves=arguments.leaves,
        nearest=arguments.nearest,
    ):
        print(line)


def _generate(arguments, overrides) -> None:
    _no_overrides(overrides)
    _check_generate(arguments)
    if arguments.checkpoint is None:
        _refuse(arguments, ("vocabulary", "adapter"), "goes with --checkpoint, not with a run")
        run, *texts = arguments.words
        if not texts:
            raise UserError(f"give the folder of a run and a text, not only {run!r}")
        runner, method, seed = _open_run(pathlib.Path(run), arguments)
        params = runner.trained_params(method, seed, runner.initial_params(seed))
        model, decoder = runner.experiment.model, runner.experiment.decoder
        buckets, names = runner.experiment.eval_buckets, [s.prompt for s in method.stages]
    else:
        _refuse(arguments, ("method",), "goes with a run, not with --checkpoint")
        texts = arguments.words
        model, params = _open_checkpoint(arguments)
        decoder, buckets, names = None, (), model.network.config.prompt_names
    prompt = None if arguments.prompt == "none" else arguments.prompt
    if prompt is not None and prompt not in names:
        known = ", ".join([*sorted(set(filter(None, names))), "none"])
        raise UserError(f"--prompt {prompt}: this model has none such; use {known}")
    from promot_jax import partitioning
    from promot_jax.evaluation import Evaluator

    decoder = _decoder(arguments, decoder)
    evaluator = Evaluator(model, partitioning.make_mesh(), decoder, len(texts), buckets)
    print("\n".join(evaluator.answer(params, texts, arguments.max_length, prompt)))


def _check_generate(arguments) -> None:
    """Raises UserError for what would fail only inside the network or the tokenizer."""
    if arguments.max_length < 1:
        raise UserError(f"--max_length {arguments.max_length}: give at least 1 token")
    if arguments.seed is not None and not 0 <= arguments.seed < 2**31:
        raise UserError(f"--seed {arguments.seed}: give a number from 0 to {2**31 - 1}")
    for text in arguments.words:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f"{text!a} is not UTF-8; give the text in that encoding") from None


def _conversion():
    """Imports what reads and writes checkpoints, without its native libraries' remarks."""
    with configuration.quiet_native_logs():
        from promot_jax import conversion, evaluation  # noqa: F401
    return conversion


def _open_checkpoint(arguments):
    """Returns (model, parameters) of a checkpoint with its adapters."""
    conversion = _conversion()
    from promot_jax import partitioning, pretrained

    model, source = pretrained.open_model(arguments.checkpoint, arguments.vocabulary)
    if model.vocabulary is None:
        raise UserError(f"{arguments.checkpoint} has no vocabulary; give one by --vocabulary")
    params = pretrained.load(source, model, partitioning.make_mesh())
    for adapter in arguments.adapter:
        model, params = pretrained.attach(model, params, *conversion.named(adapter))
    return model, params


def _decoder(arguments, usual):
    """Returns the search that the flags ask for, else the usual one, else greedy search."""
    from promot_jax import decoding

    if arguments.temperature is not None or arguments.top_k or arguments.top_p != 1:
        if arguments.beams is not None:
            raise UserError("--beams searches and --temperature samples; give one of them")
        temperature = 1.0 if arguments.temperature is None else arguments.temperature
        return decoding.Sample(temperature, arguments.top_k, arguments.top_p, arguments.seed or 0)
    if arguments.beams is not None:
        return decoding.Beam(arguments.beams)
    return usual or decoding.Greedy()


def _import(arguments, overrides) -> None:
    _no_overrides(overrides)
    for line in _conversion().import_model(
        arguments.source,
        arguments.out,
        vocabulary=arguments.vocabulary,
        adapters=arguments.adapter,
        may_miss=arguments.may_miss,
        may_skip=arguments.may_skip,
        dry_run=arguments.dry_run,
    ):
        print(line)


def _export(arguments, overrides) -> None:
    _no_overrides(overrides)
    conversion = _conversion()
    from promot_jax import models, partitioning, pretrained

    run = pathlib.Path(arguments.source)
    if arguments.format != "peft":
        _refuse(arguments, ("prompt",), "goes with --format peft; other formats take all prompts")
    if (run / "config.gin").is_file():
        _refuse(arguments, ("vocabulary",), "goes with a checkpoint, not with a run")
        runner, method, seed = _open_run(run, arguments)
        params = runner.trained_params(method, seed, runner.initial_params(seed))
        model = runner.experiment.model
        origin = {"run": run.name, "method": method.name, "seed": seed}
    else:
        _refuse(arguments, ("method", "seed"), "goes with a run, not with a checkpoint")
        model, source = pretrained.open_model(arguments.source, arguments.vocabulary)
        params = pretrained.load(source, model, partitioning.make_mesh())
        origin = {"checkpoint": arguments.source, "format": source.format}
    for line in conversion.export_model(
        model.with_prompts(models.prompts_of(params)),
        params,
        arguments.out,
        format_name=arguments.format,
        prompt=arguments.prompt,
        merge_lora=arguments.merge_lora,
        origin=origin,
        dry_run=arguments.dry_run,
    ):
        print(line)


def _open_run(run: pathlib.Path, arguments):
    """Returns (runner, method, seed) of a finished run, as --method and --seed choose."""
    config = run / "config.gin"
    if not config.is_file():
        raise UserError(f"{run} is no run folder: it has no config.gin")
    configuration.parse([str(config)])
    experiment, _, _ = configuration.built()
    from promot_jax.experiment import Runner

    runner = Runner(experiment, run)
    method = experiment.method(arguments.method or experiment.methods[-1].name)
    seed = experiment.seeds[0] if arguments.seed is None else arguments.seed
    for folder in method.folders:
        if not (run / f"seed_{seed}" / folder / "stage.json").exists():
            raise UserError(
                f"method {method.name!r} of seed {seed} is not finished in {run}; "
                "run the experiment to its end first"
            )
    return runner, method, seed


def _only_gin_flags(flags: Sequence[str]) -> None:
    for flag in flags:
        if not re.fullmatch(r"--gin\.[^=]+=.*", flag, re.DOTALL):
            raise UserError(f"unknown argument {flag!r}; values are set by --gin.NAME=VALUE")


def _refuse(arguments, flags: Sequence[str], why: str) -> None:
    """Raises UserError for a flag that was given and would do nothing."""
    for flag in flags:
        if getattr(arguments, flag) not in (None, []):
            raise UserError(f"--{flag} {why}; leave it out")


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
