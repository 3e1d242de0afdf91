"""Settings of stages that several bindings make together: learning rates, and steps from epochs."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from promot_jax.base import values
from promot_jax.base.errors import UserError
from promot_jax.configuration import bindings, methods
from promot_jax.configuration.complaints import explained

STAGE = "promot_jax.training.stages.Stage"
# What the course of a rate is where nothing sets it.
STEADY = {"schedule": "constant", "warmup": 0}

Bound = Mapping[str, tuple[str, Any]]


def check_rates() -> None:
    """Checks that no learning rate has two courses.

    Raises:
      UserError: a rate is a schedule already.
    """
    names = methods.asked()
    for _, bound in _stages(bindings.reached() if names is None else methods.reached(names)):
        rate = _rate(bound)
        if rate is None or not isinstance(rate.value, values.Made):
            continue
        for parameter, usual in STEADY.items():
            found = _named(bound, parameter, usual)
            if found.value != usual:
                raise UserError(
                    f"{found.name} = {values.shown(found.value)}: {rate.name} = {rate.value.text} "
                    "is a schedule already; give the highest rate as a number, or leave this out"
                )


def passes() -> list[Any]:
    """Returns the stages whose steps follow from epochs, as `epochs.Passes`.

    They are those of all methods, so that a folder has the same steps whichever of them run.

    Raises:
      UserError: a value that a stage cannot have.
    """
    import gin
    from promot_jax.experiment.epochs import Passes
    from promot_jax.training.stages import Stage

    found = {}
    for scope, bound in _stages(bindings.reached()):
        epochs = _named(bound, "epochs", None)
        steps, period = (_named(bound, name, None).name for name in ("steps", "eval_period"))
        like = steps, period, *(repr(bound.get(name)) for name in ("mixture", "batches", "replay"))
        if epochs.value is None or like in found:
            continue
        with explained("configuration"), gin.config_scope(scope or None):
            stage = gin.get_configurable(Stage)()
        given = f"{epochs.name} = {values.shown(epochs.value)}"
        found[like] = Passes(stage, given, steps, period)
    return list(found.values())


def _stages(reached: Iterable[tuple[str, str]]) -> Iterator[tuple[str, Bound]]:
    """Yields the scope of each stage among what is reached, and what is bound in it."""
    for scope, selector in reached:
        if selector == STAGE:
            yield scope, bindings.bound(scope, STAGE)


def _named(bound: Bound, parameter: str, default: Any, selector: str = STAGE) -> values.Named:
    """Returns the value of a parameter under the name by which a person sets it."""
    where, value = bound.get(parameter, ("", default))
    found = bindings.resolved(value)
    if isinstance(found, values.Named):
        return found
    return values.Named(bindings.full_name(where, selector, parameter), found)


def _rate(bound: Bound) -> values.Named | None:
    """Returns the learning rate of a stage's optimizer, None where nothing binds it."""
    scope, selector = bindings.referred(bound.get("optimizer", ("", None))[1])
    found = bindings.bound(scope, selector)
    return _named(found, "learning_rate", None, selector) if "learning_rate" in found else None
