"""How much of what a decoder layer adds comes from fine-tuning, row by row (TuCo).

After Nuti et al. 2025 ("TuCo: Measuring the Contribution of Fine-Tuning to Individual Responses of
LLMs", algorithm 1): at each layer of the tuned model the start's layer reads the same state. What
that adds to it is the pre-training component, the rest the fine-tuning component.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from promot_jax.base import partitioning, trees, values
from promot_jax.base.trees import Tree
from promot_jax.data import batching
from promot_jax.experiment.evaluation import EvalTask
from promot_jax.experiment.probes.bench import Bench, Moment, by_task
from promot_jax.models import Batch, Model
from promot_jax.models.attached import BARE, Attached


@dataclasses.dataclass(frozen=True)
class TuningContribution:
    """Mean TuCo of the target's and of unseen rows, in per cent.

    Of a row it is ‖ΣF‖ / (‖ΣP‖ + ‖ΣF‖), with the components P and F summed over the layers of the
    decoder at the place that predicts the first token of the answer. An encoder's output counts as
    input. It costs a forward pass of both models over the rows, unseen ones included.

    Attributes:
      task: registered task, usually the target.
      task_feature_lengths: longest inputs and targets in tokens.
      split: whose first rows are read.
      examples: how many.
    """

    task: values.Text
    task_feature_lengths: values.Lengths | None
    split: values.Text = "validation"
    examples: values.Count = 64

    def bind(self, bench: Bench) -> Callable[[Moment], dict[str, float]]:
        """Reads the rows and returns the measurement.

        Its scalars are `tuco/target/bare`, `tuco/target/attached` where the stage attaches
        something, `tuco/unseen/TASK`, and `tuco/unseen`, the mean over the tasks of free text.

        Raises:
          UserError: the task cannot be read.
        """
        target = EvalTask(self.task, self.task, "tuco", self.task_feature_lengths)
        of_target = bench.rows(target, self.split, self.examples)
        of_unseen = [(task, bench.rows(task, "validation", bench.examples)) for task in bench.tasks]

        @functools.partial(
            jax.jit,
            static_argnames="attached",
            out_shardings=partitioning.replicated(bench.mesh),
        )
        def contributions(start, params, batch, attached):
            parts = components(bench.model, start, params, batch, attached)
            pre, fine = (jnp.linalg.norm(part, axis=-1) for part in parts)
            return fine / (pre + fine)

        def mean(params: Tree, batches: batching.EvalBatches, attached: Attached) -> float:
            params, start, found = attached.params(bench.model, params), bench.bare_start(), []
            with partitioning.activate(bench.mesh):
                for batch, numbers in batches:
                    of_rows = contributions(start, params, bench.placed(batch, attached), attached)
                    found.append(np.asarray(of_rows)[numbers >= 0])
            return 100.0 * float(np.concatenate(found).mean())

        def measure(moment: Moment) -> dict[str, float]:
            scalars = {"tuco/target/bare": mean(moment.params, of_target, BARE)}
            if moment.attached != BARE:
                with_it = mean(moment.params, of_target, moment.attached)
                scalars["tuco/target/attached"] = with_it
            unseen = [
                (task, {"unseen": mean(moment.params, batches, moment.unseen)})
                for task, batches in of_unseen
            ]
            return scalars | by_task("tuco", unseen)

        return measure


def components(
    model: Model, start: Tree, params: Tree, batch: Batch, attached: Attached
) -> tuple[jax.Array, jax.Array]:
    """Returns what the start's layers and what fine-tuning added to a decoder's state: [B, H] each.

    They are sums over layers at the place that predicts the first target; together they are what
    all layers added.

    Args:
      model: bare model.
      start: parameters of the start, as the bare model reads them.
      params: those of the tuned model, with what is attached.
      batch: rows, with the prompt's number where one is attached.
      attached: to the tuned model.
    """
    calls: list[tuple[tuple, dict, jax.Array]] = []
    before: list[jax.Array] = []

    def record(layer, args, options):
        calls.append((args, options, layer(*args, **options)))
        return calls[-1][-1]

    def replay(layer, args, options):
        args, options, _ = calls[len(before)]
        before.append(layer(*args, **options))
        return before[-1]

    bare = {name: field for name, field in batch.items() if name != "prompt_ids"}
    _through_layers(attached.model(model, params), params, batch, record)
    _through_layers(BARE.model(model, start), start, bare, replay)
    place = -batch["decoder_target_tokens"].shape[1]
    pre = fine = jnp.zeros((), jnp.float32)
    for base, (args, _, after) in zip(before, calls, strict=True):
        state, of_start, tuned = (x[:, place].astype(jnp.float32) for x in (args[0], base, after))
        pre, fine = pre + of_start - state, fine + tuned - of_start
    return pre, fine


def _through_layers(
    model: Model, params: Tree, batch: Batch, call: Callable[..., jax.Array]
) -> None:
    """Sends a batch through a model whose decoder layers are called by `call`.

    That gets the layer, its arguments, and those given by name. Stacked layers are taken apart: the
    body of a scan would be seen once for all of them.
    """

    def through(next_call: Callable, args: tuple, options: dict, context: Any) -> Any:
        path = context.module.path
        layer = len(path) == 2 and path[0] == "decoder" and path[1].startswith("layers_")
        if layer and context.method_name == "__call__":
            return call(next_call, args, options)
        return next_call(*args, **options)

    with nn.intercept_methods(through):
        apart = model.unstacked().with_remat("none")
        apart.logits(trees.unstack_layers(params), batch, project=False)
