"""Runs the methods of an experiment, stage by stage and seed by seed, and evaluates each.

Methods that begin with the same stages share them: the prompt of ProMoT's first stage is the prompt
of prompt tuning.
"""

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable

from promot_jax.base import distributed, partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.base.progress import say
from promot_jax.base.trees import Tree
from promot_jax.data import generated
from promot_jax.experiment import attachments, lineage, settings
from promot_jax.experiment.experiment import Experiment
from promot_jax.experiment.measurements import Measurements
from promot_jax.experiment.points import Asked, Curve, Points
from promot_jax.experiment.run_facts import Facts
from promot_jax.experiment.run_folder import RunFolder
from promot_jax.experiment.stage_folder import StageFolder
from promot_jax.experiment.start import Start
from promot_jax.experiment.written_rows import Author
from promot_jax.models import Model
from promot_jax.models.attached import in_force
from promot_jax.models.networks.lora import Adapters
from promot_jax.training import teaching
from promot_jax.training.stages import Method, Stage
from promot_jax.training.train import StageRun, train_stage


@dataclasses.dataclass(frozen=True)
class Trained:
    """What the last stage of a method hands to whoever uses its model.

    Attributes:
      model: with the adapters that the parameters have, without prompts.
      params: the leaves that no stage trained are those of the starting point; they are good until
        another method takes these over.
      prompts: names of the prompts that the stages attached, each once.
      adapters: those that the stages added, None for none.
    """

    model: Model
    params: Tree
    prompts: tuple[str, ...]
    adapters: Adapters | None


class Runner:
    """An experiment at work in a run folder."""

    def __init__(self, experiment: Experiment, model_dir: pathlib.Path):
        self.experiment, self.folder = experiment, RunFolder(model_dir)
        self.mesh = partitioning.make_mesh(
            experiment.model_parallel,
            experiment.fsdp,
            parameters=trees.count(experiment.model.shapes_and_axes()[0]),
        )
        self.start = Start(experiment, self.mesh)
        self.measurements = Measurements(experiment, self.mesh, self.start)
        self.points = Points(experiment, self.folder, self.start, self.measurements)
        self.author = Author(experiment.model, self.mesh)
        # Writes down how long the run has taken; a runner that only opens a run writes nothing.
        self._keep_time: Callable[[], None] = lambda: None
        probed = [probe.task for probe in experiment.probes if probe.task is not None]
        for method in experiment.selected:
            self.points.check(method)
            attachments.check_asked(method, experiment.targets)
            for stage in method.stages:
                attachments.check(stage, experiment.targets, probed)
                attachments.check_replay(stage, experiment.model)
                attachments.check_context(stage, experiment.model)
                teaching.check(stage, experiment.model)

    def run(self, command: str, curve: Curve = ()) -> None:
        """Runs whatever is not finished yet and records it.

        Args:
          command: the command line.
          curve: the points of each method's curve, see `points`; without any there are those of
            `Method.after` alone.

        Raises:
          UserError: bad input, or a folder that was begun from something else.
        """
        curves = [method for method in self.experiment.selected if self.points.usual(method)]
        if curve and curve != "auto" and not curves:
            raise UserError("--curve: no method that runs trains the model; leave it out")
        facts = Facts(self.folder, self.experiment, command)
        self._keep_time = facts.write
        self._keep_time()
        try:
            for seed in self.experiment.seeds:
                for method in self.experiment.selected:
                    # Without a stage nothing depends on the seed.
                    if method.stages or seed == self.experiment.seeds[0]:
                        self._run_method(method, seed, curve)
        except BaseException:
            facts.write_alone()
            raise
        facts.write(finished=True)

    def trained(self, method: Method, seed: int, at: float | None = None) -> Trained:
        """Trains or loads the stages of a method in order; returns what the last one hands on.

        Args:
          method: one of the experiment's.
          seed: of its stages.
          at: a point of the method's curve, which is returned instead.

        Raises:
          UserError: see `train_stage`; a stage has been trained from something else; a method
            without a curve.
        """
        params = self._trained_params(method, seed)
        if at is not None:
            params = self.points.made(method, seed, params, at)
        bare = self.experiment.model
        return Trained(
            model=bare.with_lora(in_force(bare, method.adapters)),
            params=params,
            prompts=tuple(dict.fromkeys(n for stage in method.stages for n in stage.prompts)),
            adapters=method.adapters,
        )

    def _trained_params(self, method: Method, seed: int) -> Tree:
        params = self.start.params(seed)
        came_from = self.start.lineage(seed) if method.stages else ""
        model = self.experiment.model
        for number, (name, stage) in enumerate(zip(method.folders, method.stages, strict=True)):
            ended = None
            if stage.rewinds:
                own = stage.params(attachments.add(params, stage, seed, model), model)
                ended, _ = trees.partition(own, stage.trainable)
                begun = dataclasses.replace(method, stages=method.stages[: number - 1])
                params = self._trained_params(begun, seed)
            params = attachments.add(params, stage, seed, model)
            own_seed = attachments.seed_of(seed, name)
            before = came_from
            came_from = self._lineage(came_from, stage, own_seed, params)
            folder = self._stage_folder(seed, name, came_from)
            if distributed.by_main(folder.finished) is None:
                self._write_rows(stage, seed, params, before)
            run = StageRun(
                stage=stage,
                folder=folder,
                lineage=came_from,
                seed=own_seed,
                label=f"seed {seed} {name}",
                evaluate=functools.partial(self._measure, method=method, stage=stage),
                data_workers=self.experiment.data_workers,
                ended=ended,
            )
            trained = train_stage(run, stage.params(params, model), model, self.mesh)
            params = trees.unflatten(trees.flatten(params) | trees.flatten(trained))
        return params

    def _write_rows(self, stage: Stage, seed: int, params: Tree, came_from: str) -> None:
        """Has the start model, or the stage's teacher, write the rows of its tasks that are such.

        Args:
          stage: the stage.
          seed: of the start model.
          params: what the stage starts from, with what its teacher attaches.
          came_from: the lineage of that.
        """
        for name in filter(generated.source, stage.read_tasks):
            if generated.source(name).origin == generated.TEACHER:
                attached = teaching.attached_for(stage, name)
                self.author.write(name, params, came_from, attached)
            else:
                self.author.write(name, self.start.params(seed), self.start.lineage(seed))

    def _lineage(self, parent: str, stage: Stage, seed: int, params: Tree) -> str:
        experiment = self.experiment
        targets = [
            (attachments.names_in(stage, target), target.metric) for target in experiment.targets
        ]
        measured = settings.describe((targets, experiment.validation_examples, experiment.decoder))
        embedding = params["token_embedder"]["embedding"]
        return lineage.of_stage(parent, stage, seed, json.dumps(measured), embedding)

    def _stage_folder(self, seed: int, name: str, came_from: str) -> StageFolder:
        """Returns where a stage is trained, or kept if it has been, here or in another run."""
        runs = [RunFolder(pathlib.Path(run).absolute()) for run in self.experiment.reuse]
        others = [run.stage(seed, name) for run in runs]

        def place() -> str:
            return str(self.folder.stage(seed, name).place(others, came_from).path)

        return StageFolder(pathlib.Path(distributed.by_main(place)))

    def _measure(self, params: Tree, *, method: Method, stage: Stage) -> dict[str, float]:
        scalars = self.measurements.in_course(params, method, stage)
        self._keep_time()
        return scalars

    def _run_method(self, method: Method, seed: int, curve: Curve) -> None:
        """Trains a method, evaluates it and its points on what has no score yet, records that."""
        recorded = self._recorded(method.name, seed if method.stages else None)
        # Targets come first: they are what a reader of the log waits for.
        asked = [
            (target.name, *attachments.of_target(method, target))
            for target in self.experiment.targets
        ]
        asked += [(task.name, task, method.unseen) for task in self.experiment.tasks]
        params, wanted = None, [entry for entry in asked if entry[0] not in recorded]
        if wanted:
            params = self._trained_params(method, seed)
            self._score(params, method, seed, wanted)
        plan = self.points.plan(method, seed, asked, curve)
        if plan.remark and (wanted or plan.points):
            say(plan.remark)
        if plan.points:
            params = self._trained_params(method, seed) if params is None else params
            self.points.evaluate(method, seed, params, asked, plan.points, self._keep_time)

    def _score(self, params: Tree, method: Method, seed: int, wanted: list[Asked]) -> None:
        """Evaluates what a method ends with and records each score."""
        experiment, scores = self.experiment, []
        for name, task, attached in wanted:
            began = time.monotonic()
            found = self.measurements.evaluate(
                params, task, attached, task.split, experiment.eval_examples
            )
            seconds = time.monotonic() - began
            key = {"method": method.name, "seed": seed if method.stages else None, "task": name}
            result = self.measurements.result(task, attached, found)
            distributed.by_main(self.folder.record, key, result, self.measurements.samples(found))
            self.points.note(method, seed, name, seconds)
            self._keep_time()
            scores.append(f"{task.label} {found.score:.1f}")
        say(f"{method.label}, seed {seed}: " + "  ".join(scores))

    def _recorded(self, method: str, seed: int | None) -> list[str]:
        """Returns the tasks whose scores are written down."""

        def tasks() -> list[str]:
            found = self.folder.recorded()
            return sorted(str(task) for name, own, task in found if (name, own) == (method, seed))

        return distributed.by_main(tasks)
