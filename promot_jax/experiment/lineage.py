"""What a trained stage came from, as one short text: equal lineages give equal checkpoints.

A stage may be reused by a later run only if the model it started from, every stage before it, its
seed and all that decides its training are the same. Settings count as they were given (see
`settings`), so a lineage outlives versions of jax.
"""

import dataclasses
import hashlib
import json
from typing import Any

import jax

from promot_jax.base import trees, values
from promot_jax.base.trees import Tree
from promot_jax.experiment import settings
from promot_jax.experiment.costs import OF_STAGE
from promot_jax.models import Model, architectures
from promot_jax.training.stages import Stage

# How a lineage is made. The first way, without a number, depended on the version of jax.
SCHEME = 2


def of_model(model: Model, params: Tree) -> str:
    """Returns the lineage of a starting point: architecture, vocabulary, every bit of parameters.

    Stacked layers and what the backward pass stores (`networks.stack`) change none of them; nor
    does the place of the vocabulary's file.
    """
    plain = model.unstacked().with_remat("none")
    about = [architectures.describe(plain), settings.describe(model.vocabulary)]
    return _digest(about, trees.checksum(params))


def of_stage(parent: str, stage: Stage, seed: int, measured: str, embedding: jax.Array) -> str:
    """Returns the lineage of a trained stage.

    Args:
      parent: lineage of what the stage started from.
      stage: its settings.
      seed: of its data, its dropout and its prompt.
      measured: what else chose its best checkpoint, in any words.
      embedding: [V, H] of the model; its shape decides how a prompt is drawn.
    """
    later = values.later(Stage)
    fields = {
        field.name: settings.describe(value)
        for field in dataclasses.fields(stage)
        if field.name not in OF_STAGE
        and ((value := getattr(stage, field.name)) != later.get(field.name, ...))
    }
    drawn = [list(embedding.shape), str(embedding.dtype)]
    return _digest(parent, fields, drawn, seed, measured)


def _digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True)
    return f"{SCHEME}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
