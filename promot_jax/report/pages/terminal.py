"""The table of results as plain text."""

import textwrap

from promot_jax.report.numbers import frontier, points, scores
from promot_jax.report.numbers.scores import Spread
from promot_jax.report.numbers.tables import Block, Row, ScoreTable, Table, by_method, score_table
from promot_jax.report.records.records import Records

WIDTH = 110
_COLUMN = 13
_GAP = 2

# A label and a text per method; None is a rule.
_Line = tuple[str, list[str]] | None


def terminal_table(records: Records) -> str:
    """Returns the table of results as aligned plain text, at most 110 columns wide.

    Methods that do not fit beside each other follow in further blocks; many stand below each other,
    with the average of the unseen tasks alone.
    """
    if frontier.many(records):
        return _aligned_table(by_method(records, whole=False))
    lines = _lines(score_table(records))
    width = min(max(len(label) for label, _ in filter(None, lines)), WIDTH - _COLUMN - _GAP)
    fitting = (WIDTH - width) // (_COLUMN + _GAP)
    places = range(len(records.methods))
    parts = [
        _part(records, lines, width, places[start : start + fitting])
        for start in range(0, len(places), fitting)
    ]
    return "\n\n".join(parts) + "\n"


def points_table(records: Records) -> str:
    """Returns the table of points that were scored without training; nothing where there is none.

    A method's name stands on its first line.
    """
    table = points.table(records)
    return _aligned_table(table) if table else ""


def _aligned_table(table: Table) -> str:
    rows = [["", *table.heads]]
    for place, (method, cells) in enumerate(table.rows):
        again = place and table.rows[place - 1][0] == method
        rows.append(["" if again else method.label, *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        (" " * _GAP).join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in rows
    ]
    rule = "─" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def _lines(table: ScoreTable) -> list[_Line]:
    """Returns the lines below the heading."""
    wide = any(cell.has_deviation for row in table.rows for cell in row.cells)
    lines: list[_Line] = [None]
    lines += [(f"{row.label}  {row.unit} (fine-tuned)", _texts(row, wide)) for row in table.targets]
    for block in table.blocks:
        lines += _block_lines(block, wide)
    return lines


def _block_lines(block: Block, wide: bool) -> list[_Line]:
    average, empty = block.average, [""] * len(block.average.cells)
    lines: list[_Line] = [None]
    if block.title:
        lines.append((f"{block.title} tasks", empty))
    lines.append((f"{average.label}  {average.unit}", _texts(average, wide)))
    if any(cell.difference is not None for cell in average.cells):
        lines.append(("  against pretrained", _differences(average, wide)))
    lines.append(None)
    for family, rows in block.families:
        lines.append((family, empty))
        lines += [(f"  {row.label}  {row.unit}", _texts(row, wide)) for row in rows]
    if block.share:
        lines += [None, (f"{block.share.label}  {block.share.unit}", _texts(block.share, wide))]
    return lines


def _part(records: Records, lines: list[_Line], width: int, places: range) -> str:
    """Returns the heading and the lines of some of the methods."""
    heads = [
        textwrap.wrap(records.methods[place].label, _COLUMN, break_on_hyphens=False) or [""]
        for place in places
    ]
    height = max(map(len, heads))
    padded = [[""] * (height - len(head)) + head for head in heads]
    text = [_line("", width, [head[i] for head in padded]) for i in range(height)]
    rule = "─" * (width + len(places) * (_COLUMN + _GAP))
    for line in lines:
        text.append(_line(line[0], width, [line[1][p] for p in places]) if line else rule)
    return "\n".join(text)


def _line(label: str, width: int, texts: list[str]) -> str:
    cells = "".join(" " * _GAP + text.rjust(_COLUMN) for text in texts)
    return (label[:width].ljust(width) + cells).rstrip()


def _texts(row: Row, wide: bool) -> list[str]:
    """Returns the row's values; in a wide table a mean without deviation leaves room for it."""
    return [_aligned(cell.spread, wide) for cell in row.cells]


def _aligned(spread: Spread | None, wide: bool) -> str:
    room = " " * 7 if wide else ""
    if spread is None:
        return "–" + room
    if spread.deviation is None:
        return scores.decimal(spread.mean) + room
    return f"{scores.decimal(spread.mean)} ± {scores.decimal(spread.deviation):>4}"


def _differences(row: Row, wide: bool) -> list[str]:
    # One less than the room of a deviation: the bracket stands behind the last digit.
    room = " " * 6 if wide else ""
    return [
        "" if cell.difference is None else f"({scores.signed(cell.difference)}){room}"
        for cell in row.cells
    ]
