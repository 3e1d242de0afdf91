"""The loop of one stage: train, evaluate, checkpoint, resume, choose the best."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from promot_jax.base import distributed, metric_writers, partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.base.progress import Progress, say
from promot_jax.base.trees import Tree
from promot_jax.data import batching
from promot_jax.data.path import DATA_PATH
from promot_jax.models import Model
from promot_jax.models.networks import lora
from promot_jax.training import begun_adapters, finished_stage, measured, train_state
from promot_jax.training.stages import Stage
from promot_jax.training.train_state import TrainState
from promot_jax.training.train_step import make_train_step

STEPS_BETWEEN_LOGS = 20
# Rows by which a stage chooses the shapes of its packed batches.
SAMPLE = 1024
# The share of target tokens that objectives must keep, from a stage's first evaluation on.
LEAST_KEPT = 0.01

# Parameters -> scalars; `validation/score` and `validation/loss` must be among them.
Evaluate = Callable[[Tree], dict[str, float]]


class Folder(Protocol):
    """Where a stage is kept, as `experiment.stage_folder` writes and reads it.

    Attributes:
      path: of the folder.
      checkpoints, metrics: where checkpoints and scalars go.
      summary: what says that the stage is finished.
      stages: names of the stages that led here, this one last.
    """

    path: pathlib.Path
    checkpoints: pathlib.Path
    metrics: pathlib.Path
    summary: pathlib.Path
    stages: list[str]

    def open(self, lineage: str) -> tuple[dict[str, Any] | None, str | None]:
        """Returns the summary of a finished stage, and what its checkpoints come from."""

    def course(self) -> Any:
        """Returns what was measured of checkpoints so far, to go on with it.

        Its `best` and `without_gain` decide what is loaded again and when patience is at an end.
        """

    def finish(self, summary: dict[str, Any]) -> None:
        """Marks the stage as finished."""


@dataclasses.dataclass(frozen=True)
class StageRun:
    """One stage of one method and seed.

    Attributes:
      stage: what to train.
      folder: where its checkpoints and scalars go.
      seed: decides the order of the data and the dropout.
      label: its name in progress lines.
      evaluate: measures parameters at each evaluation.
      lineage: what the stage comes from, in a few characters; written down when it begins.
      data_workers: processes that read and tokenise its rows; with 0 a thread of this one does.
      ended: of a stage that rewinds, its trainable leaves as the stage before it left them. They
        are deleted.
    """

    stage: Stage
    folder: Folder
    seed: int
    label: str
    evaluate: Evaluate
    lineage: str = ""
    data_workers: int = 0
    ended: Tree | None = None


def train_stage(run: StageRun, params: Tree, model: Model, mesh: jax.sharding.Mesh) -> Tree:
    """Trains one stage and returns its parameters as its best checkpoint has them.

    A stage that was interrupted continues from its latest checkpoint and ends with the same bits
    as if it had not been; a finished one only loads its best checkpoint.

    Args:
      run: the stage and where it is kept.
      params: those of the stage's model, see `Stage.params`. The stage takes over the arrays of the
        leaves that it trains, so that the devices hold these once: they are deleted in `params`.
      model: bare model.
      mesh: devices.

    Raises:
      UserError: a pattern that trains nothing, a loss that is not finite, damaged or lost
        checkpoints, a stage that was begun from something else.
    """
    run = dataclasses.replace(run, stage=run.stage.drawn(run.seed).reading(model))
    run.folder.path.mkdir(parents=True, exist_ok=True)
    trainable, frozen = trees.partition(params, run.stage.trainable)
    summary, came_from = distributed.by_main(run.folder.open, run.lineage)
    if summary is not None:
        _, axes = run.stage.whole(model).shapes_and_axes()
        places = partitioning.params_sharding(mesh, axes, trainable)
        return trees.combine(_finished(run, summary, trainable, places, frozen, came_from), frozen)
    state = train_state.sharded_state(run.stage, params, model, mesh)
    with _checkpoints(run, state.trainable, frozen, came_from) as kept:
        state, best = _continue(run, state, model, mesh, kept, came_from)
        if best != int(state.step):
            state = kept.restore(best, state, _mend(run))
        return trees.combine(state.trainable, frozen)


def _finished(run, summary, trainable, places, frozen, came_from) -> Tree:
    """Reads what a finished stage trained into `places`; `trainable` makes room for it."""
    step = summary.get("best_step")
    if step is None:
        # Earlier versions chose it each time.
        with _checkpoints(run, trainable, frozen, came_from) as kept:
            step = kept.best()
    checkpoint = run.folder.checkpoints / str(step)
    if not distributed.by_main(checkpoint.is_dir):
        raise UserError(
            f"there is no checkpoint {checkpoint}, of which {run.folder.summary} and the scores "
            f"speak; put it back, or remove {run.folder.path} to train the stage anew"
        )
    expected = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        trainable,
        places,
    )
    for leaf in jax.tree.leaves(trainable):
        if isinstance(leaf, jax.Array):
            leaf.delete()
    ours = {"step": step, "lineage": came_from, "checksum": trees.checksum(frozen)}
    return finished_stage.read(checkpoint, expected, ours, _mend(run))


def _mend(run) -> str:
    return f"put it back as it was, or remove {run.folder.path} to train the stage anew"


@contextlib.contextmanager
def _checkpoints(run, trainable, frozen, came_from):
    """Opens the checkpoints of a stage to train it."""
    # Importing orbax takes a tenth of a start, and a finished stage needs none of it.
    from promot_jax.training import stage_checkpoints

    # Only a stage that trains nothing but prompts cannot forget.
    prompts_alone = all(map(trees.PROMPT.fullmatch, trees.flatten(trainable)))
    rank = stage_checkpoints.lower_loss if prompts_alone else stage_checkpoints.earlier
    if run.stage.keep is not None:
        rank = stage_checkpoints.keeping(run.stage.keep, rank)
    kept = stage_checkpoints.StageCheckpoints(run.folder.checkpoints, frozen, rank, came_from)
    with contextlib.closing(kept):
        yield kept


def _continue(run, state, model, mesh, kept, came_from) -> tuple[TrainState, int]:
    """Trains from the latest checkpoint on; returns the last state and the best step."""
    course = run.folder.course() if distributed.is_main() else None

    def best_until(step):
        return course.best(step, kept.rank)

    try:
        latest = kept.latest()
        if latest is not None:
            best = distributed.by_main(best_until, latest)
            if best is not None:
                kept.require(best, "the best one of this stage so far")
            state = kept.restore(latest, state)
        elif run.stage.rewinds:
            state = _chosen(run.stage, state, run.ended)
        else:
            own = dataclasses.replace(run, stage=dataclasses.replace(run.stage, replay=None))
            read = _reader(own, model, mesh)
            state = begun_adapters.begun(run.stage, state, model, mesh, read)
        if course:
            course.resume(latest or 0)
        state = _train(run, state, model, mesh, kept, course)
        kept.wait()
        if course:
            course.note()
    except BaseException:
        if course:
            with contextlib.suppress(OSError):
                course.note()
        raise
    best, selection = kept.best(), run.stage.selection
    moved = selection and selection.count(state.opt_state, state.trainable)
    distributed.by_main(lambda: _write_summary(run, state, best, course, came_from, moved))
    return state, best


def _chosen(stage, state, ended) -> TrainState:
    """Returns the state with the masks of what changed most until `ended`, whose arrays go."""
    opt_state = stage.selection.chosen(state.opt_state, state.trainable, ended)
    # A leaf that the stage before did not train may be the very one that this stage does.
    own = {id(leaf) for leaf in jax.tree.leaves(state.trainable)}
    for leaf in jax.tree.leaves(ended):
        if id(leaf) not in own:
            leaf.delete()
    return state.replace(opt_state=opt_state)


def _train(run, state, model, mesh, kept, course) -> TrainState:
    """Runs the steps that are left."""
    stage, first = run.stage, int(state.step)
    state = _with_measurements(run, state, model, mesh)
    bare, model = model, stage.model(model)
    marks = _marks(stage, model.network.config.prompt_names, state.trainable)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    tx = stage.transformation()
    step_fn = make_train_step(bare, stage, tx, mesh, shardings)
    whole = partitioning.replicated(mesh)
    rng = jax.jit(lambda: jax.random.key(run.seed), out_shardings=whole)()
    # Before the first checkpoint there is nothing to continue, not even the evaluation at step 0.
    writer = metric_writers.create(run.folder.metrics, resume_from=first or -1)
    pending, kept_targets = [], []
    reading = _batches_and_others(run, model, mesh, first, marks)
    with Progress(run.label, stage.steps, first) as progress, reading as batches:
        if first == 0:
            writer.write_scalars(0, run.evaluate(state.params))
            if course:
                course.note()
        step, over = first, _is_over(run, course, kept.rank, first)
        while not over:
            step += 1
            state, metrics = step_fn(state, next(batches), rng)
            pending.append(metrics)
            progress.advance()
            evaluating = step % stage.eval_period == 0 or step == stage.steps
            if evaluating or step % STEPS_BETWEEN_LOGS == 0:
                scalars, pending = _mean(pending, run, step), []
                kept_targets.append(scalars.get("train/kept", 1.0))
                writer.write_scalars(step, scalars)
                progress.note(f"loss {scalars['train/loss']:.3f}")
                if course:
                    course.note()
            if evaluating:
                _check_kept(run, kept_targets, step)
                scores = run.evaluate(state.params)
                writer.write_scalars(step, scores)
                chosen_by = {k: float(scores[f"validation/{k}"]) for k in ("score", "loss")}
                if stage.keep is not None:
                    chosen_by["kept"] = float(scores["unseen/kept_at_least"])
                # First: what is saved may take the place of the best one so far.
                if course:
                    course.note(step=step, **chosen_by)
                kept.save(state, chosen_by)
                progress.note(
                    f"loss {scalars['train/loss']:.3f}  validation {scores['validation/score']:.1f}"
                )
                over = _is_over(run, course, kept.rank, step)
    writer.close()
    return state


def _with_measurements(run, state, model, mesh) -> TrainState:
    """Lets the objectives measure what the stage started from."""
    read = _reader(run, model, mesh)
    return measured.with_measurements(run.stage, state, model, mesh, run.seed, read)


def _reader(run, model, mesh) -> measured.Read:
    """Returns what gives the batches of a mixture, in the stage's form, with nothing attached."""

    def read(mixture):
        bare = {"prompt": None, "teacher": None, "pack": False, "objective": (), "context": None}
        stage = dataclasses.replace(run.stage, mixture=mixture, **bare)
        return _batches(dataclasses.replace(run, stage=stage), model, mesh, 0, None)

    return read


def _check_kept(run, shares, step) -> None:
    """Checks that the objectives have not left almost all targets out so far."""
    if (share := float(np.mean(shares))) < LEAST_KEPT:
        raise UserError(
            f"{run.label}: its objectives keep {share:.2%} of the target tokens until step {step}, "
            "so next to nothing is learnt; change what they select by, or leave them out"
        )


def _is_over(run, course, rank, step) -> bool:
    """Says whether a stage ends after a step: it is its last one, or its patience is at an end."""
    if step == run.stage.steps or run.stage.patience is None:
        return step == run.stage.steps

    def waited():
        return course.without_gain(step, rank)

    # Process 0 decides for all by what it has written down, also after an interruption.
    return distributed.by_main(waited) >= run.stage.patience


def _marks(stage, prompts, trained) -> dict[str, dict[str, int]]:
    """Returns what batches say of the rows of each task, see `batching.train_batches`.

    Args:
      stage: the stage.
      prompts: names of the model's prompts, in order.
      trained: the leaves that it trains. Adapters among them act in replayed rows too.
    """
    marks = {}
    if stage.prompts:
        places = {prompt: place for place, prompt in enumerate(prompts)} | {None: -1}
        marks["prompt_ids"] = {task: places[stage.prompt_of(task)] for task in stage.rates}
    adapted = stage.lora or (stage.teacher and stage.teacher.adapters)
    if adapted and stage.replay and not lora.adapters(trained):
        marks["adapted"] = {task: int(task not in stage.replay.tasks) for task in stage.rates}
    return marks


@contextlib.contextmanager
def _batches_and_others(run, model, mesh, first_step, marks):
    """Gives placed batches, in each those of objectives that have rows of their own."""
    with contextlib.ExitStack() as stack:
        reading = stack.enter_context(_batches(run, model, mesh, first_step, marks))
        others = {}
        for number, objective in enumerate(run.stage.objective):
            if objective.rows is not None:
                own = dataclasses.replace(run, stage=run.stage.beside(objective))
                found = _batches(own, model, mesh, first_step, None)
                others[str(number)] = stack.enter_context(found)
        if not others:
            yield reading
        else:
            yield (
                batch | {"beside": {number: next(each) for number, each in others.items()}}
                for batch in reading
            )


@contextlib.contextmanager
def _batches(run, model, mesh, first_step, marks):
    """Gives placed batches from `first_step` on, its prompt's number in every row."""
    stage, share = run.stage, partitioning.share(mesh)
    read = functools.partial(
        batching.train_batches,
        stage.rates,
        stage.task_feature_lengths,
        stage.batches,
        seed=run.seed,
        lengths_of={task: stage.lengths_of(task) for task in stage.rates},
        vocabulary=model.vocabulary,
        marks=marks,
        weights=stage.weights_in_rows,
        share=share,
    )
    pack = None
    if stage.pack and model.packs and not any(each.samples for each in stage.objective):
        # By the rows of the beginning, so that a resumed stage has the shapes that it had.
        with contextlib.closing(read()) as beginning:
            sample = _first_rows(beginning, SAMPLE // share[1])
        labels = () if stage.context is None else stage.context.labels
        multiple = partitioning.divisible(mesh, 1, stage.microbatches)
        pack = model.packer(sample, multiple, share, labels)
    with contextlib.closing(read(first_step=first_step, workers=run.data_workers)) as batches:
        packed = batches if pack is None else map(pack, batches)
        yield (_placed(batch, mesh, stage.microbatches, share) for batch in packed)


def _placed(batch, mesh, microbatches, share) -> dict[str, jax.Array]:
    """Fills up what this process has of a batch, so that devices and microbatches divide it."""
    count = share[1]
    rows = len(batch["decoder_loss_weights"]) * count
    own = partitioning.divisible(mesh, rows, microbatches) // count
    return partitioning.shard_batch(mesh, partitioning.padded(batch, own), share)


def _first_rows(batches, least: int) -> list[batching.Batch]:
    """Returns the first batches, that have so many rows together."""
    found, count = [], 0
    for batch in batches:
        found.append(batch)
        count += len(batch["decoder_loss_weights"])
        if count >= least:
            break
    return found


def _mean(pending, run, step) -> dict[str, float]:
    """Reads metrics back from the device and averages them."""
    read = jax.device_get(pending)
    scalars = {f"train/{name}": float(np.mean([m[name] for m in read])) for name in read[0]}
    if not np.isfinite(scalars["train/loss"]):
        raise UserError(
            f"{run.label}: the loss is {scalars['train/loss']} at step {step}; lower the learning "
            "rate of this stage and start with a new MODEL_DIR"
        )
    return scalars


def _write_summary(run, state, best_step, course, came_from, moved) -> None:
    """Writes the summary, which also marks the stage as finished."""
    steps, stopped = int(state.step), None
    if steps < run.stage.steps:
        stopped = (
            f"stopped at step {steps} of {run.stage.steps}: no evaluation after step {best_step} "
            f"was better (patience {run.stage.patience})"
        )
        say(f"{run.label}: {stopped}")
    kept = course.measured(best_step).get("kept")
    if kept is not None and kept < run.stage.keep:
        say(
            f"{run.label}: no checkpoint surely keeps {run.stage.keep:g} % of the start's scores; "
            f"that of step {best_step} keeps most, {kept:.1f} % at least"
        )
    summary = {
        "name": run.stage.name,
        "mixture": run.stage.mixture,
        "prompt": run.stage.prompt,
        "prompt_kind": run.stage.prompt_kind.word if run.stage.prompts else None,
        "replay": run.stage.replay and dataclasses.asdict(run.stage.replay),
        "lora": run.stage.lora and dataclasses.asdict(run.stage.lora),
        "steps": steps,
        "stopped": stopped,
        "best_step": best_step,
        "kept": kept,
        "seconds": round(course.seconds, 1),
        "lineage": run.folder.stages,
        "fingerprint": came_from,
        "data": DATA_PATH,
        "trainable": _size(state.trainable),
        "selected": moved and {"parameters": moved, "share": moved / trees.count(state.trainable)},
        "frozen": _size(state.frozen),
    }
    run.folder.finish(summary)


def _size(tree: Tree) -> dict[str, int]:
    return {"leaves": len(trees.flatten(tree)), "parameters": trees.count(tree)}
