"""Weights that rows of files bring: how much the losses of parts of their targets count."""

import decimal
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from promot_jax.base.errors import UserError
from promot_jax.tasks.row_files import Number
from promot_jax.tasks.row_templates import Row, Templates

# A text of a target and its weight.
Pair = tuple[str, float]


class WeightedRow(NamedTuple):
    """A `Row`, and a column of it: {column: pairs}."""

    inputs: str
    targets: str
    answers: tuple[str, ...]
    more: Mapping[str, Sequence[Pair]]


class Weighted:
    """Makes rows of records as templates do; those of a file have the column all, or none has.

    It holds pairs, `[["Paris", 2], [".", 0]]`, objects of a text and a number, or either as JSON.
    """

    def __init__(self, templates: Templates, column: str):
        """Takes what makes the rows, and the column's name."""
        self._templates, self._column = templates, column
        self._has: bool | None = None

    def rows(
        self, records: Sequence[tuple[str, dict[str, object]]]
    ) -> Sequence[Row] | Sequence[WeightedRow]:
        """Returns the rows of records.

        Raises:
          UserError: as `Templates.rows`, or weights that are none or not of this target.
        """
        rows = self._templates.rows(records)
        for where, record in records:
            # An empty cell of a table is a column that the row does not have.
            has = record.get(self._column) not in (None, "")
            self._has = has if self._has is None else self._has
            if has != self._has:
                raise UserError(
                    f"{where}: {'has' if has else 'no'} field {self._column!r}, unlike the rows "
                    "before it; give it to all rows or to none"
                )
        if not self._has:
            return rows
        return [
            WeightedRow(*row, {self._column: self._pairs(where, record, row.targets)})
            for (where, record), row in zip(records, rows, strict=True)
        ]

    def _pairs(self, where: str, record: Mapping[str, Any], target: str) -> list[Pair]:
        field = f"{where}: field {self._column!r}"
        value = record[self._column]
        if isinstance(value, str) and not _is_number(value):
            try:
                value = json.loads(value)
            except ValueError:
                raise UserError(f"{field} is no JSON; {_MEND}") from None
        if not isinstance(value, list | tuple):
            raise UserError(f"{field} is no list; {_MEND}")
        found, begin = [], 0
        for pair in value:
            text, weight = _split(pair, field)
            if (begin := target.find(text, begin)) < 0:
                raise UserError(
                    f"{field}: {text!r} does not stand in the target {target[:60]!r} behind the "
                    "texts before it; give texts of the target in their order"
                )
            begin += len(text)
            found.append((text, weight))
        return found


_MEND = 'give pairs of a text of the target and its weight, such as [["Paris", 2]]'


def _split(pair: Any, field: str) -> Pair:
    """Returns a text and its weight."""
    parts = sorted(pair.values(), key=_is_number) if isinstance(pair, dict) else pair
    if not isinstance(parts, list | tuple) or len(parts) != 2:
        raise UserError(f"{field} has {json.dumps(pair, default=str)[:60]}; {_MEND}")
    text, weight = parts
    if not isinstance(text, str) or _is_number(text) or not text:
        raise UserError(f"{field} has {json.dumps(text, default=str)[:60]} for a text; {_MEND}")
    number = float(weight) if _is_number(weight) else -1
    if not math.isfinite(number) or number < 0:
        raise UserError(
            f"{field}: the weight of {text!r} is {str(weight)[:60]}; give a number, at least 0"
        )
    return text, number


def _is_number(value: Any) -> bool:
    kinds = (int, float, decimal.Decimal, Number)
    return isinstance(value, kinds) and not isinstance(value, bool)
