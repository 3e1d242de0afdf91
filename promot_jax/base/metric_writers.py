"""Scalars of a stage over its steps: JSONL for the report, TensorBoard events for browsing."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence

from clu import metric_writers

from promot_jax.base import distributed, files


class JsonlWriter(metric_writers.interface.MetricWriter):
    """Writes one JSON object a call: `{"step": 20, "train/loss": 0.61, …}`.

    Lines of steps after `resume_from`, left by a process that died, are removed first.
    """

    def __init__(self, path: pathlib.Path, resume_from: int):
        kept = [
            line for line in read_jsonl(path) if line.get("step", resume_from + 1) <= resume_from
        ]
        files.write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one line; values are rounded to 6 significant digits."""
        values = {name: float(f"{float(value):.6g}") for name, value in scalars.items()}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def flush(self) -> None:
        """Flushes the file."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _not_scalars(self, *args, **kwargs):
        raise TypeError("metrics.jsonl holds scalars only")

    write_summaries = write_images = write_videos = write_audios = _not_scalars
    write_texts = write_histograms = write_pointcloud = write_hparams = _not_scalars


def create(folder: pathlib.Path, resume_from: int) -> metric_writers.MultiWriter:
    """Returns a writer to `folder/metrics.jsonl` and to TensorBoard events in `folder`.

    Of several processes only the main one writes.
    """
    if not distributed.is_main():
        return metric_writers.MultiWriter([])
    return metric_writers.MultiWriter(
        [
            JsonlWriter(folder / "metrics.jsonl", resume_from),
            metric_writers.SummaryWriter(str(folder)),
        ]
    )


def append_jsonl(path: pathlib.Path, records: Sequence[dict]) -> None:
    """Appends objects to a JSONL file and waits until they are on disk.

    A last line that a dying process left incomplete is removed first; one that lacks only its end
    is completed.
    """
    begun = ""
    if path.exists() and (text := path.read_bytes()) and not text.endswith(b"\n"):
        start = text.rfind(b"\n") + 1
        if _record(text[start:]) is None:
            os.truncate(path, start)
        else:
            begun = "\n"
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    with path.open("a", encoding="utf-8") as file:
        file.write(begun + "".join(lines))
        file.flush()
        os.fsync(file.fileno())


def read_jsonl(path: pathlib.Path) -> list[dict]:
    """Returns the objects of a JSONL file, or none where it is absent.

    A line that a dying process left incomplete is ignored. Lines end with a line feed: the texts in
    them may hold other separators, such as U+2028.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    return [record for record in map(_record, lines) if record is not None]


def _record(line: bytes) -> dict | None:
    """Returns the object of a line, None where it holds no complete one."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
