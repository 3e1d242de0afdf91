"""What a table or figure takes: its runs in order, their stages, and what is done already."""

import dataclasses
import pathlib
import shlex
from collections.abc import Sequence

from promot_jax import configuration
from promot_jax.base.errors import UserError
from promot_jax.experiment.run_folder import RunFolder
from promot_jax.paper import catalog
from promot_jax.paper.catalog import Item


@dataclasses.dataclass(frozen=True)
class ScheduledStage:
    """One stage of a run: the methods that it serves and the seeds that have finished it."""

    folder: str
    steps: int
    methods: tuple[str, ...]
    finished: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ScheduledRun:
    """One call of `promot run`.

    Attributes:
      experiment: its name, such as paper/mt5_xxl/rte.
      folder: where it lies.
      methods, seeds: what is asked of it.
      stages: each once, in the order in which they train.
      scored, wanted: scores that are recorded, and that there will be.
      arguments: what `promot` is called with.
    """

    experiment: str
    folder: pathlib.Path
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    stages: tuple[ScheduledStage, ...]
    scored: int
    wanted: int
    arguments: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether every score is recorded."""
        return self.scored == self.wanted

    @property
    def command(self) -> str:
        """The command line as a person types it."""
        return " ".join(["promot", *map(_quoted, self.arguments)])


def runs(
    item: Item,
    model: str,
    *,
    seeds: str | None = None,
    overrides: Sequence[str] = (),
    runs_folder: pathlib.Path = catalog.RUNS_FOLDER,
) -> list[ScheduledRun]:
    """Returns the runs of a table or figure, in order; nothing is loaded, run or written.

    Args:
      item: table or figure.
      model: folder of experiments.
      seeds: such as "0,1,2"; None takes each experiment's own.
      overrides: `--gin.NAME=VALUE` of every run; what the model requires may be missing.
      runs_folder: the runs lie in its MODEL/RUN.

    Raises:
      UserError: nothing is run for the item, the model cannot, or a value is wrong.
    """
    return [
        _run(f"paper/{model}/{run}", methods, seeds, overrides, runs_folder / model / run)
        for run, methods in catalog.runs_of(item, model).items()
    ]


def missing(model: str, overrides: Sequence[str]) -> list[str]:
    """Returns the values that a model's experiments require and that are not given."""
    given = [flag.removeprefix("--gin.").split("=", 1)[0].strip() for flag in overrides]
    return [name for name in catalog.REQUIRED.get(model, ()) if name not in given]


def lines(run: ScheduledRun) -> list[str]:
    """Returns a run as text, one item a line."""
    count = len(run.seeds)
    width = max([len("stage"), *(len(stage.folder) for stage in run.stages)])
    text = [f"{run.experiment}  in {run.folder}, seeds {', '.join(map(str, run.seeds))}"]
    if run.stages:
        text.append(f"  {'stage':<{width}}  {'steps':>6}  {'finished':<14}  methods")
    for stage in run.stages:
        users = "shared by " * (len(stage.methods) > 1) + ", ".join(stage.methods)
        done = f"{len(stage.finished)} of {count} seeds"
        text.append(f"  {stage.folder:<{width}}  {stage.steps:>6}  {done:<14}  {users}")
    left = sum(stage.steps * (count - len(stage.finished)) for stage in run.stages)
    done = "finished, will be skipped" if run.finished else f"{left} steps are left"
    return [*text, f"  scores: {run.scored} of {run.wanted} recorded; {done}", f"  {run.command}"]


def _quoted(word: str) -> str:
    """Quotes for a shell; gin's own quotes inside stay readable."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\\\!') else shlex.quote(word)


def _run(experiment, methods, seeds, overrides, folder) -> ScheduledRun:
    file = configuration.experiment_file(experiment)
    model = experiment.split("/")[1]
    overrides = [*overrides, *(f"--gin.{name}='PATH'" for name in missing(model, overrides))]
    moved = folder != catalog.RUNS_FOLDER / model / folder.name
    flags = [f"--gin.MODEL_DIR={str(folder)!r}"] * moved + overrides
    chosen = [] if seeds is None else [f"--gin.SEEDS=({seeds},)"]
    configuration.parse([file], [*flags, *chosen])
    configuration.check_all_used([file], flags)
    configuration.check_values(flags)
    built, _, _ = configuration.built()
    found = [built.method(name) for name in methods]
    using: dict[str, list[str]] = {}
    steps: dict[str, int] = {}
    for method in found:
        for name, stage in zip(method.folders, method.stages, strict=True):
            using.setdefault(name, []).append(method.name)
            steps[name] = stage.steps
    numbers = tuple(built.seeds)
    kept = RunFolder(folder)
    kept.check()
    stages = [
        ScheduledStage(name, steps[name], tuple(users), _finished(kept, name, numbers))
        for name, users in using.items()
    ]
    wanted = {
        (method.name, seed, task.name)
        for method in found
        for seed in (numbers if method.stages else (None,))
        for task in (*built.targets, *built.tasks)
    }
    arguments = ["run", experiment, "--methods", ",".join(methods)]
    arguments += [] if seeds is None else ["--seeds", seeds]
    return ScheduledRun(
        experiment=experiment,
        folder=folder,
        methods=tuple(methods),
        seeds=numbers,
        stages=tuple(stages),
        scored=len(wanted & kept.recorded()),
        wanted=len(wanted),
        arguments=(*arguments, *flags),
    )


def _finished(run: RunFolder, stage: str, seeds: Sequence[int]) -> tuple[int, ...]:
    return tuple(seed for seed in seeds if run.finished(seed, [stage]))


def refuse_missing(item: Item, model: str, overrides: Sequence[str]) -> None:
    """Raises UserError where a model requires a value that is not given."""
    if names := missing(model, overrides):
        flags = " ".join(f"--gin.{name}=\"'PATH'\"" for name in names)
        raise UserError(
            f"{item.id}: {catalog.model_label(model)} has no public checkpoint; give yours by "
            f"{flags}"
        )
