"""What the folder of a stage holds beside checkpoints and scalars.

lineage.json    what the stage comes from, written when it begins
course.jsonl    what was measured of each checkpoint, and the seconds that the stage had taken
stage.json      its summary, written when it is finished
"""

import json
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

from promot_jax.base import metric_writers
from promot_jax.base.errors import UserError
from promot_jax.base.files import read_json, write_json, write_text
from promot_jax.base.progress import say
from promot_jax.training import lineage


def finished(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the summary of a finished stage, None where the folder holds none.

    A damaged summary is none: the stage is then finished again from its last checkpoint.
    """
    path = folder / "stage.json"
    if not path.exists():
        return None
    try:
        return read_json(path)
    except UserError:
        say(f"{path} is damaged; the stage counts as not finished")
        return None


def place(own: pathlib.Path, others: Sequence[pathlib.Path], came_from: str) -> pathlib.Path:
    """Returns where a stage is trained, or where it is kept if it has been.

    Args:
      own: its folder in the run.
      others: its folders in runs whose stages may be taken.
      came_from: its lineage.

    Raises:
      UserError: the stage that the folder holds has another lineage, or was taken from a folder
        that is gone or holds another one now.
    """
    if (found := finished(own)) is not None:
        check(own, found.get("fingerprint"), came_from)
        return _kept(own, found)
    for other in others:
        found = finished(other)
        if found is not None and found.get("fingerprint") == came_from:
            kept = pathlib.Path(found.get("reused_from", other))
            say(f"{own.parent.name.replace('_', ' ')} {own.name}: taken from {kept}")
            own.mkdir(parents=True, exist_ok=True)
            if (kept / "metrics.jsonl").is_file():
                shutil.copy(kept / "metrics.jsonl", own)
            write_json(own / "stage.json", found | {"reused_from": str(kept)})
            return kept
    return own


def _kept(own: pathlib.Path, found: dict[str, Any]) -> pathlib.Path:
    """Returns the folder that holds the checkpoints of a finished stage."""
    kept = pathlib.Path(found.get("reused_from", own))
    if kept != own:
        there = finished(kept)
        if there is None or there.get("fingerprint") != found.get("fingerprint"):
            what = "is gone" if there is None else "holds another one now"
            raise UserError(f"{own} was taken from {kept}, which {what}; put it back")
    return kept


def check(folder: pathlib.Path, kept: str | None, came_from: str) -> None:
    """Checks that what a folder holds comes from what it is continued with, or opened as.

    Raises:
      UserError: it comes from something else.
    """
    if lineage.differs(kept, came_from):
        raise UserError(
            f"{folder} was trained from another model, data or settings; choose a new MODEL_DIR "
            "or remove the folder"
        )
    if kept != came_from:
        say(f"{folder}: trained by an earlier version; that its settings are these is not checked")


def begin(folder: pathlib.Path, came_from: str) -> str | None:
    """Writes down what a stage comes from, or checks it if the stage was begun before.

    Returns:
      What the checkpoints of the stage come from; None where an earlier version began it, which
      did not say.

    Raises:
      UserError: the stage was begun from something else.
    """
    path = folder / "lineage.json"
    if path.exists():
        kept = read_json(path).get("fingerprint")
        check(folder, kept, came_from)
        return kept
    begun = any(step.name.isdigit() for step in folder.glob("checkpoints/*"))
    if begun:
        check(folder, None, came_from)
    kept = None if begun else came_from
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"fingerprint": kept})
    return kept


class Course:
    """The course of a stage that is not finished, over all calls that it takes.

    Seconds are those between the beginning of a call and the last line that it wrote. What a killed
    process did after that is not in them.
    """

    def __init__(self, folder: pathlib.Path):
        """Reads what earlier calls wrote."""
        self._path = folder / "course.jsonl"
        self._lines = metric_writers.read_jsonl(self._path)
        self._before = max((line.get("seconds", 0.0) for line in self._lines), default=0.0)
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of the stage until now."""
        return self._before + time.monotonic() - self._started

    def resume(self, step: int) -> None:
        """Leaves out the checkpoints after `step`, which are made again; their time was taken."""
        self._lines = [line for line in self._lines if line.get("step", step + 1) <= step]
        lines = [*self._lines, {"seconds": self._before}]
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in lines))

    def best(self, step: int, rank: Callable[[dict[str, float]], Any]) -> int | None:
        """Returns the best step of those until `step`, None where nothing is written of them."""
        lines = [line for line in self._lines if line.get("step", step + 1) <= step]
        return max(lines, key=rank)["step"] if lines else None

    def note(self, **measured: float) -> None:
        """Writes down the time, and what was measured of a checkpoint if there is one."""
        line = measured | {"seconds": round(self.seconds, 2)}
        metric_writers.append_jsonl(self._path, [line])
