"""Fine-tune a language model in two stages so that it keeps its other abilities (ProMoT)."""

# What a person calls from Python. Each call imports what it needs: this module is read by every
# command, and costs next to nothing.

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from promot_jax.base.errors import UserError

if TYPE_CHECKING:
    import pathlib

    from promot_jax.experiment.loaded import LoadedModel

__version__ = "0.1.0"
__all__ = ["UserError", "load", "metrics", "run", "scores"]


def load(
    path: str | os.PathLike,
    *,
    method: str | None = None,
    seed: int | None = None,
    at: float | None = None,
    vocabulary: str | os.PathLike | None = None,
) -> "LoadedModel":
    """Loads a model: a checkpoint of any format, or what a method of a finished run made.

    Args:
      path: a Hugging Face, T5X or promot_jax folder, a `.gguf` file, `hf://OWNER/NAME`, or the
        folder of a run.
      method: of a run; by default the last that was trained.
      seed: of a run; by default its first.
      at: of a run: a point of the method's curve; 0.5 is halfway from the model that it started
        from.
      vocabulary: a SentencePiece model or a `tokenizer.json`, for a checkpoint that has none.

    Returns:
      A model with the methods `attach`, `with_prompt`, `with_lora` and `generate`. No prompt is
      attached to it.

    Raises:
      UserError: nothing there that can be loaded, or a method or seed that is not finished.
    """
    from promot_jax.commands import models

    try:
        return models.load(str(path), method, seed, at, vocabulary and str(vocabulary))
    finally:
        _forget()


def run(
    experiment: str | os.PathLike,
    *,
    seeds: int | Sequence[int] | None = None,
    methods: str | Sequence[str] | None = None,
    bindings: Sequence[str] = (),
    **settings: Any,
) -> "pathlib.Path":
    """Runs an experiment to its report, as `promot run` does; continues one that was interrupted.

    Args:
      experiment: its name, or the path of a `.gin` file.
      seeds, methods: what to run now; by default what the experiment says.
      bindings: values in gin's own words, such as `LEARNING_RATE=@optimizers.warmup_cosine()`.
      **settings: values by name. A name with a capital letter or a dot is gin's, as
        `TRAIN_STEPS=800` or `**{"stages.Stage.z_loss": 0.0001}`; others are flags of `promot run`,
        as `train="rows.jsonl"`, `unseen=["facts.jsonl"]` or `distributed=True`.

    Returns:
      The run folder, a `pathlib.Path`; None with `preview=True`.

    Raises:
      UserError: what the command refuses: an unknown name, a value out of range, a folder of
        another configuration.
    """
    from promot_jax import cli
    from promot_jax.commands import run as command

    try:
        return cli.call(command.words(str(experiment), seeds, methods, bindings, settings))
    finally:
        _forget()


def scores(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the scores of a run, finished or not: one dict a method, task and seed.

    Keys: `run`, `method`, `method_label`, `seed` (None without training), `kind` ("target" or
    "unseen"), `task`, `task_label`, `family`, `shots`, `metric`, `evaluated_as`, `score` (0 to
    100), `count` (examples behind it), `label_share` (per cent of the answers that are labels of
    the target).

    Raises:
      UserError: the folder is no run folder.
    """
    from promot_jax.report.pages import exports
    from promot_jax.report.records import records

    return exports.score_rows(records.read(str(folder)))


def _forget() -> None:
    from promot_jax import configuration

    configuration.clear()


def __getattr__(name: str) -> Any:
    # Tasks of people's own import these two.
    if name == "metrics":
        from promot_jax.data import metrics

        return metrics
    if name == "vocabularies":
        from promot_jax.data import vocabularies

        return vocabularies
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
