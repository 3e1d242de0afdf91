"""Rows from templates: the fields of a record become an input, a target and its right answers."""

import dataclasses
import json
import math
import string

from promot_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Row:
    """An example: its input, its target, and every answer that counts as right."""

    inputs: str
    targets: str
    answers: tuple[str, ...]


class Templates:
    """Two texts with fields in braces, which make a row of a record.

    Raises:
      UserError: a template without field, or with something else in braces.
    """

    def __init__(self, template: str, target: str, several: bool):
        """Takes the template of inputs and that of targets, and whether targets can be several."""
        self.template, self.target, self.several = template, target, several
        self.asked, self.wanted = fields(template, "TEMPLATE"), fields(target, "TARGET_TEMPLATE")

    def row(self, where: str, record: dict[str, object]) -> Row:
        """Returns the row of a record.

        Raises:
          UserError: `where` lacks a field, or has a value that is no text or number.
        """
        for name in (*self.asked, *self.wanted):
            if name not in record:
                raise UserError(f"{where}: no field {name!r}; it has {', '.join(map(str, record))}")
        inputs = {name: _text(record[name], where, name) for name in self.asked}
        if not any(text.strip() for text in inputs.values()):
            raise UserError(f"{where}: {', '.join(inputs)} empty; write a text or remove the row")
        answers = self._answers(where, record)
        # Space around a target is the model's concern, not that of who compares answers.
        stripped = tuple(dict.fromkeys(answer.strip() for answer in answers))
        return Row(self.template.format_map(inputs), answers[0], stripped)

    def _answers(self, where: str, record: dict[str, object]) -> list[str]:
        lists = sorted({name for name in self.wanted if isinstance(record[name], list)})
        if lists and not self.several:
            raise UserError(
                f"{where}: field {lists[0]!r} is a list; only exact_match takes several answers"
            )
        if len(lists) > 1:
            raise UserError(f"{where}: {' and '.join(lists)} are lists; a target takes one of them")
        choices = record[lists[0]] if lists else [None]
        if not choices:
            raise UserError(f"{where}: field {lists[0]!r} is an empty list; give an answer")
        answers = []
        for choice in choices:
            values = record | ({lists[0]: choice} if lists else {})
            texts = {name: _text(values[name], where, name) for name in self.wanted}
            if not any(text.strip() for text in texts.values()):
                raise UserError(
                    f"{where}: {', '.join(texts)} empty; write a target or remove the row"
                )
            answers.append(self.target.format_map(texts))
        return answers


def fields(template: str, what: str) -> tuple[str, ...]:
    """Returns the names of a template's fields.

    Raises:
      UserError: none, or something else in braces than a plain name.
    """
    where = f"{what} {template!r}"
    found = []
    try:
        template.encode()
        for _, name, layout, conversion in string.Formatter().parse(template):
            if name is None:
                continue
            if not name.strip() or name.isdigit() or set(name) & set(".[]") or layout or conversion:
                written = (
                    name + (f"!{conversion}" if conversion else "") + (layout and f":{layout}")
                )
                raise UserError(
                    f"{where}: {{{written}}} is no field; write the plain name of one, such as "
                    "{label}, and {{ for a brace"
                )
            found.append(name)
    except UnicodeEncodeError:
        raise UserError(f"{what} {template!a} is not UTF-8; give it in that encoding") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}; write {{{{ and }}}} for braces") from None
    if not found:
        raise UserError(f"{where} has no field; name one in braces, such as {{label}}")
    return tuple(found)


def _text(value: object, where: str, name: str) -> str:
    """Returns the value of a field as JSON writes it, texts without their quotes."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"{where}: field {name!r} holds half a character; mend it") from None
        return value
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    kind = {type(None): "null", list: "a list", dict: "an object", float: str(value)}
    found = kind.get(type(value), f"a {type(value).__name__}")
    raise UserError(f"{where}: field {name!r} is {found}; give a text or a number")
