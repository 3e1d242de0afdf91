"""Methods at equal skill by the points of their curves, where they have some."""

from promot_jax.report.numbers import points
from promot_jax.report.numbers.points import Values
from promot_jax.report.numbers.scores import Spread
from promot_jax.report.numbers.tables import Table, share_name
from promot_jax.report.records.records import MethodRecord, Records, TaskRecord

# A point of a method: what it is called, and what a seed has there.
Named = tuple[str, Values]


def table(records: Records, target: TaskRecord, margin: float) -> Table | None:
    """Returns each method at the point that kept most of those that are as good as the first.

    Args:
      records: the run; of several numbers of shots it is the fewest.
      target: what is compared.
      margin: how far a point may be below what the first method ends with, with the same seed.

    Returns:
      A table, None where no method has a curve or only one can be compared.
    """
    shots = min(records.shots, default=0)
    curves = points.curves(records, target, shots)
    ends = {
        method: found
        for method in records.methods
        if method.stages and (found := points.ends(records, method, target, shots))
    }
    if not curves or len(ends) < 2:
        return None
    first, levels = next(iter(ends.items()))
    rows = []
    for method, found in ends.items():
        seeds = [seed for seed in found if seed in levels]
        best = []
        for seed in seeds:
            named = [("end", found[seed]), *_named(curves, method, seed)]
            able = [one for one in named if one[1].target >= levels[seed].target - margin]
            best += [max(able, key=lambda one: one[1].kept)] if able else []
        rows.append((method, _cells(best, len(seeds))))
    return Table(
        f"By the points of the curves: each method where it kept most, of its end and its points "
        f"that are at most {margin:g} point below the {target.label} score that {first.label} ends "
        "with, seed by seed. All are final scores; that they also choose the point favours methods "
        "with many. Mean and 95 % confidence interval (Student's t).",
        ("Seeds that got there", "Points", "Target", "Norm. Avg.", share_name(records)),
        tuple(rows),
    )


def _named(curves: list[points.Curve], method: MethodRecord, seed: int | None) -> list[Named]:
    """Returns the points of a method that a seed has, but the end."""
    found = []
    for curve in curves:
        to_the_end = curve.transform in points.TO_THE_END
        for at, seeds in curve.points.items():
            if curve.method == method and seed in seeds and not (at == 1 and to_the_end):
                found.append((f"{at:g}" if to_the_end else f"{curve.label} {at:g}", seeds[seed]))
    return found


def _cells(best: list[Named], seeds: int) -> list[str]:
    reached = f"{len(best)} of {seeds}"
    if not best:
        return [reached, *["–"] * 4]
    names = ", ".join(dict.fromkeys(name for name, _ in best))
    columns = ([getattr(v, field) for _, v in best] for field in ("target", "kept", "share"))
    spreads = ("–" if None in c else Spread(tuple(c)).with_interval for c in columns)
    return [reached, names, *spreads]
