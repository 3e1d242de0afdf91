"""Which methods an experiment has, and which of them run: what `stages.Method` is given in gin."""

import difflib
from collections.abc import Collection, Sequence
from typing import Any

from promot_jax.base import values
from promot_jax.base.errors import UserError
from promot_jax.configuration import bindings

IMPORTS = (
    "from __gin__ import dynamic_registration",
    "from promot_jax.experiment import experiment",
    "from promot_jax.training import stages",
)


def list_all() -> None:
    """Gives an experiment that lists no methods those of the configuration whose macros are set.

    Their order is that in which they were defined.
    """
    import gin

    if "methods" in bindings.bound("", bindings.EXPERIMENT):
        return
    scopes = [scope for scope in _defined().values() if not _missing(scope)]
    if scopes:
        references = ", ".join(f"@{scope}/stages.Method()" for scope in scopes)
        gin.parse_config([*IMPORTS, f"experiment.Experiment.methods = [{references}]"])


def listed() -> list[str | None]:
    """Returns the names of the experiment's methods, in order; None for one that gin has not."""
    found = bindings.bound("", bindings.EXPERIMENT).get("methods", ("", ()))[1]
    return [_name_of(method) for method in bindings.literal(found)]


def asked() -> Sequence[str] | None:
    """Returns the names of the methods to run as they were given, None for all."""
    return _plain(_only())


def reached(names: Collection[str]) -> dict[tuple[str, str], bindings.Call]:
    """Returns what building the experiment can call if it has these of its methods alone."""

    def left_out(selector: str, parameter: str, reference: Any) -> bool:
        ours = (selector, parameter) == (bindings.EXPERIMENT, "methods")
        return ours and _name_of(reference) not in names

    return bindings.reached(left_out=left_out)


def check() -> None:
    """Checks that the experiment has the methods that it should run.

    Raises:
      UserError: one of them it has not; says which it has, or what the one would need.
    """
    only, known = _only(), listed()
    for name in asked() or ():
        if not known or name in known or None in known:
            continue
        wanted = f"{getattr(only, 'name', 'experiment.Experiment.only')} = {values.shown(asked())}"
        scope = _defined().get(name)
        if scope is not None and (missing := _missing(scope)):
            mend = f"it needs {', '.join(missing)}; give each by --gin.NAME=VALUE, or choose of"
        else:
            near = difflib.get_close_matches(name, known, 1)
            mend = f"did you mean {near[0]!r}? It has" if near else "it has"
        raise UserError(
            f"{wanted}: no method {name!r} in this experiment; {mend} {', '.join(known)}"
        )


def _defined() -> dict[str, str]:
    """Returns {name: scope} of all methods that the configuration defines."""
    from gin import config

    scopes = [s for s, selector in config._CONFIG if selector == bindings.METHOD and s]
    names = {_name_in(scope): scope for scope in scopes}
    return {name: scope for name, scope in names.items() if name is not None}


def _missing(scope: str) -> list[str]:
    """Returns the macros without a value that a method refers to."""
    return bindings.unset((scope, bindings.METHOD))


def _only() -> Any:
    return bindings.resolved(bindings.bound("", bindings.EXPERIMENT).get("only", ("", None))[1])


def _name_of(method: Any) -> str | None:
    from gin import config

    known = isinstance(method, config.ConfigurableReference)
    return _name_in(*method.config_key) if known else None


def _name_in(scope: str, selector: str = bindings.METHOD) -> str | None:
    name = _plain(bindings.resolved(bindings.bound(scope, selector).get("name", ("", None))[1]))
    return name if isinstance(name, str) else None


def _plain(value: Any) -> Any:
    value = value.value if isinstance(value, values.Named) else value
    return None if isinstance(value, values.Made) else value
