"""What the metadata of a GGUF file say beside the network, as files of `transformers` say it."""

from collections.abc import Mapping
from typing import Any

from promot_jax.base.errors import UserError
from promot_jax.checkpoints.formats import huggingface_config, side_files

_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_TEMPLATE = "tokenizer.chat_template"


def end_ids(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the tokens that end an answer: of a sequence, of a turn, of a message."""
    found = [metadata.get(f"tokenizer.ggml.{name}") for name in _ENDS]
    return tuple(dict.fromkeys(number for number in found if number is not None))


def beside(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns {name: content} of the files that a folder of `transformers` would have.

    They are config.json, generation_config.json and, where there is a tokenizer, its
    tokenizer_config.json. Where no token for padding is named, the end of sequence serves.

    Args:
      metadata: {key: value} of the file.
      config: fields of the network's configuration.
    """
    ends = end_ids(metadata)
    ids = {
        "bos": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos": ends[0] if ends else None,
        "pad": metadata.get("tokenizer.ggml.padding_token_id", ends[0] if ends else None),
    }
    length = metadata.get(f"{metadata.get('general.architecture')}.context_length", 4096)
    named = {f"{name}_token_id": number for name, number in ids.items() if number is not None}
    try:
        about = huggingface_config.write("decoder", config, ids, length)
    # Read it can be, and an export will say what stands against it.
    except UserError:
        about = {**named, "max_position_embeddings": length}
    generation = named | ({"eos_token_id": list(ends)} if len(ends) > 1 else {})
    files = {side_files.CONFIG: about}
    if generation:
        files[side_files.GENERATION] = generation
    if "tokenizer.ggml.tokens" in metadata:
        files[side_files.TOKENIZER[0]] = _tokenizer_config(metadata, ids, length)
    return {name: side_files.dump(content) for name, content in files.items()}


def _tokenizer_config(
    metadata: Mapping[str, Any], ids: Mapping[str, int | None], length: int
) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": length,
        "clean_up_tokenization_spaces": False,
    }
    for name, number in {**ids, "unk": unknown}.items():
        if number is not None and 0 <= number < len(tokens):
            settings[f"{name}_token"] = tokens[number]
    templates = {"default": metadata[_TEMPLATE]} if _TEMPLATE in metadata else {}
    templates |= {
        key.removeprefix(f"{_TEMPLATE}."): text
        for key, text in metadata.items()
        if key.startswith(f"{_TEMPLATE}.")
    }
    if list(templates) == ["default"]:
        settings["chat_template"] = templates["default"]
    elif templates:
        listed = [{"name": name, "template": text} for name, text in templates.items()]
        settings["chat_template"] = listed
    return settings
