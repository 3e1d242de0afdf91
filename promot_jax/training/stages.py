"""`Stage` and `Method`: an experiment is an ordered list of stages."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import jax
import optax

from promot_jax.base import trees, values
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.data import batching, tasks
from promot_jax.data.exemplars import Context, Exemplars
from promot_jax.data.token_weights import TokenWeights
from promot_jax.models import Model, attached
from promot_jax.models.attached import BARE, Attached
from promot_jax.models.networks import lora
from promot_jax.models.networks.lora import Adapters
from promot_jax.models.networks.prompt_kinds import SOFT, Kind
from promot_jax.training import adafactor, optimizers
from promot_jax.training.afterwards import Transform
from promot_jax.training.objectives import Objective, Reference, Start
from promot_jax.training.replay import Replay
from promot_jax.training.selections import MostChanged, NearStart, Selection

# (embedding [V, H], prompt length P, key) -> prompt [P, H]
PromptInit = Callable[[jax.Array, int, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One round of training: which leaves, with which prompt attached, on what, for how long.

    Attributes:
      name: name of the stage; with the names of the stages before it, the name of its folder.
      trainable: patterns of the leaves that train (see `trees.select`); all others are frozen.
      mixture: seqio task or mixture.
      task_feature_lengths: longest `inputs` and `targets`, in tokens; longer rows are cut.
      steps: optimizer steps of this stage.
      batches: how rows become batches.
      optimizer: returns the gradient transformation.
      prompt: name of the prompt that is attached, or None; for a mixture, either for each of
        its tasks, whose rows then run with their own task's prompt. A prompt that no earlier stage
        made is initialised by `prompt_init` with `prompt_length` rows.
      prompt_kind: what its prompts are made of, see `prompt_kinds`.
      lora: adapters that are attached, low-rank or parallel ones, or None. Those that no earlier
        stage made are added, and change nothing at first.
      dropout_rate, label_smoothing, z_loss: regularisation; A.2.4 has 0.1, 0.1 and none for the
        model.
      microbatches: parts of a batch whose gradients are added up one after the other, so that the
        activations of one part are in memory; a divisor of the batch size.
      frozen_dtype: what frozen leaves are kept in while the stage trains, such as "bfloat16", which
        halves them; None leaves them as they are. What later stages get is unchanged.
      pack: whether rows of a training batch share lines where that saves padding, see `packing`;
        for models that can read it. Results change by rounding, and with dropout in its noise: rows
        of a line have the same pattern.
      eval_period: steps between two evaluations on `mixture`'s validation split, each followed by
        a checkpoint. The best one, by the target metric, is handed to the next stage: of equal
        ones the first, or, where only prompts train, the one with the lowest validation loss.
      schedule, warmup: the course of the learning rate: it rises from 0 in so many steps, or such a
        share of them, and stays, or falls to 0 along a line or half a cosine. The optimizer's own
        rate is the highest one.
      gradient_clip: largest norm of all gradients of a step together; None clips nothing.
      patience: evaluations in a row without a better checkpoint after which the stage ends; None
        goes on to its last step.
      epochs: how often the rows are passed; who sets it works out `steps` from it beforehand.
      selection: which elements of the trainable leaves move, see `selections`; None is all.
      objective: what weighs the targets or adds to their cross-entropy, all of it together, see
        `objectives`; nothing is plain cross-entropy.
      reference_dtype: what objectives keep a second copy of the trained leaves in, as they were at
        the start, such as "bfloat16"; None is as they are.
      follow_unseen: also measure a sample of the unseen tasks, and the experiment's probes, at each
        evaluation.
      keep: per cent of the start's scores on the unseen tasks that a checkpoint must have, at least
        and surely, to be handed on before others; where none has, the one that keeps most is.
      replay: general rows that are mixed into the training rows, or None.
      teacher: what is attached to the start model where it teaches, see `objectives.Distillation`;
        None is what the stage attaches itself and does not train.
      context: exemplars that its prompt begins as, whose labels it learns with those of the rows,
        for models that read packed rows; None for a prompt that is no text.
    """

    name: values.Text
    trainable: Annotated[Sequence[values.Pattern], values.SOME]
    mixture: values.Text
    task_feature_lengths: values.Lengths | None
    steps: values.Count
    batches: batching.Batches
    optimizer: Callable[[], optax.GradientTransformation]
    prompt: values.Text | Mapping[str, values.Text | None] | None = None
    prompt_length: values.Whole = 0
    prompt_init: PromptInit | None = None
    prompt_kind: Annotated[Kind, values.LATER] = SOFT
    lora: Adapters | None = None
    dropout_rate: values.Share = 0.0
    label_smoothing: values.Share = 0.0
    z_loss: values.Weight = 0.0
    microbatches: values.Count = 1
    frozen_dtype: values.Dtype | None = None
    pack: bool = True
    eval_period: values.Count = 100
    follow_unseen: bool = False
    schedule: Annotated[values.ScheduleName, values.LATER] = "constant"
    warmup: Annotated[values.Warmup, values.LATER] = 0
    gradient_clip: Annotated[values.Positive | None, values.LATER] = None
    patience: Annotated[values.Count | None, values.LATER] = None
    epochs: Annotated[values.Positive | None, values.LATER] = None
    selection: Annotated[Selection | None, values.LATER] = None
    objective: Annotated[Sequence[Objective], values.LATER] = ()
    reference_dtype: Annotated[values.Dtype | None, values.LATER] = None
    keep: Annotated[values.Percent | None, values.LATER] = None
    replay: Annotated[Replay | None, values.LATER] = None
    teacher: Annotated[Attached | None, values.LATER] = None
    context: Annotated[Exemplars | Context | None, values.LATER] = None

    def __post_init__(self):
        values.check_fields(self)
        object.__setattr__(self, "objective", tuple(self.objective))
        # With epochs the steps may not be settled yet.
        warmup = optimizers.warmup_steps(self.warmup, self.steps)
        if self.epochs is None and warmup >= self.steps:
            raise values.Misfit(
                self,
                f"stage {self.name!r}: {{warmup}} leaves nothing of {{steps}}; give less",
                "warmup",
                "steps",
            )
        taught = self.teacher and self.teacher.adapters
        if taught is not None and self.lora not in (None, taught):
            raise values.Misfit(
                self,
                f"stage {self.name!r}: {{lora}}, and its teacher has another one; give both the "
                "same, or leave out that of the stage",
                "lora",
            )
        if (self.prompt is not None or self.prompts) and self.prompt_length < 1:
            raise values.Misfit(
                self,
                f"stage {self.name!r} attaches a prompt, but {{prompt_length}}; give at least 1",
                "prompt_length",
            )
        if self.keep is not None and not self.follow_unseen:
            raise values.Misfit(
                self,
                f"stage {self.name!r}: {{keep}}, but it does not follow the unseen tasks; set "
                "follow_unseen, or leave it out",
                "keep",
            )
        if sum(each.token_weights is not None for each in self.objective) > 1:
            raise values.Misfit(
                self,
                f"stage {self.name!r}: more than one of {{objective}} finds weights in rows; leave "
                "one",
                "objective",
            )
        exact = [type(each).__name__ for each in self.objective if each.needs_exact_reference]
        if exact and self.reference_dtype is not None:
            raise values.Misfit(
                self,
                f"stage {self.name!r}: {{reference_dtype}} rounds the place that {exact[0]} pulls "
                "parameters to; leave it out",
                "reference_dtype",
            )
        rows = getattr(self.batches, "size", self.microbatches)
        if rows % self.microbatches:
            raise values.Misfit(
                self,
                f"stage {self.name!r} has batches of {rows} rows, which {{microbatches}} does not "
                "divide; choose a divisor",
                "microbatches",
            )

    @property
    def prompts(self) -> tuple[str, ...]:
        """Names of the prompts that it or its teacher attaches, each once."""
        own = self.prompt.values() if isinstance(self.prompt, Mapping) else (self.prompt,)
        taught = None if self.teacher is None else self.teacher.prompt
        return tuple(dict.fromkeys(filter(None, (*own, taught))))

    @property
    def rewinds(self) -> bool:
        """Whether it begins where the stage before it began, and learns from where that ended."""
        return isinstance(self.selection, MostChanged)

    def drawn(self, seed: int) -> "Stage":
        """Returns the stage with a seed for its selection, if that draws and has none."""
        if getattr(self.selection, "seed", seed) is not None:
            return self
        selection = dataclasses.replace(self.selection, seed=seed)
        return dataclasses.replace(self, selection=selection)

    def reading(self, model: Model) -> "Stage":
        """Returns the stage with its exemplars as a model's vocabulary writes them, if it has any.

        Raises:
          UserError: there are too few.
        """
        if self.context is None:
            return self
        context, selection = self.context.read(model.vocabulary, self.prompt_length), self.selection
        if isinstance(selection, NearStart):
            selection = dataclasses.replace(selection, kinds=tuple(context.kinds))
        return dataclasses.replace(self, context=context, selection=selection)

    @property
    def rates(self) -> dict[str, float]:
        """The share of each task among its training rows.

        Raises:
          UserError: a task that is not registered, or one that is replayed and in the mixture.
        """
        own = tasks.rates(self.mixture)
        if self.replay is None:
            return own
        if twice := own.keys() & {*self.replay.tasks}:
            raise UserError(
                f"stage {self.name!r} trains on {min(twice)!r}, which cannot be its replay too; "
                "name other rows"
            )
        return self.replay.among(own)

    @property
    def read_tasks(self) -> list[str]:
        """Names of all tasks whose training rows it reads, those beside its own, too."""
        others = [tasks.rates(each.rows) for each in self.objective if each.rows]
        return list(dict.fromkeys([*self.rates, *itertools.chain(*others)]))

    @property
    def weights_in_rows(self) -> dict[str, TokenWeights]:
        """What finds weights of targets in the rows of its mixture, where an objective asks."""
        found = [each.token_weights for each in self.objective if each.token_weights]
        return dict.fromkeys(tasks.rates(self.mixture), found[0]) if found else {}

    def beside(self, objective: Objective) -> "Stage":
        """Returns what reads the rows that an objective has of its own as a stage reads its own."""
        return dataclasses.replace(
            self,
            mixture=objective.rows,
            task_feature_lengths=objective.task_feature_lengths or self.task_feature_lengths,
            batches=batching.FixedBatches(objective.size),
            pack=False,
            prompt=None,
            teacher=None,
            replay=None,
            context=None,
            objective=(),
        )

    def lengths_of(self, task: str) -> values.Lengths:
        """Returns the longest inputs and targets of the training rows of a task."""
        own = self.replay.task_feature_lengths if self._replays(task) else None
        return own or self.task_feature_lengths

    def adapters(self, model: Model) -> Adapters | None:
        """Returns the adapters in force while it trains, given the bare model."""
        return attached.in_force(model, self.lora)

    def model(self, bare: Model) -> Model:
        """Returns the model that it trains: with its prompts, in order of names, adapters, dropout.

        Of a model that is complete already this is the same one.
        """
        return self.prompted(bare, self.adapters(bare)).with_dropout(self.dropout_rate)

    def whole(self, bare: Model) -> Model:
        """Returns the model that has all its parameters: adapters of its teacher, too."""
        taught = None if self.teacher is None else self.teacher.adapters
        return self.prompted(bare, attached.in_force(bare, self.lora or taught))

    def prompted(
        self, bare: Model, adapters: Adapters | None, prompts: Sequence[str] | None = None
    ) -> Model:
        """Returns the model with adapters and some of its prompts, or all, in order of names."""
        names = self.prompts if prompts is None else prompts
        prompts = dict.fromkeys(sorted(names), self.prompt_length)
        return bare.with_lora(adapters).with_prompts(prompts, self.prompt_kind)

    def params(self, params: Tree, model: Model) -> Tree:
        """Returns its parameters: what neither it nor its teacher attaches is left out."""
        return attached.only(params, self.prompts, self.whole(model).network.config.lora)

    def model_of_others(self, bare: Model, trainable: Tree) -> Model:
        """Returns the model that it trains as it reads rows in front of which nothing stands.

        Adapters that do not train are not attached then.
        """
        adapters = self.lora if lora.adapters(trainable) else None
        model = bare.with_lora(attached.in_force(bare, adapters))
        return model.with_dropout(self.dropout_rate)

    def reference(self, params: Tree, model: Model) -> Tree:
        """Returns those leaves that it trains and the bare model has, empty if none compares.

        Args:
          params: those of its model, at its start.
          model: bare model.

        Raises:
          UserError: an objective that can do nothing here.
        """
        trained, _ = trees.partition(params, self.trainable)
        leaves = attached.BARE.params(model, trained)
        for objective in self.objective:
            objective.check(model, leaves)
            if objective.rows and all(map(trees.PROMPT.fullmatch, trees.flatten(trained))):
                raise UserError(
                    f"stage {self.name!r} trains prompts alone, and the rows of {objective.rows!r} "
                    f"are read without any; leave out {type(objective).__name__}.rows"
                )
        needed = any(objective.needs_reference for objective in self.objective)
        return leaves if needed else {}

    def start(self, reference: Reference, frozen: Tree, model: Model) -> Start:
        """Returns the model that it starts from, with nothing attached.

        Args:
          reference: what it keeps of that model.
          frozen: the leaves that it does not train.
          model: bare model.
        """
        params = attached.BARE.params(model, frozen)
        return Start(attached.BARE.model(model, params), reference.leaves, params)

    def transformation(self) -> optax.GradientTransformation:
        """Returns its optimizer, which takes stacked layers one by one where it can.

        Around it stand the clip of the gradients, the course of the learning rate and, outermost,
        the selection.

        Raises:
          UserError: the selection needs another optimizer.
        """
        parts = [adafactor.layer_by_layer(self.optimizer())]
        if self.gradient_clip is not None:
            parts.insert(0, optax.clip_by_global_norm(self.gradient_clip))
        if self.schedule != "constant" or self.warmup:
            shape = optimizers.shape(self.schedule, self.warmup, self.steps)
            parts.append(optax.scale_by_schedule(shape))
        tx = parts[0] if len(parts) == 1 else optax.chain(*parts)
        return tx if self.selection is None else self.selection.around(tx)

    def place(self, opt_state: optax.OptState, trainable: Tree) -> Tree:
        """Returns where its gradients are taken, see `Selection.place`."""
        if self.selection is None:
            return trainable
        return self.selection.place(opt_state, trainable)

    def attached_for(self, task: str) -> Attached:
        """Returns what is attached to the rows of a task of the mixture, or of its replay.

        Raises:
          UserError: prompts are given by task, and none for this one.
        """
        prompt = None if self._replays(task) else self.prompt
        if isinstance(prompt, Mapping):
            if task not in prompt:
                raise UserError(
                    f"stage {self.name!r} names no prompt for the rows of {task!r}; it has one for "
                    f"{', '.join(prompt)}"
                )
            prompt = prompt[task]
        return Attached(prompt, self.lora)

    def prompt_of(self, task: str) -> str | None:
        """Returns the prompt that batches have in front of the rows of a task, if any."""
        if self.prompt is None and self.teacher is not None and not self._replays(task):
            return self.teacher.prompt
        return self.attached_for(task).prompt

    def _replays(self, task: str) -> bool:
        return self.replay is not None and task in self.replay.tasks


@dataclasses.dataclass(frozen=True)
class Asked:
    """A target in the form in which a method that does not train on it is asked.

    Attributes:
      target: the task.
      task: registered task that asks its rows, for instance with exemplars in their inputs.
      task_feature_lengths: longest inputs and targets in tokens.
    """

    target: values.Text
    task: values.Text
    task_feature_lengths: values.Lengths | None


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the paper's comparison.

    Attributes:
      name, label: for folders and for tables.
      stages: in order; none means the pretrained model.
      unseen: what unseen tasks are read with: nothing, as in the paper, or adapters that are in use
        for every task, as they are once they have been merged into a model.
      after: what is made of the start and of what the last stage hands on, see `afterwards`; each
        of its points is evaluated as that is.
      asked: how targets are asked that no stage trains on; others are asked as they are.
      targets: what targets are read with at the end; None is what the last stage that trained on
        one attached to it.
      source: who described it, for people.
    """

    name: values.Text
    label: values.Text
    stages: Sequence[Stage] = ()
    unseen: Attached = BARE
    after: Sequence[Transform] = ()
    asked: Sequence[Asked] = ()
    targets: Attached | None = None
    source: str = ""

    def __post_init__(self):
        names = [transform.name for transform in self.after]
        if names and not self.stages:
            raise UserError(
                f"method {self.name!r} has no stage, so {names[0]} has no end to start from; leave "
                "out `after`"
            )
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(
                f"method {self.name!r} has two transforms of the name {twice!r}; rename one"
            )
        if self.stages and self.stages[0].rewinds:
            raise UserError(
                f"method {self.name!r}: selections.MostChanged goes by what the stage before it "
                f"changed, and {self.stages[0].name!r} is the first; put one that trains before it"
            )

    @property
    def adapters(self) -> Adapters | None:
        """The adapters that the method adds, if any."""
        return next((stage.lora for stage in self.stages if stage.lora), None)

    @property
    def folders(self) -> list[str]:
        """Folder of each stage: the names so far, so that equal beginnings share their work."""
        names = [stage.name for stage in self.stages]
        return ["-".join(names[: i + 1]) for i in range(len(names))]
