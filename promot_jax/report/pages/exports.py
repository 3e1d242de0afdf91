"""The numbers of the table as files for other programs: `scores.csv` and `scores.json`."""

import csv
import io
import json

from promot_jax.report.numbers.tables import Cell, Row, score_table
from promot_jax.report.records.records import MethodRecord, Records, TaskRecord

COLUMNS = (
    *("run", "method", "method_label", "seed", "kind", "task", "task_label", "family", "shots"),
    *("metric", "evaluated_as", "score", "count", "label_share"),
)


def scores_csv(records: Records) -> str:
    """Returns `score_rows` as CSV with a line of `COLUMNS`; what is None is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(score_rows(records))
    return text.getvalue()


def score_rows(records: Records) -> list[dict[str, object]]:
    """Returns one row a method, task and seed, with the keys `COLUMNS`.

    `kind` is "target" or "unseen"; `seed` is None for a method without training; `score` is from
    0 to 100, `count` the number of examples behind it, `label_share` per cent of outputs.
    """
    return [
        dict(zip(COLUMNS, _values(records, method, task, seed), strict=True))
        for method in records.methods
        for task in (*records.targets, *records.tasks)
        for seed in sorted(
            records.results.get((method.name, task.name), {}),
            key=lambda seed: (seed is not None, seed or 0),
        )
    ]


def _values(
    records: Records, method: MethodRecord, task: TaskRecord, seed: int | None
) -> list[object]:
    result = records.results[method.name, task.name][seed]
    kind = "target" if task in records.targets else "unseen"
    return [
        *(method.run, method.kind, method.label, seed, kind, task.name, task.label),
        *("" if kind == "target" else task.family, task.shots, task.metric),
        *(result.evaluated_as or task.name, result.score, result.count, result.label_share),
    ]


def scores_json(records: Records) -> str:
    """Returns the rows of the table as JSON: means, deviations, seeds, differences.

    Every number that the table of the report shows is there, with four decimals: `rows` go from
    top to bottom, and the `cells` of a row follow the order of `methods`.
    """
    table = score_table(records)
    rows = [_row(row, "target") for row in table.targets]
    for block in table.blocks:
        rows.append(_row(block.average, "average", block.shots))
        rows += [_row(row, "task") for _, members in block.families for row in members]
        if block.share:
            rows.append(_row(block.share, "label_share", block.shots))
    methods = [
        {"run": method.run, "method": method.kind, "label": method.label}
        for method in records.methods
    ]
    about = {"labels": records.labels, "methods": methods, "rows": rows}
    return json.dumps(about, indent=1, ensure_ascii=False) + "\n"


def _row(row: Row, kind: str, shots: int | None = None) -> dict:
    task = row.task
    return {
        "kind": kind,
        "label": row.label,
        "unit": row.unit,
        "task": task.name if task else None,
        "family": task.family if task and kind == "task" else None,
        "shots": task.shots if task else shots,
        "cells": [_value(cell) for cell in row.cells],
    }


def _value(cell: Cell) -> dict | None:
    """Returns a cell; `seeds` counts the values behind its mean, of which there may be one."""
    if cell.spread is None:
        return None
    return {
        "mean": _rounded(cell.spread.mean),
        "deviation": _rounded(cell.spread.deviation),
        "seeds": len(cell.spread.values),
        "difference_to_pretrained": _rounded(cell.difference),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
