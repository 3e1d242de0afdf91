"""The report as GitHub Markdown: the same table, figures and facts, figures linked by path."""

import re

from promot_jax.report import facts, scores, summary
from promot_jax.report.figures import Figure
from promot_jax.report.records import Records
from promot_jax.report.tables import Cell, Row, score_table


def markdown(records: Records, figures: list[Figure]) -> str:
    """Returns the report as Markdown."""
    words = [*summary.sentences(records), summary.reading(records)]
    parts = [f"# {_escaped(facts.title(records))}", _escaped(" ".join(words))]
    notes = summary.missing(records)
    if notes:
        parts.append("**What is missing**\n\n" + "\n".join(f"- {_escaped(note)}" for note in notes))
    if records.results:
        parts += ["## Results", _escaped(facts.scores_caption(records)), _scores(records)]
    if figures:
        parts.append("## Curves")
        parts += [_figure(figure) for figure in figures]
    if records.samples:
        parts += ["## Outputs", _escaped(facts.samples_caption(records)), *_samples(records)]
    if records.stages:
        parts += ["## Stages", _stages(records)]
    lines = [f"| {name} | {_escaped(text)} |" for name, text in facts.setting(records)]
    parts += ["## Setting", "\n".join(["| | |", "| --- | --- |", *lines])]
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
        _score_row(table.target, f"**{_escaped(table.target.label)}**, fine-tuned on"),
    ]
    if table.average:
        lines.append(_score_row(table.average, "**Norm. Avg.**"))
    for family, rows in table.families:
        lines.append(_table_row([f"*{_escaped(family)}*", "", *[""] * len(heads)]))
        lines += [_score_row(row, _escaped(row.label)) for row in rows]
    if table.share:
        lines.append(_score_row(table.share, f"**{_escaped(table.share.label)}**"))
    return "\n".join(lines)


def _score_row(row: Row, label: str) -> str:
    return _table_row([label, _escaped(row.unit), *map(_value, row.cells)])


def _value(cell: Cell) -> str:
    if cell.spread is None:
        return "–"
    if cell.difference is None:
        return str(cell.spread)
    return f"{cell.spread}<br>({scores.signed(cell.difference)})"


def _figure(figure: Figure) -> str:
    chart = figure.chart
    caption = f"\n\n{_escaped(chart.caption)}" if chart.caption else ""
    return f"### {_escaped(chart.title)}\n\n![{_escaped(chart.alt)}]({figure.light}){caption}"


def _samples(records: Records) -> list[str]:
    """Returns a table a task: examples down, methods across."""
    found = []
    for task, examples in facts.samples_by_task(records):
        methods = [m for m in records.methods if any(m.name in answers for answers in examples)]
        lines = [
            _table_row(["Input", "Target", *(_escaped(method.label) for method in methods)]),
            _table_row(["---"] * (2 + len(methods))),
        ]
        for answers in examples:
            example = next(iter(answers.values()))
            given = [answers[m.name].prediction if m.name in answers else "–" for m in methods]
            cells = [example.input, " / ".join(example.targets), *given]
            lines.append(_table_row([_escaped(cell) or "*(empty)*" for cell in cells]))
        found.append(f"### {_escaped(task.label)}\n\n" + "\n".join(lines))
    return found


def _stages(records: Records) -> str:
    heads = ["Stage", "Steps", "Best step", "Trained parameters", "Frozen parameters", "Time"]
    lines = [_table_row(heads), _table_row(["---", *["---:"] * (len(heads) - 1)])]
    for name in dict.fromkeys(run.name for run in records.stages):
        line = facts.stage_facts([run for run in records.stages if run.name == name])
        label = f"{name} ({line['lineage']})" if line["lineage"] else name
        values = [line[key] for key in ("steps", "best", "trainable", "frozen", "time")]
        lines.append(_table_row([_escaped(label), *map(_escaped, values)]))
    return "\n".join(lines)
