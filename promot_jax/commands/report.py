"""`promot report`: the page of a run, or of several beside each other."""

import pathlib

from promot_jax.base import files
from promot_jax.commands import flags


def add(commands) -> None:
    """Adds the command and its flags."""
    report = flags.command(
        commands,
        "report",
        _report,
        "Rebuild the report of a run, or put several runs beside each other.",
        "examples:\n"
        "  promot report runs/mini\n"
        "  promot report runs/mini runs/gentle --out runs/compared",
    )
    report.add_argument(
        "run",
        metavar="RUN",
        nargs="+",
        type=flags.folder,
        help="folder of a run; may be several: those that differ in their seeds alone are one",
    )
    report.add_argument(
        "--out",
        metavar="FOLDER",
        type=flags.folder,
        help="folder for the report (default: the run's own; needed for several runs)",
    )


def _report(arguments, overrides) -> None:
    flags.no_overrides(overrides)
    if arguments.out is not None and not (arguments.out.exists() and not arguments.out.is_dir()):
        files.check_writable(arguments.out, "--out")
    write(*arguments.run, out=arguments.out)


def write(*folders: pathlib.Path, out: pathlib.Path | None = None) -> None:
    """Writes the report of one run or several and prints its table."""
    from promot_jax.report import build
    from promot_jax.report.pages import terminal

    found = build.read(folders, out)
    page = build.write(found)
    print("\n" + terminal.terminal_table(found))
    if between := terminal.points_table(found):
        print("\n" + between)
    print(f"\nreport: {page}")
