"""What methods kept where they were first as good on the target: a comparison at equal skill.

A method's scores are those of its best checkpoint, and one that learned less may have kept more for
that reason. Here each method is taken at the first evaluated step of its last stage that is at most
`MARGIN` points below what the first method of the run reached at its best with the same seed.
"""

import dataclasses

from promot_jax.report import following
from promot_jax.report.following import Followed
from promot_jax.report.records import Method, Records, StageRun, Task
from promot_jax.report.scores import Spread
from promot_jax.report.tables import labels_name

# Points of the target's score.
MARGIN = 1.0


@dataclasses.dataclass(frozen=True)
class Line:
    """One method at equal skill: values over the seeds that reached it, of `seeds` in all.

    `share` is the per cent of outputs in the targets' label set, None where it was not followed.
    """

    method: Method
    seeds: int
    steps: Spread | None
    target: Spread | None
    kept: Spread | None
    share: Spread | None

    def cells(self) -> list[str]:
        """Returns the values as they are printed, in the order of `heads`."""
        if self.steps is None:
            return [f"0 of {self.seeds}", *["–"] * 4]
        spreads = (self.target, self.kept, self.share)
        scores = ("–" if spread is None else spread.with_interval for spread in spreads)
        reached = f"{len(self.steps.values)} of {self.seeds}"
        return [reached, f"{self.steps.mean:.0f}", *scores]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The lines of one target, that of the method which sets the level first."""

    target: Task
    lines: tuple[Line, ...]

    @property
    def caption(self) -> str:
        """Says what is compared."""
        return (
            f"Each method at the first evaluated step of its last stage that is at most {MARGIN:g} "
            f"point below the best {self.target.label} score of {self.lines[0].method.label} with "
            "the same seed; step 0, where that stage has changed nothing, does not count. "
            "All on validation examples, measured while the model trains. Mean and 95 % confidence "
            "interval (Student's t) over the seeds that got there."
        )


def heads(records: Records) -> list[str]:
    """Returns the headings of `Line.cells`."""
    share = f"{labels_name(records)} share, %" if records.labels else "Label share, %"
    return ["Seeds that got there", "Step", "Target", "Norm. Avg.", share]


def comparisons(records: Records) -> list[Comparison]:
    """Returns one comparison a target; none where fewer than two methods can be compared."""
    kept = next(iter(following.families(records, following.SCORE)), None)
    share = next(iter(following.families(records, following.LABEL_SHARE)), None)
    found = []
    for target in records.targets if kept else ():
        followed = following.targets(records, [target])
        if len(followed) != 1:
            continue
        lines = _lines(records, followed[0], kept, share)
        if len(lines) > 1:
            found.append(Comparison(target, lines))
    return found


def _lines(
    records: Records, learned: Followed, kept: Followed, share: Followed | None
) -> tuple[Line, ...]:
    levels: dict[int, float] = {}
    lines = []
    for method in records.methods:
        runs = [run for run in records.stages if run.name in method.stages[-1:]]
        runs = [run for run in runs if learned.series(run).keys() & kept.series(run).keys()]
        if not runs:
            continue
        if not levels:
            levels = {run.seed: max(learned.series(run).values()) - MARGIN for run in runs}
        runs = [run for run in runs if run.seed in levels]
        steps = [_first(run, learned, kept, levels[run.seed]) for run in runs]
        there = [(run, step) for run, step in zip(runs, steps, strict=True) if step is not None]
        values = (
            _spread([one.series(run).get(step) for run, step in there]) if one else None
            for one in (learned, kept, share)
        )
        lines.append(Line(method, len(runs), _spread([step for _, step in there]), *values))
    return tuple(lines)


def _first(run: StageRun, learned: Followed, kept: Followed, level: float) -> int | None:
    """Returns the first step at a level at which the unseen tasks were scored too.

    Step 0 is none: what the stage started from is another method's.
    """
    both = kept.series(run).keys() - {0}
    reached = (step for step, s in learned.series(run).items() if s >= level and step in both)
    return next(reached, None)


def _spread(values: list[float | None]) -> Spread | None:
    return Spread(tuple(values)) if values and None not in values else None
