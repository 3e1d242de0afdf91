"""Contenders in processes of their own, timed in turn.

A process for each contender keeps their thread pools and their memory apart. The process that
compares them imports neither jax nor torch: Linux counts a parent's memory into its children's
peak.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
# Units of `ru_maxrss`: bytes on macOS, else kilobytes.
MAXRSS_OF_MB = 2**20 if sys.platform == "darwin" else 2**10

TIMES = ("seconds", "cpu_seconds")


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a contender's function returns.

    Attributes:
      run: does the work `count` times, waits for it, and returns facts such as losses.
      about: facts that cost time to find, asked once at the end; memory of the device for one.
    """

    run: Callable[[int], dict[str, Any]]
    about: Callable[[], dict[str, Any]] = dict


class Worker:
    """A process that has built a contender and runs it when asked.

    Args:
      target: "module:function", which returns a `Subject`.
      arguments: of the function, as JSON can hold them.
    """

    def __init__(self, target: str, arguments: Mapping[str, Any]):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.workers", target, json.dumps(arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self.built = self._reply()
        except BaseException:
            self.close()
            raise

    def run(self, count: int) -> dict[str, Any]:
        """Returns `seconds` and `cpu_seconds` of one run of the work, and the last one's facts."""
        reply = self._ask(f"{count}\n")
        return reply | {name: reply[name] / count for name in TIMES}

    def about(self) -> dict[str, Any]:
        """Returns the contender's facts about itself, with `peak_mb` before they were asked."""
        return self._ask("about\n")

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            # A line that the process never took is still in its buffer.
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _ask(self, line: str) -> dict[str, Any]:
        self._process.stdin.write(line)
        self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"a contender failed:\n{self._errors.read()[-4000:]}")
        return json.loads(line)


def compare(
    contenders: Mapping[str, tuple[str, Mapping[str, Any]]], rounds: int, times: int
) -> dict[str, Any]:
    """Times contenders in turn, so that a machine whose speed drifts favours none.

    Args:
      contenders: {label: (target, arguments)}; the first is what the others are compared with.
      rounds: how often each is timed.
      times: runs of the work within one timing.

    Returns:
      `contenders`, for each its `seconds` (median, min, max), `cpu_seconds` (likewise, of all
      cores together), `build_seconds`, `first_seconds` (with what is compiled), `peak_mb` and
      `facts`; and `ratio`, for each but the first its seconds over those of the first, by rounds.
    """
    with contextlib.ExitStack() as stack:
        workers, first = {}, {}
        for label, (target, arguments) in contenders.items():
            workers[label] = Worker(target, arguments)
            stack.callback(workers[label].close)
            first[label] = workers[label].run(1)
        facts = {label: worker.run(times)["facts"] for label, worker in workers.items()}
        timed = {label: [] for label in workers}
        for _ in range(rounds):
            for label, worker in workers.items():
                timed[label].append(worker.run(times))
        rows = {}
        for label, worker in workers.items():
            about = worker.about()
            rows[label] = {
                **{key: spread(run[key] for run in timed[label]) for key in TIMES},
                "build_seconds": worker.built["seconds"],
                "first_seconds": first[label]["seconds"],
                "peak_mb": about.pop("peak_mb"),
                "facts": {"first": first[label]["facts"], "then": facts[label], **about},
            }
    seconds = {label: [run["seconds"] for run in runs] for label, runs in timed.items()}
    return {"contenders": rows, "ratio": ratios(seconds)}


def spread(values: Iterable[float]) -> dict[str, float]:
    """Returns median, min and max."""
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Returns the spread of each contender's seconds over those of the first, round by round."""
    base, *others = seconds
    return {
        label: spread(b / a for a, b in zip(seconds[base], seconds[label], strict=True))
        for label in others
    }


def main() -> None:
    """Builds the contender that the arguments name and serves the process that asked for it."""
    # Whatever a library prints goes where errors go.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    started = time.perf_counter()
    target, arguments = sys.argv[1:]
    module, name = target.split(":")
    subject = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    print(json.dumps({"seconds": time.perf_counter() - started}), file=replies)
    for line in sys.stdin:
        if line == "about\n":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            reply = {"peak_mb": round(peak / MAXRSS_OF_MB), **subject.about()}
        else:
            started, cpu = time.perf_counter(), time.process_time()
            facts = subject.run(int(line))
            reply = {
                "seconds": time.perf_counter() - started,
                "cpu_seconds": time.process_time() - cpu,
                "facts": facts,
            }
        print(json.dumps(reply), file=replies)


if __name__ == "__main__":
    main()
