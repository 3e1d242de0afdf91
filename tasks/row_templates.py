"""Rows from templates: the fields of a record become an input, a target and its right answers."""

import datetime
import decimal
import json
import math
import re
import string
from collections.abc import Sequence
from typing import NamedTuple

from promot_jax.base.errors import UserError
from promot_jax.data.metrics import METRICS
from promot_jax.tasks.row_tables import listed


class Row(NamedTuple):
    """An example: its input, its target, and every answer that counts as right."""

    inputs: str
    targets: str
    answers: tuple[str, ...]


class Templates:
    """Two texts with fields in braces, which make a row of a record.

    A field is named as in its file. What stands in a field is named by dots: `{translation.en}` is
    a field of a field, `{answers.0}` the first value of a list, `{answers.text}` of a list of
    objects the list of their texts. A field that itself has such a name comes first.

    Raises:
      UserError: a template without field, or with something else in braces.
    """

    def __init__(self, template: str, target: str, several: bool):
        """Takes the template of inputs and that of targets, and whether targets can be several."""
        self._inputs = _parsed(template, "TEMPLATE")
        self._targets = _parsed(target, "TARGET_TEMPLATE")
        self._several = several
        self._formats = _format(self._inputs), _format(self._targets)

    def rows(self, records: Sequence[tuple[str, dict[str, object]]]) -> list[Row]:
        """Returns the rows of records, sooner than one by one; raises as `row` does."""
        fields = [record for _, record in records]
        inputs, targets = (_all_filled(template, fields) for template in self._formats)
        if inputs is None or targets is None:
            # What is unusual or wrong is found row by row.
            return [self.row(*record) for record in records]
        return list(map(Row, inputs, targets, zip(map(str.strip, targets))))

    def row(self, where: str, record: dict[str, object]) -> Row:
        """Returns the row of a record.

        Raises:
          UserError: `where` lacks a field, or has a value that is no text or number.
        """
        asked, wanted = (
            {name: _value(where, record, name) for _, name in template if name is not None}
            for template in (self._inputs, self._targets)
        )
        inputs = {name: _text(value, where, name) for name, value in asked.items()}
        if not any(text.strip() for text in inputs.values()):
            raise UserError(f"{where}: {', '.join(inputs)} empty; write a text or remove the row")
        answers = self._answers(where, wanted)
        # Space around a target is the model's concern, not that of who compares answers.
        stripped = tuple(dict.fromkeys(answer.strip() for answer in answers))
        return Row(_filled(self._inputs, inputs), answers[0], stripped)

    def _answers(self, where: str, wanted: dict[str, object]) -> list[str]:
        lists = sorted(name for name, value in wanted.items() if isinstance(value, list))
        if lists and not self._several:
            raise UserError(
                f"{where}: field {lists[0]!r} is a list; only {_takers()} several answers, and "
                f"{{{lists[0]}.0}} is the first"
            )
        if len(lists) > 1:
            raise UserError(f"{where}: {' and '.join(lists)} are lists; a target takes one of them")
        choices = wanted[lists[0]] if lists else [None]
        if not choices:
            raise UserError(f"{where}: field {lists[0]!r} is an empty list; give an answer")
        answers = []
        for choice in choices:
            values = wanted | ({lists[0]: choice} if lists else {})
            texts = {name: _text(value, where, name) for name, value in values.items()}
            if not any(text.strip() for text in texts.values()):
                raise UserError(
                    f"{where}: {', '.join(texts)} empty; write a target or remove the row"
                )
            answers.append(_filled(self._targets, texts))
        return answers


def _takers() -> str:
    """Names the metrics of several answers, with their verb."""
    names = [metric.name for metric in METRICS.values() if metric.several_answers]
    return f"{' and '.join(names)} {'take' if len(names) > 1 else 'takes'}"


# What stands before each field, and its name; None behind the last.
_Parsed = list[tuple[str, str | None]]


def _parsed(template: str, what: str) -> _Parsed:
    """Returns the parts of a template.

    Raises:
      UserError: it has no field, or something else in braces than a name.
    """
    where = f"{what} {template!r}"
    found = []
    try:
        template.encode()
        for before, name, layout, conversion in string.Formatter().parse(template):
            if name is not None and (not name.strip() or layout or conversion):
                written = (
                    name + (f"!{conversion}" if conversion else "") + (layout and f":{layout}")
                )
                raise UserError(
                    f"{where}: {{{written}}} is no field; write the plain name of one, such as "
                    "{label}, and {{ for a brace"
                )
            found.append((before, name))
    except UnicodeEncodeError:
        raise UserError(f"{what} {template!a} is not UTF-8; give it in that encoding") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}; write {{{{ and }}}} for braces") from None
    if all(name is None for _, name in found):
        raise UserError(f"{where} has no field; name one in braces, such as {{label}}")
    return found


# A template for the operator %, and the names of its fields.
_Format = tuple[str, list[str]]


def _format(template: _Parsed) -> _Format:
    pieces = [before.replace("%", "%%") + "%s" * (name is not None) for before, name in template]
    return "".join(pieces), [name for _, name in template if name is not None]


def _all_filled(template: _Format, records: Sequence[dict[str, object]]) -> list[str] | None:
    """Returns a template filled by each of some records, whose fields all are plain.

    None where one lacks a field, has none but blank ones, or a value that has to be looked at.
    """
    text, names = template
    try:
        columns = [_plain([record[name] for record in records]) for name in names]
    except KeyError:
        return None
    if not all(columns) or not all(map(str.strip, map("".join, zip(*columns, strict=True)))):
        return None
    filled = list(map(text.__mod__, zip(*columns, strict=True)))
    return filled if _whole("".join(filled)) else None


def _plain(values: list[object]) -> list[str] | None:
    """Returns values of a field as texts, None unless all are texts or all are whole numbers."""
    kinds = {*map(type, values)}
    if kinds == {int}:
        return list(map(str, values))
    return values if all(issubclass(kind, str) for kind in kinds) else None


def _whole(text: str) -> bool:
    """Returns whether UTF-8 can hold a text: it has no half characters."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _filled(template: _Parsed, texts: dict[str, str]) -> str:
    return "".join(before + ("" if name is None else texts[name]) for before, name in template)


def _value(where: str, record: dict[str, object], name: str) -> object:
    """Returns the value of a field, or of what stands in one.

    Raises:
      UserError: there is none.
    """
    for written in (name, name.strip()):
        if written in record:
            return record[written]
    steps = re.sub(r"\[([^][]*)\]", r".\1", name.strip()).split(".")
    try:
        return _inside(record, steps, 0)
    except _Missing as error:
        raise UserError(f"{where}: no field {name!r}; {error}") from None


class _Missing(Exception):
    """What there is in place of a field."""


def _inside(value: object, steps: list[str], done: int) -> object:
    """Returns what is in a value behind the first `done` steps of a path."""
    left = steps[done:]
    if not left:
        return value
    here = ".".join(steps[:done]) or "it"
    if isinstance(value, dict):
        # The longest name first: names may have dots.
        for count in range(len(left), 0, -1):
            if (name := ".".join(left[:count])) in value:
                return _inside(value[name], steps, done + count)
        raise _Missing(f"{here} has {listed(value)}" if value else f"{here} is an empty object")
    if isinstance(value, list):
        if left[0].isdecimal() and int(left[0]) < len(value):
            return _inside(value[int(left[0])], steps, done + 1)
        if value and not left[0].isdecimal() and all(isinstance(v, dict) for v in value):
            return [_inside(v, steps, done) for v in value]
        first = f"a list of {len(value)}, the first of which is {here}.0"
        raise _Missing(f"{here} is {first if value else 'an empty list'}")
    raise _Missing(f"{here} is {_kind(value)}")


def _text(value: object, where: str, name: str) -> str:
    """Returns the value of a field as JSON writes it, texts without their quotes, times as ISO."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"{where}: field {name!r} holds half a character; mend it") from None
        return value
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    if isinstance(value, decimal.Decimal) and value.is_finite():
        return f"{value:f}"
    if isinstance(value, datetime.date | datetime.time):
        return str(value)
    mend = "give a text or a number"
    if isinstance(value, dict) and value:
        mend = f"name one of its fields, such as {{{name}.{next(iter(value))}}}"
    elif isinstance(value, list) and value:
        mend = f"name one of its values, such as {{{name}.0}}"
    raise UserError(f"{where}: field {name!r} is {_kind(value)}; {mend}")


def _kind(value: object) -> str:
    kinds = {type(None): "null", list: "a list", dict: "an object", float: str(value)}
    kinds |= {str: "a text", bytes: "binary"}
    return kinds.get(type(value), f"a {type(value).__name__}")
