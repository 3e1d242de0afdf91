"""Scalars of a stage over its steps: JSONL for the report, TensorBoard events for browsing."""

import json
import pathlib
from collections.abc import Mapping

from clu import metric_writers

from promot_jax.base import distributed, jsonl


class JsonlWriter(metric_writers.interface.MetricWriter):
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

    def flush(self) -> None:
        """Flushes the file."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _not_scalars(self, *args, **kwargs):
        raise TypeError("a file of scalars holds nothing else")

    write_summaries = write_images = write_videos = write_audios = _not_scalars
    write_texts = write_histograms = write_pointcloud = write_hparams = _not_scalars


def create(file: pathlib.Path, resume_from: int) -> metric_writers.MultiWriter:
    """Returns a writer to a JSONL file and to TensorBoard events in its folder.

    Of several processes only the main one writes.
    """
    if not distributed.is_main():
        return metric_writers.MultiWriter([])
    return metric_writers.MultiWriter(
        [
            JsonlWriter(file, resume_from),
            metric_writers.SummaryWriter(str(file.parent)),
        ]
    )
