"""`promot paper`: the paper's tables and figures, run and compared."""

import pathlib
import signal
import subprocess
import sys

from promot_jax import configuration
from promot_jax.base import files
from promot_jax.base.errors import UserError
from promot_jax.commands import flags
from promot_jax.experiment import run_folder
from promot_jax.paper import catalog


def add(commands) -> None:
    """Adds the command and its flags."""
    paper = flags.command(
        commands,
        "paper",
        _paper,
        "List the paper's tables and figures, or run one and put its scores beside the paper's.",
        "What is finished is not repeated, and runs are shared between tables.\n\n"
        "examples:\n"
        "  promot paper\n"
        "  promot paper table-3 --dry-run\n"
        "  promot paper table-3 --model mini --seeds 0,1,2",
    )
    paper.add_argument("item", metavar="ITEM", nargs="?", help="such as table-3 or figure-2")
    paper.add_argument(
        "--model", help="folder of experiments, such as mini or mt5_xl (default: the paper's)"
    )
    paper.add_argument(
        "--seeds",
        type=flags.seeds,
        help="seeds to run, such as 0,1,2 (default: the experiment's)",
    )
    paper.add_argument(
        "--runs",
        type=flags.folder,
        default=catalog.RUNS_FOLDER,
        metavar="FOLDER",
        help="where the runs lie, in FOLDER/MODEL/RUN (default: %(default)s)",
    )
    paper.add_argument(
        "--dry-run", action="store_true", help="print runs, stages and what is finished, then stop"
    )
    paper.add_argument(
        "--collect", action="store_true", help="only build the table from what has been run"
    )
    flags.add_gin_values(paper, "change one value of every run")


def _paper(arguments, overrides) -> None:
    if arguments.item is None:
        flags.refuse(arguments, ("model", "seeds", "collect"), "needs a table or figure")
        if arguments.dry_run or overrides:
            raise UserError(f"{(*overrides, '--dry-run')[0]} needs a table or figure")
        print(listing())
        return
    item = catalog.item(arguments.item)
    model = arguments.model or item.model
    _check(arguments, overrides)
    if not arguments.collect and not _run(item, model, arguments, overrides):
        return
    if item.columns:
        _table(item, model, arguments.runs)
    else:
        _pointer(item, model, arguments.runs)


def listing() -> str:
    """Returns the paper's tables and figures with their runs, one a line."""
    found = catalog.models()
    rows = [("", "", "model", "runs")]
    for item in catalog.ITEMS:
        runs = ", ".join(item.runs) or f"see `{item.shown}`"
        rows.append((item.id, item.title, item.model, runs))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines += ["", "A run is the experiment paper/MODEL/RUN. Models, for --model:"]
    width = max(map(len, found))
    lines += [
        f"  {model:<{width}}  {catalog.model_label(model)}: {', '.join(runs)}"
        for model, runs in found.items()
    ]
    return "\n".join(lines)


def _check(arguments, overrides) -> None:
    if not arguments.dry_run:
        files.check_writable(arguments.runs, "--runs")
    if arguments.collect:
        flags.refuse(arguments, ("seeds", "dry_run"), "does nothing with --collect")
        if overrides:
            raise UserError(f"{overrides[0]} does nothing with --collect; leave it out")
    instead = {"MODEL_DIR": "--runs", "SEEDS": "--seeds", "METHODS": "a table or figure"}
    for flag in overrides:
        name = flag.removeprefix("--gin.").split("=", 1)[0].strip()
        if name in instead:
            raise UserError(f"--gin.{name} is chosen by {instead[name]} here; leave it out")


def _run(item, model: str, arguments, overrides) -> bool:
    """Runs what an item needs, or shows it; says whether it was run."""
    with configuration.quiet_native_logs():
        from promot_jax.paper import schedule

    if not arguments.dry_run:
        schedule.refuse_missing(item, model, overrides)
    runs = schedule.runs(
        item,
        model,
        seeds=arguments.seeds,
        overrides=overrides,
        runs_folder=arguments.runs,
    )
    print(f"{item.id}: {item.title} ({catalog.model_label(model)})")
    for run in runs:
        print("\n" + "\n".join(schedule.lines(run)))
    if arguments.dry_run:
        if names := schedule.missing(model, overrides):
            print(f"\nno default, give it by --gin: {', '.join(names)}")
        return False
    for run in runs:
        # A changed value makes another run: that `promot run` finds out.
        if run.finished and not overrides:
            continue
        print(f"\n{run.command}", flush=True)
        if code := _call([sys.executable, "-m", "promot_jax.cli", *run.arguments]):
            raise UserError(
                f"{run.experiment} stopped with exit code {code}, its own line stands above; "
                f"`promot paper {item.id} --model {model}` continues where it stopped"
            )
    return True


def _table(item, model: str, runs_folder: pathlib.Path) -> None:
    from promot_jax.paper import pages, results

    comparison = results.compare(item, model, runs_folder)
    print("\n" + pages.terminal(comparison))
    for path in pages.write(comparison, runs_folder / model):
        print(path)


def _pointer(item, model: str, runs_folder: pathlib.Path) -> None:
    """Says where in the runs' reports a figure or the outputs stand."""
    for run in catalog.runs_of(item, model):
        folder = runs_folder / model / run
        drawn = item.shown.startswith(f"{run_folder.FIGURES}/")
        if not (folder / (item.shown if drawn else run_folder.PAGE)).is_file():
            raise UserError(
                f"{folder} has no report with {item.id}; `promot paper {item.id} --model {model}` "
                "makes it"
            )
        where = folder / item.shown if drawn else f"section {item.shown!r}"
        print(f"{item.id}: {where} of {folder / run_folder.PAGE}")


def _call(words: list[str]) -> int:
    """Runs a command to its end; it does not outlive this process when that is told to stop."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return subprocess.run(words).returncode
    finally:
        signal.signal(signal.SIGTERM, before)
