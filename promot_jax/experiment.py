"""Runs the methods of an experiment, stage by stage and seed by seed, and evaluates each.

A run folder holds:

    config.gin, run.json         what was asked for, where it ran
    results.jsonl, samples.jsonl scores of every method, seed and task; some answers
    seed_S/STAGE[-STAGE…]/       one folder for each stage: checkpoints, metrics.jsonl, stage.json

Methods that begin with the same stages share them: the prompt of ProMoT's first stage is the prompt
of prompt tuning.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import platform
import resource
import sys
import time
import zlib
from collections.abc import Sequence

import jax

from promot_jax import (
    data,
    decoding,
    metric_writers,
    metrics,
    models,
    partitioning,
    pretrained,
    trees,
)
from promot_jax.errors import UserError
from promot_jax.evaluation import EvalTask, Evaluation, Evaluator
from promot_jax.interop import formats
from promot_jax.models import Model
from promot_jax.progress import say
from promot_jax.stages import Method, Stage
from promot_jax.train import StageRun, train_stage
from promot_jax.trees import Tree


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a run needs.

    Attributes:
      model: bare model.
      target: the task that methods fine-tune on; evaluated with the prompt of a method's last
        stage.
      labels: the answers that the target task knows; their share elsewhere shows format leaks.
      tasks: unseen tasks, evaluated without any prompt.
      methods: what to compare.
      seeds: each repeats every method with another order of data, dropout and prompt.
      initial_checkpoint: model that every method starts from, in any format that `interop` reads;
        None draws random parameters.
      may_miss: patterns of parameters that it need not have, and that are then drawn at random.
      may_skip: patterns of names that it may have beyond the model.
      decoder: greedy or beam search.
      eval_batch_size, eval_buckets: shape of evaluation batches.
      eval_examples: rows of each task in the final evaluation; None takes all.
      validation_examples: rows of the validation split at each evaluation of a stage.
      unseen_examples: rows of each generative unseen task there, for stages that follow them.
      samples: answers of each task that are kept for the report.
      model_parallel: devices that share one copy of the parameters.
    """

    model: Model
    target: EvalTask
    labels: Sequence[str]
    tasks: Sequence[EvalTask]
    methods: Sequence[Method]
    seeds: Sequence[int] = (0,)
    initial_checkpoint: str | None = None
    may_miss: Sequence[str] = ()
    may_skip: Sequence[str] = ()
    decoder: decoding.Decoder = dataclasses.field(default_factory=decoding.Beam)
    eval_batch_size: int = 64
    eval_buckets: Sequence[data.Bucket] = ()
    eval_examples: int | None = None
    validation_examples: int | None = None
    unseen_examples: int = 32
    samples: int = 3
    model_parallel: int = 1

    def __post_init__(self):
        stages: dict[str, Stage] = {}
        for method in self.methods:
            for folder, stage in zip(method.folders, method.stages, strict=True):
                if stages.setdefault(folder, stage) != stage:
                    raise UserError(
                        f"two methods have different stages of the name {folder!r}; rename one"
                    )

    def method(self, name: str) -> Method:
        """Returns a method by name.

        Raises:
          UserError: there is none of that name.
        """
        for method in self.methods:
            if method.name == name:
                return method
        names = ", ".join(method.name for method in self.methods)
        raise UserError(f"no method {name!r} in this run; it has {names}")


class Runner:
    """An experiment at work in a run folder."""

    def __init__(self, experiment: Experiment, model_dir: pathlib.Path):
        self.experiment, self.folder = experiment, model_dir
        self.mesh = partitioning.make_mesh(experiment.model_parallel)
        self.evaluator = Evaluator(
            experiment.model,
            self.mesh,
            experiment.decoder,
            experiment.eval_batch_size,
            experiment.eval_buckets,
        )

    def run(self, command: str) -> None:
        """Runs whatever is not finished yet and records it."""
        started = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._describe(command, seconds=None)
        for seed in self.experiment.seeds:
            base = self.initial_params(seed)
            for method in self.experiment.methods:
                # Without a stage nothing depends on the seed.
                if method.stages or seed == self.experiment.seeds[0]:
                    self._run_method(method, seed, base)
        self._describe(command, seconds=time.monotonic() - started)

    def initial_params(self, seed: int) -> Tree:
        """Returns the parameters that every method of a seed starts from, placed on the mesh."""
        experiment = self.experiment
        if experiment.initial_checkpoint is not None:
            return pretrained.load(
                formats.open_checkpoint(experiment.initial_checkpoint),
                experiment.model,
                self.mesh,
                may_miss=experiment.may_miss,
                may_skip=experiment.may_skip,
                seed=seed,
            )
        shapes, axes = experiment.model.shapes_and_axes()
        shardings = partitioning.params_sharding(self.mesh, axes, shapes)
        init = jax.jit(experiment.model.init, out_shardings=shardings)
        return init(jax.random.key(seed))

    def trained_params(self, method: Method, seed: int, base: Tree) -> Tree:
        """Trains or loads the stages of a method in order; returns the parameters at the end."""
        params = base
        for folder, stage in zip(method.folders, method.stages, strict=True):
            params = _with_prompt(params, stage, seed)
            stage_run = StageRun(
                stage=stage,
                folder=self.folder / f"seed_{seed}" / folder,
                seed=_stage_seed(seed, folder),
                label=f"seed {seed} {folder}",
                evaluate=lambda params, stage=stage: self._measure(params, stage),
            )
            params = train_stage(stage_run, params, self.experiment.model, self.mesh)
        return params

    def _run_method(self, method: Method, seed: int, base: Tree) -> None:
        seed_key = seed if method.stages else None
        recorded = {
            (r["method"], r["seed"], r["task"])
            for r in metric_writers.read_jsonl(self.folder / "results.jsonl")
        }
        prompt = method.stages[-1].prompt if method.stages else None
        # The target comes first: it is what a reader of the log waits for.
        wanted = [(self.experiment.target, prompt)]
        wanted += [(task, None) for task in self.experiment.tasks]
        wanted = [(t, p) for t, p in wanted if (method.name, seed_key, t.name) not in recorded]
        if not wanted:
            return
        params = self.trained_params(method, seed, base)
        scores = []
        for task, prompt_of_task in wanted:
            found = self.evaluator.evaluate(
                params,
                task,
                split=task.split,
                limit=self.experiment.eval_examples,
                prompt=prompt_of_task,
            )
            self._record(method.name, seed_key, task, found)
            scores.append(f"{task.label} {found.score:.1f}")
        say(f"{method.label}, seed {seed}: " + "  ".join(scores))

    def _measure(self, params: Tree, stage: Stage) -> dict[str, float]:
        """Scalars of one evaluation in the course of a stage."""
        target = dataclasses.replace(self.experiment.target, name=stage.mixture)
        options = {
            "split": "validation",
            "limit": self.experiment.validation_examples,
            "prompt": stage.prompt,
        }
        scalars = {
            "validation/score": self.evaluator.evaluate(params, target, **options).score,
            "validation/loss": self.evaluator.loss(params, target, **options),
        }
        tasks = [task for task in self.experiment.tasks if task.generative]
        if stage.follow_unseen and tasks:
            unseen = [
                self.evaluator.evaluate(
                    params, task, split="validation", limit=self.experiment.unseen_examples
                )
                for task in tasks
            ]
            answers = [answer for found in unseen for answer in found.predictions]
            scalars["unseen/label_share"] = metrics.label_share(answers, self.experiment.labels)
            scalars["unseen/score"] = sum(found.score for found in unseen) / len(unseen)
        return scalars

    def _record(self, method: str, seed: int | None, task: EvalTask, found: Evaluation) -> None:
        key = {"method": method, "seed": seed, "task": task.name}
        result = {
            **key,
            "metric": task.metric,
            "score": round(found.score, 4),
            "count": len(found.predictions),
            "label_share": round(metrics.label_share(found.predictions, self.experiment.labels), 4),
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
        metric_writers.append_jsonl(self.folder / "samples.jsonl", samples)
        metric_writers.append_jsonl(self.folder / "results.jsonl", [result])

    def _describe(self, command: str, seconds: float | None) -> None:
        """Writes run.json; `seconds` adds to those of earlier, interrupted attempts."""
        path = self.folder / "run.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        experiment = self.experiment
        devices = jax.devices()
        description = {
            "experiment": self.folder.name,
            "command": command,
            "started": before.get("started", now),
            "finished": None if seconds is None else now,
            "seconds": round(before.get("seconds", 0) + (seconds or 0), 1),
            "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            "machine": {
                "cores": os.cpu_count(),
                "devices": f"{len(devices)} x {devices[0].device_kind}",
                "system": f"{platform.system()} {platform.machine()}",
                "python": platform.python_version(),
                "jax": jax.__version__,
            },
            "parameters": trees.count(experiment.model.shapes_and_axes()[0]),
            "target": {
                "task": experiment.target.name,
                "label": experiment.target.label,
                "metric": experiment.target.metric,
                "labels": list(experiment.labels),
            },
            "tasks": [
                {
                    "task": task.name,
                    "label": task.label,
                    "family": task.family,
                    "metric": task.metric,
                    "generative": task.generative,
                }
                for task in experiment.tasks
            ],
            "methods": [
                {"name": method.name, "label": method.label, "stages": method.folders}
                for method in experiment.methods
            ],
            "seeds": list(experiment.seeds),
        }
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(description, indent=1) + "\n")
        partial.rename(path)


def _with_prompt(params: Tree, stage: Stage, seed: int) -> Tree:
    """Adds the stage's prompt, initialised, where no earlier stage made it."""
    if stage.prompt is None or stage.prompt in models.prompts_of(params):
        return params
    rng = jax.random.key(_stage_seed(seed, stage.prompt))
    embedding = params["token_embedder"]["embedding"]
    return models.add_prompt(
        params, stage.prompt, stage.prompt_init(embedding, stage.prompt_length, rng)
    )


def _stage_seed(seed: int, name: str) -> int:
    """Mixes a seed with a name, so that stages of one seed draw independent numbers."""
    return zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF


def shorten(command: Sequence[str] = tuple(sys.argv)) -> str:
    """Returns a command line as a person typed it, without the folder of the program."""
    return " ".join([pathlib.Path(command[0]).name, *command[1:]])
