"""Parts that methods are put together from: `promot+kl` is ProMoT with what the part `kl` adds."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from promot_jax.base import values
from promot_jax.base.errors import UserError
from promot_jax.models.attached import Attached
from promot_jax.training.afterwards import Transform
from promot_jax.training.objectives import Objective
from promot_jax.training.selections import Selection
from promot_jax.training.stages import Method, Stage

# What a part is added to where nothing else is named.
USUAL = "fine_tuning"


@dataclasses.dataclass(frozen=True)
class Part:
    """What can be added to a method; its last stage is the one that changes.

    Attributes:
      name, label: as the name and label of a method end that has it.
      source: who described it, for people.
      rows: makes of a stage one that reads other rows, such as `row_parts.with_rewritten`.
      objective: what is added to the loss.
      selection: which elements of the trainable leaves move.
      after: what is done with the parameters once they are trained.
      targets: what targets are read with at the end, see `Method.targets`.
    """

    name: values.Text
    label: values.Text
    source: str = ""
    rows: Callable[[Stage], Stage] | None = None
    objective: Sequence[Objective] = ()
    selection: Selection | None = None
    after: Sequence[Transform] = ()
    targets: Attached | None = None

    def __post_init__(self):
        values.check_fields(self)

    def added_to(self, method: Method) -> Method:
        """Returns the method with this part.

        Raises:
          UserError: it trains nothing, or has something that this would replace.
        """
        whole = f"{method.name}+{self.name}"
        if not method.stages:
            raise UserError(f"{whole}: {method.name} trains nothing that {self.name} could change")
        *before, last = method.stages
        changed = self._changed(last, whole)
        # One that rewinds goes by what the stage before it did.
        stages = (*before, last, changed) if changed.rewinds else (*before, changed)
        return dataclasses.replace(
            method,
            name=whole,
            label=f"{method.label} + {self.label}",
            stages=stages,
            after=(*method.after, *self.after),
            targets=self.targets or method.targets,
        )

    def _changed(self, stage: Stage, whole: str) -> Stage:
        if self.rows is None and not self.objective and self.selection is None:
            return stage
        if self.selection is not None and stage.selection is not None:
            raise UserError(
                f"{whole}: {self.name} chooses what moves, and so does a part before it; "
                "name one of them"
            )
        stage = stage if self.rows is None else self.rows(stage)
        return dataclasses.replace(
            stage,
            name=f"{stage.name}_{self.name}",
            objective=(*stage.objective, *self.objective),
            selection=self.selection or stage.selection,
        )


def composed(name: str, methods: Mapping[str, Method], parts: Mapping[str, Part]) -> Method:
    """Returns the method of a name: one of the given, or one with parts, such as `promot+kl`.

    A part alone is added to standard fine-tuning: `kl` is `fine_tuning+kl`, and keeps its name.

    Raises:
      KeyError: the first name of those that there are not.
      UserError: parts that do not go together.
    """
    first, *added = name.split("+")
    if first in methods:
        method = methods[first]
    else:
        method, added = methods[USUAL], [first, *added]
    if twice := next((part for part in added if added.count(part) > 1), None):
        raise UserError(f"{name}: {twice} is there twice; name each part once")
    for part in added:
        method = parts[part].added_to(method)
    return dataclasses.replace(method, name=name)
