"""Parts of methods that change which rows a stage reads, and nothing else of it."""

import dataclasses
from collections.abc import Mapping

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
    rates = tasks.rates(stage.mixture)
    if asking is None:
        most = (stage.task_feature_lengths or {"targets": 64})["targets"]
        asking = Asking(tokens=most, temperature=None)
    names = {name: generated.rewritten(name, rewriting, asking) for name in rates}
    mixture = names.get(stage.mixture)
    if mixture is None:
        mixture = f"{stage.mixture}_{generated.digest(*names.values())}"
        tasks.add(tasks.Mixture(mixture, {names[name]: rate for name, rate in rates.items()}))
    prompt = stage.prompt
    if isinstance(prompt, Mapping):
        prompt = {names[name]: prompt[name] for name in names}
    return dataclasses.replace(stage, mixture=mixture, prompt=prompt)
