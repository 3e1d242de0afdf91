"""Who teaches a stage: the model that it starts from, with a prompt or adapters attached.

Batches have the prompts of the stage, or where it has none that of its teacher. A student that has
none reads them without; a teacher that has another reads its own in the same places.
"""

from collections.abc import Mapping

import jax.numpy as jnp

from promot_jax.base import trees, values
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.models import Batch, Model, attached
from promot_jax.models.attached import Attached
from promot_jax.models.networks import lora
from promot_jax.models.networks.lora import Adapters
from promot_jax.training.objectives import Reference, Start
from promot_jax.training.stages import Stage


def by_prompt(prompt: values.Text | Mapping[str, values.Text | None] | None) -> Attached:
    """Returns what teaches with a prompt; nothing does where each task has one of its own."""
    return Attached(None if isinstance(prompt, Mapping) else prompt)


def as_student_reads(stage: Stage, batch: Batch) -> Batch:
    """Returns a batch as the model that trains reads it."""
    return attached.without_prompts(batch) if stage.prompt is None and stage.prompts else batch


def as_teacher_reads(stage: Stage, batch: Batch) -> Batch:
    """Returns a batch as the teacher reads it."""
    if stage.teacher is None:
        return batch
    if stage.teacher.prompt is None:
        return attached.without_prompts(batch)
    # It has one prompt, the first; slots of packed rows also say which row of a prompt they hold.
    firsts = {"prompt_ids": 1, "decoder_prompts": stage.prompt_length}
    return batch | {
        name: jnp.where(batch[name] < 0, -1, batch[name] % first)
        for name, first in firsts.items()
        if name in batch
    }


def attached_for(stage: Stage, task: str) -> Attached:
    """Returns what the teacher reads the rows of a task with."""
    own = stage.prompt_of(task)
    if stage.teacher is None:
        return Attached(own, stage.lora)
    return Attached(own and stage.teacher.prompt, stage.teacher.adapters)


def teacher(stage: Stage, reference: Reference, frozen: Tree, model: Model) -> Start:
    """Returns the model that teaches.

    Args:
      stage: the stage.
      reference: what it keeps of the model that it started from.
      frozen: the leaves that it does not train.
      model: bare model.
    """
    adapters = attached.in_force(model, _adapters(stage, frozen))
    prompts = _prompts(stage)
    params = attached.only(frozen, prompts, adapters)
    model = stage.prompted(model, adapters, prompts)
    return Start(model, reference.leaves, params)


def check(stage: Stage, model: Model) -> None:
    """Checks that what teaches a stage is there, and stands still, where an objective asks for it.

    Args:
      stage: the stage.
      model: bare model.

    Raises:
      UserError: it is not.
    """
    if not any(objective.asks_teacher for objective in stage.objective):
        return
    shapes, _ = stage.whole(model).shapes_and_axes()
    trained, frozen = trees.partition(shapes, stage.trainable)
    moving = [
        f"the prompt {name!r}" for name in trees.prompts_of(trained) if name in _prompts(stage)
    ]
    if stage.teacher is not None and stage.teacher.adapters and lora.adapters(trained):
        moving.append("the adapters")
    if moving:
        raise UserError(
            f"stage {stage.name!r} trains {moving[0]} that its teacher has attached, which must "
            "stand still; leave that out of trainable"
        )
    if not stage.prompts and not _adapters(stage, frozen):
        raise UserError(
            f"stage {stage.name!r} attaches nothing that could teach it; add the part to a method "
            "with a prompt, such as promot, or take KL"
        )
    same = stage.teacher in (None, Attached(stage.prompt, stage.lora))
    if same and any(each.needs_another_teacher for each in stage.objective):
        raise UserError(
            f"stage {stage.name!r} starts as its own teacher, prompt and all, and learns from that "
            "alone, which is nothing; let it learn from targets too (OnPolicy.share below 1, or "
            "another gold)"
        )


def _prompts(stage: Stage) -> tuple[str, ...]:
    """Returns the prompts that teach."""
    if stage.teacher is None:
        return stage.prompts
    return () if stage.teacher.prompt is None else (stage.teacher.prompt,)


def _adapters(stage: Stage, frozen: Tree) -> Adapters | None:
    if stage.teacher is not None:
        return stage.teacher.adapters
    return stage.lora if lora.adapters(frozen) else None
