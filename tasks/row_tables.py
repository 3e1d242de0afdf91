"""Rows of CSV and TSV texts, under a first line that names the columns.

A CSV cell is quoted as RFC 4180 says. A cell of a TSV is what stands between its tabs, quotes
included, as GLUE and WMT are written; only where all quotes of a file are those of CSV, as pandas
writes them, do they quote here too.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator

from promot_jax.base.errors import UserError
from promot_jax.tasks import row_texts

# Both end where they do or not at all, whatever follows: no text makes them slow.
_QUOTED = re.compile(r'"([^"]*+(?:""[^"]*+)*+)"')
_BLANK_LINES = re.compile(r"(?: *+[\r\n])*+")
_FIRST_LINE = re.compile(r'(?:[^"\r\n]++|"[^"]*+"?)*+(\r(?!\r*\n))?')
# What a cell has that cannot do without quotes.
_NEEDS_QUOTES = re.compile(r'["\t\r\n]')


@dataclasses.dataclass(slots=True)
class _Row:
    """A row of a table: the first of its lines, its cells, and which of them were in quotes.

    Of a row of several lines, `text` is what stands in them.
    """

    line: int
    cells: list[str]
    quoted: list[bool]
    text: str = ""

    @property
    def blank(self) -> bool:
        return not any(cell.strip() for cell in self.cells)


def comma_separated(path: str, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the place and the cells of each row of a CSV, separated by commas or semicolons.

    Where a first line has neither but tabs, it is a TSV.

    Raises:
      UserError: a row with too few or too many cells, a quote that is not closed, or a column that
        there is twice.
    """
    first = _FIRST_LINE.match(text, _BLANK_LINES.match(text).end())[0]
    names = re.sub('"[^"]*"?', "", first)
    delimiter = "," if "," in names or ";" not in names else ";"
    if delimiter not in names and "\t" in names:
        return tab_separated(path, text)
    mend = f"quote texts that hold {delimiter!r}"
    return _named(path, _split(path, text, delimiter), mend)


def tab_separated(path: str, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the place and the cells of each row of a TSV.

    Raises:
      UserError: a row with too few or too many cells, or a column that there is twice.
    """
    header = next((row.cells for row in _cut_at_tabs(text) if not row.blank), [])
    if len(header) == 1 and (found := re.search("[,;]", header[0])):
        raise UserError(
            f"{path}, line 1: no tab, but {found[0]!r}; name a file that commas separate .csv"
        )
    mend = "a tab or line break ends a cell, so save texts that hold one as .csv or .jsonl"
    quoted = _quoted_as_in_csv(path, text, len(header))
    return _named(path, _split(path, text, "\t") if quoted else _cut_at_tabs(text), mend)


def _cut_at_tabs(text: str) -> Iterator[_Row]:
    for number, line in enumerate(row_texts.lines_of(text), 1):
        cells = line.rstrip("\r").split("\t")
        yield _Row(number, cells, [False] * len(cells))


def _quoted_as_in_csv(path: str, text: str, columns: int) -> bool:
    """Returns whether the quotes of a TSV are those of CSV; else they are texts.

    They are those of CSV if every cell that has a quote is one that a CSV writer could have
    written, and some cell, or the whole header, only it would have written. No row is lost in a
    quotation that opens in one and closes in another: that has tabs and a line that is a row.

    Args:
      path, text: the file.
      columns: cells of a row.
    """
    if '"' not in text:
        return False
    certain, first = False, True
    try:
        for row in _split(path, text, "\t"):
            if row.blank:
                continue
            pairs = list(zip(row.cells, row.quoted, strict=True))
            if len(pairs) != columns or any('"' in cell and not quoted for cell, quoted in pairs):
                return False
            if columns == 1 or any("\t" in cell for cell in row.cells):
                lines = row_texts.lines_of(row.text) if row.text else ()
                if any(line.count("\t") == columns - 1 for line in lines):
                    return False
            certain = certain or (first and all(row.quoted))
            certain = certain or any(q and _NEEDS_QUOTES.search(cell) for cell, q in pairs)
            first = False
    except UserError:
        return False
    return certain


def _named(path: str, rows: Iterable[_Row], mend: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the place and the cells of each row by the names of the first, blank rows left out.

    Columns without a name, such as the numbers of rows that pandas writes, are left out too.
    """
    names: list[str] = []
    for row in rows:
        if row.blank:
            continue
        where = f"{path}, line {row.line}"
        if not names:
            names = [cell.strip() for cell in row.cells]
            twice = [name for name, n in collections.Counter(names).items() if name and n > 1]
            if twice:
                raise UserError(
                    f"{where}: has {twice[0]!r} twice; the first line names the columns, each once"
                )
            continue
        if len(row.cells) != len(names):
            raise UserError(
                f"{where}: {len(row.cells)} columns, the first line names {len(names)} "
                f"({listed(names)}); {mend}"
            )
        yield where, {name: cell for name, cell in zip(names, row.cells, strict=True) if name}


def listed(names: Iterable[object], most: int = 20) -> str:
    """Returns names as a part of one line: the first, each cut where it is long."""
    found = [" ".join(str(name).split()) for name in names]
    shown = [name if len(name) <= 40 else f"{name[:39]}…" for name in found[:most]]
    rest = [f"and {len(found) - most} more"] * (len(found) > most)
    return ", ".join(shown + rest)


def _split(path: str, text: str, delimiter: str) -> Iterator[_Row]:
    """Yields the rows of a text whose cells may be quoted as in CSV.

    Raises:
      UserError: a quote that is not closed, or text behind one that is.
    """
    end = "\r" if _FIRST_LINE.match(text)[1] else "\n"
    plain = re.compile(f"[^{delimiter}{end}]*+")
    follows = re.compile(rf"{delimiter}|\r*{end}|\Z" if end == "\n" else rf"{delimiter}|\r|\Z")
    at, line = 0, 1
    while at < len(text):
        stop = text.find(end, at)
        stop = stop if stop >= 0 else len(text)
        if text.find('"', at, stop) < 0:
            # As what follows makes of it, but faster.
            cells = text[at:stop].split(delimiter)
            cells[-1] = cells[-1].rstrip("\r")
            yield _Row(line, cells, [False] * len(cells))
            at, line = stop + 1, line + 1
            continue
        row, start, separator = _Row(line, [], []), at, delimiter
        while separator == delimiter:
            if found := _QUOTED.match(text, at):
                row.cells.append(found[1].replace('""', '"'))
                line += found[1].count(end)
            elif text.startswith('"', at):
                raise UserError(
                    f"{path}, line {line}: the quote that opens here is not closed; close it, and "
                    "double the quotes of a text that stands in quotes"
                )
            else:
                found = plain.match(text, at)
                row.cells.append(found[0])
            row.quoted.append(text.startswith('"', at))
            after = follows.match(text, found.end())
            if not after:
                raise UserError(
                    f"{path}, line {line}: {text[found.end()]!r} follows a closing quote; double "
                    "the quotes of a text that stands in quotes"
                )
            at, separator = after.end(), after[0]
        if separator != delimiter and not row.quoted[-1]:
            row.cells[-1] = row.cells[-1].rstrip("\r")
        if line > row.line:
            row.text = text[start : found.end()]
        yield row
        line += 1
