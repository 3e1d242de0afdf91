"""What methods kept where they were first as good on the target: a comparison at equal skill.

A method's scores are those of its best checkpoint, and one that learned less may have kept more for
that reason. Here each method is taken at the first evaluated step of its last stage that is at most
`MARGIN` points below what the first method of the run reached at its best with the same seed; and,
since not every seed gets there, beside the first method at the level that both reach. Where
methods have curves, the best of their points are compared too, see `equal_points`.
"""

import dataclasses

from promot_jax.report.numbers import equal_points, following
from promot_jax.report.numbers.following import Followed
from promot_jax.report.numbers.scores import Spread
from promot_jax.report.numbers.tables import Table, share_name
from promot_jax.report.records.records import MethodRecord, Records, StageRecord, TaskRecord

# Points of the target's score.
MARGIN = 1.0


@dataclasses.dataclass(frozen=True)
class Line:
    """One method at equal skill: values over the seeds that reached it, of `seeds` in all.

    `share` is the per cent of outputs in the targets' label set, None where it was not followed.
    """

    method: MethodRecord
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
class Pair:
    """One method beside the first at a level that both reach, over the seeds of both.

    `difference` is, seed by seed, what the method kept more than the first one.
    """

    method: MethodRecord
    level: Spread
    first_kept: Spread
    kept: Spread
    difference: Spread

    def cells(self) -> list[str]:
        """Returns the values as they are printed."""
        spreads = (self.level, self.first_kept, self.kept, self.difference)
        return [f"{len(self.level.values)}", *(spread.with_interval for spread in spreads)]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What was compared on one target: at the first method's level, pair by pair, by points."""

    target: TaskRecord
    lines: tuple[Line, ...]
    pairs: tuple[Pair, ...]
    points: Table | None = None

    def tables(self, records: Records) -> list[Table]:
        """Returns the tables of the comparison."""
        found = [self._level(records)] if self.lines else []
        found += [self._pairs()] if self.pairs else []
        return [*found, self.points] if self.points else found

    def _level(self, records: Records) -> Table:
        first = self.lines[0].method.label
        return Table(
            f"Each method at the first evaluated step of its last stage that is at most {MARGIN:g} "
            f"point below the best {self.target.label} score of {first} with the same seed; step "
            "0, where that stage has changed nothing, does not count. All on validation examples, "
            "measured while the model trains. Mean and 95 % confidence interval (Student's t) "
            "over the seeds that got there.",
            ("Seeds that got there", "Step", "Target", "Norm. Avg.", share_name(records)),
            tuple((line.method, line.cells()) for line in self.lines),
        )

    def _pairs(self) -> Table:
        first = self.lines[0].method.label
        return Table(
            f"And pair by pair: {first} and each other method with the same seed, both at their "
            f"first step at most {MARGIN:g} point below the lower of their two best scores, so "
            "that every seed counts. Difference: what the method kept more.",
            ("Seeds", "Target", f"Norm. Avg. of {first}", "Norm. Avg.", "Difference"),
            tuple((pair.method, pair.cells()) for pair in self.pairs),
        )


def comparisons(records: Records) -> list[Comparison]:
    """Returns one comparison a target; none where fewer than two methods can be compared."""
    kept = next(iter(following.families(records, following.SCORE)), None)
    share = next(iter(following.families(records, following.LABEL_SHARE)), None)
    found = []
    for target in records.targets:
        lines, pairs = (), ()
        followed = following.targets(records, [target]) if kept else []
        curves = _curves(records, followed[0], kept) if len(followed) == 1 else {}
        if len(curves) > 1:
            lines = _lines(curves, followed[0], kept, share)
            pairs = _pairs(curves, followed[0], kept)
        points = equal_points.table(records, target, MARGIN)
        if lines or points:
            found.append(Comparison(target, lines, pairs, points))
    return found


def _curves(
    records: Records, learned: Followed, kept: Followed
) -> dict[MethodRecord, list[StageRecord]]:
    """Returns the last stage of each method and seed that followed both quantities."""
    found, told = {}, set()
    for method in records.methods:
        # What is made of an end afterwards is not followed: its method shares the stage of another.
        own = [name for name in method.stages[-1:] if name not in told]
        told |= {*own}
        runs = [run for run in records.stages if run.name in own]
        if runs := [run for run in runs if learned.series(run).keys() & kept.series(run).keys()]:
            found[method] = runs
    return found


def _lines(
    curves: dict[MethodRecord, list[StageRecord]],
    learned: Followed,
    kept: Followed,
    share: Followed | None,
) -> tuple[Line, ...]:
    first = next(iter(curves.values()))
    levels = {run.seed: max(learned.series(run).values()) - MARGIN for run in first}
    lines = []
    for method, runs in curves.items():
        runs = [run for run in runs if run.seed in levels]
        steps = [_first(run, learned, kept, levels[run.seed]) for run in runs]
        there = [(run, step) for run, step in zip(runs, steps, strict=True) if step is not None]
        values = (
            _spread([one.series(run).get(step) for run, step in there]) if one else None
            for one in (learned, kept, share)
        )
        lines.append(Line(method, len(runs), _spread([step for _, step in there]), *values))
    return tuple(lines)


def _pairs(
    curves: dict[MethodRecord, list[StageRecord]], learned: Followed, kept: Followed
) -> tuple[Pair, ...]:
    (_, first), *others = curves.items()
    by_seed = {run.seed: run for run in first}
    pairs = []
    for method, runs in others:
        rows = []
        for run in runs:
            both = [by_seed[run.seed], run] if run.seed in by_seed else []
            bests = [_best(one, learned, kept) for one in both]
            if not both or None in bests:
                continue
            level = min(bests) - MARGIN
            steps = [_first(one, learned, kept, level) for one in both]
            values = [kept.series(one)[step] for one, step in zip(both, steps, strict=True)]
            rows.append((level, *values, values[1] - values[0]))
        if rows:
            pairs.append(Pair(method, *map(Spread, zip(*rows, strict=True))))
    return tuple(pairs)


def _best(run: StageRecord, learned: Followed, kept: Followed) -> float | None:
    """Returns the best score of the steps that count."""
    steps = kept.series(run).keys() - {0}
    return max(
        (score for step, score in learned.series(run).items() if step in steps), default=None
    )


def _first(run: StageRecord, learned: Followed, kept: Followed, level: float) -> int | None:
    """Returns the first step at a level at which the unseen tasks were scored too.

    Step 0 is none: what the stage started from is another method's.
    """
    both = kept.series(run).keys() - {0}
    reached = (step for step, s in learned.series(run).items() if s >= level and step in both)
    return next(reached, None)


def _spread(values: list[float | None]) -> Spread | None:
    return Spread(tuple(values)) if values and None not in values else None
