"""Files of models and our leaves; nothing here knows a network.

`FORMATS` is the one list of what is read and written: a new format is a module here and an entry.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of models on disk, by the modules of this folder that read and write it.

    Attributes:
      reader: has `is_format(path)` and `open_checkpoint(path)`, which returns a `source.Source`;
        None where another format's reader opens it, too.
      writer: has `save(folder, content)`, which takes a `source.Content`; None for a format that is
        only read.
      adapters: where soft prompts and low-rank adapters go: `inside`, among the leaves; `prompts`,
        likewise, but low-rank adapters have no place; `beside`, each into a PEFT folder of its own;
        `alone`, the format is one of them without the model.
    """

    reader: str | None
    writer: str | None
    adapters: Literal["inside", "prompts", "beside", "alone"] = "inside"


# By the names that a person may give. Readers are asked in this order. Names of modules, not
# modules: what lists the names need not import them.
FORMATS = {
    "native": Format("native", "native"),
    "huggingface": Format("huggingface", "huggingface", "beside"),
    "gguf": Format("gguf", None),
    "t5x": Format("t5x", "t5x_legacy", "prompts"),
    "t5x_orbax": Format(None, "t5x_orbax", "prompts"),
    "peft": Format(None, "peft", "alone"),
}
WRITTEN = tuple(name for name, about in FORMATS.items() if about.writer)
