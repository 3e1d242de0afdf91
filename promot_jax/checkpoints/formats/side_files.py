"""What lies beside the weights of a model, in the words of `transformers`, kept as it was written.

A model that is read keeps these files through import, training and export: only what the network
decides is written anew. They say which tokens pad, begin and end a text, how long a text may be,
how a conversation is written down and how answers are generated.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from promot_jax.base.errors import UserError

CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "merges.txt",
)
# Further chat templates, each in a file of its name.
TEMPLATES = "additional_chat_templates"


def find(folder: str | os.PathLike) -> dict[str, bytes]:
    """Returns {name: content} of the files that a local or remote folder has."""
    folder = epath.Path(folder)
    return {
        name: (folder / name).read_bytes()
        for name in (CONFIG, GENERATION)
        if (folder / name).is_file()
    } | find_tokenizer(folder)


def find_tokenizer(folder: str | os.PathLike) -> dict[str, bytes]:
    """Returns those of `find` that belong to the tokenizer."""
    folder = epath.Path(folder)
    found = [folder / name for name in TOKENIZER if (folder / name).is_file()]
    if (folder / TEMPLATES).is_dir():
        found += sorted((folder / TEMPLATES).glob("*.jinja"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def without_tokenizer(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Returns the files that belong to the model alone."""
    return {name: content for name, content in files.items() if name in (CONFIG, GENERATION)}


def write(folder: str | os.PathLike, files: Mapping[str, bytes]) -> None:
    """Writes files that are not there into a folder."""
    for name, content in files.items():
        file = epath.Path(folder) / name
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


def read(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Any]:
    """Returns the content of a JSON file, {} where there is none.

    Raises:
      UserError: it holds something else; `where` names the folder.
    """
    if name not in files:
        return {}
    try:
        content = json.loads(files[name])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}/{name} is not JSON: {error}; download it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}/{name} holds no JSON object; download it again")
    return content


def dump(content: Mapping[str, Any]) -> bytes:
    """Returns a JSON file."""
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def end_ids(files: Mapping[str, bytes], where: str) -> tuple[int, ...]:
    """Returns the tokens that end an answer, as `generate` of transformers knows them.

    They are those of generation_config.json, else of config.json.

    Raises:
      UserError: a file that is no JSON, or ends that are no token ids.
    """
    for name in (GENERATION, CONFIG):
        ends = read(files, name, where).get("eos_token_id")
        if ends is None:
            continue
        ends = ends if isinstance(ends, list) else [ends]
        if any(type(i) is not int or i < 0 for i in ends):
            raise UserError(f"{where}/{name}: eos_token_id is {ends}, expected token ids")
        return tuple(ends)
    return ()


def with_end(files: Mapping[str, bytes], eos_id: int, where: str) -> dict[str, bytes]:
    """Returns the files so that `eos_id`, with which training ends every target, ends an answer."""
    ends = end_ids(files, where)
    if not ends or eos_id in ends:
        return dict(files)
    name = GENERATION if "eos_token_id" in read(files, GENERATION, where) else CONFIG
    content = read(files, name, where) | {"eos_token_id": [*ends, eos_id]}
    return {**files, name: dump(content)}
