"""What a run is made of: a model, the tasks it is tuned on, the unseen ones, methods and seeds."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import jax

from promot_jax import data, decoding
from promot_jax.attached import Attached
from promot_jax.errors import UserError
from promot_jax.evaluation import EvalTask
from promot_jax.models import Model
from promot_jax.stages import Method, Stage
from promot_jax.trees import Tree


class Probe(Protocol):
    """A measurement of a model in the course of its training; see `probes`.

    Attributes:
      task: whose rows it reads.
    """

    task: str

    def bind(
        self, model: Model, mesh: jax.sharding.Mesh
    ) -> Callable[[Tree, Attached], dict[str, float]]:
        """Returns a function of parameters and what is attached to the rows of the task."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a run needs.

    Attributes:
      model: bare model.
      targets: the tasks that methods fine-tune on, one for most; each is evaluated with what the
        last stage that trained on it attached to its rows.
      labels: the answers that a target task knows; their share elsewhere shows format leaks.
      tasks: unseen tasks, evaluated without any prompt; see `Method.unseen`.
      methods: what to compare.
      reuse: further run folders; a stage that one of them finished with the same lineage (see
        `lineage`) is taken from there.
      only: names of the methods to run now; None runs all. The results of later calls are added.
      seeds: each repeats every method with another order of data, dropout and prompt.
      initial_checkpoint: model that every method starts from, in any format that `interop` reads;
        None draws random parameters.
      may_miss: patterns of parameters that it need not have, and that are then drawn at random.
      may_skip: patterns of names that it may have beyond the model.
      decoder: greedy or beam search.
      eval_batch_size, eval_buckets: shape of evaluation batches.
      eval_examples: rows of each task in the final evaluation; None takes all.
      validation_examples: rows of the validation split at each evaluation of a stage.
      unseen_examples: rows of each unseen task there, for stages that follow them; of tasks with
        exemplars, those with the fewest.
      probes: further measurements of such stages.
      samples: answers of each task that are kept for the report.
      model_parallel, fsdp: devices on these axes of the mesh, see `partitioning`; together they
        share one copy of the parameters. None for `fsdp` goes by the size of the model.
    """

    model: Model
    targets: Sequence[EvalTask]
    labels: Sequence[str]
    tasks: Sequence[EvalTask]
    methods: Sequence[Method]
    only: Sequence[str] | None = None
    reuse: Sequence[str] = ()
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
    probes: Sequence[Probe] = ()
    samples: int = 3
    model_parallel: int = 1
    fsdp: int | None = None

    def __post_init__(self):
        if not self.targets:
            raise UserError("an experiment needs at least one target task")
        stages: dict[str, Stage] = {}
        for method in self.methods:
            for folder, stage in zip(method.folders, method.stages, strict=True):
                if stages.setdefault(folder, stage) != stage:
                    raise UserError(
                        f"two methods have different stages of the name {folder!r}; rename one"
                    )
        _ = self.selected

    @property
    def selected(self) -> list[Method]:
        """The methods to run now, in the order of the experiment.

        Raises:
          UserError: `only` names a method that there is not.
        """
        chosen = None if self.only is None else {self.method(name).name for name in self.only}
        return [method for method in self.methods if chosen is None or method.name in chosen]

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
