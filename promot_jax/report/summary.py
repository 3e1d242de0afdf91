"""What the numbers say in plain sentences, and what is missing from them."""

from promot_jax.report import scores
from promot_jax.report.records import Records
from promot_jax.report.scores import Spread
from promot_jax.report.tables import labels_name, metric_name


def sentences(records: Records) -> list[str]:
    """Returns the summary of a run; every claim is computed from the scores.

    Methods whose mean ± deviation overlap are called level; nothing else is said of an order.
    """
    return [sentence for part in (_target, _average, _share) if (sentence := part(records))]


def plural(count: int, noun: str) -> str:
    """Returns a count with its noun, such as "1 seed" or "3 seeds"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _target(records: Records) -> str:
    spreads = {m.label: scores.task_score(records, m, records.target) for m in records.methods}
    metric = metric_name(records.target.metric)
    return _ranking(f"On {records.target.label} itself, {metric} is", spreads)


def _average(records: Records) -> str:
    pretrained = records.pretrained
    base = scores.normalized_average(records, pretrained) if pretrained else None
    tasks = plural(len(records.tasks), "other task")
    spreads = {
        m.label: scores.normalized_average(records, m)
        for m in records.methods
        if m is not pretrained
    }
    if base is None:
        return _ranking(f"Over the {tasks} the average is", spreads)
    before = f"Over the {tasks} the pretrained model averages {base}."
    after = _ranking("After training, that average is", spreads, base=base)
    return f"{before} {after}".rstrip()


def _share(records: Records) -> str:
    if not records.target.labels or not records.generative:
        return ""
    spreads = {m.label: scores.label_share(records, m) for m in records.methods}
    measured = [spread for spread in spreads.values() if spread is not None]
    tasks = plural(len(records.generative), "generative task")
    labels = labels_name(records.target)
    if measured and max(spread.mean for spread in measured) < scores.PRINTED_STEP:
        return f"On the {tasks} among them, no method answers {labels} (0.0 % of outputs each)."
    subject = f"On the {tasks} among them, the share of {labels} answers is"
    return _ranking(subject, spreads, unit=" %")


def reading(records: Records) -> str:
    """Returns how the numbers of `sentences` are to be read."""
    trained = [
        spread.deviation is not None
        for method in records.methods
        for spread in (
            scores.task_score(records, method, records.target),
            scores.normalized_average(records, method),
        )
        if method.stages and spread is not None
    ]
    if not trained:
        return "No method that trains has been evaluated completely yet."
    if not any(trained):
        return (
            "There is one seed, so the spread is unknown and a small difference may be chance; "
            "several seeds would tell."
        )
    text = (
        "± is the sample standard deviation over seeds; level within the spread means that these "
        "intervals overlap."
    )
    if not all(trained):
        text += " A trained method without ± has one seed so far: its spread is unknown."
    return text


def _ranking(
    subject: str,
    spreads: dict[str, Spread | None],
    *,
    base: Spread | None = None,
    unit: str = "",
) -> str:
    """Returns a sentence that names the methods from high to low, the level ones together."""
    known = {label: spread for label, spread in spreads.items() if spread is not None}
    if not known:
        return ""
    ranked = tiers(known)
    texts = []
    for tier in ranked:
        names = [f"{label} ({known[label]}{unit}{_change(known[label], base)})" for label in tier]
        texts.append(_joined(names) + _relation([known[label] for label in tier]))
    if len(known) == 1:
        return f"{subject} known for {texts[0]} only."
    if len(ranked) == 1:
        return f"{subject} not told apart by method: {texts[0]}."
    comes = "come" if len(ranked[1]) > 1 else "comes"
    return f"{subject} highest with {texts[0]}; next {comes} {', then '.join(texts[1:])}."


def tiers(spreads: dict[str, Spread]) -> list[list[str]]:
    """Groups labels by overlap, highest first; no two of different groups overlap.

    Groups are the connected parts of the overlap graph, so "then" always means a clear distance.
    """
    found: list[list[str]] = []
    for label in sorted(spreads, key=lambda label: -spreads[label].mean):
        touching = [
            place
            for place, tier in enumerate(found)
            if any(scores.level(spreads[label], spreads[other]) for other in tier)
        ]
        if touching:
            merged = [other for tier in found[touching[0] :] for other in tier]
            found[touching[0] :] = [[*merged, label]]
        else:
            found.append([label])
    return found


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
    notes, nothing = [], {}
    for method in records.methods:
        found = {
            task.label: set(records.results.get((method.name, task.name), ()))
            for task in (records.target, *records.tasks)
        }
        present = set().union(*found.values())
        for seed in sorted(present | set(records.seeds if method.stages else [None]), key=str):
            absent = [label for label, seeds in found.items() if seed not in seeds]
            if len(absent) == len(found):
                nothing.setdefault(method.label, []).append(seed)
            elif absent:
                who = method.label if seed is None else f"{method.label}, seed {seed}"
                notes.append(f"{who}: no score for {', '.join(absent)}; left out of averages.")
    return [*_listed("No scores yet for", nothing), *notes]


def _missing_stages(records: Records) -> list[str]:
    """Names the stages without curves or without a summary."""
    runs = {(run.name, run.seed): run for run in records.stages}
    names = dict.fromkeys(stage for method in records.methods for stage in method.stages)
    absent, running = {}, {}
    for name in names:
        for seed in records.seeds:
            run = runs.get((name, seed))
            if run is None or not run.metrics:
                absent.setdefault(f"stage {name}", []).append(seed)
            if run is not None and not run.summary:
                running.setdefault(f"stage {name}", []).append(seed)
    return [*_listed("No curves for", absent), *_listed("Not finished:", running)]


def _listed(lead: str, seeds: dict[str, list[int | None]]) -> list[str]:
    """Returns one sentence for all names with their seeds, none where there is no name."""
    parts = []
    for name, which in seeds.items():
        numbers = [str(seed) for seed in which if seed is not None]
        word = "seed" if len(numbers) == 1 else "seeds"
        parts.append(f"{name} ({word} {', '.join(numbers)})" if numbers else name)
    return [f"{lead} {'; '.join(parts)}."] if parts else []
