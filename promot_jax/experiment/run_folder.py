"""A run folder: its files, who reads and writes them, and when a run is finished.

    config.gin              what was asked for
    run.json                what was run, where, how long it took; see `run_facts`
    results.jsonl           one score a line: method, seed (null for a method without stages), task,
                            metric, score, count, label_share, prompt, evaluated_as
    curves.jsonl            scores of what was made of a method's start and end, one a line: as in
                            results.jsonl, and transform, at (its coefficient), seconds; lines of
                            the transform "end" say what the end itself took: method, seed, task
    samples.jsonl           some answers, one a line: method, seed, task, index, input, target,
                            prediction
    seed_S/STAGE[-STAGE…]/  one folder for each stage, named by the stages until it; `stage_folder`
    report.html, report.md, scores.csv, scores.json, figures/
                            the report, which is made of the others; it may lie elsewhere
    .lock, .compiled/       held by the call that runs; compiled programs of several processes

A method is finished in a seed when all its stages are. A score is there once its line is whole.
"""

import contextlib
import dataclasses
import fcntl
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from promot_jax.base import files, jsonl
from promot_jax.base.errors import UserError
from promot_jax.base.progress import say
from promot_jax.experiment.stage_folder import StageFolder

# How a run folder is laid out. A run.json without a number is of the first versions: 1 as well.
SCHEMA = 1

# The files of a report.
PAGE, MARKDOWN, FIGURES = "report.html", "report.md", "figures"
TABLE, VALUES = "scores.csv", "scores.json"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A folder that a run is or will be kept in; it need not exist."""

    path: pathlib.Path

    @property
    def config(self) -> pathlib.Path:
        """The configuration of the run."""
        return self.path / "config.gin"

    @property
    def about(self) -> pathlib.Path:
        """What is known of the run as a whole."""
        return self.path / "run.json"

    @property
    def results(self) -> pathlib.Path:
        """The scores."""
        return self.path / "results.jsonl"

    @property
    def curves(self) -> pathlib.Path:
        """The scores of points, and the seconds that evaluations took."""
        return self.path / "curves.jsonl"

    @property
    def samples(self) -> pathlib.Path:
        """Some answers."""
        return self.path / "samples.jsonl"

    @property
    def compiled(self) -> pathlib.Path:
        """Compiled programs of several processes, for calls that continue the run."""
        return self.path / ".compiled"

    @property
    def seeds(self) -> list[int]:
        """Seeds that have a folder."""
        names = [path.name for path in self.path.glob("seed_*")]
        return sorted(int(name[1]) for name in map(_SEED.fullmatch, names) if name)

    @property
    def begun(self) -> bool:
        """Whether a run was begun here."""
        return self.config.is_file() or bool(self.seeds)

    def stage(self, seed: int, name: str) -> StageFolder:
        """Returns the folder of a stage, named as `Method.folders` names it."""
        return StageFolder(self.path / f"seed_{seed}" / name)

    def finished(self, seed: int, stages: Sequence[str]) -> bool:
        """Says whether all stages of a method are finished in a seed."""
        return all(self.stage(seed, name).finished() is not None for name in stages)

    def read_config(self) -> str:
        """Returns the configuration as it was kept; nothing where there is none."""
        return _text(self.config) if self.config.is_file() else ""

    # ---- run.json --------------------------------------------------------------------------------

    def check(self) -> None:
        """Checks that this version knows how the folder is laid out.

        A folder without a readable run.json says nothing of it.

        Raises:
          UserError: a newer version wrote it.
        """
        with contextlib.suppress(OSError, ValueError, RecursionError):
            content = json.loads(_text(self.about))
            if isinstance(content, dict):
                self._check(content)

    def _check(self, content: Mapping[str, Any]) -> None:
        schema = content.get("schema", 1)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise UserError(
                f"{self.path} was written by a newer promot_jax: its run.json has the schema "
                f"{schema!r}, this version knows {SCHEMA}; install a newer promot_jax"
            )

    def read_about(self) -> dict[str, Any]:
        """Returns run.json.

        Raises:
          UserError: there is none, it is damaged, or a newer version wrote it.
        """
        if not self.about.is_file():
            raise UserError(
                f"{self.path} is no run folder: there is no {self.about.name} in it; "
                "name the folder that `promot run` wrote"
            )
        try:
            content = json.loads(_text(self.about))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{self.about} is not JSON ({error}); restore the file or run again"
            ) from error
        if not isinstance(content, dict):
            raise UserError(f"{self.about} holds no JSON object; restore the file or run again")
        self._check(content)
        return content

    def about_before(self) -> dict[str, Any]:
        """Returns run.json as earlier calls left it; nothing where it is absent or damaged."""
        if not self.about.exists():
            return {}
        try:
            return files.read_json(self.about)
        except UserError:
            lost = "the time and the seeds of earlier calls are lost with it"
            say(f"{self.about} is damaged; {lost}")
            return {}

    def write_about(self, facts: Mapping[str, Any]) -> None:
        """Writes run.json."""
        self.path.mkdir(parents=True, exist_ok=True)
        files.write_json(self.about, {"schema": SCHEMA, **facts})

    # ---- scores and answers ----------------------------------------------------------------------

    def recorded(self) -> set[tuple[str, int | None, str]]:
        """Returns method, seed and task of each score."""
        rows = jsonl.read_jsonl(self.results)
        return {(row.get("method"), row.get("seed"), row.get("task")) for row in rows}

    def record(
        self,
        key: Mapping[str, Any],
        result: Mapping[str, Any],
        samples: Sequence[Mapping[str, Any]],
    ) -> None:
        """Appends a score, and first the answers that go with it.

        Args:
          key: `method`, `seed` and `task`.
          result: the rest of its line.
          samples: the rest of each answer's line, `index` among it.
        """
        # A process that died before it wrote the score had written them.
        written = [
            row.get("index")
            for row in jsonl.read_jsonl(self.samples)
            if all(row.get(name) == value for name, value in key.items())
        ]
        left = [{**key, **sample} for sample in samples if sample["index"] not in written]
        jsonl.append_jsonl(self.samples, left)
        jsonl.append_jsonl(self.results, [{**key, **result}])

    def points(self, method: str, seed: int | None) -> list[dict[str, Any]]:
        """Returns the lines of `curves` of a method and seed."""
        rows = jsonl.read_jsonl(self.curves)
        return [row for row in rows if (row.get("method"), row.get("seed")) == (method, seed)]

    def record_point(self, line: Mapping[str, Any]) -> None:
        """Appends a line to `curves`."""
        jsonl.append_jsonl(self.curves, [dict(line)])

    # ---- the call that runs ----------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process alone.

        Raises:
          UserError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process is running in {self.path}; wait for it or choose another "
                    "MODEL_DIR"
                ) from None
            yield


_SEED = re.compile(r"seed_(\d+)")


def _text(path: pathlib.Path) -> str:
    """Returns a file's text; bytes that are no UTF-8, of a write cut in half, are replaced."""
    return path.read_text(encoding="utf-8", errors="replace")
