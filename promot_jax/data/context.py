"""Rows that are longer than a model was made for: it computes them, but was never trained on such.

Decoder-only models name the length (`max_position_embeddings` of Hugging Face, `context_length` of
GGUF); T5's positions are relative and have no end.
"""

from collections.abc import Sequence

import numpy as np


def warnings(longest: int | None, rows: Sequence[int], prompt_length: int = 0) -> list[str]:
    """Returns a sentence if some rows are longer, else nothing.

    Args:
      longest: tokens that the model was made for, None where nothing tells.
      rows: tokens of each row, its target or answer included.
      prompt_length: rows of the soft prompt in front.
    """
    totals = np.asarray(rows, np.int64) + prompt_length
    beyond = int((totals > longest).sum()) if longest is not None else 0
    if not beyond:
        return []
    parts = "input, target and prompt" if prompt_length else "input and target"
    return [
        f"{beyond} of {len(totals)} rows have more tokens ({parts}; up to {totals.max()}) than the "
        f"{longest} of the model's context; what it answers there is not to be trusted, shorten "
        "them"
    ]
