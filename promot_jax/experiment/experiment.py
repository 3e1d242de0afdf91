"""What a run is made of: a model, the tasks it is tuned on, the unseen ones, methods and seeds."""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Annotated

from promot_jax.base import values
from promot_jax.base.errors import UserError
from promot_jax.data import batching, metrics, tasks
from promot_jax.experiment.evaluation import EvalTask
from promot_jax.experiment.probes.bench import Probe
from promot_jax.models import Model, decoding
from promot_jax.training.parts import Part, composed
from promot_jax.training.stages import Method, Stage


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a run needs.

    Attributes:
      model: bare model.
      targets: the tasks that methods fine-tune on, one for most; each is evaluated with what the
        last stage that trained on it attached to its rows.
      labels: the answers that a target task knows; their share elsewhere shows format leaks.
      tasks: unseen tasks, evaluated without any prompt; see `Method.unseen`.
      methods: what to compare; those that `only` puts together from parts are among them.
      parts: what can be added to a method, see `training.parts`.
      reuse: further run folders; a stage that one of them finished with the same lineage (see
        `lineage`) is taken from there.
      only: names of the methods to run now, such as `promot` or `promot+kl`; None runs all. The
        results of later calls are added.
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
      data_workers: processes that read and tokenise training rows, of each process that trains;
        with 0 a thread does. Of no influence on results.
    """

    model: Model
    targets: Annotated[Sequence[EvalTask], values.SOME]
    labels: Sequence[str]
    tasks: Sequence[EvalTask]
    methods: Annotated[Sequence[Method], values.SOME]
    parts: Sequence[Part] = ()
    only: Annotated[Sequence[values.Text], values.SOME, values.DISTINCT] | None = None
    reuse: Sequence[values.Text] = ()
    seeds: Annotated[Sequence[values.Seed], values.SOME, values.DISTINCT] = (0,)
    initial_checkpoint: values.Text | None = None
    may_miss: Sequence[values.Pattern] = ()
    may_skip: Sequence[values.Pattern] = ()
    decoder: decoding.Decoder = dataclasses.field(default_factory=decoding.Beam)
    eval_batch_size: values.Count = 64
    eval_buckets: Sequence[batching.Bucket] = ()
    eval_examples: values.Count | None = None
    validation_examples: values.Count | None = None
    unseen_examples: values.Count = 32
    probes: Sequence[Probe] = ()
    samples: values.Whole = 3
    model_parallel: values.Count = 1
    fsdp: values.Count | None = None
    data_workers: values.Whole = 0

    def __post_init__(self):
        values.check_fields(self)
        known = {method.name for method in self.methods}
        more = [self.method(name) for name in self.only or () if name not in known]
        object.__setattr__(self, "methods", (*self.methods, *more))
        stages: dict[str, Stage] = {}
        # Not later, after minutes of other work.
        for stage in {id(s): s for method in self.methods for s in method.stages}.values():
            stage.transformation()
        for method in self.methods:
            for folder, stage in zip(method.folders, method.stages, strict=True):
                if stages.setdefault(folder, stage) != stage:
                    raise UserError(
                        f"two methods have different stages of the name {folder!r}; rename one"
                    )

    def check_tasks(self) -> None:
        """Checks that the tasks have the splits and metrics by which they are evaluated.

        Raises:
          UserError: one has not, or is not registered.
        """
        for task in (*self.targets, *self.tasks):
            found = tasks.task(task.name)
            known = {"split": found.splits, "metric": _metrics(found)}
            for field, names in known.items():
                value = getattr(task, field)
                if names and value not in names:
                    near = difflib.get_close_matches(value, names, 1)
                    mend = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}"
                    raise values.Misfit(
                        task,
                        f"{{{field}}}: the task {task.name} has no such {field}; {mend}",
                        field,
                    )

    @property
    def selected(self) -> list[Method]:
        """The methods to run now, in the order of the experiment."""
        return [method for method in self.methods if self.only is None or method.name in self.only]

    def method(self, name: str) -> Method:
        """Returns a method by name, put together from parts if it is such a name.

        Raises:
          UserError: there is none of that name, or its parts do not go together.
        """
        methods = {method.name: method for method in self.methods}
        parts = {part.name: part for part in self.parts}
        if name in methods:
            return methods[name]
        try:
            return composed(name, methods, parts)
        except KeyError as error:
            (unknown,) = error.args
        known = [*methods, *parts]
        near = difflib.get_close_matches(unknown, known, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"no method {unknown!r} in this run{meant}; it has {', '.join(known)}")


def _metrics(task) -> list[str]:
    """Returns the names of a task's metrics; none where they do not take plain texts."""
    names: list[str] = []
    for score in task.metric_fns:
        if known := metrics.of_function(score):
            names.append(known.name)
            continue
        try:
            names += score(["a"], ["a"])
        except Exception:  # of a person's own functions
            return []
    return names
