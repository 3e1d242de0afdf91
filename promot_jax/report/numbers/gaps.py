"""What is missing from a run, in sentences."""

from promot_jax.report.numbers.tables import with_shots
from promot_jax.report.records.records import Records


def missing(records: Records) -> list[str]:
    """Returns what a reader must know is absent, damaged or unfinished, one sentence each."""
    if records.runs:
        notes = [
            f"{run.about['experiment']}: {note}" for run in records.runs for note in missing(run)
        ]
        return [*records.notes, *notes]
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
            with_shots(records, task): set(records.results.get((method.name, task.name), ()))
            for task in (*records.targets, *records.tasks)
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
