"""The folder of a stage: its files, who reads and writes them, and when it is finished.

    lineage.json    what the stage comes from and by which data path, written when it begins
    course.jsonl    what was measured of each checkpoint, and the seconds that the stage had taken
    metrics.jsonl   scalars over steps; TensorBoard's events lie beside it
    checkpoints/    one folder for each kept step
    stage.json      its summary, written last: a stage is finished when this can be read

A stage that was taken from another run has scalars and a summary, which names where it is kept.
"""

import dataclasses
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

from promot_jax.base import files, jsonl
from promot_jax.base.errors import UserError
from promot_jax.base.progress import say
from promot_jax.data.path import DATA_PATH


@dataclasses.dataclass(frozen=True)
class StageFolder:
    """A folder in which a stage is trained, or that holds a trained one; it need not exist."""

    path: pathlib.Path

    @property
    def checkpoints(self) -> pathlib.Path:
        """Where the checkpoints lie, a folder for each step."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> pathlib.Path:
        """The scalars, one line for each time that some were written."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> pathlib.Path:
        """The summary of a finished stage."""
        return self.path / "stage.json"

    @property
    def stages(self) -> list[str]:
        """Names of the stages that led here, this one last."""
        return self.path.name.split("-")

    def read_summary(self) -> dict[str, Any] | None:
        """Returns the summary of a finished stage, None where there is none.

        Raises:
          UserError: it is damaged.
        """
        return files.read_json(self.summary) if self.summary.exists() else None

    def finished(self) -> dict[str, Any] | None:
        """Returns the summary of a finished stage, None where there is none.

        A damaged summary is none: the stage is then finished again from its last checkpoint.
        """
        try:
            return self.read_summary()
        except UserError:
            say(f"{self.summary} is damaged; the stage counts as not finished")
            return None

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes the summary, which marks the stage as finished."""
        files.write_json(self.summary, summary)

    def open(self, lineage: str) -> tuple[dict[str, Any] | None, str | None]:
        """Returns the summary of a finished stage, and what its checkpoints come from.

        A stage that is not finished begins here: what it comes from is written down, or checked
        if it was begun before. Of one that an earlier version began nobody knows it: None.

        Args:
          lineage: what the stage is to come from.

        Raises:
          UserError: the stage was begun from something else, or with rows in another order.
        """
        summary = self.finished()
        if summary is None:
            return None, self._begin(lineage)
        kept = summary.get("fingerprint")
        # One of an earlier version says nothing; its checkpoints may.
        return summary, kept if differs(kept, lineage) else lineage

    def _begin(self, lineage: str) -> str | None:
        path = self.path / "lineage.json"
        begun = any(step.name.isdigit() for step in self.checkpoints.glob("*"))
        known = files.read_json(path) if path.exists() else {}
        if begun and known.get("data") != DATA_PATH:
            raise UserError(
                f"{self.path} was begun by an earlier version, which read rows in another order; "
                "remove the folder to train the stage anew, or choose a new MODEL_DIR"
            )
        kept = known.get("fingerprint", lineage)
        self.check(kept, lineage)
        self.path.mkdir(parents=True, exist_ok=True)
        files.write_json(path, {"fingerprint": kept, "data": DATA_PATH})
        return kept

    def check(self, kept: str | None, lineage: str) -> None:
        """Checks that what the folder holds comes from what it is continued with, or opened as.

        Raises:
          UserError: it comes from something else.
        """
        if differs(kept, lineage):
            raise UserError(
                f"{self.path} was trained from another model, data or settings; choose a new "
                "MODEL_DIR or remove the folder"
            )
        if kept != lineage:
            say(
                f"{self.path}: trained by an earlier version; that its settings are these is not "
                "checked"
            )

    def course(self) -> "Course":
        """Returns what earlier calls wrote of the stage, to go on with it."""
        return Course(self.path / "course.jsonl")

    def place(self, others: Sequence["StageFolder"], lineage: str) -> "StageFolder":
        """Returns where the stage is trained, or where it is kept if it has been.

        Args:
          others: its folders in runs whose stages may be taken.
          lineage: what it comes from.

        Raises:
          UserError: the stage that the folder holds has another lineage, or was taken from a folder
            that is gone or holds another one now.
        """
        if (summary := self.finished()) is not None:
            self.check(summary.get("fingerprint"), lineage)
            return self._kept(summary)
        for other in others:
            summary = other.finished()
            if summary is not None and summary.get("fingerprint") == lineage:
                return self._take(other, summary)
        return self

    def _take(self, other: "StageFolder", summary: dict[str, Any]) -> "StageFolder":
        """Writes down that the stage is taken from another run; returns where it is kept."""
        kept = StageFolder(pathlib.Path(summary.get("reused_from", other.path)))
        say(f"{self.path.parent.name.replace('_', ' ')} {self.path.name}: taken from {kept.path}")
        self.path.mkdir(parents=True, exist_ok=True)
        if kept.metrics.is_file():
            shutil.copy(kept.metrics, self.path)
        self.finish(summary | {"reused_from": str(kept.path)})
        return kept

    def _kept(self, summary: dict[str, Any]) -> "StageFolder":
        """Returns the folder that holds the checkpoints of a finished stage."""
        kept = StageFolder(pathlib.Path(summary.get("reused_from", self.path)))
        if kept != self:
            there = kept.finished()
            if there is None or there.get("fingerprint") != summary.get("fingerprint"):
                what = "is gone" if there is None else "holds another one now"
                raise UserError(
                    f"{self.path} was taken from {kept.path}, which {what}; put it back"
                )
        return kept


def differs(kept: str | None, lineage: str) -> bool:
    """Says whether a kept lineage is of another training.

    Of one that is not there, or that was made before there were schemes, nobody can say that.
    """
    unknown = kept is None or re.fullmatch("[0-9a-f]{16}", kept)
    return kept != lineage and not unknown


class Course:
    """The course of a stage that is not finished, over all calls that it takes.

    Seconds are those between the beginning of a call and the last line that it wrote. What a killed
    process did after that is not in them.
    """

    def __init__(self, path: pathlib.Path):
        """Reads what earlier calls wrote."""
        self._path = path
        self._lines = jsonl.read_jsonl(path)
        self._before = max((line.get("seconds", 0.0) for line in self._lines), default=0.0)
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of the stage until now."""
        return self._before + time.monotonic() - self._started

    def resume(self, step: int) -> None:
        """Leaves out the checkpoints after `step`, which are made again; their time was taken."""
        self._lines = self._until(step)
        jsonl.write_jsonl(self._path, [*self._lines, {"seconds": self._before}])

    def best(self, step: int, rank: Callable[[dict[str, float]], Any]) -> int | None:
        """Returns the best step of those until `step`, None where nothing is written of them."""
        lines = self._until(step)
        return max(lines, key=rank)["step"] if lines else None

    def measured(self, step: int) -> dict[str, Any]:
        """Returns what was measured of the checkpoint of a step, empty where nothing is written."""
        return next((line for line in self._lines if line.get("step") == step), {})

    def without_gain(self, step: int, rank: Callable[[dict[str, float]], Any]) -> int:
        """Returns how many checkpoints until `step` came after the best one of them."""
        best = self.best(step, rank)
        return sum(line["step"] > best for line in self._until(step))

    def note(self, **measured: float) -> None:
        """Writes down the time, and what was measured of a checkpoint if there is one."""
        line = measured | {"seconds": round(self.seconds, 2)}
        if "step" in line:
            self._lines.append(line)
        jsonl.append_jsonl(self._path, [line])

    def _until(self, step: int) -> list[dict[str, Any]]:
        """Returns the lines of the checkpoints until a step."""
        return [line for line in self._lines if line.get("step", step + 1) <= step]
