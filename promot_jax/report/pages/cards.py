"""The results on the report page: cards with bars at a glance, and the table."""

from html import escape

from promot_jax.report.numbers import facts, scores
from promot_jax.report.numbers.scores import Spread
from promot_jax.report.numbers.tables import Block, Cell, Row, labels_name, score_table
from promot_jax.report.records.records import Records


def glance(records: Records, places: dict[str, int]) -> str:
    """Returns a card with bars for each target, the average and the share of labels.

    Of several numbers of shots it is the fewest.
    """
    table = score_table(records)
    cards = [(f"{row.label}, fine-tuned", row.unit, row) for row in table.targets]
    for block in table.blocks[:1]:
        average, share = block.average, block.share
        # A hyphen that does not break: "1-shot" stays in one line.
        several = f", {block.title}".replace("-", "\u2011") if block.title else ""
        heading = f"Average of the other tasks{several}"
        cards.append((heading, f"Norm. Avg., {average.unit}", average))
        if share:
            heading = f"{labels_name(records)} as an answer{several}"
            cards.append((heading, "% of outputs on unseen generative tasks", share))
    shown = [card for card in cards if any(cell.spread for cell in card[2].cells)]
    texts = [_card(records, places, *card) for card in shown]
    return f'<div class="glance">{"".join(texts)}</div>' if texts else ""


def _card(records, places: dict[str, int], heading: str, unit: str, row: Row) -> str:
    wide = any(cell.has_deviation for cell in row.cells)
    bars = "".join(
        f'<div class="m{places[method.name]}"><dt><span class="swatch"></span>'
        f"{escape(method.label)}</dt><dd>{_value(cell.spread, wide)}</dd>{_bar(cell.spread)}</div>"
        for method, cell in zip(records.methods, row.cells, strict=True)
    )
    return (
        f'<div class="card"><h3>{escape(heading)}</h3><p class="unit">{escape(unit)}</p>'
        f"<dl>{bars}</dl></div>"
    )


def _bar(spread: Spread | None) -> str:
    width = 0.0 if spread is None else min(100.0, max(0.0, spread.mean))
    return f'<dd class="bar" aria-hidden="true"><i style="width:{width:.1f}%"></i></dd>'


def _value(spread: Spread | None, wide: bool) -> str:
    """Returns mean and deviation apart; in a wide column an absent deviation keeps its room."""
    if spread is None:
        mean, deviation = '<span class="absent" title="not measured">–</span>', ""
    else:
        mean = f'<span class="mean">{scores.decimal(spread.mean)}</span>'
        deviation = "" if spread.deviation is None else f"± {scores.decimal(spread.deviation)}"
    return f'{mean}<span class="dev">{deviation}</span>' if wide else mean


def score_section(records: Records, places: dict[str, int]) -> str:
    """Returns caption and table of results, empty where nothing has been scored."""
    if not records.results:
        return ""
    table = score_table(records)
    columns = zip(*(row.cells for row in table.rows), strict=True)
    wide = [any(cell.has_deviation for cell in column) for column in columns]
    heads = "".join(
        f'<th scope="col" class="m{places[method.name]}"><span class="swatch"></span>'
        f"{escape(method.label)}</th>"
        for method in records.methods
    )
    body = "".join(_lead(_row(row, wide, remark=", fine-tuned")) for row in table.targets)
    body += "".join(_block(block, wide) for block in table.blocks)
    return f"""<p class="say">{escape(facts.scores_caption(records))}</p>
<div class="card scroll" tabindex="0" role="region" aria-label="Table of results, scrolls sideways">
<table class="scores"><thead><tr><th scope="col">Task</th>{heads}</tr></thead>
{body}</table></div>"""


def _block(block: Block, wide: list[bool]) -> str:
    """Returns the rows of the tasks with one number of shots."""
    empty = f'<td colspan="{len(wide)}"></td>'
    text = ""
    if block.title:
        text += (
            f'<tbody class="block"><tr><th scope="rowgroup">{escape(block.title)} tasks</th>'
            f"{empty}</tr></tbody>"
        )
    text += _lead(_row(block.average, wide))
    for family, rows in block.families:
        text += (
            f'<tbody><tr class="family"><th scope="rowgroup">{escape(family)}</th>{empty}</tr>'
            f"{''.join(_row(row, wide) for row in rows)}</tbody>"
        )
    return text + (_lead(_row(block.share, wide)) if block.share else "")


def _lead(row: str) -> str:
    return f'<tbody class="lead">{row}</tbody>'


def _row(row: Row, wide: list[bool], remark: str = "") -> str:
    cells = "".join(
        f"<td{' class=wide' if room else ''}>{_value(cell.spread, room)}{_change(cell)}</td>"
        for cell, room in zip(row.cells, wide, strict=True)
    )
    unit = escape(row.unit + remark)
    return f'<tr><th scope="row">{escape(row.label)} <small>{unit}</small></th>{cells}</tr>'


def _change(cell: Cell) -> str:
    """Returns the difference to the pretrained model with sign, arrow and colour."""
    if cell.difference is None:
        return ""
    name, arrow = "same", ""
    if abs(cell.difference) >= scores.PRINTED_STEP:
        name, arrow = ("up", "▲ ") if cell.difference > 0 else ("down", "▼ ")
    return (
        f'<span class="change {name}"><span aria-hidden="true">{arrow}</span>'
        f"({scores.signed(cell.difference)})</span>"
    )
