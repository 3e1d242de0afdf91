"""Facts around the scores that page and Markdown both print: title, caption, stages, setting."""

import statistics

from promot_jax.report.numbers.summary import joined, plural
from promot_jax.report.numbers.tables import score_table
from promot_jax.report.records.records import Records, number

# What `stage_facts` gives, as headings of columns; the lineage stands below the stage's name.
STAGE_HEADS = {
    "attached": "Attached",
    "steps": "Steps",
    "best": "Best step",
    "trainable": "Trained parameters",
    "frozen": "Frozen parameters",
    "time": "Time",
}


def title(records: Records) -> str:
    """Returns the report's title."""
    tuned = f"Fine-tuning on {joined([target.label for target in records.targets])}"
    return f"{tuned}, and what it did to the other tasks" if records.tasks else tuned


def scores_caption(records: Records) -> str:
    """Says what the table's numbers are, how many examples stand behind them."""
    results = [result for found in records.results.values() for result in found.values()]
    counts = {result.count for result in results if result.count}
    own = f"{joined([target.label for target in records.targets])} with each method’s own prompt"
    other = ", the other tasks without" if records.tasks else ""
    parts = [f"Scores from 0 to 100; {own}{other}.", *_variants(records)]
    if any(len(found) > 1 for found in records.results.values()):
        parts.append("Mean ± sample standard deviation over seeds.")
    if counts:
        low, high = min(counts), max(counts)
        parts.append(f"{low if low == high else f'{low} to {high}'} examples a task.")
    averages = [block.average for block in score_table(records).blocks]
    if any(cell.difference is not None for row in averages for cell in row.cells):
        parts.append("In brackets: difference to the pretrained model.")
    return " ".join(parts)


def _variants(records: Records) -> list[str]:
    """Names the methods that a target is scored for in another form: as trained on, or as asked."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for target in records.targets:
        for method in records.methods:
            results = records.results.get((method.name, target.name), {}).values()
            for variant in dict.fromkeys(r.evaluated_as for r in results if r.evaluated_as):
                form = "as they ask it" if method.in_context else "as they trained on it"
                found.setdefault((target.label, form, variant), []).append(method.label)
    return [
        f"{label} {form}, {variant}, for {joined(methods)}."
        for (label, form, variant), methods in found.items()
    ]


def duration(seconds: float) -> str:
    """Returns a time in words, such as "42 s", "5 min 1 s" or "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def stage_facts(records: Records, name: str) -> dict[str, str]:
    """Returns what is printed of one stage over its seeds; "–" where no seed has finished.

    `records` are those of a single run.
    """
    summaries = [run.summary for run in records.stages if run.name == name and run.summary]
    seconds = _numbers(summaries, "seconds")
    return {
        "lineage": " → ".join([_origin(records), *_lineage(name, summaries)]),
        "attached": _attached(summaries[0]) if summaries else "–",
        "steps": _steps(summaries),
        "best": _listed(_numbers(summaries, "best_step")),
        "trainable": _listed(sorted(set(_numbers(summaries, "trainable", "parameters")))),
        "frozen": _listed(sorted(set(_numbers(summaries, "frozen", "parameters")))),
        "time": duration(statistics.fmean(seconds)) if seconds else "–",
    }


def _steps(summaries: list[dict]) -> str:
    """Returns the steps that were taken, each number once, and whether patience ended there."""
    counts = _listed(sorted(set(_numbers(summaries, "steps"))))
    early = sum(isinstance(summary.get("stopped"), str) for summary in summaries)
    if not early:
        return counts
    return f"{counts} (stopped early{f' in {early} of {len(summaries)}' * (len(summaries) > 1)})"


def _origin(records: Records) -> str:
    """Returns what the first stage starts from, in a word or two."""
    if "initial_checkpoint" not in records.about:
        return "initial model"
    path = records.about["initial_checkpoint"]
    return str(path).rstrip("/").rpartition("/")[2] if path else "random parameters"


def _lineage(name: str, summaries: list[dict]) -> list[str]:
    """Returns the stages up to this one, by the names that lead to its folder."""
    found = next((s["lineage"] for s in summaries if isinstance(s.get("lineage"), list)), None)
    return [str(stage) for stage in found] if found else name.split("-")


def _attached(summary: dict) -> str:
    """Returns the prompts, by kind, and adapters of a stage, "none" for the bare model."""
    prompt, lora = summary.get("prompt"), summary.get("lora")
    kind, parts = summary.get("prompt_kind") or "prompt", []
    if isinstance(prompt, dict):
        parts += [f"{kind} {value} for {task}" for task, value in prompt.items()]
    elif prompt:
        parts.append(f"{kind} {prompt}")
    if isinstance(lora, dict):
        parts.append(_adapters(lora))
    return "; ".join(parts) or "none"


def _adapters(lora: dict) -> str:
    if "width" in lora:
        return f"parallel adapters of width {lora['width']}"
    kind = {"dora": "DoRA"}.get(lora.get("form"), "LoRA")
    return f"{kind} of rank {lora.get('rank', '?')}"


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
    parameters = number(about.get("parameters"))
    cores = number(machine.get("cores"))
    computer = [machine.get("devices"), cores and plural(int(cores), "core"), machine.get("system")]
    versions = [
        f"{name} {machine[key]}"
        for name, key in (("Python", "python"), ("jax", "jax"))
        if machine.get(key)
    ]
    lines = [
        ("Command", about.get("command")),
        ("Initial checkpoint", _initial_checkpoint(about)),
        ("Parameters", None if parameters is None else f"{parameters:,.0f}"),
        ("Seeds", ", ".join(map(str, records.seeds))),
        ("Started", _moment(about.get("started"))),
        ("Finished", _moment(about.get("finished")) or "not yet"),
        ("Time", None if seconds is None else duration(seconds)),
        ("Peak memory", None if memory is None else f"{memory:.1f} GiB"),
        ("Machine", ", ".join(str(part) for part in computer if part)),
        ("Versions", ", ".join(versions)),
    ]
    return [(name, str(text)) for name, text in lines if text]


def _initial_checkpoint(about: dict) -> str:
    if "initial_checkpoint" not in about:
        return ""
    return str(about["initial_checkpoint"] or "none: random parameters")


def _moment(iso: object) -> str:
    """Returns an ISO date and time with a space and without fractions of a second."""
    if not isinstance(iso, str):
        return ""
    date, _, time = iso.partition("T")
    zone = " UTC" if iso.endswith(("Z", "+00:00")) else ""
    return f"{date} {time[:8]}{zone}".strip()
