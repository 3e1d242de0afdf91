"""How much of a gradient is format: its cosine with the gradient on shuffled labels (section 3.3).

The full gradient g is that of a task, the format gradient g_format that of the same inputs with the
labels shuffled among them: what the two have in common is the form of the answers. Where their
cosine is near 1, a step teaches the format and little else (the paper's Figures 3 and 7).
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from promot_jax.base import partitioning, trees, values
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.data import batching
from promot_jax.experiment.probes.bench import Bench, Moment
from promot_jax.models import Batch, Model
from promot_jax.models.attached import Attached

# Kernels of a decoder layer, below it; each group's gradients are joined to one vector.
GROUPS = {
    "mlp": r"mlp/[^/]+/kernel",
    "query": r"({attention})/query/kernel",
    "key": r"({attention})/key/kernel",
    "value": r"({attention})/value/kernel",
}


@dataclasses.dataclass(frozen=True)
class GradientCosine:
    """The cosine of full and format gradient on kernels of the last decoder layer.

    Attributes:
      task: registered task, of whose train split the first rows are read.
      randomized: the same task with shuffled labels: equal inputs in equal order.
      task_feature_lengths: longest inputs and targets in tokens.
      batch_size: rows of each pass, raised to what the devices can divide; of no influence on the
        result.
      examples: rows, over whose mean the gradients are taken.
      attention: regular expression of the modules that "query", "key" and "value" are of. The
        paper says "the attention module". An encoder-decoder has two; both count here, since with
        a one-token label the decoder's self-attention has hardly anything to choose from, so that
        its query and key get next to no gradient. A decoder-only model has `self_attention` alone.
    """

    task: values.Text
    randomized: values.Text
    task_feature_lengths: values.Lengths
    batch_size: values.Count = 32
    examples: values.Count = 128
    attention: values.Pattern = "self_attention|encoder_decoder_attention"

    def __post_init__(self):
        try:
            re.compile(self.attention)
        except re.error as error:
            raise UserError(
                f"GradientCosine.attention {self.attention!r} is not a regular expression: {error}"
            ) from None

    def bind(self, bench: Bench) -> Callable[[Moment], dict[str, float]]:
        """Returns the measurement; see `of_model`, whose errors it raises."""
        measure = self.of_model(bench.model, bench.mesh)
        return lambda moment: measure(moment.params, moment.attached)

    def of_model(
        self, model: Model, mesh: jax.sharding.Mesh
    ) -> Callable[[Tree, Attached], dict[str, float]]:
        """Reads the rows and returns the measurement of a model.

        It takes parameters, stacked or not as the model has them, and what is attached to the rows;
        it returns `cosine/mlp`, `cosine/query`, `cosine/key` and `cosine/value`, each in -1..1, and
        0 where a gradient is zero. There is no dropout. Gradients are divided over the mesh as
        their parameters are.

        Raises:
          UserError: the two tasks have different inputs, one of them cannot be read, or
            `attention` matches no module.
        """
        both = self._batches(model, partitioning.divisible(mesh, self.batch_size))
        shapes, axes = model.unstacked().shapes_and_axes()
        groups = self._groups(trees.flatten(shapes))
        paths = [path for members in groups.values() for path in members]
        leaves = {path: trees.flatten(shapes)[path] for path in paths}
        shardings = trees.flatten(partitioning.params_sharding(mesh, axes, trees.unflatten(leaves)))

        @functools.partial(jax.jit, out_shardings=shardings)
        def zeros():
            return {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}

        @functools.partial(
            jax.jit, static_argnames="attached", donate_argnums=0, out_shardings=shardings
        )
        def add(total, params, batch, attached):
            found = gradients(attached.model(model, params), params, batch, paths)
            return jax.tree.map(jnp.add, total, found)

        @functools.partial(jax.jit, out_shardings=partitioning.replicated(mesh))
        def cosines(full, form):
            return {
                f"cosine/{group}": _cosine([full[p] for p in members], [form[p] for p in members])
                for group, members in groups.items()
            }

        def measure(params: Tree, attached: Attached) -> dict[str, float]:
            params = attached.params(model, params)
            totals = []
            with partitioning.activate(mesh):
                for batches in both:
                    total = zeros()
                    for batch in batches:
                        placed = partitioning.shard_batch(mesh, attached.batch(batch))
                        total = add(total, params, placed, attached)
                    totals.append(total)
                found = cosines(*totals)
            return {name: float(value) for name, value in jax.device_get(found).items()}

        return measure

    def _batches(self, model: Model, batch_size: int) -> list[list[batching.Batch]]:
        """Reads both tasks and checks that their inputs are the same."""
        read = [
            batching.eval_batches(
                task,
                self.task_feature_lengths,
                "train",
                batch_size=batch_size,
                limit=self.examples,
                vocabulary=model.vocabulary,
            )
            for task in (self.task, self.randomized)
        ]
        both = [[batch for batch, _ in batches] for batches in read]
        full, form = (
            np.concatenate([batch["encoder_input_tokens"] for batch in batches]) for batches in both
        )
        if not np.array_equal(full, form):
            raise UserError(
                f"tasks {self.task!r} and {self.randomized!r} have different inputs; for "
                "GradientCosine they must be the same, in the same order"
            )
        return both

    def _groups(self, paths: Iterable[str]) -> dict[str, list[str]]:
        """Returns the paths of each group in the last decoder layer."""
        paths = list(paths)
        layers = [re.match(r"decoder/layers_(\d+)/", path) for path in paths]
        last = f"decoder/layers_{max(int(layer[1]) for layer in layers if layer)}/"
        groups = {}
        for group, pattern in GROUPS.items():
            whole = last + pattern.format(attention=self.attention)
            groups[group] = [path for path in paths if re.fullmatch(whole, path)]
            if not groups[group]:
                raise UserError(
                    f"GradientCosine.attention = {self.attention!r} matches no module of the last "
                    "decoder layer; give names such as 'self_attention'"
                )
        return groups


def gradients(
    model: Model, params: Tree, batch: Batch, paths: Iterable[str]
) -> dict[str, jax.Array]:
    """Returns the gradient of a batch's summed loss with respect to some leaves alone.

    Of leaves of the last decoder layer the backward pass goes through that layer and the output
    projection, whatever the number of layers. Stacked layers are taken apart for it: the backward
    pass of a scan would go through all of them.

    Args:
      model: complete with what is attached.
      params: its parameters.
      batch: rows; those without a loss weight do not count.
      paths: of the leaves, with a place for each layer.
    """
    leaves = trees.flatten(trees.unstack_layers(params))
    model = model.unstacked()

    def loss(chosen):
        return model.loss_fn(trees.unflatten(leaves | chosen), batch, None).total

    return jax.grad(loss)({path: leaves[path] for path in paths})


def _cosine(one: list[jax.Array], other: list[jax.Array]) -> jax.Array:
    """Returns the cosine of two vectors that are given in parts; 0 where one of them is zero."""

    def dot(left, right):
        return sum(jnp.sum(x * y) for x, y in zip(left, right, strict=True))

    norms = jnp.sqrt(dot(one, one)) * jnp.sqrt(dot(other, other))
    return jnp.where(norms > 0, dot(one, other) / jnp.where(norms > 0, norms, 1.0), 0.0)
