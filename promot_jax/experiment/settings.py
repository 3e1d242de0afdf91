"""Any configured value as plain data: equal for equal settings, whoever runs them and where.

What decides a training is often a function: an optimizer, a schedule, an initialiser. It is
described by its name and its arguments: those that gin binds, those of a `functools.partial`, its
defaults and what its closure holds. A function that no library brought also counts by its source
without comments, and by what that refers to. Addresses in memory, versions of jax, folders and the
order of settings do not count; of files and vocabularies, the content does.
"""

import ast
import contextlib
import dataclasses
import enum
import functools
import hashlib
import inspect
import json
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from promot_jax.base import values
from promot_jax.data import vocabularies

# Packages whose functions are known by name. Their private modules move between versions.
LIBRARIES = frozenset(
    {
        *sys.stdlib_module_names,
        *("promot_jax", "jax", "jaxlib", "flax", "optax", "chex", "numpy", "ml_dtypes"),
        *("gin", "seqio", "tensorflow", "absl"),
    }
)
# Names by which functions were known before they could do more: with what they did then, they are
# described as they were.
FORMER = {
    "promot_jax.model_optimizer": "promot_jax.model_adafactor",
    "promot_jax.prompt_optimizer": "promot_jax.prompt_adafactor",
}
# Arguments of these names, and whatever has a slash, may name a file.
FILES = re.compile(r"(.*_)?(path|file|filename)")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def describe(value: Any) -> Any:
    """Returns what JSON can hold of a value: equal for values that mean the same.

    Raises:
      UserError: a vocabulary that cannot be read.
    """
    return _Describer().of(value)


@dataclasses.dataclass(frozen=True)
class _Described:
    """A value that has been described in its own scope of gin."""

    as_data: Any


class _Describer:
    """One walk through a value. Functions, classes and objects that it meets again are known."""

    def __init__(self):
        # By address; the values are held, so that no address is used twice.
        self._known: dict[int, tuple[Any, str]] = {}

    def of(self, value: Any) -> Any:
        """See `describe`."""
        if (found := self._of_plain(value)) is not None or value is None:
            return found
        if isinstance(value, Mapping):
            items = [(self.of(key), self.of(item)) for key, item in value.items()]
            return {"mapping": sorted(items, key=repr)}
        if isinstance(value, AbstractSet):
            return {"set": sorted(map(self.of, value), key=repr)}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return [_name(type(value)), *map(self.of, value)]
        if isinstance(value, list | tuple):
            return list(map(self.of, value))
        if (gin := _gin()) and isinstance(value, gin.ConfigurableReference):
            return self._of_reference(gin, value)
        if isinstance(value, functools.partial) or _is_configured(value):
            return _digest(self._of_call(*self._unwound(value)))
        return self._of_object(value)

    def _of_plain(self, value: Any) -> Any:
        if isinstance(value, _Described):
            return value.as_data
        if isinstance(value, enum.Enum):
            return [_name(type(value)), value.name]
        if isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, bytes):
            return {"bytes": hashlib.sha256(value).hexdigest()}
        if isinstance(value, os.PathLike):
            return _of_path(os.fspath(value))
        if isinstance(value, re.Pattern):
            return ["pattern", value.pattern, value.flags]
        if isinstance(value, np.dtype):
            return ["dtype", str(value)]
        if vocabularies.is_one(value):
            return {"vocabulary": vocabularies.native(value).identity()}
        if hasattr(value, "__array__") and hasattr(value, "shape") and not isinstance(value, type):
            array = np.asarray(value)
            bits = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
            return ["array", str(array.dtype), list(array.shape), bits]
        return None

    def _of_object(self, value: Any) -> Any:
        """Describes a function, a class or an object, once."""
        if id(value) in self._known:
            return self._known[id(value)][1]
        # What refers to itself, as a recursive function does.
        self._known[id(value)] = value, "itself"
        if isinstance(value, types.MethodType):
            found = ["method", self.of(value.__func__), self.of(value.__self__)]
        elif isinstance(value, types.FunctionType):
            found = self._of_call(value, (), {})
        elif isinstance(value, type):
            found = ["class", _name(value), self._members(value)]
        elif dataclasses.is_dataclass(value):
            fields = dataclasses.fields(value)
            held = {field.name: getattr(value, field.name, None) for field in fields}
            for name, default in values.later(type(value)).items():
                if self.of(held[name]) == self.of(default):
                    del held[name]
            found = [self.of(type(value)), self.of(held)]
        elif (wrapped := getattr(value, "__wrapped__", None)) is not None:
            self._known[id(value)] = value, self.of(wrapped)
            return self._known[id(value)][1]
        elif isinstance(getattr(value, "__name__", None), str):
            found = ["named", _name(value)]
        elif _package(type(value)) in LIBRARIES - {"promot_jax"}:
            found = [_name(type(value)), re.sub(r"0x[0-9a-f]+", "", repr(value))]
        else:
            found = [self.of(type(value)), self._variables(value)]
        self._known[id(value)] = value, _digest(found)
        return self._known[id(value)][1]

    def _members(self, kind: type) -> Any:
        """Describes the functions and constants of a person's own class, inherited ones too."""
        found = {}
        for base in reversed(kind.__mro__):
            if _package(base) not in LIBRARIES:
                found |= {
                    name: getattr(member, "__func__", getattr(member, "fget", member))
                    for name, member in vars(base).items()
                    # Of what Python adds, and of slots, nothing decides what an object does.
                    if not re.fullmatch(r"__(?!call__).*__|_abc_impl", name)
                    and not isinstance(member, types.MemberDescriptorType)
                }
        return self.of(found)

    def _variables(self, value: Any) -> Any:
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        return self.of(held | getattr(value, "__dict__", {}))

    # ---- functions -------------------------------------------------------------------------------

    def _of_call(self, function: Any, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        """Describes a function and the arguments that it will get for certain."""
        if not isinstance(function, types.FunctionType):
            code, own = self.of(function), False
        else:
            code, own = self._code(function), _package(function) not in LIBRARIES - {"promot_jax"}
        try:
            signature = inspect.signature(function)
            given = dict(signature.bind_partial(*args, **kwargs).arguments)
        except (TypeError, ValueError):
            return ["call", code, self.of(args), self._arguments(kwargs)]
        if own or "<locals>" in getattr(function, "__qualname__", ""):
            for name, parameter in signature.parameters.items():
                if parameter.default is not parameter.empty:
                    given.setdefault(name, parameter.default)
        for name, default in values.later(function).items() if own else ():
            if name in given and self.of(given[name]) == self.of(default):
                del given[name]
        return ["call", code, self._arguments(given)]

    def _arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for name, value in sorted(given.items()):
            is_path = isinstance(value, str) and (FILES.fullmatch(name) or os.sep in value)
            found[name] = _of_path(value) if is_path else self.of(value)
        return found

    def _code(self, function: types.FunctionType) -> Any:
        """Describes what a function does with its arguments."""
        code = function.__code__
        cells = {}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # not filled yet
                cells[name] = cell.cell_contents
        found = {"name": _name(function), "holds": self._arguments(cells)}
        if _package(function) in LIBRARIES:
            return found
        names = sorted({name for part in _codes(code) for name in part.co_names})
        used = {name: function.__globals__[name] for name in names if name in function.__globals__}
        for module in [value for value in used.values() if isinstance(value, types.ModuleType)]:
            if module.__name__.partition(".")[0] not in LIBRARIES:
                inside = [name for name in names if hasattr(module, name)]
                used |= {f"{module.__name__}.{name}": getattr(module, name) for name in inside}
        used = {n: value for n, value in used.items() if not isinstance(value, types.ModuleType)}
        return found | {"source": _source(code), "uses": self._arguments(used)}

    # ---- gin -------------------------------------------------------------------------------------

    def _unwound(self, value: Any) -> tuple[Any, tuple, dict[str, Any]]:
        """Returns the function beneath partials and gin's wrappers, and what it is given."""
        if isinstance(value, functools.partial):
            function, args, kwargs = self._unwound(value.func)
            return function, (*args, *value.args), {**kwargs, **value.keywords}
        if not _is_configured(value):
            return value, (), {}
        held, gin = _held(value), _gin()
        if "scope_components" in held:
            with gin.config_scope(held["scope_components"]):
                return self._unwound(held["fn_or_cls"])
        bound = gin.get_bindings(held["selector"], resolve_references=False)
        given = {name: _Described(self._arguments({name: v})[name]) for name, v in bound.items()}
        return held["fn_or_cls"], (), given

    def _of_reference(self, gin: types.ModuleType, reference: Any) -> Any:
        """Describes what a setting of gin refers to: `@function`, `@function()` or `%MACRO`."""
        configured = reference.scoped_configurable_fn
        if not reference.evaluate:
            return self.of(configured)
        if reference.selector == "gin.macro":
            with gin.config_scope(reference.scopes):
                return self.of(gin.get_bindings("gin.macro", resolve_references=False)["value"])
        value = configured()
        # What a function returns may be held together by a library's own functions.
        is_code = callable(value) or hasattr(value, "_fields")
        return ["result", self.of(configured)] if is_code else self.of(value)


def _digest(found: Any) -> str:
    """Shortens a description, which would grow with every function that uses the same others."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _gin() -> types.ModuleType | None:
    """Returns gin's module; without it nothing is configured by gin."""
    return sys.modules.get("gin.config")


def _held(function: Any) -> dict[str, Any]:
    """Returns what the closure of gin's wrapper of a function or a class holds."""
    call = vars(type(function)).get("__call__") if isinstance(function, type) else function
    code, gin = getattr(call, "__code__", None), _gin()
    if gin is None or code is None or code.co_filename != gin.__file__:
        return {}
    return dict(
        zip(code.co_freevars, (c.cell_contents for c in call.__closure__ or ()), strict=True)
    )


def _is_configured(value: Any) -> bool:
    return callable(value) and "fn_or_cls" in _held(value)


def _package(value: Any) -> str:
    return (getattr(value, "__module__", None) or "builtins").partition(".")[0]


def _name(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or value.__name__
    name = f"{_package(value)}.{name}" if _package(value) in LIBRARIES else name
    return FORMER.get(name, name)


def _of_path(path: str) -> Any:
    """Describes a file by its content, anything else as it is written."""
    if not os.path.isfile(path):
        return path
    with open(path, "rb") as file:
        return {"content": hashlib.file_digest(file, "sha256").hexdigest()}


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yields the code of a function and of those inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _source(code: types.CodeType) -> Any:
    """Returns the source without comments and docstrings; the code where that tells too little."""
    try:
        tree = ast.parse("".join(inspect.findsource(code)[0]))
    except (OSError, SyntaxError):
        tree = ast.Module([], [])
    found = []
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            decorators = getattr(node, "decorator_list", [])
            first = min(part.lineno for part in (node, *decorators))
            if first == code.co_firstlineno and getattr(node, "name", "<lambda>") == code.co_name:
                found.append(_without_docstrings(node))
    if len(found) == 1:
        return found[0]
    # Two functions in a line, or none in a file.
    constants = [
        constant
        for part in _codes(code)
        for constant in part.co_consts
        if not isinstance(constant, types.CodeType)
    ]
    instructions = b"".join(part.co_code for part in _codes(code)).hex()
    return [instructions, repr(constants), [part.co_names for part in _codes(code)]]


def _without_docstrings(tree: ast.AST) -> str:
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS[:2]) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
