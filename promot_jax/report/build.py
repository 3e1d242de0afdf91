"""Builds the report of a run folder, or of several."""

import pathlib
from collections.abc import Sequence

from promot_jax.base import files
from promot_jax.base.errors import UserError
from promot_jax.experiment import run_folder
from promot_jax.experiment.run_folder import RunFolder
from promot_jax.report.charts import charts, figures, palette
from promot_jax.report.pages import exports, markdown, page
from promot_jax.report.records import merge, records
from promot_jax.report.records.records import Records

Folder = str | pathlib.Path


def build(*run_dirs: Folder, out: Folder | None = None) -> pathlib.Path:
    """Writes `report.html`, `report.md`, `scores.csv`, `scores.json` and `figures/`.

    A run may still be going on: what is missing is named in the report.

    Args:
      *run_dirs: run folders; the methods of several stand beside each other.
      out: folder that is written into; of a single run, the run folder itself by default.

    Returns:
      The path of `report.html`.

    Raises:
      UserError: a folder is no run folder, or its `run.json` cannot be understood; the runs cannot
        be compared; several runs have no `out`, or `out` is no folder of its own.
    """
    return write(read(run_dirs, out))


def read(run_dirs: Sequence[Folder], out: Folder | None = None) -> Records:
    """Reads the runs of a report; arguments and errors are those of `build`."""
    folder = _out(run_dirs, out)
    return merge.merge([records.read(run_dir) for run_dir in run_dirs], folder)


def write(found: Records) -> pathlib.Path:
    """Writes the report of records into their folder; returns the path of the page."""
    folder = found.folder
    folder.mkdir(parents=True, exist_ok=True)
    styles = palette.styles(found)
    drawn = figures.draw(charts.charts(found), styles, folder)
    for name, text in (
        (run_folder.MARKDOWN, markdown.markdown(found, drawn)),
        (run_folder.TABLE, exports.scores_csv(found)),
        (run_folder.VALUES, exports.scores_json(found)),
        (run_folder.PAGE, page.page(found, styles, drawn)),
    ):
        files.write_text(folder / name, text)
    return folder / run_folder.PAGE


def _out(run_dirs: Sequence[Folder], out: Folder | None) -> pathlib.Path:
    """Returns the folder that the report goes to, after checks."""
    if out is None:
        if len(run_dirs) > 1:
            raise UserError("the report of several runs needs a folder: give --out FOLDER")
        return pathlib.Path(run_dirs[0])
    folder = pathlib.Path(out)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; name a folder")
    if RunFolder(folder).about.exists():
        raise UserError(f"--out {folder} is a run folder itself; name another, such as a new one")
    return folder
