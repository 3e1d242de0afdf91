"""Which tokens of a tuned model's answers its start would have chosen, too.

The token-rank shift of Lin et al. 2023 ("The Unlocking Spell on Base LLMs"): the tuned model
answers, and each token of the answer is looked up among the start's predictions at that place.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from promot_jax.base import partitioning
from promot_jax.base.trees import Tree
from promot_jax.data import batching
from promot_jax.data.tasks import Tokens
from promot_jax.experiment.evaluation import EvalTask, Evaluation
from promot_jax.experiment.probes.bench import Bench, Moment, by_task
from promot_jax.models import Batch, Model

# The last rank of each kind; what comes after is shifted.
KINDS = {"unshifted": 1, "marginal": 3}
SHIFTED = "shifted"


@dataclasses.dataclass(frozen=True)
class RankShift:
    """Per cent of answered tokens by their rank under the start: 1, 2 to 3, and above.

    It reads the answers that followed unseen tasks got anyway, the token that ends them included,
    and costs one forward pass of the start over them. The start has nothing attached, the answers
    come from a model with what unseen tasks are read with.
    """

    # It reads no row as the stage does.
    task = None

    def bind(self, bench: Bench) -> Callable[[Moment], dict[str, float]]:
        """Returns the measurement.

        Its scalars are `rank/KIND/TASK` for KIND `unshifted`, `marginal` and `shifted`, and
        `rank/KIND`, their mean over the tasks that are answered in free text.
        """
        ranked = jax.jit(
            functools.partial(ranks, bench.model),
            out_shardings=partitioning.replicated(bench.mesh),
        )

        def of(task: EvalTask, answered: Evaluation) -> dict[str, float]:
            start, found = bench.bare_start(), []
            with partitioning.activate(bench.mesh):
                for batch, _ in answers_as_targets(bench, task, answered):
                    counted = batch["decoder_loss_weights"] > 0
                    found.append(np.asarray(ranked(start, bench.placed(batch)))[counted])
            return shares(np.concatenate(found))

        def measure(moment: Moment) -> dict[str, float]:
            return by_task("rank", [(task, of(task, given)) for task, given in moment.answers])

        return measure


def answers_as_targets(bench: Bench, task: EvalTask, answered: Evaluation) -> batching.EvalBatches:
    """Returns the rows of an unseen task with what a model answered in place of their targets."""
    batches = bench.rows(task, "validation", bench.examples)
    rows = [
        Tokens(row.inputs, _with_end(tokens, bench.model.ends))
        for row, tokens in zip(batches.rows, answered.tokens, strict=True)
    ]
    lengths = task.task_feature_lengths
    shapes = [(lengths["inputs"], lengths["targets"])] * len(batches)
    return dataclasses.replace(batches, rows=rows, shapes=shapes)


def _with_end(tokens: np.ndarray, ends: Sequence[int]) -> np.ndarray:
    """Returns the tokens of an answer, the first that ends it included."""
    found = np.flatnonzero(np.isin(tokens, ends))
    return tokens[: found[0] + 1] if len(found) else tokens


def ranks(model: Model, params: Tree, batch: Batch) -> jax.Array:
    """Returns the rank of each target among the model's predictions, int32 [B, U], from 1 on.

    Tokens with the same logit share the best rank.
    """
    logits = model.logits(params, batch)
    own = jnp.take_along_axis(logits, batch["decoder_target_tokens"][..., None], axis=-1)
    return 1 + jnp.sum(logits > own, axis=-1, dtype=jnp.int32)


def shares(found: np.ndarray) -> dict[str, float]:
    """Returns the per cent of each kind among ranks, int [any number of at least one]."""
    counts, below = {}, 0
    for kind, last in KINDS.items():
        within = np.count_nonzero(found <= last)
        counts[kind], below = within - below, within
    counts[SHIFTED] = len(found) - below
    return {kind: 100.0 * count / len(found) for kind, count in counts.items()}
