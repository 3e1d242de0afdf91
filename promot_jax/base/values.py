"""Which values a setting may have: kinds and ranges, written as type hints and read here.

`Annotated[int, Range(…)]` says what a number may be, so a field's own hint is all that a check
needs. `fault` tells what is wrong with a value and how to mend it. A configuration has values that
are not known yet, or that came through a name of their own: `Named`, `Made` and `Taken` stand for
those.
"""

import dataclasses
import difflib
import inspect
import math
import numbers
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from promot_jax.base.errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """What a value of a kind must be besides.

    Attributes:
      allowed: in words.
      test: of a value of the kind.
    """

    allowed: str
    test: Callable[[Any], bool]


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _at_least(least: int) -> Range:
    return Range(f"a whole number of at least {least}", lambda number: number >= least)


Count = Annotated[int, _at_least(1)]
Whole = Annotated[int, _at_least(0)]
Seed = Annotated[int, Range("a whole number from 0 to 4294967295", lambda n: 0 <= n < 2**32)]
Positive = Annotated[float, Range("a number above 0", lambda number: number > 0)]
Weight = Annotated[float, Range("a number of at least 0", lambda number: number >= 0)]
# Of dropout or smoothing: at 1 nothing is left.
Share = Annotated[float, Range("a number from 0 to below 1", lambda number: 0 <= number < 1)]
Probability = Annotated[float, Range("a number above 0, at most 1", lambda n: 0 < n <= 1)]
Percent = Annotated[float, Range("a per cent above 0, at most 100", lambda n: 0 < n <= 100)]
Text = Annotated[str, Range("a text that is not empty", lambda text: text.strip() != "")]
Pattern = Annotated[str, Range("a regular expression", lambda text: text and _compiles(text))]
Dtype = Literal["float32", "bfloat16", "float16"]
# The beginning of a training: in steps, or as a share of all of them.
Warmup = Annotated[
    Whole | Share, Range("a number of steps, or a share of them below 1", lambda warmup: True)
]
ScheduleName = Literal["constant", "linear", "cosine"]
OptimizerName = Literal["adafactor", "adamw"]
Lengths = Annotated[
    Mapping[str, Count],
    Range(
        "the longest inputs and targets in tokens, such as {'inputs': 64, 'targets': 8}",
        lambda lengths: set(lengths) == {"inputs", "targets"},
    ),
]
SOME = Range("at least one", lambda several: len(several) > 0)
DISTINCT = Range("each of them once", lambda several: len(set(several)) == len(several))
# Marks a setting that came later; its default is what there was before it. It counts in no lineage
# and in no kept configuration while it has that.
LATER = "later"


@dataclasses.dataclass(frozen=True)
class Named:
    """A value that a name of its own stands for, such as a macro."""

    name: str
    value: Any


@dataclasses.dataclass(frozen=True)
class Made:
    """What a call of `by` will return, written `text`."""

    by: Any
    text: str


@dataclasses.dataclass(frozen=True)
class Taken:
    """The function or class `what` itself, written `text`."""

    what: Any
    text: str


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is wrong with a value: what would be allowed, the mend, and which part it is of it."""

    allowed: str
    mend: str = ""
    named: Named | None = None
    part: str = ""


class Misfit(UserError):
    """Settings of one object that do not go together.

    Attributes:
      owner: the class.
      text: what is wrong, with the names of fields in braces.
      settings: values of these fields.
    """

    def __init__(self, owner: Any, text: str, *fields: str):
        self.owner, self.text = type(owner), text
        self.settings = {field: getattr(owner, field) for field in fields}
        super().__init__(self.told({field: field for field in fields}))

    def told(self, names: Mapping[str, str]) -> str:
        """Returns the complaint with the names that the fields have for a person."""
        pairs = {f: f"{names[f]} = {shown(value)}" for f, value in self.settings.items()}
        return self.text.format(**pairs)


def check_fields(owner: Any) -> None:
    """Raises UserError for a field of a dataclass whose value its hint does not allow."""
    for name, hint in hints(type(owner)).items():
        value = getattr(owner, name)
        if found := fault(value, hint):
            raise UserError(complaint(f"{type(owner).__name__}.{name}", shown(value), found))


def hints(what: Any) -> dict[str, Any]:
    """Returns the hints of the parameters that a function or class takes, by name."""
    function = what.__init__ if isinstance(what, type) else what
    try:
        found = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # of other packages
        return {}
    found.pop("return", None)
    return found


def later(what: Any) -> dict[str, Any]:
    """Returns the defaults of those parameters of a function or class that are marked `LATER`."""
    marked = [name for name, hint in hints(what).items() if LATER in typing.get_args(hint)]
    parameters = inspect.signature(what).parameters if marked else {}
    return {name: parameters[name].default for name in marked}


def complaint(name: str, value: str, found: Fault) -> str:
    """Returns one line: a name, its value, what is allowed and the mend."""
    part = f"{found.part} in it: " if found.part else ""
    mend = f"; {found.mend}" if found.mend else ""
    return f"{name} = {value}: {part}expected {found.allowed}{mend}"


def shown(value: Any) -> str:
    """Returns a value as gin writes it, on one line and not too long."""
    if isinstance(value, Named):
        return shown(value.value)
    if isinstance(value, Made | Taken):
        return value.text
    if isinstance(value, tuple | list):
        inside = ", ".join(map(shown, value))
        if isinstance(value, list):
            return f"[{inside}]"
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:80]} … {text[-30:]}"


def fault(value: Any, hint: Any) -> Fault | None:
    """Returns what is wrong with a value that should be as a type hint says, None if nothing is."""
    if isinstance(value, Named):
        found = fault(value.value, hint)
        return found and dataclasses.replace(found, named=found.named or value)
    if typing.get_origin(hint) is Annotated:
        kind, *ranges = typing.get_args(hint)
        if found := fault(value, kind):
            return found if found.part or found.named else _of_kind(value, hint, found)
        if isinstance(value, Made | Taken):
            return None
        plain = _plain(value)
        wrong = next((r for r in ranges if isinstance(r, Range) and not r.test(plain)), None)
        if wrong in (SOME, DISTINCT):
            return Fault(_words(hint), f"give {wrong.allowed}")
        return wrong and Fault(wrong.allowed)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _of_union(value, hint)
    if isinstance(value, Made | Taken):
        return _not_known_yet(value, hint)
    if hint is None or hint is type(None):
        return None if value is None else Fault("None")
    if typing.get_origin(hint) is Literal:
        return _of_literal(value, typing.get_args(hint))
    if hint in (int, float, bool, str):
        return None if _is(value, hint) else _of_kind(value, hint, Fault(""))
    origin = typing.get_origin(hint) or hint
    if origin in (Sequence, list, tuple):
        return _of_items(value, hint)
    if origin in (Mapping, dict):
        return _of_pairs(value, hint)
    return _of_object(value, hint)


def _is(value: Any, kind: type) -> bool:
    if kind is str or kind is bool:
        return isinstance(value, kind)
    if isinstance(value, bool):
        return False
    if kind is int:
        return isinstance(value, numbers.Integral)
    return isinstance(value, numbers.Real) and math.isfinite(value)


def _of_kind(value: Any, hint: Any, found: Fault) -> Fault:
    """Returns the fault of a value of another kind; a near value that is right is the mend."""
    near = [_plain(value)]
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        near.append(int(value))
    if isinstance(value, str):
        for kind in (int, float):
            try:
                near.append(kind(value))
            except (ValueError, OverflowError):
                continue
    if not isinstance(value, tuple | list):
        near += [(one,) for one in near]
    for other in near[1:]:
        if not isinstance(value, bool) and fault(other, hint) is None:
            how = " without quotes" if isinstance(value, str) and not _holds_text(other) else ""
            return Fault(_words(hint), f"write {shown(other)}{how}")
    return Fault(_words(hint), found.mend)


def _holds_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, tuple) and any(map(_holds_text, value)))


def _of_union(value: Any, hint: Any) -> Fault | None:
    found = [fault(value, kind) for kind in typing.get_args(hint)]
    if None in found:
        return None
    # That of the kind which the value has, if it has one, is about a part or a range.
    precise = next((f for f in found if f.part or f.named), None)
    mend = next((f.mend for f in found if f.mend), "")
    return precise or Fault(_words(hint), mend)


def _of_literal(value: Any, known: Sequence[Any]) -> Fault | None:
    if any(type(value) is type(one) and value == one for one in known):
        return None
    near = difflib.get_close_matches(value, known, 1, 0.4) if isinstance(value, str) else []
    return Fault(_words(Literal[tuple(known)]), f"did you mean {near[0]!r}?" if near else "")


def _of_items(value: Any, hint: Any) -> Fault | None:
    kinds = typing.get_args(hint) or (Any,)
    if not isinstance(value, tuple | list):
        return _of_kind(value, hint, Fault(""))
    fixed = typing.get_origin(hint) is tuple and Ellipsis not in kinds
    if fixed and len(value) != len(kinds):
        return Fault(_words(hint))
    for item, kind in zip(value, kinds if fixed else kinds[:1] * len(value), strict=True):
        if found := fault(item, kind):
            return found if found.named or found.part else _part(item, found, _words(hint))
    return None


def _of_pairs(value: Any, hint: Any) -> Fault | None:
    of_key, of_value = typing.get_args(hint) or (Any, Any)
    if not isinstance(value, Mapping):
        return Fault(_words(hint))
    for key, item in value.items():
        if found := fault(key, of_key):
            return _part(key, found, _words(hint))
        if found := fault(item, of_value):
            return found if found.named else _part(item, found, _words(hint), f"{key!r}: ")
    return None


def _part(item: Any, found: Fault, whole: str, before: str = "") -> Fault:
    return Fault(found.allowed or whole, found.mend, part=before + shown(item))


def _of_object(value: Any, hint: Any) -> Fault | None:
    """Checks what must be an object or a function; no literal is one."""
    if hint is Any or isinstance(hint, typing.TypeVar):
        return None
    literal = value is None or isinstance(value, bool | numbers.Number | str | bytes | tuple | list)
    if literal or isinstance(value, Mapping | set):
        return Fault(_words(hint))
    protocol = not isinstance(hint, type) or getattr(hint, "_is_protocol", False)
    return None if protocol or isinstance(value, hint) else Fault(_words(hint))


def _not_known_yet(value: Made | Taken, hint: Any) -> Fault | None:
    """Checks a function, or what one will return as far as its own hints say that."""
    wants_function = typing.get_origin(hint) is Callable or hint is Callable
    if isinstance(value, Taken):
        return _of_function(value, hint, wants_function)
    kind = value.by if isinstance(value.by, type) else _returned(value.by)
    if kind in (Any, object, None):
        return None
    if wants_function and isinstance(kind, type) and not _has(kind, "__call__"):
        return Fault(_words(hint), f"did you mean {value.text.removesuffix('()')}?")
    plain = hint in (int, float, bool, str) or typing.get_origin(hint) in (Literal, Mapping, dict)
    plain |= typing.get_origin(hint) in (Sequence, list, tuple)
    same = kind is hint or typing.get_origin(kind) is not None or not isinstance(kind, type)
    if plain and not same:
        base = typing.get_origin(hint) or hint
        number = base is float and kind is int
        if not number and not (isinstance(base, type) and issubclass(kind, base)):
            return Fault(_words(hint))
    if isinstance(hint, type) and isinstance(kind, type) and not plain:
        protocol = getattr(hint, "_is_protocol", False)
        parts = [n for n in vars(hint) if n == "__call__" or (protocol and n[0] != "_")]
        fits = all(_has(kind, n) for n in parts) if protocol else issubclass(kind, hint)
        return None if fits else Fault(_words(hint))
    return None


def _of_function(value: Taken, hint: Any, wanted: bool) -> Fault | None:
    """Checks a function that is handed on; one that makes functions was meant to be called."""
    if hint is Any:
        return None
    kind = value.what if isinstance(value.what, type) else _returned(value.what)
    makes = typing.get_origin(kind) is Callable
    makes |= isinstance(kind, type) and kind is not Any and _has(kind, "__call__")
    if not wanted or makes:
        return Fault(_words(hint), f"did you mean {value.text}()?")
    result = (typing.get_args(hint) or (Any,))[-1]
    known = isinstance(kind, type) and isinstance(result, type)
    return None if not known or issubclass(kind, result) else Fault(_words(hint))


def _has(kind: type, name: str) -> bool:
    """Says whether objects of a class have a method; the class itself can always be called."""
    return any(name in vars(base) for base in kind.__mro__)


def _returned(function: Any) -> Any:
    try:
        return typing.get_type_hints(function).get("return", Any)
    except (NameError, TypeError, AttributeError):
        return Any


def _plain(value: Any) -> Any:
    """Returns a value without the names that stand in it; what is not known yet stays."""
    if isinstance(value, Named):
        return _plain(value.value)
    return type(value)(map(_plain, value)) if type(value) in (tuple, list) else value


WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
MANY = {int: "whole numbers", float: "numbers", bool: "True and False", str: "texts"}
EXAMPLES = {int: "(1,)", float: "(0.5,)", bool: "(True,)", str: "('name',)"}


def _words(hint: Any) -> str:
    """Returns what a hint allows, in words."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        own = [r for r in inside[1:] if isinstance(r, Range) and r not in (SOME, DISTINCT)]
        return own[0].allowed if own else _words(inside[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_words, inside)))
    if origin is Literal:
        return " or ".join(map(repr, inside))
    if origin in (Sequence, list, tuple):
        return _words_of_several(hint, inside)
    if origin in (Mapping, dict):
        return "a table {name: value}"
    if hint is None or hint is type(None):
        return "None"
    if hint in WORDS:
        return WORDS[hint]
    if origin is Callable:
        return "a function, such as @NAME"
    name = getattr(hint, "__name__", str(hint))
    return f"an object, such as @NAME(), that is a {name}"


def _words_of_several(hint: Any, inside: Sequence[Any]) -> str:
    fixed = typing.get_origin(hint) is tuple and Ellipsis not in inside
    kinds = [typing.get_args(k)[0] if typing.get_origin(k) is Annotated else k for k in inside]
    if fixed:
        return "a tuple of " + " and ".join(_words(kind) for kind in inside)
    if not kinds:
        return "a tuple"
    if kinds[0] in MANY:
        return f"a tuple of {MANY[kinds[0]]}, such as {EXAMPLES[kinds[0]]}"
    if typing.get_origin(kinds[0]) is tuple:
        pair = ", ".join("36" if number == 0 else "8" for number in range(2))
        return f"a tuple of pairs, such as (({pair}),)"
    return "a list"


def check_utf8(texts: Sequence[str]) -> None:
    """Checks texts for a tokenizer.

    Raises:
      UserError: one is not UTF-8.
    """
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f"{text!a} is not UTF-8; give the text in that encoding") from None
