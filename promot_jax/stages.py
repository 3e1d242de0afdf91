"""`Stage` and `Method`: an experiment is an ordered list of stages."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import optax

from promot_jax import data
from promot_jax.errors import UserError

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
      prompt: name of the soft prompt that is attached, or None. A prompt that no earlier stage
        made is initialised by `prompt_init` with `prompt_length` rows.
      dropout_rate, label_smoothing, z_loss: regularisation; A.2.4 has 0.1, 0.1 and none for the
        model.
      eval_period: steps between two evaluations on `mixture`'s validation split, each followed by
        a checkpoint. The best one, by the target metric, is handed to the next stage.
      follow_unseen: also measure a sample of the unseen tasks at each evaluation.
    """

    name: str
    trainable: Sequence[str]
    mixture: str
    task_feature_lengths: Mapping[str, int]
    steps: int
    batches: data.Batches
    optimizer: Callable[[], optax.GradientTransformation]
    prompt: str | None = None
    prompt_length: int = 0
    prompt_init: PromptInit | None = None
    dropout_rate: float = 0.0
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    eval_period: int = 100
    follow_unseen: bool = False

    def __post_init__(self):
        if self.steps < 1 or self.eval_period < 1:
            raise UserError(f"stage {self.name!r}: steps and eval_period must be at least 1")
        if self.prompt is not None and self.prompt_length < 1:
            raise UserError(f"stage {self.name!r} attaches a prompt, so prompt_length must be > 0")


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the paper's comparison: stages in order; none means the pretrained model."""

    name: str
    label: str
    stages: Sequence[Stage] = ()

    @property
    def folders(self) -> list[str]:
        """Folder of each stage: the names so far, so that equal beginnings share their work."""
        names = [stage.name for stage in self.stages]
        return ["-".join(names[: i + 1]) for i in range(len(names))]
