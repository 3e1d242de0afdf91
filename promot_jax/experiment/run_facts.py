"""What `run.json` says of a run: what was asked for, where it ran, how long it took."""

import datetime
import os
import platform
import resource
import time
from typing import Any

import jax

from promot_jax.base import distributed, trees
from promot_jax.data.path import DATA_PATH
from promot_jax.experiment.evaluation import EvalTask
from promot_jax.experiment.run_folder import RunFolder


class Facts:
    """`run.json` while a run goes on: whatever is killed has the time until its last writing."""

    def __init__(self, folder: RunFolder, experiment: Any, command: str):
        """Begins to count the time; see `gather`."""
        self._started, self._folder = time.monotonic(), folder

        def begin() -> dict[str, Any]:
            facts = gather(experiment, command, folder.about_before())
            return {"experiment": folder.path.name, **facts}

        self._facts = distributed.by_main(begin)

    def write(self, *, finished: bool = False) -> None:
        """Writes the file; every process calls this."""
        distributed.by_main(self._write, finished)

    def write_alone(self) -> None:
        """Writes the file in the main process, whatever the others do."""
        if distributed.is_main():
            self._write(finished=False)

    def _write(self, finished: bool) -> None:
        seconds = time.monotonic() - self._started
        self._folder.write_about(after(self._facts, seconds, finished=finished))


def gather(experiment: Any, command: str, before: dict[str, Any]) -> dict[str, Any]:
    """Returns the facts of a run that begins.

    Args:
      experiment: an `experiment.Experiment`.
      command: the command line.
      before: facts of earlier calls for the same run, which may have run other methods and seeds.
    """
    devices = jax.devices()
    together = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    known = {method["name"] for method in before.get("methods", [])}
    known |= {method.name for method in experiment.selected}
    return {
        "command": command,
        "started": before.get("started", _now()),
        "finished": None,
        "seconds": before.get("seconds", 0),
        "peak_memory_gib": before.get("peak_memory_gib", 0),
        "machine": {
            "cores": os.cpu_count(),
            "devices": f"{len(devices)} x {devices[0].device_kind}" + together,
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "jax": jax.__version__,
        },
        # How rows became batches; runs of earlier versions do not say it.
        "data": DATA_PATH,
        "parameters": trees.count(experiment.model.shapes_and_axes()[0]),
        "initial_checkpoint": experiment.initial_checkpoint,
        "targets": [
            # Targets whose answers are free text have no labels.
            _task(target) | {"labels": [] if target.generative else list(experiment.labels)}
            for target in experiment.targets
        ],
        "tasks": [_task(task) for task in experiment.tasks],
        "methods": [
            {
                "name": method.name,
                "label": method.label,
                "stages": method.folders,
                "asked": {asked.target: asked.task for asked in method.asked},
            }
            for method in experiment.methods
            if method.name in known
        ],
        "seeds": sorted({*before.get("seeds", []), *experiment.seeds}),
    }


def after(facts: dict[str, Any], seconds: float, *, finished: bool) -> dict[str, Any]:
    """Returns the facts that `gather` gave, as they are so many seconds later."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return facts | {
        "finished": _now() if finished else None,
        "seconds": round(facts["seconds"] + seconds, 1),
        "peak_memory_gib": max(facts["peak_memory_gib"], round(peak, 2)),
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _task(task: EvalTask) -> dict[str, Any]:
    return {
        "task": task.name,
        "label": task.label,
        "family": task.family,
        "metric": task.metric,
        "generative": task.generative,
        "shots": task.shots,
    }
