"""A comparison as text for a terminal, as Markdown, CSV and JSON."""

import csv
import io
import json
import pathlib
import textwrap

from promot_jax.base import files
from promot_jax.experiment import run_folder
from promot_jax.paper import catalog
from promot_jax.paper.results import AVERAGE, Cell, Comparison, Ordering
from promot_jax.report.numbers import scores

WIDTH = 110
_GAP = 2


def write(comparison: Comparison, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes `ID.md`, `ID.json` and `ID.csv` into a folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"md": markdown(comparison), "json": as_json(comparison), "csv": as_csv(comparison)}
    paths = []
    for ending, text in texts.items():
        paths.append(folder / f"{comparison.item.id}.{ending}")
        files.write_text(paths[-1], text)
    return paths


def terminal(comparison: Comparison) -> str:
    """Returns table, orderings and notes as aligned text, at most 110 columns wide."""
    parts = [textwrap.fill(" ".join(_head(comparison)), WIDTH)]
    for title, methods, rows in _blocks(comparison):
        parts.append("\n\n".join(filter(None, [title, _aligned(methods, rows)])))
    if comparison.orderings:
        parts.append(
            "\n".join([textwrap.fill(_summary(comparison), WIDTH), *_verdicts(comparison)])
        )
    parts += [textwrap.fill(note, WIDTH) for note in (*comparison.item.remarks, *comparison.notes)]
    return "\n\n".join(parts) + "\n"


def markdown(comparison: Comparison) -> str:
    """Returns the page of a comparison."""
    parts = [f"# {comparison.item.id}: {comparison.item.title}", " ".join(_head(comparison))]
    for title, methods, rows in _blocks(comparison):
        heads = ["", *map(_label, methods)]
        lines = [_row(heads), _row(["---", *["---:"] * len(methods)])]
        lines += [_row([label, *texts]) for label, texts in rows]
        parts += [f"## {title}"] * bool(title) + ["\n".join(lines)]
    if comparison.orderings:
        lines = [
            f"- {_verdict(ordering)}: {_sentence(comparison, ordering)}"
            for ordering in comparison.orderings
        ]
        parts += ["## Orderings", _summary(comparison), "\n".join(lines)]
    for title, notes in [
        ("The paper's own figures", comparison.item.remarks),
        ("What is missing", comparison.notes),
    ]:
        if notes:
            parts += [f"## {title}", "\n".join(f"- {note}" for note in notes)]
    links = [f"[{run}]({run}/{run_folder.MARKDOWN})" for run in comparison.folders]
    parts.append(f"Reports of the runs: {', '.join(links)}")
    return "\n\n".join(parts) + "\n"


def as_csv(comparison: Comparison) -> str:
    """Returns one line a cell, full figures, empty where there is none."""
    file = io.StringIO()
    fields = list(_facts(comparison.cells[0]))
    writer = csv.DictWriter(file, [*fields[:-1], "values"], lineterminator="\n")
    writer.writeheader()
    for cell in comparison.cells:
        facts = _facts(cell)
        writer.writerow(facts | {"values": " ".join(map(str, facts["values"]))})
    return file.getvalue()


def as_json(comparison: Comparison) -> str:
    """Returns cells and orderings with full figures."""
    content = {
        "id": comparison.item.id,
        "title": comparison.item.title,
        "model": comparison.model,
        "paper_model": comparison.item.model,
        "runs": {run: str(folder) for run, folder in comparison.folders.items()},
        "cells": [_facts(cell) for cell in comparison.cells],
        "orderings": [
            {
                "run": o.run,
                "task": o.task,
                "shots": o.shots,
                "above": o.above,
                "below": o.below,
                "paper": round(o.paper, 4),
                "ours": None if o.ours is None else round(o.ours, 4),
                "agrees": o.agrees,
                "beyond_spread": o.beyond,
            }
            for o in comparison.orderings
        ],
        "remarks": list(comparison.item.remarks),
        "missing": list(comparison.notes),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _facts(cell: Cell) -> dict:
    """Returns a cell as plain values; `values` is one score a seed."""
    ours = cell.ours
    facts = {
        "run": cell.run,
        "method": cell.method,
        "shots": cell.shots,
        "task": cell.task,
        "mean": ours and ours.mean,
        "deviation": ours and ours.deviation,
        "paper": cell.paper,
        "change": cell.change,
        "paper_change": cell.paper_change,
    }
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in facts.items()}
    return rounded | {"values": [round(value, 4) for value in ours.values] if ours else []}


def _head(comparison: Comparison) -> list[str]:
    """Returns the sentences above the table."""
    ours, theirs = map(catalog.model_label, (comparison.model, comparison.item.model))
    several = [c.ours for c in comparison.cells if c.ours and c.ours.deviation is not None]
    seeds = sorted({len(spread.values) for spread in several})
    spread = f" ± standard deviation over {' to '.join(map(str, seeds))} seeds" if seeds else ""
    text = [f"Mean{spread} of {ours}; in brackets the paper's figure for {theirs}."]
    if comparison.model == "mini":
        text.append(
            "The miniature is a far smaller model in a world of its own, with exact match in place "
            "of BLEU: the paper's figures are here for their orderings only."
        )
    elif comparison.model != comparison.item.model:
        text.append("These are different models: compare orderings, not values.")
    return text


def _blocks(comparison: Comparison) -> list[tuple[str, list[str], list[tuple[str, list[str]]]]]:
    """Returns (title, methods, rows of (label, text a method)) of each run.

    A table of targets alone is one block, with a row for each run.
    """
    cells = comparison.cells
    runs = list(dict.fromkeys(cell.run for cell in cells))
    if not any(cell.shots for cell in cells):
        groups = [("", cells)]
    else:
        titles = [f"Fine-tuned on {catalog.RUNS[run]}" if len(runs) > 1 else "" for run in runs]
        groups = [
            (title, [cell for cell in cells if cell.run == run])
            for title, run in zip(titles, runs, strict=True)
        ]
    blocks = []
    for title, group in groups:
        methods = list(dict.fromkeys(cell.method for cell in group))
        rows = []
        for task, shots in dict.fromkeys((cell.task, cell.shots) for cell in group):
            here = {c.method: c for c in group if (c.task, c.shots) == (task, shots)}
            rows.append((_quantity(task, shots), [_pair(here.get(name)) for name in methods]))
            if any(c.paper_change is not None or c.change is not None for c in here.values()):
                texts = [_change(here.get(name)) for name in methods]
                rows.append(("against pretrained", texts))
        blocks.append((title, methods, rows))
    return blocks


def _aligned(methods: list[str], rows: list[tuple[str, list[str]]]) -> str:
    """Returns a block as plain text; methods that do not fit follow below."""
    label_width = max(len(label) for label, _ in rows)
    width = max(13, *(len(text) for _, texts in rows for text in texts)) + _GAP
    fitting = max(1, (WIDTH - label_width) // width)
    parts = []
    for start in range(0, len(methods), fitting):
        heads = [
            textwrap.wrap(_label(name), width - _GAP) for name in methods[start : start + fitting]
        ]
        height = max(map(len, heads))
        padded = [[""] * (height - len(head)) + head for head in heads]
        lines = [("", [head[line] for head in padded]) for line in range(height)]
        lines += [(label, texts[start : start + fitting]) for label, texts in rows]
        parts.append(
            "\n".join(
                (label.ljust(label_width) + "".join(t.rjust(width) for t in texts)).rstrip()
                for label, texts in lines
            )
        )
    return "\n\n".join(parts)


def _verdicts(comparison: Comparison) -> list[str]:
    """Returns the orderings as lines of two columns."""
    verdicts = [_verdict(ordering) for ordering in comparison.orderings]
    width = max(map(len, verdicts)) + 2 * _GAP
    return [
        textwrap.fill(
            _sentence(comparison, ordering),
            WIDTH,
            initial_indent=f"{' ' * _GAP}{verdict}".ljust(width),
            subsequent_indent=" " * width,
        )
        for verdict, ordering in zip(verdicts, comparison.orderings, strict=True)
    ]


def _row(texts: list[str]) -> str:
    return f"| {' | '.join(text.replace('_', chr(92) + '_') for text in texts)} |"


def _label(method: str) -> str:
    return catalog.METHODS.get(method, method)


def _quantity(task: str, shots: int) -> str:
    name = "Norm. Avg." if task == AVERAGE else (catalog.TARGETS | catalog.UNSEEN)[task]
    return f"{name}, {shots}-shot"


def _pair(cell: Cell | None) -> str:
    """Returns ours (paper's); empty where the table has no such cell."""
    if cell is None:
        return ""
    paper = "–" if cell.paper is None else f"{cell.paper:.2f}"
    return f"{cell.ours or '–'} ({paper})"


def _change(cell: Cell | None) -> str:
    if cell is None or (cell.change is None and cell.paper_change is None):
        return ""
    ours = "–" if cell.change is None else scores.signed(cell.change)
    theirs = "–" if cell.paper_change is None else f"{cell.paper_change:+.2f}".replace("-", "−")
    return f"{ours} ({theirs})"


def _verdict(ordering: Ordering) -> str:
    if ordering.agrees is None:
        return "not measured"
    return "agrees" if ordering.agrees else "does not agree"


def _sentence(comparison: Comparison, ordering: Ordering) -> str:
    where = _quantity(ordering.task, ordering.shots)
    if ordering.task == AVERAGE and len(comparison.item.runs) > 1:
        where += f", after {catalog.RUNS[ordering.run]}"
    text = f"{where}: {_label(ordering.above)} above {_label(ordering.below)}, paper "
    text += f"+{ordering.paper:.2f}"
    if ordering.ours is None:
        return text
    beyond = {None: "one seed", True: "beyond the seeds' spread", False: "within the seeds' spread"}
    return f"{text}, ours {scores.signed(ordering.ours)} ({beyond[ordering.beyond]})"


def _summary(comparison: Comparison) -> str:
    """Returns how many orderings agree, and how many of those the seeds' spread could explain."""
    measured = [o for o in comparison.orderings if o.agrees is not None]
    agreeing = [o for o in measured if o.agrees]
    clear = sum(bool(o.beyond) for o in agreeing)
    against = sum(bool(o.beyond) for o in measured if not o.agrees)
    text = f"{len(agreeing)} of {len(measured)} measured orderings are the paper's"
    text += f", {clear} of them beyond the seeds' spread; {len(measured) - len(agreeing)} are not"
    text += f", {against} of them beyond it."
    left = len(comparison.orderings) - len(measured)
    return text + (f" {left} are not measured." if left else "")
