"""Scalars of a stage over its steps: JSONL for the report, TensorBoard events for browsing."""

import json
import pathlib
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from promot_jax.base import distributed, jsonl


class Writer(Protocol):
    """Where scalars of a stage go."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of a step, so that they are in the file when it returns."""

    def close(self) -> None:
        """Closes the file."""


class JsonlWriter:
    """Writes one JSON object a call: `{"step": 20, "train/loss": 0.61, …}`.

    Lines of steps after `resume_from`, left by a process that died, are removed first.
    """

    def __init__(self, path: pathlib.Path, resume_from: int):
        lines = jsonl.read_jsonl(path)
        jsonl.write_jsonl(
            path, [line for line in lines if line.get("step", resume_from + 1) <= resume_from]
        )
        self._file = path.open("a")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one line; values are rounded to 6 significant digits."""
        values = {name: float(f"{float(value):.6g}") for name, value in scalars.items()}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class EventWriter:
    """Writes TensorBoard events, one file for each process that trained the stage.

    TensorBoard leaves out what files of earlier processes say of steps after `resume_from`.
    """

    def __init__(self, folder: pathlib.Path, resume_from: int):
        # TensorBoard's writer of whole event files takes TensorFlow wherever it is installed; that
        # of single records does not.
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer import record_writer

        self._event = event_pb2.Event
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}"
        self._records = record_writer.RecordWriter((folder / name).open("wb"))
        self._write(self._event(file_version="brain.Event:2"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(self._event(step=resume_from + 1, session_log=start))

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of a step as one event, float32."""
        event = self._event(step=step)
        for name, value in scalars.items():
            event.summary.value.add(tag=name, simple_value=float(value))
        self._write(event)

    def close(self) -> None:
        """Closes the file."""
        self._records.close()

    def _write(self, event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()


class Writers:
    """Writes to several writers, or to none."""

    def __init__(self, writers: Sequence[Writer]):
        self._writers = writers

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of a step."""
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def close(self) -> None:
        """Closes all."""
        for writer in self._writers:
            writer.close()


def create(file: pathlib.Path, resume_from: int) -> Writers:
    """Returns a writer to a JSONL file and to TensorBoard events in its folder.

    Of several processes only the main one writes.

    Args:
      file: the JSONL file.
      resume_from: the last step whose scalars stay, -1 for none.
    """
    if not distributed.is_main():
        return Writers([])
    return Writers([JsonlWriter(file, resume_from), EventWriter(file.parent, resume_from)])
