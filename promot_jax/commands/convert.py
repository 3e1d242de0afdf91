"""`promot import` and `promot export`: models of and for other programs."""

import pathlib
from collections.abc import Iterable
from typing import Any

from promot_jax.base import files
from promot_jax.base.errors import UserError
from promot_jax.checkpoints.formats import WRITTEN
from promot_jax.commands import flags
from promot_jax.commands import models as opened
from promot_jax.experiment.run_folder import RunFolder

# Its writer takes two models.
DELTA = "delta"


def add_import(commands) -> None:
    """Adds the command and its flags."""
    load = flags.command(
        commands,
        "import",
        _import,
        "Turn a checkpoint of another program into a model folder of promot_jax.",
        "example:\n  promot import hf://google/mt5-small models/mt5_small --dry-run",
    )
    load.add_argument("source", metavar="PATH", type=flags.path, help=flags.ANY_CHECKPOINT)
    load.add_argument("out", metavar="OUT", type=flags.folder, help="new folder for the model")
    load.add_argument("--vocabulary", type=flags.path, help=flags.VOCABULARY)
    flags.adapters(load)
    for flag, meaning in [
        ("--may_miss", "leaves that are initialised where the checkpoint has none"),
        ("--may_skip", "names in the checkpoint that the model has no place for"),
    ]:
        load.add_argument(
            flag, action="append", default=[], metavar="PATTERN", help=f"{meaning}; may be repeated"
        )
    flags.dry_run(load)


def add_export(commands) -> None:
    """Adds the command and its flags."""
    export = flags.command(
        commands,
        "export",
        _export,
        "Write a model of a run, or of a checkpoint, for promot_jax or for another program.",
        "examples:\n"
        "  promot export runs/mini models/mini_rte\n"
        "  promot export models/mini_rte hf/mini_rte --format huggingface",
    )
    export.add_argument(
        "source",
        metavar="RUN",
        type=flags.path,
        help="folder of a run, or " + flags.ANY_CHECKPOINT,
    )
    export.add_argument("out", metavar="OUT", type=flags.folder, help="new folder")
    export.add_argument(
        "--format",
        choices=(*WRITTEN, DELTA),
        default="native",
        help="native: for promot_jax (the default); peft: one soft prompt or low-rank adapter; "
        "delta: what training changed in the model, which --adapter adds to the same start",
    )
    export.add_argument("--prompt", help="the soft prompt that --format peft writes")
    export.add_argument("--vocabulary", type=flags.path, help=flags.VOCABULARY)
    export.add_argument(
        "--merge_lora", action="store_true", help="add the low-rank adapter to the kernels first"
    )
    export.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights that --format huggingface writes (default: that of the source)",
    )
    flags.which_model(export)
    flags.dry_run(export)


def _import(arguments, overrides) -> None:
    flags.no_overrides(overrides)
    files.check_new(arguments.out)
    _say(
        opened.checkpoint_tools().import_model(
            arguments.source,
            arguments.out,
            vocabulary=arguments.vocabulary,
            adapters=arguments.adapter,
            merge_deltas=arguments.merge_deltas,
            may_miss=arguments.may_miss,
            may_skip=arguments.may_skip,
            dry_run=arguments.dry_run,
        )
    )


def _export(arguments, overrides) -> None:
    flags.no_overrides(overrides)
    files.check_new(arguments.out)
    conversion = opened.checkpoint_tools()
    from promot_jax.base import partitioning
    from promot_jax.checkpoints import pretrained

    run = pathlib.Path(arguments.source)
    if arguments.format != "huggingface":
        flags.refuse(arguments, ("dtype",), "goes with --format huggingface; others have float32")
    if arguments.format != "peft":
        flags.refuse(
            arguments, ("prompt",), "goes with --format peft; other formats take all prompts"
        )
    if RunFolder(run).config.is_file():
        flags.refuse(arguments, ("vocabulary",), "goes with a checkpoint, not with a run")
        runner, method, seed = opened.open_run(run, arguments.method, arguments.seed)
        trained = runner.trained(method, seed, arguments.at)
        model, params = trained.model, trained.params
        origin = {"run": run.name, "method": method.name, "seed": seed}
        origin |= {} if arguments.at is None else {"at": arguments.at}
        if arguments.format == DELTA:
            start, end = runner.start.apart(seed, params)
            given = {"origin": origin, "dry_run": arguments.dry_run}
            _say(conversion.export_delta(start, end, arguments.out, **given))
            return
        source, beside = _around(runner, model)
    else:
        flags.refuse(arguments, ("method", "seed", "at"), "goes with a run, not with a checkpoint")
        if arguments.format == DELTA:
            raise UserError("--format delta goes with a run: it is what its training changed")
        model, source = pretrained.open_model(arguments.source, arguments.vocabulary)
        params = pretrained.load(source, model, partitioning.make_mesh())
        origin = {"checkpoint": arguments.source, "format": source.format}
        beside = pretrained.beside(source, model.vocabulary)
    _say(
        conversion.export_model(
            model.with_prompts_of(params),
            params,
            arguments.out,
            format_name=arguments.format,
            prompt=arguments.prompt,
            merge_lora=arguments.merge_lora,
            origin=origin,
            beside=beside,
            dtype=_dtype(arguments.dtype, source),
            dry_run=arguments.dry_run,
        )
    )


def write_huggingface(runner, trained, origin: dict[str, Any], out: pathlib.Path, merge_lora: bool):
    """Writes what a run trained as a Hugging Face folder, as `promot export` does.

    Args:
      runner: of the run.
      trained: what one of its methods ended with.
      origin: of the model.
      out: new folder.
      merge_lora: adds the low-rank adapter to the kernels first.
    """
    conversion = opened.checkpoint_tools()
    source, beside = _around(runner, trained.model)
    model = trained.model.with_prompts_of(trained.params)
    given = {"origin": origin, "beside": beside, "dtype": _dtype(None, source)}
    given |= {"format_name": "huggingface", "merge_lora": merge_lora}
    for _ in conversion.export_model(model, trained.params, out, **given):
        pass


def _around(runner, model) -> tuple[Any, dict[str, bytes]]:
    """Returns the source that a run started from, if any, and the files beside what it tuned."""
    from promot_jax.checkpoints import pretrained
    from promot_jax.checkpoints.formats import known
    from promot_jax.experiment import loaded

    if runner.experiment.initial_checkpoint is None:
        return None, {}
    source = known.open_checkpoint(runner.experiment.initial_checkpoint)
    beside = pretrained.beside(source, model.vocabulary)
    if beside and model.vocabulary is not None:
        beside = loaded.beside_tuned(beside, runner.experiment, source.path)
    return source, beside


def _dtype(asked: str | None, source) -> str:
    from promot_jax.checkpoints.formats import huggingface

    dtype = asked or (source.dtype if source else "float32")
    return dtype if dtype in huggingface.DTYPES else "float32"


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)
