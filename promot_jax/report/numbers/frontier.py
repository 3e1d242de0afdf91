"""The frontier of a run: of all that was scored, what nothing beats in both target and the rest."""

import dataclasses
import statistics
from collections.abc import Sequence

from promot_jax.report.numbers import points
from promot_jax.report.numbers.scores import decimal
from promot_jax.report.numbers.tables import Table
from promot_jax.report.records.records import MethodRecord, Records, TaskRecord

# Runs with more methods than this are drawn and printed by what stands out.
MANY = 10
# The end of a method, beside what is made of it.
END = "end"


@dataclasses.dataclass(frozen=True)
class Scored:
    """Means over seeds of a method's end, or of a point between its start and its end.

    Attributes:
      method: the method.
      made: `END`, or by what the point was made and its coefficient.
      seeds: over how many seeds.
      target, kept: score of the target, and Norm. Avg.
    """

    method: MethodRecord
    made: str
    seeds: int
    target: float
    kept: float

    @property
    def printed(self) -> tuple[float, float]:
        """Both with one decimal: what looks equal is equal."""
        return round(self.target, 1), round(self.kept, 1)

    def beats(self, other: "Scored") -> bool:
        """Whether it is at least as good in both, and better in one."""
        ours, theirs = self.printed, other.printed
        return ours != theirs and all(a >= b for a, b in zip(ours, theirs, strict=True))


def many(records: Records) -> bool:
    """Whether a run has more methods than a figure can tell apart."""
    return len(records.methods) > MANY


def scored(records: Records, target: TaskRecord, shots: int) -> list[Scored]:
    """Returns the ends and points of all methods that train; of equal ones of a method the first.

    An end that several methods share, because they differ in what is made of it, is there once.
    """
    found: dict[tuple, Scored] = {}

    def add(method, made, values):
        if values:
            learned, kept = (
                statistics.fmean(getattr(one, name) for one in values)
                for name in ("target", "kept")
            )
            one = Scored(method, made, len(values), learned, kept)
            found.setdefault((method.name, one.printed), one)

    told = set()
    for method in records.methods:
        if not method.untouched and method.stages not in told:
            ends = points.ends(records, method, target, shots)
            add(method, END, list(ends.values()))
        told |= {method.stages} if method.stages else set()
    for curve in points.curves(records, target, shots):
        for at, seeds in curve.points.items():
            if at != 1 or curve.transform not in points.TO_THE_END:
                add(curve.method, f"{curve.label} {at:g}", list(seeds.values()))
    return list(found.values())


def front(all_scored: Sequence[Scored]) -> list[Scored]:
    """Returns those that no other one beats, the best on the target first."""
    best = [one for one in all_scored if not any(other.beats(one) for other in all_scored)]
    return sorted(best, key=lambda one: -one.target)


def standing_out(records: Records) -> list[MethodRecord]:
    """Returns the methods on the frontier of a target, the first that trains, and ProMoT."""
    shots = min(records.shots, default=0)
    chosen = {
        one.method.name
        for target in records.targets
        for one in front(scored(records, target, shots))
    }
    chosen |= {next((method.name for method in records.methods if method.stages), None)}
    chosen |= {method.name for method in records.methods if method.kind == "promot"}
    return [method for method in records.methods if method.name in chosen]


def shown(records: Records) -> list[MethodRecord]:
    """Returns the methods whose answers are printed: of many the start and what stands out."""
    if not many(records):
        return list(records.methods)
    chosen = standing_out(records)
    return [method for method in records.methods if method.untouched or method in chosen]


def tables(records: Records) -> list[Table]:
    """Returns the frontier of each target as a table; none for a run with few methods."""
    shots = min(records.shots, default=0)
    found = []
    for target in records.targets if many(records) else ():
        best = front(scored(records, target, shots))
        rows = [
            (one.method, [one.made, str(one.seeds), decimal(one.target), decimal(one.kept)])
            for one in best
        ]
        if rows:
            found.append(
                Table(
                    f"The frontier of {target.label}: of all ends and points of the run, by their "
                    "means over seeds, those of which no other is better on the target and at "
                    "least as good on the other tasks, or the other way round. That they are the "
                    "best of many flatters them.",
                    ("Which", "Seeds", target.label, "Norm. Avg."),
                    tuple(rows),
                )
            )
    return found
