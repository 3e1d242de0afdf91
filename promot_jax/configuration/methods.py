"""Which methods and parts an experiment has, and which methods run: what gin gives them."""

import difflib
from collections.abc import Collection, Sequence
from typing import Any

from promot_jax.base import values
from promot_jax.base.errors import UserError
from promot_jax.configuration import bindings

IMPORTS = (
    "from __gin__ import dynamic_registration",
    "from promot_jax.experiment import experiment",
    "from promot_jax.training import parts",
    "from promot_jax.training import stages",
)


def list_all() -> None:
    """Gives an experiment that lists no methods those of the configuration whose macros are set.

    It gets the parts as well. Their order is that in which they were defined.
    """
    import gin

    for field, (selector, written) in _LISTED.items():
        if field in bindings.bound("", bindings.EXPERIMENT):
            continue
        scopes = [s for s in _defined(selector).values() if not _missing(s, selector)]
        if scopes:
            references = ", ".join(f"@{scope}/{written}()" for scope in scopes)
            gin.parse_config([*IMPORTS, f"experiment.Experiment.{field} = [{references}]"])


_LISTED = {
    "methods": (bindings.METHOD, "stages.Method"),
    "parts": (bindings.PART, "parts.Part"),
}


def listed(field: str = "methods") -> list[str | None]:
    """Returns the names of the experiment's methods, in order; None for one that gin has not.

    Args:
      field: `parts` for those of the parts.
    """
    found = bindings.bound("", bindings.EXPERIMENT).get(field, ("", ()))[1]
    return [_name_of(one) for one in bindings.literal(found)]


def asked() -> Sequence[str] | None:
    """Returns the names of the methods to run as they were given, None for all."""
    return _plain(_only())


def reached(names: Collection[str]) -> dict[tuple[str, str], bindings.Call]:
    """Returns what building the experiment can call if it has these of its methods alone."""
    named = {piece for name in names for piece in _pieces(name)}

    def left_out(selector: str, parameter: str, reference: Any) -> bool:
        ours = selector == bindings.EXPERIMENT and parameter in _LISTED
        return ours and _name_of(reference) not in named

    return bindings.reached(left_out=left_out)


def check() -> None:
    """Checks that the experiment has the methods that it should run, and their parts.

    Raises:
      UserError: one of them it has not; says which it has, or what the one would need.
    """
    only, methods = _only(), listed()
    if not methods or None in methods:
        return
    known = [*methods, *listed("parts")]
    for name in asked() or ():
        missing = [piece for piece in _pieces(name) if piece not in known]
        # What follows a plus is a part.
        missing += [piece for piece in name.split("+")[1:] if piece in methods]
        if not missing:
            continue
        wanted = f"{getattr(only, 'name', 'experiment.Experiment.only')} = {values.shown(asked())}"
        raise UserError(f"{wanted}: {_complaint(missing[0], methods, known)}")


def _pieces(name: str) -> list[str]:
    """Returns what a name is put together from; a part alone is added to standard fine-tuning."""
    first, *added = name.split("+")
    alone = first in listed("parts") and first not in listed()
    return ["fine_tuning"] * alone + [first, *added]


def _complaint(name: str, methods: Sequence[str], known: Sequence[str]) -> str:
    if name in methods:
        parts = [part for part in known if part not in methods]
        return f"{name!r} is a method, which comes first; parts follow it: {', '.join(parts)}"
    for selector, _ in _LISTED.values():
        scope = _defined(selector).get(name)
        if scope is not None and (missing := _missing(scope, selector)):
            mend = f"it needs {', '.join(missing)}; give each by --gin.NAME=VALUE, or choose of"
            break
    else:
        near = difflib.get_close_matches(name, known, 1)
        mend = f"did you mean {near[0]!r}? It has" if near else "it has"
    return f"no method {name!r} in this experiment; {mend} {', '.join(known)}"


def _defined(selector: str) -> dict[str, str]:
    """Returns {name: scope} of all methods, or all parts, that the configuration defines."""
    from gin import config

    scopes = [scope for scope, found in config._CONFIG if found == selector and scope]
    names = {_name_in(scope, selector): scope for scope in scopes}
    return {name: scope for name, scope in names.items() if name is not None}


def _missing(scope: str, selector: str) -> list[str]:
    """Returns the macros without a value that a method or a part refers to."""
    return bindings.unset((scope, selector))


def _only() -> Any:
    return bindings.resolved(bindings.bound("", bindings.EXPERIMENT).get("only", ("", None))[1])


def _name_of(method: Any) -> str | None:
    from gin import config

    known = isinstance(method, config.ConfigurableReference)
    return _name_in(*method.config_key) if known else None


def _name_in(scope: str, selector: str) -> str | None:
    name = _plain(bindings.resolved(bindings.bound(scope, selector).get("name", ("", None))[1]))
    return name if isinstance(name, str) else None


def _plain(value: Any) -> Any:
    value = value.value if isinstance(value, values.Named) else value
    return None if isinstance(value, values.Made) else value
