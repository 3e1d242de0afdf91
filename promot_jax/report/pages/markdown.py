"""The report as GitHub Markdown: the same table, figures and facts, figures linked by path."""

import re

from promot_jax.report.charts.figures import Figure
from promot_jax.report.numbers import (
    equal_target,
    facts,
    frontier,
    gaps,
    points,
    probes,
    scores,
    summary,
)
from promot_jax.report.numbers.tables import Cell, Row, Table, by_method, score_table, with_shots
from promot_jax.report.pages import outputs
from promot_jax.report.records.records import Records


def markdown(records: Records, figures: list[Figure]) -> str:
    """Returns the report as Markdown."""
    words = [*summary.sentences(records), summary.reading(records)]
    parts = [f"# {_escaped(facts.title(records))}", *map(_escaped, words)]
    notes = gaps.missing(records)
    if notes:
        parts.append("**What is missing**\n\n" + "\n".join(f"- {_escaped(note)}" for note in notes))
    if records.results:
        table = by_method(records, whole=True) if frontier.many(records) else None
        shown = _comparison(table) if table else _scores(records)
        parts += ["## Results", _escaped(facts.scores_caption(records)), shown]
    for table in frontier.tables(records):
        parts += ["## Frontier", _escaped(table.caption), _comparison(table)]
    if table := points.table(records):
        parts += [f"## {points.TITLE}", _escaped(table.caption), _comparison(table)]
    for comparison in equal_target.comparisons(records):
        parts.append(f"## At equal {_escaped(comparison.target.label)} score")
        for table in comparison.tables(records):
            parts += [_escaped(table.caption), _comparison(table)]
    if measured := probes.rows(records):
        parts += ["## Probes", _escaped(probes.CAPTION), _probes(records, measured)]
    if figures:
        parts.append("## Curves")
        parts += [_figure(figure) for figure in figures]
    if records.samples:
        parts += ["## Outputs", _escaped(outputs.samples_caption(records)), *_samples(records)]
    if records.stages:
        parts.append("## Stages")
        parts += [_heading(records, run) + _stages(run) for run in records.parts if run.stages]
    parts.append("## Setting")
    parts += [_heading(records, run) + _setting(run) for run in records.parts]
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    """Returns a text in one line, without a meaning in Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(text.split()))


def _table_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _scores(records: Records) -> str:
    table = score_table(records)
    heads = [_escaped(method.label) for method in records.methods]
    lines = [
        _table_row(["Task", "Metric", *heads]),
        _table_row(["---", "---", *["---:"] * len(heads)]),
    ]
    lines += [_score_row(row, f"**{_escaped(row.label)}**, fine-tuned on") for row in table.targets]
    for block in table.blocks:
        if block.title:
            lines.append(_table_row([f"**{block.title} tasks**", "", *[""] * len(heads)]))
        lines.append(_score_row(block.average, "**Norm. Avg.**"))
        for family, rows in block.families:
            lines.append(_table_row([f"*{_escaped(family)}*", "", *[""] * len(heads)]))
            lines += [_score_row(row, _escaped(row.label)) for row in rows]
        if block.share:
            lines.append(_score_row(block.share, f"**{_escaped(block.share.label)}**"))
    return "\n".join(lines)


def _score_row(row: Row, label: str) -> str:
    return _table_row([label, _escaped(row.unit), *map(_value, row.cells)])


def _value(cell: Cell) -> str:
    if cell.spread is None:
        return "–"
    if cell.difference is None:
        return str(cell.spread)
    return f"{cell.spread}<br>({scores.signed(cell.difference)})"


def _comparison(table: Table) -> str:
    lines = [
        _table_row(["Method", *map(_escaped, table.heads)]),
        _table_row(["---", *["---:"] * len(table.heads)]),
    ]
    lines += [_table_row([*map(_escaped, (method.label, *cells))]) for method, cells in table.rows]
    return "\n".join(lines)


def _probes(records: Records, measured: list[probes.Row]) -> str:
    heads = [_escaped(method.label) for method in records.methods]
    lines = [
        _table_row(["Figure", "Unit", *heads]),
        _table_row(["---", "---", *["---:"] * len(heads)]),
    ]
    for row in measured:
        names = (row.figure.label, row.figure.unit)
        lines.append(_table_row([*map(_escaped, names), *row.cells]))
    return "\n".join(lines)


def _figure(figure: Figure) -> str:
    chart = figure.chart
    caption = f"\n\n{_escaped(chart.caption)}" if chart.caption else ""
    return f"### {_escaped(chart.title)}\n\n![{_escaped(chart.alt)}]({figure.light}){caption}"


def _samples(records: Records) -> list[str]:
    """Returns a table a task: examples down, methods across."""
    found = []
    for task, examples in outputs.samples_by_task(records):
        methods = [
            method
            for method in frontier.shown(records)
            if any(method.name in answers for answers in examples)
        ]
        lines = [
            _table_row(["Input", "Target", *(_escaped(method.label) for method in methods)]),
            _table_row(["---"] * (2 + len(methods))),
        ]
        for answers in examples:
            example = next(iter(answers.values()))
            given = [answers[m.name].prediction if m.name in answers else "–" for m in methods]
            cells = [example.input, " / ".join(example.targets), *given]
            lines.append(_table_row([_escaped(cell) or "*(empty)*" for cell in cells]))
        found.append(f"### {_escaped(with_shots(records, task))}\n\n" + "\n".join(lines))
    return found


def _heading(records: Records, run: Records) -> str:
    """Returns the name of one of several runs, nothing for a single run."""
    return f"### {_escaped(str(run.about['experiment']))}\n\n" if records.runs else ""


def _stages(run: Records) -> str:
    lines = [
        _table_row(["Stage", *facts.STAGE_HEADS.values()]),
        _table_row(["---", "---", *["---:"] * (len(facts.STAGE_HEADS) - 1)]),
    ]
    for name in dict.fromkeys(stage.name for stage in run.stages):
        line = facts.stage_facts(run, name)
        values = [line[key] for key in facts.STAGE_HEADS]
        lines.append(_table_row([_escaped(f"{name} ({line['lineage']})"), *map(_escaped, values)]))
    return "\n".join(lines)


def _setting(run: Records) -> str:
    lines = [f"| {name} | {_escaped(text)} |" for name, text in facts.setting(run)]
    return "\n".join(["| | |", "| --- | --- |", *lines])
