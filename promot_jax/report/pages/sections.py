"""Sections of the report page below the results: figures, outputs, stages, setting."""

import base64
import dataclasses
import pathlib
from html import escape

from promot_jax.report.charts.figures import Figure
from promot_jax.report.numbers import equal_target as equal
from promot_jax.report.numbers import facts, frontier, points
from promot_jax.report.numbers import probes as probed
from promot_jax.report.numbers.tables import Table, by_method, with_shots
from promot_jax.report.pages import outputs
from promot_jax.report.records.records import MethodRecord, Records, Sample, TaskRecord

# Texts of more examples than this a task stay folded.
_OPEN_SAMPLES = 1


def equal_target(records: Records, places: dict[str, int]) -> str:
    """Returns the tables of what each method kept at equal skill."""
    found = (table for one in equal.comparisons(records) for table in one.tables(records))
    return "".join(_table(table, places) for table in found)


def between(records: Records, places: dict[str, int]) -> str:
    """Returns the table of points that were scored without training."""
    table = points.table(records)
    return _table(table, places) if table else ""


def results(records: Records, places: dict[str, int]) -> str:
    """Returns caption and table of results, with a method a line."""
    table = dataclasses.replace(
        by_method(records, whole=True),
        caption=facts.scores_caption(records),
    )
    return _table(table, places)


def front(records: Records, places: dict[str, int]) -> str:
    """Returns the tables of what no other method beats."""
    return "".join(_table(table, places) for table in frontier.tables(records))


def _table(table: Table, places: dict[str, int]) -> str:
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in table.heads)
    rows = "".join(
        f'<tr><th scope="row" class="m{places[method.name]}"><span class="swatch"></span>'
        f"{escape(method.label)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for method, cells in table.rows
    )
    return f"""<p class="say">{escape(table.caption)}</p>
<div class="card scroll" tabindex="0" role="region" aria-label="Table, scrolls sideways">
<table class="skill"><thead><tr><th scope="col">Method</th>{heads}</tr></thead>
<tbody>{rows}</tbody></table></div>"""


def probes(records: Records) -> str:
    """Returns the table of what probes measured, figures down and methods across."""
    measured = probed.rows(records)
    if not measured:
        return ""
    heads = "".join(f'<th scope="col">{escape(method.label)}</th>' for method in records.methods)
    rows = "".join(
        f'<tr><th scope="row">{escape(row.figure.label)}<br>'
        f"<small>{escape(row.figure.unit)}</small></th>"
        f"{''.join(f'<td>{cell}</td>' for cell in row.cells)}</tr>"
        for row in measured
    )
    return f"""<p class="say">{escape(probed.CAPTION)}</p>
<div class="card scroll" tabindex="0" role="region" aria-label="Table, scrolls sideways">
<table class="skill"><thead><tr><th scope="col">Figure</th>{heads}</tr></thead>
<tbody>{rows}</tbody></table></div>"""


def figures(folder: pathlib.Path, drawn: list[Figure]) -> str:
    """Returns the figures, light and dark, as data URIs; small ones in a row of their own."""
    large = "".join(_figure(folder, figure) for figure in drawn if not figure.chart.small)
    small = "".join(_figure(folder, figure) for figure in drawn if figure.chart.small)
    return (f'<div class="figures">{large}</div>' if large else "") + (
        f'<div class="figures small">{small}</div>' if small else ""
    )


def _figure(folder: pathlib.Path, figure: Figure) -> str:
    chart = figure.chart
    light, dark = (_data_uri(folder / name) for name in (figure.light, figure.dark))
    caption = f"<p>{escape(chart.caption)}</p>" if chart.caption else ""
    return f"""<figure class="card"><picture>
<source media="(prefers-color-scheme: dark)" srcset="{dark}">
<img src="{light}" alt="{escape(chart.alt)}"></picture>
<figcaption><h3>{escape(chart.title)}</h3>{caption}</figcaption></figure>
"""


def _data_uri(path: pathlib.Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def samples(records: Records, places: dict[str, int]) -> str:
    """Returns sample outputs by task, the methods' answers side by side."""
    articles = []
    for task, examples in outputs.samples_by_task(records):
        shown = [_sample(records, places, task, example) for example in examples]
        rest = ""
        if len(shown) > _OPEN_SAMPLES:
            more = len(shown) - _OPEN_SAMPLES
            rest = (
                f"<details><summary>{more} more</summary>{''.join(shown[_OPEN_SAMPLES:])}</details>"
            )
        note = "fine-tuned" if task in records.targets else task.family
        articles.append(
            f'<article class="card"><h3>{escape(with_shots(records, task))}'
            f'<span class="family">{escape(note)}</span></h3>'
            f"{''.join(shown[:_OPEN_SAMPLES])}{rest}</article>"
        )
    if not articles:
        return ""
    return (
        f'<p class="say">{escape(outputs.samples_caption(records))}</p>'
        f'<div class="samples">{"".join(articles)}</div>'
    )


def _sample(records, places, task: TaskRecord, answers: dict[str, Sample]) -> str:
    example = next(iter(answers.values()))
    outputs = "".join(
        f'<dt class="m{places[method.name]}"><span class="swatch"></span>'
        f"{escape(method.label)}</dt><dd>{_answer(records, task, answers[method.name])}</dd>"
        for method in frontier.shown(records)
        if method.name in answers
    )
    return (
        f'<div class="sample"><div><h4>Input</h4><p class="text given">{escape(example.input)}</p>'
        f'<h4>Target</h4><p class="text">{escape(" / ".join(example.targets))}</p></div>'
        f'<div><h4>Outputs</h4><dl class="outputs">{outputs}</dl></div></div>'
    )


def _answer(records: Records, task: TaskRecord, sample: Sample) -> str:
    text = escape(sample.prediction) if sample.prediction.strip() else "<em>(empty)</em>"
    if targets := outputs.leaked_from(records, task, sample):
        return f'{text}<span class="mark leak">answer of {escape(targets)}</span>'
    return f'{text}<span class="mark">✓ target</span>' if sample.matches else text


def stages(records: Records) -> str:
    """Returns the table of stages of each run: who uses them, steps, best steps, sizes, time."""
    tables = [(_heading(records, run) + _stage_table(run)) for run in records.parts if run.stages]
    if not tables:
        return ""
    return (
        '<p class="say">A stage starts from the best checkpoint of the one before it; stages that '
        f"several methods share run once. Steps and times are per seed.</p>{''.join(tables)}"
    )


def _heading(records: Records, run: Records) -> str:
    """Returns the name of one of several runs, nothing for a single run."""
    return f'<h3 class="run">{escape(str(run.about["experiment"]))}</h3>' if records.runs else ""


def _stage_table(run: Records) -> str:
    names = dict.fromkeys(stage.name for stage in run.stages)
    rows = "".join(_stage_row(run, name) for name in names)
    heads = "".join(f'<th scope="col">{head}</th>' for head in facts.STAGE_HEADS.values())
    return f"""
<div class="card scroll" tabindex="0" role="region" aria-label="Table of stages, scrolls sideways">
<table class="stages"><thead><tr><th scope="col">Stage</th><th scope="col">Part of</th>{heads}
</tr></thead><tbody>{rows}</tbody></table></div>"""


def _stage_row(run: Records, name: str) -> str:
    line = facts.stage_facts(run, name)
    users = ", ".join(_part(method, name) for method in run.methods if name in method.stages)
    cells = "".join(f"<td>{escape(line[key])}</td>" for key in facts.STAGE_HEADS)
    lineage = f"<br><small>{escape(line['lineage'])}</small>"
    return f'<tr><th scope="row">{escape(name)}{lineage}</th><td>{escape(users)}</td>{cells}</tr>'


def _part(method: MethodRecord, stage: str) -> str:
    """Returns "ProMoT (1 of 2)" for a method of several stages, its label for one of one."""
    if len(method.stages) == 1:
        return method.label
    return f"{method.label} ({method.stages.index(stage) + 1} of {len(method.stages)})"


def setting(records: Records) -> str:
    """Returns command, machine, seeds and times of each run, the configuration folded."""
    return "".join(_heading(records, run) + _setting(run) for run in records.parts)


def _setting(run: Records) -> str:
    lines = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.setting(run)
    )
    text = escape(run.configuration)
    config = (
        f"<details><summary>Configuration (config.gin)</summary><pre>{text}</pre></details>"
        if text.strip()
        else ""
    )
    return f'<dl class="facts card">{lines}</dl>{config}'
