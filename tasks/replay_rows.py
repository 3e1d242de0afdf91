"""General rows that are mixed into those of a target: a file, a task, or what the model says.

Rows of a file have fields `input` and `target`, unless templates say otherwise, or are rows of
chat. `self` stands for rows that the start model writes, from nothing; `self@FILE` and `self@TASK`
for those that it writes after inputs of a file or task, whose targets are not read.
"""

import re

from promot_jax.base import values
from promot_jax.base.errors import UserError
from promot_jax.data import generated
from promot_jax.data import tasks as registered
from promot_jax.tasks import chat_files, row_sets
from promot_jax.tasks import files as own_files

SHARE = 0.1
SELF = "self"


def rows(
    given: str,
    template: str = "{input}",
    target: str = "{target}",
    checksum: str | None = None,
    chat_template: chat_files.ReadTemplate | None = None,
    turns: str = "all",
    system: str | None = None,
    count: values.Count = 1000,
    begin: values.Count | None = None,
    asking: generated.Asking | None = None,
) -> tuple[str, float]:
    """Returns the task of general rows, which is registered, and their share of a batch.

    Args:
      given: `FILE` or `FILE:SHARE`; in place of a file a registered task or mixture, `self`, or
        `self@` and a file or task.
      template, target: texts of a row of a file, with its fields in braces.
      checksum: of the rows that are expected; they are then read when they are first needed.
      chat_template, turns, system: for files of chat, see `files.task`.
      count, begin, asking: of rows that the start model writes, see `generated.continued`.

    Raises:
      UserError: a share that is none, no such file, or what `files.task` raises.
    """
    name, share = split_share(given)
    if name == SELF:
        return generated.continued(None, count, None, asking), share
    own = name.startswith(f"{SELF}@")
    task = name = name.removeprefix(f"{SELF}@") if own else name
    if name not in registered.names():
        path = row_sets.chosen(name, row_sets.TRAIN)
        there = row_sets.exists(path)
        if checksum is None and not there:
            raise UserError(
                f"REPLAY (--replay) {given}: there is no file and no registered task {name!r}; "
                "name one"
            )
        chat = there and chat_files.is_chat(path)
        task = own_files.task(
            path,
            path,
            None if chat else template,
            # What the model writes takes the place of targets, which a file then need not have.
            None if chat else (template if own else target),
            "exact_match",
            test=path,
            name="replay_" + re.sub(r"\W", "_", row_sets.base_name(path)),
            checksum=checksum,
            chat_template=chat_template,
            turns=turns,
            system=system,
        )
    return (generated.continued(task, count, begin, asking) if own else task), share


def split_share(given: str) -> tuple[str, float]:
    """Returns the name and the share of `NAME:SHARE`; of `NAME`, the usual share.

    Raises:
      UserError: a number that is no share.
    """
    name, colon, text = given.rpartition(":")
    try:
        share = float(text) if colon else SHARE
    except ValueError:
        # What stands behind the colon is the split of a data set.
        return given, SHARE
    if not 0 < share < 1:
        raise UserError(
            f"REPLAY (--replay) {given}: the share {text} is none; give one above 0 and below 1"
        )
    return name if colon else given, share
