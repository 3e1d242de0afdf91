"""Which outputs are worth a look: the same examples, answered by every method."""

import string

from promot_jax.report.records.records import Records, Sample, TaskRecord

# More examples than this a task stay in samples.jsonl.
MOST = 5


def samples_by_task(records: Records) -> list[tuple[TaskRecord, list[dict[str, Sample]]]]:
    """Returns each task's examples, each as method name → sample of that method's first seed.

    Examples that tell methods apart come first: those where one answers a label of the target
    where free text is asked for, then those that some methods get right and others wrong, then
    those with many different answers. At most `MOST` a task.
    """
    found: dict[str, dict[tuple[int, str], dict[str, Sample]]] = {}
    known = {method.name for method in records.methods}
    for sample in records.samples:
        if sample.method not in known:
            continue
        # A method that was evaluated on a variant has another input at the same index.
        example = (sample.index, sample.input)
        answers = found.setdefault(sample.task, {}).setdefault(example, {})
        kept = answers.get(sample.method)
        if kept is None or (sample.seed or 0) < (kept.seed or 0):
            answers[sample.method] = sample
    return [
        (task, _telling(records, task, found[task.name]))
        for task in (*records.targets, *records.tasks)
        if task.name in found
    ]


def _telling(records: Records, task: TaskRecord, examples: dict) -> list[dict[str, Sample]]:
    """Returns the examples of a task, those first that tell methods apart."""

    def rank(place: tuple[int, str]) -> tuple:
        answers = examples[place].values()
        leaks = any(leaked_from(records, task, answer) for answer in answers)
        differ = len({answer.matches for answer in answers}) > 1
        return not leaks, not differ, -len({a.prediction for a in answers}), place[0]

    return [examples[place] for place in sorted(examples, key=rank)][:MOST]


def leaked_from(records: Records, task: TaskRecord, sample: Sample) -> str:
    """Returns the targets whose label is the whole answer to an unseen task of free text, if any.

    It is a text such as "RTE", empty where nothing leaked.
    """
    if task in records.targets or not task.generative:
        return ""
    bare = sample.prediction.strip().rstrip(string.punctuation + string.whitespace)
    return " or ".join(target.label for target in records.targets if bare in target.labels)


def samples_caption(records: Records) -> str:
    """Says which examples and seeds the samples are of."""
    shown = [
        sample
        for _, examples in samples_by_task(records)
        for answers in examples
        for sample in answers.values()
    ]
    seeds = {sample.seed for sample in shown if sample.seed is not None}
    seed = f" (seed {seeds.pop()})" if len(seeds) == 1 else ""
    return (
        f"The same examples, answered by every method{seed}; those first in which the methods "
        "differ."
    )
