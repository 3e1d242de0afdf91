"""Scores of parameters: in the course of a stage, and at the end of a method."""

from collections.abc import Sequence
from typing import Any

import jax

from promot_jax.base.trees import Tree
from promot_jax.data import metrics
from promot_jax.experiment import attachments, retention
from promot_jax.experiment.evaluation import EvalTask, Evaluation, Evaluator
from promot_jax.experiment.experiment import Experiment
from promot_jax.experiment.probes.bench import Bench, Moment
from promot_jax.experiment.start import Start
from promot_jax.models.attached import BARE, Attached
from promot_jax.training.stages import Method, Stage


class Measurements:
    """What an experiment measures of parameters."""

    def __init__(self, experiment: Experiment, mesh: jax.sharding.Mesh, start: Start):
        self._experiment, self._start = experiment, start
        self.evaluator = Evaluator(
            experiment.model,
            mesh,
            experiment.decoder,
            experiment.eval_batch_size,
            experiment.eval_buckets,
        )
        # What a starting point, with nothing attached, answers to rows of a task.
        self._of_start: dict[tuple, Evaluation] = {}
        bench = Bench(
            model=experiment.model,
            mesh=mesh,
            evaluator=self.evaluator,
            targets=experiment.targets,
            tasks=self._followed,
            examples=experiment.unseen_examples,
            seed=lambda: start.seed,
            start=lambda: start.params(start.seed),
            answers_of_start=self._answers_of_start,
        )
        self._probes = [(probe.task, probe.bind(bench)) for probe in experiment.probes]

    def evaluate(
        self, params: Tree, task: EvalTask, attached: Attached, split: str, limit: int | None
    ) -> Evaluation:
        """Evaluates; a starting point with nothing attached is asked the same thing only once."""
        options = {"split": split, "limit": limit, "attached": attached}
        if attached != BARE or not self._start.unchanged_in(params):
            return self.evaluator.evaluate(params, task, **options)
        key = self._key(task, split, limit)
        if key not in self._of_start:
            self._of_start[key] = self.evaluator.evaluate(params, task, **options)
        return self._of_start[key]

    def in_course(self, params: Tree, method: Method, stage: Stage) -> dict[str, float]:
        """Returns the scalars of one evaluation in the course of a stage."""
        scalars = self._on_validation(params, stage)
        if stage.follow_unseen:
            # What the method adds for all tasks is there when its last stage trains.
            unseen = method.unseen if stage is method.stages[-1] else BARE
            answers = [(task, self._on_unseen(params, task, unseen)) for task in self._followed]
            scalars |= self._of_answers(answers)
            if stage.keep is not None:
                scalars |= self._kept(answers)
            for task, probe in self._probes:
                attached = unseen
                if task is not None:
                    attached = attachments.of_probe(stage, task, self._experiment.targets)
                scalars |= probe(Moment(params, attached, unseen, answers))
        return scalars

    def _on_validation(self, params: Tree, stage: Stage) -> dict[str, float]:
        """Scores of the targets that a stage trains on, their mean, and that of their losses."""
        scalars, scores, losses = {}, [], []
        for target in self._experiment.targets:
            if not (names := attachments.names_in(stage, target)):
                continue
            task = attachments.as_in(stage, target, names[0])
            attached = stage.attached_for(task.name)
            rows = {"split": "validation", "limit": self._experiment.validation_examples}
            scores.append(self.evaluate(params, task, attached, **rows).score)
            losses.append(self.evaluator.loss(params, task, attached=attached, **rows))
            scalars[f"validation/score/{target.name}"] = scores[-1]
        scalars["validation/score"] = sum(scores) / len(scores)
        scalars["validation/loss"] = sum(losses) / len(losses)
        return scalars

    def _kept(self, answers: Sequence[tuple[EvalTask, Evaluation]]) -> dict[str, float]:
        """Returns the share of the start's scores on these rows, and what it is at least."""
        pairs = [
            retention.pair(task, self._answers_of_start(task), found) for task, found in answers
        ]
        kept = retention.kept(pairs)
        return {"unseen/kept": kept.share, "unseen/kept_at_least": kept.low}

    @property
    def _followed(self) -> list[EvalTask]:
        """The unseen tasks that stages follow: those with the fewest exemplars."""
        fewest = min((task.shots for task in self._experiment.tasks), default=0)
        return [task for task in self._experiment.tasks if task.shots == fewest]

    def _on_unseen(self, params: Tree, task: EvalTask, attached: Attached) -> Evaluation:
        limit = self._experiment.unseen_examples
        return self.evaluate(params, task, attached, "validation", limit)

    def _answers_of_start(self, task: EvalTask) -> Evaluation:
        # The start is loaded again only where it was not asked yet.
        key = self._key(task, "validation", self._experiment.unseen_examples)
        if key not in self._of_start:
            self._on_unseen(self._start.params(self._start.seed), task, BARE)
        return self._of_start[key]

    def _key(self, task: EvalTask, split: str, limit: int | None) -> tuple:
        return self._start.seed, *task.rows_key, split, limit

    def _of_answers(self, answers: Sequence[tuple[EvalTask, Evaluation]]) -> dict[str, float]:
        """Scores and label shares of each unseen task, and their means over the generative ones."""
        scalars, generative = {}, []
        for task, found in answers:
            scalars[f"unseen/score/{task.name}"] = found.score
            scalars[f"unseen/label_share/{task.name}"] = self._label_share(found.answers)
            if task.generative:
                generative.append(found)
        if generative:
            answers = [answer for found in generative for answer in found.answers]
            scalars["unseen/label_share"] = self._label_share(answers)
            scalars["unseen/score"] = sum(found.score for found in generative) / len(generative)
        return scalars

    def result(self, task: EvalTask, attached: Attached, found: Evaluation) -> dict[str, Any]:
        """Returns the line of a final score, without whose it is."""
        return {
            "metric": task.metric,
            "score": round(found.score, 4),
            "count": len(found.predictions),
            "label_share": round(self._label_share(found.answers), 4),
            "prompt": attached.prompt,
            "evaluated_as": task.name,
        }

    def samples(self, found: Evaluation) -> list[dict[str, Any]]:
        """Returns the lines of the answers that are kept, without whose they are."""
        return [
            {
                "index": i,
                "input": found.inputs[i],
                "target": found.targets[i],
                "prediction": found.predictions[i],
            }
            for i in range(min(self._experiment.samples, len(found.predictions)))
        ]

    def _label_share(self, answers: Sequence[str]) -> float:
        return metrics.label_share(answers, self.evaluator.written(self._experiment.labels))
