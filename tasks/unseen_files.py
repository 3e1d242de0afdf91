"""What a model should go on doing: a person's own questions and their answers, as unseen tasks.

Each file is a task of its own. Its rows have a field `input`, the whole text that the model reads,
exemplars included, and a field `target`, with a metric of several answers also a list of them. Or
they are rows of chat, whose last answer is asked for.
"""

import os
import re
from collections.abc import Sequence

from promot_jax.base.errors import UserError
from promot_jax.data.metrics import METRICS
from promot_jax.tasks import chat_files, row_sets
from promot_jax.tasks import files as own_files

# Registered task, its name in tables, its metric, whether its answers are free text.
Named = tuple[str, str, str, bool]


def tasks(
    files: Sequence[str],
    template: str = "{input}",
    target: str = "{target}",
    checksums: Sequence[str] | None = None,
    chat_template: chat_files.ReadTemplate | None = None,
    system: str | None = None,
    halves: bool = False,
) -> list[Named]:
    """Registers a task for each file; nothing trains on its rows, so each split has them all.

    Args:
      files: each a path, or `METRIC=PATH`; without a metric it is `exact_match`.
      template, target: texts of a row, with its fields in braces.
      checksums: of the rows that are expected, for each file; they are then read when needed.
      chat_template, system: for files of chat, see `files.task`.
      halves: whether validation and test have half of the rows each, dealt by chance.

    Raises:
      UserError: no file, two of one name, or what `files.task` raises.
    """
    if not files:
        raise UserError("UNSEEN_FILES (--unseen) names no file; give at least one")
    found = {}
    for number, given in enumerate(files):
        metric, path = split_metric(given)
        path = row_sets.chosen(path, row_sets.TEST)
        label = row_sets.base_name(path)
        if label in found:
            raise UserError(f"--unseen: two files are named {label!r}; rename one")
        chat = row_sets.exists(path) and chat_files.is_chat(path)
        name = own_files.task(
            path,
            path,
            None if chat else template,
            None if chat else target,
            metric,
            test=None if halves else path,
            name=("halved_" if halves else "unseen_") + re.sub(r"\W", "_", label),
            checksum=checksums[number] if checksums else None,
            chat_template=chat_template,
            turns="last",
            system=system,
        )
        found[label] = (name, label, metric, own_files.generative(metric))
    return list(found.values())


def split_metric(given: str) -> tuple[str, str]:
    """Returns the metric and the path of `METRIC=PATH` or `PATH`.

    Raises:
      UserError: an unknown metric.
    """
    metric, separator, path = given.partition("=")
    if not separator or os.path.exists(given):
        return "exact_match", given
    if metric not in METRICS:
        known = ", ".join(METRICS)
        raise UserError(f"--unseen {given}: no metric {metric!r}; use {known}, or a path alone")
    return metric, path
