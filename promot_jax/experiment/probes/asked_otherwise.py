"""Whether what a tuned model no longer does is forgotten, or only suppressed.

Fine-tuning skews which task a model takes an input for: asked far from the rows that it was tuned
on, an ability comes back (Kotha et al. 2024, "conjugate prompting"). Here each unseen task is asked
again in its variants, for instance behind exemplars or with an instruction.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping

from promot_jax.base import values
from promot_jax.base.errors import UserError
from promot_jax.experiment.evaluation import EvalTask
from promot_jax.experiment.probes.bench import Bench, Moment, by_task

# Points; of less, a share says nothing.
LEAST_LOST = 1.0


@dataclasses.dataclass(frozen=True)
class AskedOtherwise:
    """The share of what was lost on an unseen task that is not lost when it is asked otherwise.

    It asks the variants of the unseen tasks that stages follow. Each costs an evaluation, and the
    start another one, once: on a variant a model is compared with what the start makes of that.

    Attributes:
      task_feature_lengths: longest inputs and targets of variants in tokens.
    """

    task_feature_lengths: values.Lengths

    # It reads no row as the stage does.
    task = None

    def bind(self, bench: Bench) -> Callable[[Moment], dict[str, float]]:
        """Returns the measurement.

        Of each task with variants its scalars are `otherwise/lost/TASK`, the points that the model
        lost on it as it is, `otherwise/still_lost/TASK`, the mean of those lost on its variants,
        and `otherwise/recovered/TASK`, see `recovered`. Without TASK they are those of the mean
        over tasks of free text.

        Raises:
          UserError: no task that is followed has a variant, or rows of one do not fit.
        """
        variants = {task.name: self._variants(bench, task) for task in bench.tasks if task.variants}
        if not variants:
            raise UserError(
                "AskedOtherwise asks variants of the unseen tasks, and none has any; give the "
                "EvalTask.variants of one, such as names from in_context.task"
            )

        def lost(task: EvalTask, score: float) -> float:
            return bench.answers_of_start(task).score - score

        def of_variant(moment: Moment, variant: EvalTask) -> float:
            rows = {"split": "validation", "limit": bench.examples}
            found = bench.evaluator.evaluate(moment.params, variant, attached=moment.unseen, **rows)
            return lost(variant, found.score)

        def measure(moment: Moment) -> dict[str, float]:
            found = []
            for task, given in moment.answers:
                if again := [of_variant(moment, each) for each in variants.get(task.name, ())]:
                    still_lost = statistics.fmean(again)
                    kinds = {"lost": lost(task, given.score), "still_lost": still_lost}
                    found.append((task, kinds))
            return with_recovered(by_task("otherwise", found))

        return measure

    def _variants(self, bench: Bench, task: EvalTask) -> list[EvalTask]:
        """Returns the variants of a task, after a look at how long their rows are."""
        lengths, found = self.task_feature_lengths, []
        for name in task.variants:
            changes = {"name": name, "variants": (), "task_feature_lengths": lengths}
            found.append(dataclasses.replace(task, **changes))
            rows = bench.rows(found[-1], "validation", bench.examples).rows
            if max(len(row.inputs) for row in rows) >= lengths["inputs"]:
                raise UserError(
                    f"rows of {name!r} fill all {lengths['inputs']} tokens of their inputs, so "
                    "that their questions may be cut off; raise "
                    "AskedOtherwise.task_feature_lengths"
                )
        return found


def with_recovered(scalars: Mapping[str, float]) -> dict[str, float]:
    """Returns scalars of `by_task` with `otherwise/recovered` beside each that was lost."""
    found = dict(scalars)
    for key, lost in scalars.items():
        if key.startswith("otherwise/lost") and lost >= LEAST_LOST:
            place = key.removeprefix("otherwise/lost")
            share = recovered(lost, scalars[f"otherwise/still_lost{place}"])
            found[f"otherwise/recovered{place}"] = share
    return found


def recovered(lost: float, still_lost: float) -> float:
    """Returns the per cent of lost points that are there again, from 0 to 100."""
    return 100.0 * min(1.0, max(0.0, 1.0 - still_lost / lost))
