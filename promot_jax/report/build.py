"""Builds the report of a run folder."""

import pathlib

from promot_jax.report import charts, figures, markdown, page, palette, records


def build(run_dir: str | pathlib.Path) -> pathlib.Path:
    """Writes `report.html`, `report.md` and `figures/` into a run folder.

    The run may still be going on: what is missing is named in the report.

    Returns:
      The path of `report.html`.

    Raises:
      UserError: the folder is no run folder, or its `run.json` cannot be understood.
    """
    found = records.read(run_dir)
    styles = palette.styles(found)
    drawn = figures.draw(charts.charts(found), styles, found.folder)
    (found.folder / "report.md").write_text(markdown.markdown(found, drawn), encoding="utf-8")
    html = found.folder / "report.html"
    html.write_text(page.page(found, styles, drawn), encoding="utf-8")
    return html
