"""`promot report`: the page of a run."""

import pathlib

from promot_jax.commands import flags


def add(commands) -> None:
    """Adds the command and its flags."""
    report = flags.command(
        commands, "report", _report, "Rebuild report.html and report.md of a run."
    )
    report.add_argument("run", metavar="RUN", type=pathlib.Path, help="folder of a run")


def _report(arguments, overrides) -> None:
    flags.no_overrides(overrides)
    write(arguments.run)


def write(folder: pathlib.Path) -> None:
    """Writes the report of a run and prints its table."""
    from promot_jax.report import build, records, tables

    page = build.build(folder)
    print("\n" + tables.terminal_table(records.read(folder)))
    print(f"\nreport: {page}")
