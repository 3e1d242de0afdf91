"""What a trained stage came from, as one short text: equal lineages give equal checkpoints.

A stage may be reused by a later run only if the model it started from, every stage before it, its
seed and all that decides its training are the same.
"""

import dataclasses
import hashlib
import json
import re

import jax
import jax.numpy as jnp
import numpy as np

from promot_jax import architectures, trees
from promot_jax.models import Model
from promot_jax.stages import Stage
from promot_jax.trees import Tree

# Of a stage; functions are described by the program that jax traces from them.
FUNCTIONS = ("optimizer", "prompt_init")
# Of a stage, too: what it costs, and nothing else but rounding.
COSTS = ("pack",)


def of_model(model: Model, params: Tree) -> str:
    """Returns the lineage of a starting point: its architecture and every bit of its parameters.

    Stacked layers and what the backward pass stores (`networks.stack`) change neither.
    """
    plain = model.unstacked().with_remat("none")
    return _digest(
        json.dumps(architectures.describe(plain), sort_keys=True), trees.checksum(params)
    )


def of_stage(parent: str, stage: Stage, seed: int, measured: str, embedding: jax.Array) -> str:
    """Returns the lineage of a trained stage.

    Args:
      parent: lineage of what the stage started from.
      stage: its settings.
      seed: of its data, its dropout and its prompt.
      measured: what else chose its best checkpoint, in any words.
      embedding: [V, H] of the model; its shape decides how a prompt is drawn.
    """
    fields = {
        field.name: repr(getattr(stage, field.name))
        for field in dataclasses.fields(stage)
        if field.name not in FUNCTIONS + COSTS
    }
    return _digest(
        parent,
        json.dumps(fields, sort_keys=True),
        _program_of_optimizer(stage),
        _program_of_prompt(stage, embedding),
        str(seed),
        measured,
    )


def _program_of_optimizer(stage: Stage) -> str:
    """Returns one update as a program: its numbers are the optimizer's settings."""
    tx = stage.optimizer()
    params = {"kernel": jax.ShapeDtypeStruct((256, 256), jnp.float32)}
    params["scale"] = jax.ShapeDtypeStruct((8,), jnp.float32)
    return _text(jax.make_jaxpr(tx.update)(params, jax.eval_shape(tx.init, params), params))


def _program_of_prompt(stage: Stage, embedding: jax.Array) -> str:
    """Returns the drawing of the prompt as a program."""
    if stage.prompt_init is None:
        return ""

    def draw(embedding, seed):
        return stage.prompt_init(embedding, stage.prompt_length, jax.random.key(seed))

    shape = jax.ShapeDtypeStruct(embedding.shape, embedding.dtype)
    return _text(jax.make_jaxpr(draw)(shape, 0))


def _text(program) -> str:
    """Returns a traced program and its constants."""
    constants = [np.asarray(constant).tobytes() for constant in program.consts]
    return str(program) + "".join(hashlib.sha256(bits).hexdigest() for bits in constants)


def _digest(*parts: str) -> str:
    # Functions are printed with their addresses in memory.
    text = re.sub(r"0x[0-9a-f]+", "", "\0".join(parts))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
