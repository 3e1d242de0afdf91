"""What the numbers say in plain sentences."""

from collections.abc import Mapping, Sequence

from promot_jax.report.numbers import scores
from promot_jax.report.numbers.scores import Spread
from promot_jax.report.numbers.tables import labels_name, metric_name, shots_name
from promot_jax.report.records.records import MethodRecord, Records, TaskRecord

# So many groups of methods are named one by one; of the others only how many there are.
_TIERS = 4
# A group of more methods than this is named by half as many and its lowest score.
_NAMED = 4
_EQUAL = ", equal"


def sentences(records: Records) -> list[str]:
    """Returns the summary of a run; every claim is computed from the scores.

    Methods whose mean ± deviation overlap are called level; nothing else is said of an order.
    """
    found = [_target(records, target) for target in records.targets]
    for shots in records.shots:
        found.append(_average(records, shots))
        # One share is enough in words: that of the fewest shots.
        if shots == records.shots[0]:
            found.append(_share(records, shots))
    return [sentence for sentence in found if sentence]


def plural(count: int, noun: str) -> str:
    """Returns a count with its noun, such as "1 seed" or "3 seeds"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _target(records: Records, target: TaskRecord) -> str:
    spreads = {m.label: scores.task_score(records, m, target) for m in records.methods}
    itself = " itself" if records.tasks else ""
    return _ranking(f"On {target.label}{itself}, {metric_name(target.metric)} is", spreads)


def _average(records: Records, shots: int) -> str:
    methods = records.methods
    bases = {m.label: scores.normalized_average(records, m, shots) for m in methods if m.untouched}
    bases = {label: spread for label, spread in bases.items() if spread is not None}
    tasks = _counted(records, "other", records.unseen(shots), shots)
    spreads = {m.label: scores.normalized_average(records, m, shots) for m in methods if m.stages}
    if not bases:
        return _ranking(f"Over the {tasks} the average is", spreads)
    before = f"Over the {tasks} the pretrained model averages {next(iter(bases.values()))}."
    if len(bases) > 1:
        listed = joined([f"{label} ({spread})" for label, spread in bases.items()])
        before = f"Over the {tasks} the pretrained models average: {listed}."
    compared = {m.label: base for m in methods if (base := _base(records, m, shots))}
    after = _ranking("After training, that average is", spreads, bases=compared)
    return f"{before} {after}".rstrip()


def _base(records: Records, method: MethodRecord, shots: int) -> Spread | None:
    base = records.base(method)
    return scores.normalized_average(records, base, shots) if base else None


def _counted(records: Records, kind: str, tasks: Sequence[TaskRecord], shots: int) -> str:
    """Returns such as "8 other tasks"; with several numbers of shots "8 other 1-shot tasks".

    A single one is "other task", to stand behind an article.
    """
    which = f"{kind} {shots_name(shots)}" if len(records.shots) > 1 else kind
    return plural(len(tasks), f"{which} task").removeprefix("1 ")


def _share(records: Records, shots: int) -> str:
    generative = records.unseen(shots, generative=True)
    if not records.labels or not generative:
        return ""
    spreads = {m.label: scores.label_share(records, m, shots) for m in records.methods}
    measured = [spread for spread in spreads.values() if spread is not None]
    tasks = plural(len(generative), "generative task").removeprefix("1 ")
    labels = labels_name(records)
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
            *(scores.task_score(records, method, target) for target in records.targets),
            *(scores.normalized_average(records, method, shots) for shots in records.shots),
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
    bases: Mapping[str, Spread] | None = None,
    unit: str = "",
) -> str:
    """Returns a sentence that names the methods from high to low, the level ones together."""
    known = {label: spread for label, spread in spreads.items() if spread is not None}
    if not known:
        return ""
    ranked = tiers(known)
    texts = []
    for tier in ranked:
        few = tier if len(tier) <= _NAMED else tier[: _NAMED // 2]
        names = [
            f"{label} ({known[label]}{unit}{_change(known[label], (bases or {}).get(label))})"
            for label in few
        ]
        relation = _relation([known[label] for label in tier])
        if few is not tier:
            lowest = "" if relation == _EQUAL else f" (down to {known[tier[-1]]}{unit})"
            names.append(f"{len(tier) - len(few)} others{lowest}")
        texts.append(joined(names) + relation)
    if len(known) == 1:
        return f"{subject} known for {texts[0]} only."
    if len(ranked) == 1:
        return f"{subject} not told apart by method: {texts[0]}."
    comes = "come" if len(ranked[1]) > 1 else "comes"
    after = texts[1:]
    if len(texts) > _TIERS + 1:
        between = sum(map(len, ranked[_TIERS - 1 : -1]))
        after = [*texts[1 : _TIERS - 1], f"{between} others, and last {texts[-1]}"]
    return f"{subject} highest with {texts[0]}; next {comes} {', then '.join(after)}."


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
        return _EQUAL
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


def joined(names: Sequence[str]) -> str:
    """Returns names as a list in a sentence: "A", "A and B", "A, B and C"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
