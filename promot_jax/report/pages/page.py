"""The report as one self-contained HTML page: its head, summary and order."""

from html import escape

from promot_jax.report.charts.figures import Figure
from promot_jax.report.charts.palette import Style
from promot_jax.report.numbers import facts, frontier, gaps, points, summary
from promot_jax.report.pages import cards, sections, style
from promot_jax.report.records.records import Records

# Nothing may be fetched, so that the page says the same offline and in ten years.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(records: Records, styles: dict[str, Style], figures: list[Figure]) -> str:
    """Returns the page as HTML; figures are read from the run folder and embedded."""
    places = {name: place for place, name in enumerate(styles)}
    many = frontier.many(records)
    results = sections.results if many else cards.score_section
    parts = {
        "results": ("Results", results(records, places)),
        "frontier": ("Frontier", sections.front(records, places)),
        "points": (points.TITLE, sections.between(records, places)),
        "equal": ("At equal skill", sections.equal_target(records, places)),
        "probes": ("Probes", sections.probes(records)),
        "curves": ("Curves", sections.figures(records.folder, figures)),
        "outputs": ("Outputs", sections.samples(records, places)),
        "stages": ("Stages", sections.stages(records)),
        "setting": ("Setting", sections.setting(records)),
    }
    shown = {name: part for name, part in parts.items() if part[1]}
    links = "".join(f'<li><a href="#{name}">{part[0]}</a></li>' for name, part in shown.items())
    bodies = "\n".join(
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{part[0]}</h2>{part[1]}</section>'
        for name, part in shown.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(facts.title(records))}</title>
<style>{style.style_sheet(styles)}</style>
</head>
<body>
<header class="top">
{_header(records)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
{_notes(records)}
{"" if many else cards.glance(records, places)}
</header>
<main>
{bodies}
</main>
<footer>Made by <code>{escape(_command(records))}</code>. The numbers of the table, for programs:
<code>scores.csv</code>, <code>scores.json</code>.</footer>
</body>
</html>
"""


def _command(records: Records) -> str:
    runs = " ".join(run.folder.resolve().name for run in records.parts)
    out = f" --out {records.folder.resolve().name}" if records.runs else ""
    return f"promot report {runs}{out}"


def _header(records: Records) -> str:
    experiment = escape(str(records.about.get("experiment", records.folder.name)))
    date = escape(str(records.about.get("started") or "")[:10])
    seeds = summary.plural(len(records.seeds), "seed")
    parts = ("promot_jax", f"<b>{experiment}</b>", "" if records.runs else seeds, date)
    text = "".join(f"<p>{escape(_unbroken(part))}</p>" for part in summary.sentences(records))
    return (
        f'<p class="eyebrow">{" · ".join(part for part in parts if part)}</p>'
        f'<h1>{escape(facts.title(records))}</h1><div class="lede">{text}</div>'
        f'<p class="say">{escape(summary.reading(records))}</p>'
    )


def _unbroken(text: str) -> str:
    """Returns a text whose numbers keep together with ± and % at the end of a line."""
    return text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")


def _notes(records: Records) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in gaps.missing(records))
    if not notes:
        return ""
    return f'<aside class="note"><h2>What is missing</h2><ul>{notes}</ul></aside>'
