"""What a gin configuration binds: which values an experiment reads, by which names, and what for.

Beside `configuration` the only file that knows gin; it reads a configuration that is parsed and
builds nothing, so that no file, model or row is opened.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from promot_jax.base import files, values
from promot_jax.base.errors import UserError

EXPERIMENT = "promot_jax.experiment.experiment.Experiment"
METHOD = "promot_jax.training.stages.Method"
PART = "promot_jax.training.parts.Part"
MACRO = "gin.macro"

# Parameters that are paths: of these `~` is expanded.
PATHS = {
    "experiment.Experiment": ("initial_checkpoint", "reuse"),
    "pretrained.bare_model": ("path", "vocabulary"),
    "vocabularies.Tokenizer": ("path",),
    "SentencePieceVocabulary": ("sentencepiece_model_file",),
    "files.task": ("train", "evaluation", "test"),
    "unseen_files.tasks": ("files",),
    "replay_rows.rows": ("given",),
    "prompt.from_file": ("path",),
}
# Set by a macro that the program itself reads.
MODEL_DIR = ("MODEL_DIR", MACRO)


class Call(NamedTuple):
    """A function or class that building the experiment calls, or hands on to be called later."""

    what: Any
    later: bool


# Says of a selector, its parameter and a reference in it whether the reference does not count.
LeftOut = Callable[[str, str, Any], bool]


def reached(
    root: tuple[str, str] = ("", EXPERIMENT), left_out: LeftOut = lambda *_: False
) -> dict[tuple[str, str], Call]:
    """Returns {(scope, selector): what it is} of all that a call can call in turn.

    Args:
      root: scope and selector of what is called: the experiment, a method or a part.
      left_out: says which references do not count; none, unless told otherwise.
    """
    from gin import config
    from promot_jax.experiment.experiment import Experiment
    from promot_jax.training.parts import Part
    from promot_jax.training.stages import Method

    what = {EXPERIMENT: Experiment, METHOD: Method, PART: Part}[root[1]]
    seen: dict[tuple[str, str], Call] = {}
    waiting = [(*root, Call(what, later=False))]
    while waiting:
        scope, selector, call = waiting.pop()
        known = seen.get((scope, selector))
        if known is not None and (call.later or not known.later):
            continue
        seen[scope, selector] = call
        for parameter, (_, found) in bound(scope, selector).items():
            for reference in config.iterate_references(found):
                if left_out(selector, parameter, reference):
                    continue
                inner, called = reference.config_key
                what = Call(reference.configurable.wrapped, not reference.evaluate)
                waiting.append((inner or scope, called, what))
    # In the order in which a configuration is written.
    order = {key: number for number, key in enumerate(config._CONFIG)}
    return dict(sorted(seen.items(), key=lambda item: order.get(item[0], -1)))


def bound(scope: str, selector: str) -> dict[str, tuple[str, Any]]:
    """Returns {parameter: (scope of its binding, value)} of what applies in a scope."""
    from gin import config

    return {
        name: (where, value)
        # A binding applies where its scope begins the active one; of several the longest.
        for where, _ in sorted(key for key in config._CONFIG if key[1] == selector)
        if f"{scope}/".startswith(f"{where}/".lstrip("/"))
        for name, value in config._CONFIG[where, selector].items()
    }


def macros(reached: Iterable[tuple[str, str]]) -> set[str]:
    """Returns the names of the macros among what is reached."""
    return {scope for scope, selector in reached if selector == MACRO}


def unset(root: tuple[str, str] = ("", EXPERIMENT)) -> list[str]:
    """Returns the macros that a call refers to and that have no value; see `reached`."""
    from gin import config

    return sorted(name for name in macros(reached(root)) if (name, MACRO) not in config._CONFIG)


def check(typed: Mapping[str, str]) -> None:
    """Checks kinds and ranges of all that the experiment reads, before any of it is built.

    Args:
      typed: {name: text} of the values that a person typed.

    Raises:
      UserError: names the macro or parameter, its value and what is allowed.
    """
    for name, value, hint in _settings():
        if found := values.fault(value, hint):
            named = found.named or values.Named(name, value)
            value = " ".join(typed.get(named.name, "").split()) or values.shown(named.value)
            raise UserError(values.complaint(named.name, value, found))
    _check_complete()


def _settings() -> Iterator[tuple[str, Any, Any]]:
    """Yields (name, value, hint) of each binding that is reached, once."""
    seen = set()
    for (scope, selector), call in reached().items():
        hints = values.hints(call.what)
        for parameter, (where, value) in bound(scope, selector).items():
            if parameter in hints and (where, selector, parameter) not in seen:
                seen.add((where, selector, parameter))
                yield full_name(where, selector, parameter), resolved(value), hints[parameter]
    yield "MODEL_DIR", _macro("MODEL_DIR"), values.Text


def full_name(scope: str, selector: str, parameter: str) -> str:
    """Returns the name by which a configuration sets a parameter."""
    # As it is written after `from promot_jax import MODULE`.
    short = ".".join([*selector.split(".")[-2:], parameter])
    return f"{scope}/{short}" if scope else short


def _macro(name: str, through: Sequence[str] = ()) -> Any:
    """Returns a macro's value under the name of the macro that holds it."""
    from gin import config

    bound = config._CONFIG.get((name, MACRO))
    if bound is None:
        # That it has none is said elsewhere.
        return values.Made(Any, f"%{name}")
    if name in through:
        raise UserError(f"{name} = {bound['value']}: it stands for itself; give it a value")
    value = resolved(bound["value"], (*through, name))
    unset = isinstance(value, values.Made) and value.by is Any
    return value if unset or isinstance(value, values.Named) else values.Named(name, value)


def resolved(value: Any, through: Sequence[str] = ()) -> Any:
    """Returns a bound value with its macros replaced and its calls described."""
    from gin import config

    if isinstance(value, config.ConfigurableReference):
        scope, selector = value.config_key
        if selector == MACRO:
            return _macro(scope, through)
        kind = values.Made if value.evaluate else values.Taken
        return kind(value.configurable.wrapped, repr(value))
    if type(value) in (tuple, list):
        return type(value)(resolved(item, through) for item in value)
    if type(value) is dict:
        return {key: resolved(item, through) for key, item in value.items()}
    return value


def _check_complete() -> None:
    """Raises UserError for a call whose parameter has neither a value nor a default."""
    for (scope, selector), call in reached().items():
        if call.later or selector == MACRO:
            # Whoever calls it later gives some of them.
            continue
        given = bound(scope, selector)
        for name, parameter in inspect.signature(call.what).parameters.items():
            variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if parameter.default is parameter.empty and not variable and name not in given:
                full = full_name("", selector, name)
                raise UserError(f"{full} has no value; give one by --gin.{full}=VALUE")


def referred(value: Any) -> tuple[str, str]:
    """Returns scope and selector of what a value refers to at last; two empty ones for none."""
    from gin import config

    while isinstance(value, config.ConfigurableReference):
        scope, selector = value.config_key
        if selector != MACRO:
            return scope, selector
        value = config._CONFIG.get((scope, MACRO), {}).get("value")
    return "", ""


def literal(value: Any) -> Any:
    """Returns what a macro holds, its references as they are; () for what is not known."""
    from gin import config

    while isinstance(value, config.ConfigurableReference):
        scope, selector = value.config_key
        value = config._CONFIG.get((scope, MACRO), {}).get("value", ()) if selector == MACRO else ()
    return value


def value_of(full: str) -> Any:
    """Returns the value of a parameter, None where it has none yet."""
    for name, value, _ in _settings():
        if name == full:
            value = value.value if isinstance(value, values.Named) else value
            return None if isinstance(value, values.Made) else value
    return None


def named(misfit: values.Misfit) -> str:
    """Returns a complaint about fields with the names by which a person set them."""
    names = {}
    for field, value in misfit.settings.items():
        found = [
            wanted.name if isinstance(wanted, values.Named) else name
            for name, wanted, _ in _settings()
            if name.endswith(f"{misfit.owner.__name__}.{field}")
            and (wanted.value if isinstance(wanted, values.Named) else wanted) == value
        ]
        names[field] = found[0] if found else field
    return misfit.told(names)


def expand_home() -> None:
    """Replaces `~` at the beginning of all paths in the configuration.

    Raises:
      UserError: `~NAME` of no user.
    """
    from gin import config

    for (scope, selector), parameters in list(config._CONFIG.items()):
        wanted = next((n for end, n in PATHS.items() if f".{selector}".endswith(f".{end}")), ())
        for parameter in set(wanted) & set(parameters):
            _expand(scope, selector, parameter)
    if MODEL_DIR in config._CONFIG:
        _expand(*MODEL_DIR, "value")


def _expand(scope: str, selector: str, parameter: str) -> None:
    from gin import config

    value = config._CONFIG[scope, selector][parameter]
    if isinstance(value, config.ConfigurableReference):
        held, selector = value.config_key
        if selector == MACRO and (held, MACRO) in config._CONFIG:
            _expand(held, MACRO, "value")
        return
    several = type(value) in (tuple, list) and all(isinstance(item, str) for item in value)
    if not several and not isinstance(value, str):
        # What is no path is found by `check`.
        return
    try:
        found = type(value)(map(files.home, value)) if several else files.home(value)
    except UserError as error:
        name = scope if selector == MACRO else full_name(scope, selector, parameter)
        raise UserError(f"{name} = {error}") from None
    config._CONFIG[scope, selector][parameter] = found
