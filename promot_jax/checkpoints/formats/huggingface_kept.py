"""What a `config.json` of `transformers` says beside the network, through import and export."""

import json
from collections.abc import Mapping
from typing import Any

from promot_jax.base.errors import UserError
from promot_jax.checkpoints.formats import huggingface_config, side_files

# What `huggingface_config.write` spells otherwise than some files do.
_RESPELT = ("rope_parameters", "layer_types", "scale_decoder_outputs")
_RESPELT += ("is_gated_act", "dense_act_fn")
# Keys of a `config.json` that the network does not decide.
_OTHERS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
_OTHERS += ("max_position_embeddings", "use_cache")


def keep(
    known: Mapping[str, Any], written: Mapping[str, Any], family: str, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the `config.json` of a network that came from one, as much of it as still holds.

    Args:
      known: what the model's own file said, {} where it had none.
      written: as `huggingface_config.write` returns it.
      family: `t5` or `decoder`.
      config: fields of that family's configuration.
    """
    if not known:
        return dict(written)
    if _computes(known, family, config):
        # transformers 5 says of a T5.1.1 that its two matrices are tied; trained, they differ.
        tied = {"tie_word_embeddings": written["tie_word_embeddings"]} if family == "t5" else {}
        tied = tied if _computes({**known, **tied}, family, config) else {}
        return {**known, **tied}
    same = known if known.get("model_type") == written["model_type"] else {}
    others = {key: value for key, value in same.items() if key not in _RESPELT}
    return {**others, **written, **{key: known[key] for key in _OTHERS if key in known}}


def _computes(about: Mapping[str, Any], family: str, config: Mapping[str, Any]) -> bool:
    """Says whether a file is of a network with this configuration."""
    try:
        found, values = huggingface_config.read(about, side_files.CONFIG)
    except UserError:
        return False
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}
    return found == family and all(
        plain.get(k, v) == v for k, v in json.loads(json.dumps(values)).items()
    )


def decoder_start(about: Mapping[str, Any], file: str) -> int:
    """Returns the token that an encoder-decoder's answers begin behind.

    Raises:
      UserError: it is no token, or padding is another token than 0, which our batches have.
    """
    if pad := about.get("pad_token_id"):
        raise UserError(
            f"{file}: pad_token_id is {pad}; of an encoder-decoder only 0, T5's, is supported"
        )
    start, rows = about.get("decoder_start_token_id"), about["vocab_size"]
    if start is not None and (type(start) is not int or not 0 <= start < rows):
        raise UserError(
            f"{file}: decoder_start_token_id is {start}, expected a token id below {rows}"
        )
    return start or 0
