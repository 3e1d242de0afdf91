"""`promot check`: what a model kept of the one that it was tuned from."""

import functools
import importlib
import pathlib
from typing import Any

from promot_jax.base import files, values
from promot_jax.base.errors import UserError
from promot_jax.commands import flags, models
from promot_jax.experiment.run_folder import RunFolder


class NotKept(UserError):
    """A promise that was not kept, or that the rows are too few to tell of."""

    code = 3


def add(commands) -> None:
    """Adds the command and its flags."""
    check = flags.command(
        commands,
        "check",
        _check,
        "Say what a tuned model kept of its start: exit code 3 if less than was promised.",
        "Both models answer the same rows, of a bank of questions or of your own files.\n\n"
        "examples:\n"
        "  promot check --start SmolLM2-135M.gguf --model tuned/ --keep 98\n"
        "  promot check --model runs/mini --unseen facts.jsonl --certificate kept.json",
    )
    check.add_argument(
        "--model",
        required=True,
        type=flags.path,
        help="folder of a run, or " + flags.ANY_CHECKPOINT,
    )
    check.add_argument(
        "--start",
        type=flags.path,
        help="what it was tuned from (default: what the run started from)",
    )
    check.add_argument(
        "--keep",
        type=flags.number(float, values.Percent),
        metavar="PERCENT",
        help="the share of the start's scores that is to be kept, at least and surely",
    )
    check.add_argument(
        "--unseen",
        metavar="[METRIC=]FILE",
        action="append",
        type=flags.path,
        help="rows with the fields input and target, or of chat, in place of the bank; may be "
        "repeated (default metric: exact_match)",
    )
    check.add_argument(
        "--limit", type=flags.number(int, values.Count), help="rows of each task (default: all)"
    )
    check.add_argument(
        "--confidence",
        type=flags.number(float, values.Percent),
        default=95.0,
        help="of what is kept at least, in per cent (default: 95)",
    )
    check.add_argument(
        "--certificate", type=flags.folder, metavar="FILE", help="keep what was found as JSON"
    )
    check.add_argument("--vocabulary", type=flags.path, help=flags.VOCABULARY)
    flags.adapters(check)
    check.add_argument(
        "--prompt", default="none", help="soft prompt to attach to the model, or none (the default)"
    )
    check.add_argument("--lora", action="store_true", help="attach the adapters of the run")
    check.add_argument(
        "--batch_size",
        type=flags.number(int, values.Count),
        default=32,
        help="rows that are answered together (default: 32)",
    )
    flags.which_model(check)


def _check(arguments, overrides) -> None:
    flags.no_overrides(overrides)
    if arguments.certificate is not None:
        files.check_writable(arguments.certificate.parent, "--certificate")
    is_run = RunFolder(pathlib.Path(arguments.model)).config.is_file()
    if arguments.start is None and not is_run:
        raise UserError(f"{arguments.model} is no run; give --start, the model it was tuned from")
    models.checkpoint_tools()
    from promot_jax.base import partitioning
    from promot_jax.experiment import certificate, comparison

    partitioning.keep_compiled()
    model, start_path = _model(arguments, is_run)
    rows = comparison.Rows(
        _tasks(arguments, start_path), limit=arguments.limit, batch_size=arguments.batch_size
    )
    known, answers = {}, {}
    answers["model"] = comparison.answers(model, rows, "model")
    known["model"] = described(arguments.model, model) | {"attached": _attached(model)}
    # One model is in memory at a time.
    del model
    start = models.load(start_path, None, None, None, _vocabulary(arguments, start_path))
    answers["start"] = comparison.answers(start, rows, "start")
    known["start"] = described(start_path, start)
    found = comparison.compared(rows, answers["start"], answers["model"], arguments.confidence)
    print("\n".join(table(found)))
    if arguments.certificate is not None:
        content = certificate.facts(found, rows, known, arguments.confidence, arguments.keep)
        files.write_json(arguments.certificate, content)
        print(f"certificate: {arguments.certificate}")
    judge(found.kept, arguments)


def _model(arguments, is_run: bool) -> tuple[Any, str]:
    """Returns the model with what it is asked with, and the path of its start."""
    if not is_run:
        flags.refuse(arguments, ("method", "seed", "at", "lora"), "goes with a run")
        model = models.with_adapters(arguments.model, arguments)
        return _prompted(model, arguments), arguments.start
    flags.refuse(arguments, ("adapter", "merge_deltas"), "goes with a checkpoint, not with a run")
    runner, method, seed = models.open_run(
        pathlib.Path(arguments.model), arguments.method, arguments.seed
    )
    from promot_jax.experiment import loaded

    model = loaded.of_run(runner, method, seed, arguments.at)
    # Adapters that are in use for every task are part of the model.
    if arguments.lora or method.unseen.adapters:
        model = model.with_lora()
    start = arguments.start or runner.experiment.initial_checkpoint
    if start is None:
        raise UserError(f"{arguments.model} started from nothing; give --start")
    return _prompted(model, arguments), start


def _prompted(model, arguments):
    return model.with_prompt(None if arguments.prompt == "none" else arguments.prompt)


def _vocabulary(arguments, path: str) -> str | None:
    return None if RunFolder(pathlib.Path(path)).config.is_file() else arguments.vocabulary


def _tasks(arguments, start: str) -> list:
    """Returns the tasks that both models are asked."""
    from promot_jax.checkpoints import chat_templates
    from promot_jax.experiment import evaluation

    unseen_files = importlib.import_module("promot_jax.tasks.unseen_files")
    read = functools.partial(chat_templates.read, start, arguments.vocabulary)
    return evaluation.unseen_tasks(
        unseen_files.tasks(arguments.unseen, chat_template=read), task_feature_lengths=None
    )


def described(path: str, model) -> dict[str, Any]:
    """Returns what a certificate says of a `LoadedModel`."""
    from promot_jax.base import trees

    return {"path": path, "checksum": trees.checksum(model.params)}


def _attached(model) -> dict[str, Any]:
    return {"prompt": model.attached.prompt, "adapters": model.attached.adapters is not None}


def table(found) -> list[str]:
    """Returns the lines of the table of a comparison."""
    heads = ["task", "metric", "rows", "start", "model", "kept", "at least", "same answer"]
    lines = [heads]
    for one in found.of_tasks:
        start, model = one.pair.whole
        kept = ("–", "–") if one.kept is None else map(_decimal, (one.kept.share, one.kept.low))
        lines.append(
            [
                *(one.task.label, one.task.metric, str(len(one.pair))),
                *(_decimal(start), _decimal(model), *kept, _decimal(one.pair.agreement)),
            ]
        )
    whole = found.kept
    shares = map(_decimal, (whole.share, whole.low, found.agreement))
    lines.append(["all", "", str(whole.rows), "", "", *shares])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join([*map(str.ljust, line[:2], widths[:2]), *map(str.rjust, line[2:], widths[2:])])
        for line in lines
    ]
    repeats = [
        f"{one.task.label}: the model says {one.most_said!r} to {one.said[1]:.0f} % of the rows, "
        f"its start to {one.said[0]:.0f} %"
        for one in found.of_tasks
        if one.repeats
    ]
    return [rows[0], "─" * len(rows[0]), *rows[1:-1], "─" * len(rows[0]), rows[-1], *repeats]


def _decimal(value: float) -> str:
    return f"{value:.1f}"


def judge(kept, arguments) -> None:
    """Raises NotKept unless what was promised was kept."""
    said = (
        f"kept {kept.share:.1f} % of the start's scores, at least {kept.low:.1f} % at "
        f"{arguments.confidence:g} % confidence"
    )
    if arguments.keep is None:
        print(said)
        return
    verdict = kept.verdict(arguments.keep)
    if verdict == "kept":
        print(f"{said}; promised {arguments.keep:g} %: kept")
        return
    if verdict == "lost":
        raise NotKept(f"{said}; promised {arguments.keep:g} %: not kept")
    more = kept.rows_for(arguments.keep)
    mend = "more rows would not show it" if more is None else f"about {more} rows would tell"
    raise NotKept(f"{said}; promised {arguments.keep:g} %: not shown ({mend})")
