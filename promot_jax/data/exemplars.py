"""Exemplars as the tokens of a prompt: which of them are inputs, and which are labels to be learnt.

Kinds of tokens are numbered as PEFT numbers them: of exemplar j, from 0 on, 4 j + 1 is its input's
template, 4 j + 2 its input, 4 j + 3 its output's template and 4 j + 4 its label.
"""

import dataclasses
from collections.abc import Sequence

from promot_jax.base import values
from promot_jax.base.errors import UserError
from promot_jax.data import tasks
from promot_jax.data.vocabularies import Vocabulary

INPUT, OUTPUT_TEMPLATE, LABEL = 2, 3, 4


@dataclasses.dataclass(frozen=True)
class Context:
    """The tokens of a prompt.

    Attributes:
      ids: of each row of the prompt.
      kinds: of each row, see above.
    """

    ids: Sequence[int]
    kinds: Sequence[int]

    def read(self, vocabulary: Vocabulary, length: int) -> "Context":
        """Returns itself: it is read already.

        Raises:
          UserError: the prompt has another length, or the two differ.
        """
        del vocabulary
        if not length == len(self.ids) == len(self.kinds):
            raise UserError(
                f"exemplars.Context has {len(self.ids)} ids and {len(self.kinds)} kinds, the "
                f"prompt {length} rows; give as many of each"
            )
        return self

    @property
    def labels(self) -> list[tuple[int, int]]:
        """(row, id) of each label that something stands in front of."""
        return [
            (row, self.ids[row])
            for row, kind in enumerate(self.kinds)
            if row and kind and kind % 4 == 0
        ]


@dataclasses.dataclass(frozen=True)
class Exemplars:
    """The first training rows of a task, as many as a prompt has room for.

    The last of them that fits in part stands first, without its beginning.

    Attributes:
      task: a registered one.
      task_feature_lengths: longest `inputs` and `targets` in tokens; None cuts none that fits.
    """

    task: values.Text
    task_feature_lengths: values.Lengths | None = None

    def read(self, vocabulary: Vocabulary, length: int) -> Context:
        """Returns them as the tokens of a prompt of a length.

        Raises:
          UserError: no such task, or too few rows.
        """
        lengths = self.task_feature_lengths or {"inputs": length, "targets": length}
        task, parts, size = tasks.task(self.task), [], 0
        rows = task.rows("train")
        for number in range(len(rows)):
            parts.append(_pieces(task, rows[number], vocabulary, lengths))
            size += len(parts[-1])
            if size >= length:
                break
        if size < length:
            raise UserError(
                f"the {len(rows)} training rows of {self.task!r} have {size} tokens, a prompt of "
                f"exemplars {length} rows; set CPT_LENGTH to {size} or less"
            )
        parts = [parts[-1][size - length :], *parts[:-1]]
        tokens = [
            (token, 4 * number + kind) for number, part in enumerate(parts) for token, kind in part
        ]
        return Context(*zip(*tokens, strict=True))


def _pieces(task, row, vocabulary, lengths) -> list[tuple[int, int]]:
    """Returns the tokens of a row, each with its kind; what ends its answer is no label."""
    found = task.encode([row], vocabulary, lengths)[0]
    inputs, targets = found.inputs.tolist(), found.targets.tolist()
    end = getattr(vocabulary, "eos_id", None)
    if len(inputs) > 1 and inputs[-1] == end:
        inputs.pop()
    kinds = [(token, OUTPUT_TEMPLATE if token == end else LABEL) for token in targets]
    return [(token, INPUT) for token in inputs] + kinds
