"""Runs the methods of an experiment, stage by stage and seed by seed, and evaluates each.

A run folder holds:

    config.gin, run.json         what was asked for, where it ran
    results.jsonl, samples.jsonl scores of every method, seed and task; some answers
    seed_S/STAGE[-STAGE…]/       one folder for each stage: checkpoints, metrics.jsonl, stage.json;
                                 see `stage_folder`

Methods that begin with the same stages share them: the prompt of ProMoT's first stage is the prompt
of prompt tuning.
"""

import dataclasses
import functools
import json
import pathlib
import time
import zlib
from collections.abc import Callable, Sequence

import jax

from promot_jax.base import distributed, metric_writers, partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.base.files import read_json, write_json
from promot_jax.base.progress import say
from promot_jax.base.trees import Tree
from promot_jax.checkpoints import pretrained
from promot_jax.checkpoints.formats import known
from promot_jax.data import batching, metrics
from promot_jax.experiment import run_facts
from promot_jax.experiment.evaluation import EvalTask, Evaluation, Evaluator
from promot_jax.experiment.experiment import Experiment
from promot_jax.models.attached import BARE, Attached
from promot_jax.models.networks import lora
from promot_jax.training import lineage, settings, stage_folder
from promot_jax.training.stages import Method, Stage, check_batches
from promot_jax.training.train import StageRun, train_stage


class Runner:
    """An experiment at work in a run folder."""

    def __init__(self, experiment: Experiment, model_dir: pathlib.Path):
        self.experiment, self.folder = experiment, model_dir
        self.mesh = partitioning.make_mesh(
            experiment.model_parallel,
            experiment.fsdp,
            parameters=trees.count(experiment.model.shapes_and_axes()[0]),
        )
        self.evaluator = Evaluator(
            experiment.model,
            self.mesh,
            experiment.decoder,
            experiment.eval_batch_size,
            experiment.eval_buckets,
        )
        # Lineage of the starting point of each seed.
        self._origins: dict[int, str] = {}
        # A starting point and its seed, None where all seeds have the same one.
        self._start: tuple[int | None, Tree] = (None, {})
        # What a starting point, with nothing attached, answers to rows of a task.
        self._of_start: dict[tuple, Evaluation] = {}
        self.probes = [
            (probe.task, probe.bind(experiment.model, self.mesh)) for probe in experiment.probes
        ]
        # Writes down how long the run has taken; a runner that only opens a run writes nothing.
        self._keep_time: Callable[[], None] = lambda: None
        for method in experiment.selected:
            for stage in method.stages:
                self._check(stage)

    def run(self, command: str) -> None:
        """Runs whatever is not finished yet and records it."""
        started = time.monotonic()
        self._check_batches()
        facts = distributed.by_main(self._facts, command)

        def describe(finished: bool = False) -> None:
            self._describe(facts, time.monotonic() - started, finished)

        # Whatever is killed has the time of what it had measured.
        self._keep_time = lambda: distributed.by_main(describe)
        self._keep_time()
        try:
            for seed in self.experiment.seeds:
                for method in self.experiment.selected:
                    # Without a stage nothing depends on the seed.
                    if method.stages or seed == self.experiment.seeds[0]:
                        self._run_method(method, seed)
        except BaseException:
            if distributed.is_main():
                describe()
            raise
        distributed.by_main(describe, True)

    def _check(self, stage: Stage) -> None:
        """Raises UserError for a stage that trains on what is no target."""
        if not any(_names_in(stage, target) for target in self.experiment.targets):
            known = ", ".join(target.name for target in self.experiment.targets)
            raise UserError(
                f"stage {stage.name!r} trains on {stage.mixture!r}, which holds no target "
                f"({known}); make it a target, or a variant of one"
            )
        if stage.follow_unseen:
            for task, _ in self.probes:
                self._attached_to_probe(stage, task)

    def _check_batches(self) -> None:
        """Raises UserError for a stage to be trained whose batches the devices cannot divide."""
        for folder in distributed.by_main(self._unfinished):
            for method in self.experiment.selected:
                for name, stage in zip(method.folders, method.stages, strict=True):
                    if name == folder:
                        batches, parts = stage.batches, stage.microbatches
                        check_batches(self.mesh, stage.name, batches, parts)

    def _unfinished(self) -> list[str]:
        folders = {name for method in self.experiment.selected for name in method.folders}
        seeds = [self.folder / f"seed_{seed}" for seed in self.experiment.seeds]
        return sorted(
            name
            for name in folders
            if any(stage_folder.finished(seed / name) is None for seed in seeds)
        )

    def starting_point(self, seed: int) -> Tree:
        """Returns the parameters that every method of a seed starts from, placed on the mesh.

        The devices hold them once: a stage takes over the leaves that it trains, which are deleted
        here. Whoever asks after that has them loaded again.
        """
        drawn = self.experiment.initial_checkpoint is None or self.experiment.may_miss
        whose = seed if drawn else None
        held, params = self._start
        leaves = trees.flatten(params).values()
        if held != whose or not leaves or any(leaf.is_deleted() for leaf in leaves):
            # What is left of the last one makes room first.
            del params, leaves
            self._start = (whose, {})
            self._start = (whose, self._load(seed))
        return self._start[1]

    def _load(self, seed: int) -> Tree:
        experiment = self.experiment
        if experiment.initial_checkpoint is not None:
            source = known.open_checkpoint(experiment.initial_checkpoint)
            # Prompts that come with it are there for stages that attach them.
            prompts = trees.prompts_of(trees.unflatten(dict(source.leaves)))
            return pretrained.load(
                source,
                experiment.model.with_prompts(prompts),
                self.mesh,
                may_miss=experiment.may_miss,
                may_skip=experiment.may_skip,
                seed=seed,
            )
        shapes, axes = experiment.model.shapes_and_axes()
        shardings = partitioning.params_sharding(self.mesh, axes, shapes)

        def draw(rng: jax.Array) -> Tree:
            # Stacked or not, a layer begins with the same numbers.
            params = experiment.model.unstacked().init(rng)
            return trees.stack_layers(params) if experiment.model.stacked else params

        return jax.jit(draw, out_shardings=shardings)(jax.random.key(seed))

    def trained_params(self, method: Method, seed: int) -> Tree:
        """Trains or loads the stages of a method in order; returns the parameters at the end.

        They share the leaves that no stage trained with the starting point, and are good until
        another method takes these over.
        """
        params = self.starting_point(seed)
        if method.stages and seed not in self._origins:
            self._origins[seed] = lineage.of_model(self.experiment.model, params)
        came_from = self._origins.get(seed, "")
        for folder, stage in zip(method.folders, method.stages, strict=True):
            params = self._with_attachments(params, stage, seed)
            inside = self._attached_only(params, stage)
            came_from = self._lineage(came_from, stage, _stage_seed(seed, folder), params)
            stage_run = StageRun(
                stage=stage,
                folder=pathlib.Path(
                    distributed.by_main(self._stage_folder, seed, folder, came_from)
                ),
                lineage=came_from,
                seed=_stage_seed(seed, folder),
                label=f"seed {seed} {folder}",
                evaluate=functools.partial(self._measure, method=method, stage=stage),
            )
            model = self.experiment.model
            model = model.with_lora(stage.lora or model.network.config.lora)
            trained = trees.flatten(train_stage(stage_run, inside, model, self.mesh))
            params = trees.unflatten(trees.flatten(params) | trained)
        return params

    def attached(self, method: Method, target: EvalTask) -> tuple[EvalTask, Attached]:
        """Returns a target as the method trained on it, and what it then reads it with.

        That is the task under the name, with the lengths, and with the prompt or adapters of the
        last stage whose mixture holds it; the target itself and nothing where no stage does.
        """
        for stage in reversed(method.stages):
            if names := _names_in(stage, target):
                if names[0] == target.name:
                    return target, stage.attached_for(target.name)
                lengths = stage.task_feature_lengths
                variant = dataclasses.replace(target, name=names[0], task_feature_lengths=lengths)
                return variant, stage.attached_for(names[0])
        return target, BARE

    def _lineage(self, parent: str, stage: Stage, seed: int, params: Tree) -> str:
        experiment = self.experiment
        targets = [(_names_in(stage, target), target.metric) for target in experiment.targets]
        measured = settings.describe((targets, experiment.validation_examples, experiment.decoder))
        embedding = params["token_embedder"]["embedding"]
        return lineage.of_stage(parent, stage, seed, json.dumps(measured), embedding)

    def _stage_folder(self, seed: int, name: str, came_from: str) -> str:
        part = pathlib.Path(f"seed_{seed}", name)
        others = [pathlib.Path(run).absolute() / part for run in self.experiment.reuse]
        return str(stage_folder.place(self.folder / part, others, came_from))

    def _with_attachments(self, params: Tree, stage: Stage, seed: int) -> Tree:
        """Adds, initialised, the prompts and adapters of a stage that no earlier one made."""
        embedding = params["token_embedder"]["embedding"]
        for name in stage.prompts:
            rows = trees.prompts_of(params).get(name)
            if rows not in (None, stage.prompt_length):
                raise UserError(
                    f"prompt {name!r} has {rows} rows, stage {stage.name!r} asks for "
                    f"{stage.prompt_length}; set PROMPT_LENGTH to {rows}"
                )
            if rows is None:
                rng = jax.random.key(_stage_seed(seed, name))
                prompt = stage.prompt_init(embedding, stage.prompt_length, rng)
                params = trees.add_prompt(params, name, prompt)
        if stage.lora and not lora.adapters(params):
            rng = jax.random.key(_stage_seed(seed, "lora"))
            params = lora.add(params, stage.lora, rng)
        return params

    def _attached_only(self, params: Tree, stage: Stage) -> Tree:
        """Leaves out what the stage does not attach: it neither trains nor costs anything."""
        params = trees.keep_prompts(params, stage.prompts)
        adapted = stage.lora or self.experiment.model.network.config.lora
        return params if adapted else lora.remove(params)

    def _run_method(self, method: Method, seed: int) -> None:
        seed_key = seed if method.stages else None
        results = distributed.by_main(metric_writers.read_jsonl, self.folder / "results.jsonl")
        recorded = {(r.get("method"), r.get("seed"), r.get("task")) for r in results}
        # Targets come first: they are what a reader of the log waits for.
        wanted = [(task.name, *self.attached(method, task)) for task in self.experiment.targets]
        wanted += [(task.name, task, method.unseen) for task in self.experiment.tasks]
        wanted = [entry for entry in wanted if (method.name, seed_key, entry[0]) not in recorded]
        if not wanted:
            return
        params = self.trained_params(method, seed)
        scores = []
        for name, task, attached in wanted:
            found = self._evaluate(
                params, task, attached, task.split, self.experiment.eval_examples
            )
            key = {"method": method.name, "seed": seed_key, "task": name}
            distributed.by_main(self._record, key, task, attached, found)
            self._keep_time()
            scores.append(f"{task.label} {found.score:.1f}")
        say(f"{method.label}, seed {seed}: " + "  ".join(scores))

    def _evaluate(
        self, params: Tree, task: EvalTask, attached: Attached, split: str, limit: int | None
    ) -> Evaluation:
        """Evaluates; a starting point with nothing attached is asked the same thing only once."""
        options = {"split": split, "limit": limit, "attached": attached}
        seed, base = self._start
        if attached != BARE or not _unchanged(base, params):
            return self.evaluator.evaluate(params, task, **options)
        key = (seed, *task.rows_key, split, limit)
        if key not in self._of_start:
            self._of_start[key] = self.evaluator.evaluate(params, task, **options)
        return self._of_start[key]

    def _measure(self, params: Tree, *, method: Method, stage: Stage) -> dict[str, float]:
        """Scalars of one evaluation in the course of a stage."""
        scalars, scores, losses = {}, [], []
        for target in self.experiment.targets:
            if not (names := _names_in(stage, target)):
                continue
            task = dataclasses.replace(
                target, name=names[0], task_feature_lengths=stage.task_feature_lengths
            )
            attached = stage.attached_for(task.name)
            rows = {"split": "validation", "limit": self.experiment.validation_examples}
            scores.append(self._evaluate(params, task, attached, **rows).score)
            losses.append(self.evaluator.loss(params, task, attached=attached, **rows))
            scalars[f"validation/score/{target.name}"] = scores[-1]
        scalars["validation/score"] = sum(scores) / len(scores)
        scalars["validation/loss"] = sum(losses) / len(losses)
        if stage.follow_unseen:
            # What the method adds for all tasks is there when its last stage trains.
            unseen = method.unseen if stage is method.stages[-1] else BARE
            scalars |= self._measure_unseen(params, unseen)
            for task, probe in self.probes:
                scalars |= probe(params, self._attached_to_probe(stage, task))
        self._keep_time()
        return scalars

    def _attached_to_probe(self, stage: Stage, task: str) -> Attached:
        """Returns what a stage attaches to the rows of a probe's task.

        That is what it attaches to the task, or to the variant of it that it trains on. Rows of a
        task that it does not train on are read with what all its tasks share.

        Raises:
          UserError: the stage attaches something else to each of its tasks, and trains on no
            variant of the probe's.
        """
        names = batching.task_names(stage.mixture)
        if task in names:
            return stage.attached_for(task)
        for target in self.experiment.targets:
            if task in (target.name, *target.variants) and (own := _names_in(stage, target)):
                return stage.attached_for(own[0])
        shared = {stage.attached_for(name) for name in names}
        if len(shared) > 1:
            raise UserError(
                f"a probe reads {task!r}, but stage {stage.name!r} attaches another prompt to each "
                f"of its tasks ({', '.join(names)}); give one of them as the probe's task"
            )
        return shared.pop()

    def _measure_unseen(self, params: Tree, attached: Attached) -> dict[str, float]:
        """Scores and label shares of each unseen task, and their means over the generative ones."""
        scalars, generative = {}, []
        fewest = min((task.shots for task in self.experiment.tasks), default=0)
        for task in self.experiment.tasks:
            if task.shots > fewest:
                continue
            limit = self.experiment.unseen_examples
            found = self._evaluate(params, task, attached, "validation", limit)
            scalars[f"unseen/score/{task.name}"] = found.score
            scalars[f"unseen/label_share/{task.name}"] = self._label_share(found.answers)
            if task.generative:
                generative.append(found)
        if generative:
            answers = [answer for found in generative for answer in found.answers]
            scalars["unseen/label_share"] = self._label_share(answers)
            scalars["unseen/score"] = sum(found.score for found in generative) / len(generative)
        return scalars

    def _label_share(self, answers: Sequence[str]) -> float:
        return metrics.label_share(answers, self.evaluator.written(self.experiment.labels))

    def _record(self, key: dict, task: EvalTask, attached: Attached, found: Evaluation) -> None:
        result = {
            **key,
            "metric": task.metric,
            "score": round(found.score, 4),
            "count": len(found.predictions),
            "label_share": round(self._label_share(found.answers), 4),
            "prompt": attached.prompt,
            "evaluated_as": task.name,
        }
        samples = [
            {
                **key,
                "index": i,
                "input": found.inputs[i],
                "target": found.targets[i],
                "prediction": found.predictions[i],
            }
            for i in range(min(self.experiment.samples, len(found.predictions)))
        ]
        path = self.folder / "samples.jsonl"
        # A process that died before it wrote the score had written them.
        written = [
            {**key, "index": r.get("index")}
            for r in metric_writers.read_jsonl(path)
            if all(r.get(name) == value for name, value in key.items())
        ]
        samples = [r for r in samples if {**key, "index": r["index"]} not in written]
        metric_writers.append_jsonl(path, samples)
        metric_writers.append_jsonl(self.folder / "results.jsonl", [result])

    def _facts(self, command: str) -> dict:
        """Returns what run.json says of this call, and of the calls before it, when it begins."""
        path = self.folder / "run.json"
        try:
            before = read_json(path) if path.exists() else {}
        except UserError:
            say(f"{path} is damaged; the time and the seeds of earlier calls are lost with it")
            before = {}
        facts = run_facts.gather(self.experiment, command, before)
        return {"experiment": self.folder.name, **facts}

    def _describe(self, facts: dict, seconds: float, finished: bool) -> None:
        """Writes run.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        facts = run_facts.after(facts, seconds, finished=finished)
        write_json(self.folder / "run.json", facts)


def _unchanged(base: Tree, params: Tree) -> bool:
    """Whether the base is in the parameters, array for array; stages hand on what stays frozen."""
    leaves = trees.flatten(params)
    return all(leaves[path] is leaf for path, leaf in trees.flatten(base).items())


def _names_in(stage: Stage, target: EvalTask) -> list[str]:
    """Returns the tasks of the stage's mixture that are the target or a variant of it."""
    known = (target.name, *target.variants)
    return [name for name in batching.task_names(stage.mixture) if name in known]


def _stage_seed(seed: int, name: str) -> int:
    """Mixes a seed with a name, so that stages of one seed draw independent numbers."""
    return zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF
