"""What stages attach: to parameters before they train, to the rows of a target or of a probe."""

import dataclasses
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.data import batching, generated
from promot_jax.experiment.evaluation import EvalTask
from promot_jax.models import Model, attached
from promot_jax.models.attached import BARE, Attached
from promot_jax.models.networks import lora, prompt_kinds
from promot_jax.training.stages import Asked, Method, Stage


def names_in(stage: Stage, target: EvalTask) -> list[str]:
    """Returns the tasks of the stage's mixture that are the target or a variant of it.

    Those are variants too whose training rows a model has rewritten.
    """
    known = (target.name, *target.variants)
    return [
        name for name in batching.task_names(stage.mixture) if generated.original(name) in known
    ]


def seed_of(seed: int, name: str) -> int:
    """Mixes a seed with a name, so that stages of one seed draw independent numbers."""
    return zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF


def add(params: Tree, stage: Stage, seed: int, model: Model) -> Tree:
    """Adds, initialised, the prompts and adapters of a stage that no earlier one made.

    Args:
      params: of the model, with what stages before added.
      stage: the stage.
      seed: of the experiment.
      model: bare model.

    Raises:
      UserError: a prompt is there with another number of rows or of another kind, or nothing
        makes what teaches.
    """
    taught = stage.teacher and stage.teacher.adapters
    if taught and not lora.adapters(params):
        raise UserError(
            f"stage {stage.name!r} has a teacher with adapters, which no stage before it trained; "
            "put one that does before it"
        )
    # First: a prompt may begin as what the model, adapters and all, makes of some rows.
    if stage.lora and not lora.adapters(params):
        params = lora.add(params, stage.lora, jax.random.key(seed_of(seed, "lora")))
    embedding = params["token_embedder"]["embedding"]
    for name in stage.prompts:
        rows = trees.prompts_of(params).get(name)
        kind = prompt_kinds.of_params(trees.keep_prompts(params, (name,)))
        if rows is not None and kind.word != stage.prompt_kind.word:
            raise UserError(
                f"{name!r} is a {kind.word} already, stage {stage.name!r} attaches a "
                f"{stage.prompt_kind.word}; give it another name (PROMPT)"
            )
        if rows not in (None, stage.prompt_length):
            raise UserError(
                f"prompt {name!r} has {rows} rows, stage {stage.name!r} asks for "
                f"{stage.prompt_length}; set PROMPT_LENGTH to {rows}"
            )
        if rows is None and stage.prompt_init is None and stage.context is None:
            raise UserError(
                f"stage {stage.name!r} reads rows with the prompt {name!r}, which no stage before "
                "it trained; put one that does before it, or give prompt_init"
            )
        if rows is None:
            rng = jax.random.key(seed_of(seed, name))
            prompt = _rows(stage, embedding, rng, model)
            network = model.with_lora(stage.adapters(model)).network
            own = attached.only(params, (), stage.adapters(model))
            leaves = stage.prompt_kind.begun(network, own, prompt, rng)
            params = trees.add_prompt_leaves(params, name, leaves)
    return params


def _rows(stage: Stage, embedding: jax.Array, rng: jax.Array, model: Model) -> jax.Array:
    """Returns what a new prompt begins as: a stage's exemplars, or what it draws."""
    if stage.context is None:
        return stage.prompt_init(embedding, stage.prompt_length, rng)
    context = stage.context.read(model.vocabulary, stage.prompt_length)
    return jnp.asarray(embedding[np.asarray(context.ids)], jnp.float32)


def of_target(method: Method, target: EvalTask) -> tuple[EvalTask, Attached]:
    """Returns a target as the method trained on it, and what it then reads it with.

    That is the task under the name, with the lengths, and with the prompt or adapters of the last
    stage whose mixture holds it. Where no stage does, it is the target as the method asks it, and
    nothing. `Method.targets` may say what else it is read with.
    """
    for stage in reversed(method.stages):
        if names := names_in(stage, target):
            attached = method.targets or stage.attached_for(names[0])
            if names[0] == target.name:
                return target, attached
            return as_in(stage, target, names[0]), attached
    for asked in method.asked:
        if asked.target == target.name:
            return as_in(asked, target, asked.task), BARE
    return target, BARE


def as_in(form: Stage | Asked, target: EvalTask, name: str) -> EvalTask:
    """Returns a target under the name, and with the lengths, of training on it or asking it."""
    lengths = form.task_feature_lengths
    return dataclasses.replace(target, name=name, task_feature_lengths=lengths)


def of_probe(stage: Stage, task: str, targets: Sequence[EvalTask]) -> Attached:
    """Returns what a stage attaches to the rows of a probe's task.

    That is what it attaches to the task, or to the variant of it that it trains on. Rows of a task
    that it does not train on are read with what all its tasks share.

    Raises:
      UserError: the stage attaches something else to each of its tasks, and trains on no variant of
        the probe's.
    """
    names = batching.task_names(stage.mixture)
    if task in names:
        return stage.attached_for(task)
    for target in targets:
        if task in (target.name, *target.variants) and (own := names_in(stage, target)):
            return stage.attached_for(own[0])
    shared = {stage.attached_for(name) for name in names}
    if len(shared) > 1:
        raise UserError(
            f"a probe reads {task!r}, but stage {stage.name!r} attaches another prompt to each of "
            f"its tasks ({', '.join(names)}); give one of them as the probe's task"
        )
    return shared.pop()


def check_asked(method: Method, targets: Sequence[EvalTask]) -> None:
    """Checks that targets which a method asks in a form of its own are there and not trained on.

    Raises:
      UserError: one is not, or is.
    """
    known = {target.name: target for target in targets}
    for asked in method.asked:
        if asked.target not in known:
            raise UserError(
                f"method {method.name!r} asks {asked.target!r}, which is no target "
                f"({', '.join(known)}); name one of them"
            )
        for stage in method.stages:
            if names_in(stage, known[asked.target]):
                raise UserError(
                    f"method {method.name!r} is evaluated on {asked.target!r} as its stage "
                    f"{stage.name!r} trains on it; leave it out of what the method asks"
                )


def check(stage: Stage, targets: Sequence[EvalTask], probed: Sequence[str]) -> None:
    """Checks that a stage trains on a target, and that probes can read their tasks with it.

    Args:
      stage: the stage.
      targets: of the experiment.
      probed: tasks of its probes.

    Raises:
      UserError: it does not, or they cannot.
    """
    if not any(names_in(stage, target) for target in targets):
        known = ", ".join(target.name for target in targets)
        raise UserError(
            f"stage {stage.name!r} trains on {stage.mixture!r}, which holds no target ({known}); "
            "make it a target, or a variant of one"
        )
    if stage.follow_unseen:
        for task in probed:
            of_probe(stage, task, targets)


def check_context(stage: Stage, model: Model) -> None:
    """Raises UserError where a stage learns labels in its prompt that the model cannot predict."""
    if stage.context is not None and not (model.packs and stage.pack):
        raise UserError(
            f"stage {stage.name!r} learns the labels of the exemplars in its prompt, which an "
            "encoder does not predict; take a decoder-only model with pack, or leave the methods "
            "with cpt out of METHODS (--methods)"
        )


def check_replay(stage: Stage, model: Model) -> None:
    """Checks that something that a stage trains is at work where rows are replayed.

    Args:
      stage: the stage.
      model: bare model.

    Raises:
      UserError: prompts alone train, or the model writes answers behind frozen adapters.
    """
    if stage.replay is None:
        return
    shapes, _ = stage.whole(model).shapes_and_axes()
    trained, _ = trees.partition(shapes, stage.trainable)
    if all(map(trees.PROMPT.fullmatch, trees.flatten(trained))):
        raise UserError(
            f"stage {stage.name!r} trains prompts alone, and replayed rows are read without any; "
            "leave out its replay (REPLAY)"
        )
    samples = any(each.samples for each in stage.objective)
    if samples and stage.lora and not lora.adapters(trained):
        raise UserError(
            f"stage {stage.name!r} writes answers with adapters attached that do not train, and to "
            "replayed rows cannot write without them; leave out its replay (REPLAY)"
        )
