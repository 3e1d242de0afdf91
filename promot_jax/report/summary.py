"""What the numbers say in plain sentences, and what is missing from them."""

from promot_jax.report import scores
from promot_jax.report.records import Records
from promot_jax.report.scores import Spread
from promot_jax.report.tables import labels_name, metric_name


def sentences(records: Records) -> list[str]:
    """Returns the summary of a run; every claim is computed from the scores.

    Methods whose mean ± deviation overlap are called level; nothing else is said of an order.
    """
    found = [_target(records), _average(records), _share(records), _how_to_read(records)]
    return [sentence for sentence in found if sentence]


def plural(count: int, noun: str) -> str:
    """Returns a count with its noun, such as "1 seed" or "3 seeds"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _target(records: Records) -> str:
    spreads = {m.label: scores.task_score(records, m, records.target) for m in records.methods}
    ranking = _ranking(spreads)
    if not ranking:
        return ""
    metric = metric_name(records.target.metric)
    return f"On {records.target.label} itself ({metric}): {ranking}."


def _average(records: Records) -> str:
    pretrained = records.pretrained
    base = scores.normalized_average(records, pretrained) if pretrained else None
    spreads = {
        m.label: scores.normalized_average(records, m)
        for m in records.methods
        if m is not pretrained
    }
    ranking = _ranking(spreads, base)
    tasks = plural(len(records.tasks), "other task")
    if base is None:
        return f"Average of the {tasks}: {ranking}." if ranking else ""
    before = f"Average of the {tasks}: {base} for {pretrained.label} "
    return f"{before.rstrip()}; {ranking}." if ranking else f"{before.rstrip()}."


def _share(records: Records) -> str:
    if not records.target.labels or not records.generative:
        return ""
    spreads = {m.label: scores.label_share(records, m) for m in records.methods}
    measured = [spread for spread in spreads.values() if spread is not None]
    if not measured:
        return ""
    tasks = plural(len(records.generative), "generative task")
    labels = labels_name(records.target)
    if max(spread.mean for spread in measured) < scores.PRINTED_STEP:
        return f"On the {tasks}, no method answers {labels} (all below 0.1 % of outputs)."
    ranking = _ranking(spreads, unit=" %")
    return f"{labels} as the answer on the {tasks}, share of outputs: {ranking}."


def _how_to_read(records: Records) -> str:
    widths = [
        spread.deviation
        for method in records.methods
        for spread in (
            scores.task_score(records, method, records.target),
            scores.normalized_average(records, method),
        )
        if spread is not None
    ]
    if not widths:
        return "Nothing has been evaluated completely yet."
    if all(width is None for width in widths):
        return (
            "There is one seed, so the spread is unknown and a small difference may be chance; "
            "several seeds would tell."
        )
    return (
        "± is the sample standard deviation over seeds; level within the spread means that these "
        "intervals overlap."
    )


def _ranking(
    spreads: dict[str, Spread | None], base: Spread | None = None, unit: str = ""
) -> str:
    """Names methods from high to low, the level ones together; empty where nothing is known."""
    known = {label: spread for label, spread in spreads.items() if spread is not None}
    parts = []
    for tier in _tiers(known):
        names = [f"{label} ({known[label]}{unit}{_change(known[label], base)})" for label in tier]
        parts.append(_joined(names) + _relation([known[label] for label in tier]))
    return "; then ".join(parts)


def _tiers(spreads: dict[str, Spread]) -> list[list[str]]:
    """Groups labels by overlap, highest first; no two of different groups overlap.

    Groups are the connected parts of the overlap graph, so "then" always means a clear distance.
    """
    tiers: list[list[str]] = []
    for label in sorted(spreads, key=lambda label: -spreads[label].mean):
        touching = [
            place
            for place, tier in enumerate(tiers)
            if any(scores.level(spreads[label], spreads[other]) for other in tier)
        ]
        if touching:
            merged = [other for tier in tiers[touching[0] :] for other in tier]
            tiers[touching[0] :] = [[*merged, label]]
        else:
            tiers.append([label])
    return tiers


def _relation(tier: list[Spread]) -> str:
    """Says what holds between the members of a tier."""
    if len(tier) == 1:
        return ""
    means = [spread.mean for spread in tier]
    if max(means) - min(means) < scores.PRINTED_STEP:
        return ", equal"
    if all(scores.level(a, b) for a in tier for b in tier):
        return ", level within the spread"
    return ", each level with the next within the spread"


def _change(spread: Spread, base: Spread | None) -> str:
    if base is None:
        return ""
    difference = spread.mean - base.mean
    if abs(difference) < scores.PRINTED_STEP:
        return ", unchanged"
    within = ", within the spread" if scores.level(spread, base) else ""
    return f", {'up' if difference > 0 else 'down'} {scores.decimal(abs(difference))}{within}"


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def missing(records: Records) -> list[str]:
    """Returns what a reader must know is absent, damaged or unfinished, one sentence each."""
    notes = []
    if not records.about.get("finished"):
        notes.append("The run is not finished (or was interrupted): numbers may still change.")
    notes += records.notes
    if records.pretrained is None:
        notes.append("No pretrained model was evaluated: differences to it are not shown.")
    if records.results:
        notes += _missing_results(records)
    notes += _missing_stages(records)
    return notes


def _missing_results(records: Records) -> list[str]:
    """Names the scores that are absent, by method and seed."""
    notes = []
    for method in records.methods:
        found = {
            task.label: set(records.results.get((method.name, task.name), ()))
            for task in (records.target, *records.tasks)
        }
        present = set().union(*found.values())
        if not present:
            notes.append(f"{method.label}: no results yet.")
            continue
        wanted = present if None in present else present | set(records.seeds)
        for seed in sorted(wanted, key=str):
            absent = [label for label, seeds in found.items() if seed not in seeds]
            who = method.label if seed is None else f"{method.label}, seed {seed}"
            if len(absent) == len(found):
                notes.append(f"{who}: no results yet.")
            elif absent:
                notes.append(f"{who}: no score for {', '.join(absent)}.")
    return notes


def _missing_stages(records: Records) -> list[str]:
    """Names the stages without curves or without a summary."""
    runs = {(run.name, run.seed): run for run in records.stages}
    names = dict.fromkeys(stage for method in records.methods for stage in method.stages)
    notes = []
    for name in names:
        absent = [s for s in records.seeds if (name, s) not in runs or not runs[name, s].metrics]
        running = [s for s in records.seeds if (name, s) in runs and not runs[name, s].summary]
        if absent:
            notes.append(f"Stage {name}: no curves for {_seeds(absent)}.")
        if running:
            notes.append(f"Stage {name}: not finished for {_seeds(running)}.")
    return notes


def _seeds(seeds: list[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
