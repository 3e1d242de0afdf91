"""Parts of methods that change which rows a stage reads, and nothing else of it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

from promot_jax.data import generated, tasks
from promot_jax.data.generated import Asking, Rewriting
from promot_jax.training.stages import Stage


def with_rewritten(
    stage: Stage, rewriting: Rewriting | None = None, asking: Asking | None = None
) -> Stage:
    """Returns a stage whose training targets are the start model's own words, see `Rewriting`.

    Args:
      stage: of any kind.
      rewriting: what the model is asked; None asks the usual.
      asking: how; None takes the most probable of as many tokens as the stage's targets may have.

    Raises:
      UserError: its mixture is not registered.
    """
    rewritten = functools.partial(generated.rewritten, rewriting=rewriting)
    return _reading(stage, rewritten, asking)


def with_answers(stage: Stage, asking: Asking | None = None) -> Stage:
    """Returns a stage whose training targets are its teacher's answers, where these are right.

    The teacher is the model that the stage starts from, with what `Stage.teacher` says, or with
    what the stage attaches; without either it is that model itself.

    Args:
      stage: of any kind.
      asking: as for `with_rewritten`.

    Raises:
      UserError: its mixture is not registered.
    """
    return _reading(stage, generated.answered, asking)


def _reading(stage: Stage, written: Callable[..., str], asking: Asking | None) -> Stage:
    """Returns a stage that reads other tasks than its own, those that `written` registers."""
    rates = tasks.rates(stage.mixture)
    if asking is None:
        most = (stage.task_feature_lengths or {"targets": 64})["targets"]
        asking = Asking(tokens=most, temperature=None)
    names = {name: written(name, asking=asking) for name in rates}
    mixture = names.get(stage.mixture)
    if mixture is None:
        mixture = f"{stage.mixture}_{generated.digest(*names.values())}"
        tasks.add(tasks.Mixture(mixture, {names[name]: rate for name, rate in rates.items()}))
    prompt = stage.prompt
    if isinstance(prompt, Mapping):
        prompt = {names[name]: prompt[name] for name in names}
    return dataclasses.replace(stage, mixture=mixture, prompt=prompt)
