"""Facts around the scores that page and Markdown both print: stages, samples, setting."""

import statistics
from collections.abc import Iterable

from promot_jax.report import scores
from promot_jax.report.records import Records, Sample, StageRun, Task, number
from promot_jax.report.summary import plural


def title(records: Records) -> str:
    """Returns the report's title."""
    return f"Fine-tuning on {records.target.label}, and what it did to the other tasks"


def scores_caption(records: Records) -> str:
    """Says what the table's numbers are, how many examples stand behind them."""
    counts = {
        result.count
        for results in records.results.values()
        for result in results.values()
        if result.count
    }
    parts = [
        f"Scores from 0 to 100; {records.target.label} with each method’s own prompt, "
        "the other tasks without.",
    ]
    if any(len(results) > 1 for results in records.results.values()):
        parts.append("Mean ± sample standard deviation over seeds.")
    if counts:
        low, high = min(counts), max(counts)
        parts.append(f"{low if low == high else f'{low} to {high}'} examples a task.")
    if records.pretrained and scores.normalized_average(records, records.pretrained):
        parts.append("In brackets: difference to the pretrained model.")
    return " ".join(parts)


def duration(seconds: float) -> str:
    """Returns a time in words, such as "42 s", "5 min 1 s" or "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def samples_by_task(records: Records) -> list[tuple[Task, list[dict[str, Sample]]]]:
    """Returns each task's examples, each as method name → sample of that method's first seed."""
    found: dict[str, dict[int, dict[str, Sample]]] = {}
    known = {method.name for method in records.methods}
    for sample in records.samples:
        if sample.method not in known:
            continue
        answers = found.setdefault(sample.task, {}).setdefault(sample.index, {})
        kept = answers.get(sample.method)
        if kept is None or (sample.seed or 0) < (kept.seed or 0):
            answers[sample.method] = sample
    return [
        (task, [answers for _, answers in sorted(found[task.name].items())])
        for task in (records.target, *records.tasks)
        if task.name in found
    ]


def samples_caption(records: Records) -> str:
    """Says of which seed the samples are."""
    seeds = sorted({sample.seed for sample in records.samples if sample.seed is not None})
    shown = f" (seed {seeds[0]})" if seeds else ""
    return f"The same examples, answered by every method{shown}."


def stage_facts(runs: Iterable[StageRun]) -> dict[str, str]:
    """Returns what is printed of one stage over its seeds; "–" where no seed has finished."""
    summaries = [run.summary for run in runs if run.summary]
    lineage = next((s["lineage"] for s in summaries if isinstance(s.get("lineage"), list)), [])
    seconds = _numbers(summaries, "seconds")
    return {
        "steps": _listed(sorted(set(_numbers(summaries, "steps")))),
        "best": _listed(_numbers(summaries, "best_step")),
        "trainable": _listed(sorted(set(_numbers(summaries, "trainable", "parameters")))),
        "frozen": _listed(sorted(set(_numbers(summaries, "frozen", "parameters")))),
        "time": duration(statistics.fmean(seconds)) if seconds else "–",
        "lineage": " → ".join(map(str, lineage)) if len(lineage) > 1 else "",
    }


def _numbers(summaries: list[dict], *path: str) -> list[float]:
    found = []
    for value in summaries:
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if number(value) is not None:
            found.append(number(value))
    return found


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:,.0f}" for value in values) or "–"


def setting(records: Records) -> list[tuple[str, str]]:
    """Returns name and text of the facts about how the numbers were made."""
    about = records.about
    machine = about.get("machine") if isinstance(about.get("machine"), dict) else {}
    seconds, memory = number(about.get("seconds")), number(about.get("peak_memory_gib"))
    cores = number(machine.get("cores"))
    computer = [machine.get("devices"), cores and plural(int(cores), "core"), machine.get("system")]
    versions = [
        f"{name} {machine[key]}"
        for name, key in (("Python", "python"), ("jax", "jax"))
        if machine.get(key)
    ]
    lines = [
        ("Command", about.get("command")),
        ("Seeds", ", ".join(map(str, records.seeds))),
        ("Started", _moment(about.get("started"))),
        ("Finished", _moment(about.get("finished")) or "not yet"),
        ("Time", None if seconds is None else duration(seconds)),
        ("Peak memory", None if memory is None else f"{memory:.1f} GiB"),
        ("Machine", ", ".join(str(part) for part in computer if part)),
        ("Versions", ", ".join(versions)),
    ]
    return [(name, str(text)) for name, text in lines if text]


def _moment(iso: object) -> str:
    """Returns an ISO date and time with a space and without fractions of a second."""
    if not isinstance(iso, str):
        return ""
    date, _, time = iso.partition("T")
    zone = " UTC" if iso.endswith(("Z", "+00:00")) else ""
    return f"{date} {time[:8]}{zone}".strip()
