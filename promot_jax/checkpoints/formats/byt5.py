"""ByT5 (Xue et al. 2022): a T5 that reads bytes, and so has no file of a vocabulary."""

import pathlib
from typing import Any

from promot_jax.base.files import read_json

# Of the published models: 3 special tokens, 256 bytes, 125 sentinels.
SENTINELS = 125
ROWS = 3 + 256 + SENTINELS


def vocabulary(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the vocabulary of a Hugging Face folder without tokenizer files.

    It is ByT5's where the files name ByT5Tokenizer, or name no tokenizer and the embedding has as
    many rows as ByT5's; else there is none.
    """
    known = {}
    for name in ("config.json", "tokenizer_config.json"):
        known |= read_json(folder / name) if (folder / name).is_file() else {}
    kind = known.get("tokenizer_class")
    if kind == "ByT5Tokenizer" or (kind is None and known.get("vocab_size") == ROWS):
        return of_rows(known.get("vocab_size", ROWS))
    return None


def of_rows(rows: int) -> dict[str, Any]:
    """Returns ByT5's vocabulary, without sentinels where an embedding has no rows for them."""
    return {"kind": "bytes", "extra_ids": SENTINELS if rows >= ROWS else 0}
