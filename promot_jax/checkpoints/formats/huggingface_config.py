"""`config.json` of `transformers` and the fields of our configurations, both ways.

What changes the computation and has no counterpart here is refused by name; everything else in
the file (dropout, initialisation, caches) is left alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from promot_jax.base.errors import UserError
from promot_jax.checkpoints.formats import rope_config

# "gelu" of transformers is exact; ours is the tanh approximation, which it calls by three names.
_ACTIVATIONS = {
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_pytorch_tanh": "gelu",
}
_T5_MLPS = {
    "gated-gelu": ("gelu", "linear"),
    **{name: (ours,) for name, ours in _ACTIVATIONS.items()},
    **{f"gated-{name}": (ours, "linear") for name, ours in _ACTIVATIONS.items()},
}


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """A decoder-only `model_type`: what sets it apart, and its defaults in transformers.

    Attributes:
      architecture: class that has its weights.
      fixed: fields of our configuration that it implies.
      epsilon: name and default of the norms' epsilon.
      refused: {key: (default, the only value that we support)}.
      max_positions: where the file does not say how long a row may be.
      biases: the keys `attention_bias`, `mlp_bias` that it has.
      window: default of `sliding_window`; 0 where there is no such key.
      rope_base: where the file names none.
      tied: where the file does not say.
      num_kv_heads: where the file does not say; None is as many as heads.
      head_dim: where the file does not say; None is H / N.
    """

    architecture: str
    fixed: Mapping[str, Any]
    epsilon: tuple[str, float] = ("rms_norm_eps", 1e-6)
    max_positions: int = 2048
    refused: Mapping[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)
    biases: tuple[str, ...] = ()
    window: int = 0
    rope_base: float = 10000.0
    tied: bool = False
    num_kv_heads: int | None = None
    head_dim: int | None = None


_BIASES = ("attention_bias", "mlp_bias")
_DECODERS = {
    "llama": _Decoder("LlamaForCausalLM", {}, max_positions=2048, biases=_BIASES),
    "mistral": _Decoder(
        "MistralForCausalLM", {}, max_positions=4096 * 32, window=4096, num_kv_heads=8
    ),
    "qwen2": _Decoder("Qwen2ForCausalLM", {"qkv_bias": True}, max_positions=32768, window=4096),
    "qwen3": _Decoder(
        "Qwen3ForCausalLM",
        {"qk_norm": True},
        max_positions=32768,
        biases=_BIASES[:1],
        window=4096,
        head_dim=128,
    ),
    "cohere": _Decoder(
        "CohereForCausalLM",
        {"parallel": True, "norm": "layer"},
        ("layer_norm_eps", 1e-5),
        8192,
        {"use_qk_norm": (False, False)},
        _BIASES[:1],
        rope_base=500000.0,
        tied=True,
    ),
}
MODEL_TYPES = ("t5", "mt5", *_DECODERS)


def read(about: Mapping[str, Any], file: str) -> tuple[str, dict[str, Any]]:
    """Returns (family, fields of its configuration) of a parsed `config.json`.

    Args:
      about: the file's content.
      file: its name, for errors.

    Raises:
      UserError: another architecture, or a setting that we do not compute.
    """
    kind = about.get("model_type")
    if kind == "umt5":
        raise UserError(
            f"{file}: model_type is umt5, whose layers have a position bias each; "
            "supported are mt5 and t5, which share one"
        )
    if kind not in MODEL_TYPES:
        raise UserError(f"{file}: model_type is {kind}; supported are {', '.join(MODEL_TYPES)}")
    if about.get("quantization_config"):
        raise UserError(
            f"{file}: quantization_config says that the weights are quantised; "
            "use the checkpoint of the original weights"
        )
    try:
        if kind in _DECODERS:
            return "decoder", _read_decoder(about, file, _DECODERS[kind])
        return "t5", _read_t5(about, file)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} has a value of a wrong type: {error}") from None


def check_depth(config: Mapping[str, Any], tensors: int, file: str) -> None:
    """Raises UserError for more layers than tensors, before anything counts through them."""
    deepest = max(value for name, value in config.items() if name.endswith("layers"))
    if deepest > tensors:
        raise UserError(
            f"{file} says {deepest} layers, but the weights are {tensors} tensors; "
            "correct it or download it again"
        )


def output_is_embedding(about: Mapping[str, Any], family: str) -> bool:
    """Says whether a file without output weights means the embedding, rather than lacks them."""
    kind = _DECODERS.get(about.get("model_type", ""))
    return about.get("tie_word_embeddings", True if family == "t5" else kind.tied)


def write(
    family: str, config: Mapping[str, Any], token_ids: Mapping[str, int], max_positions: int
) -> dict[str, Any]:
    """Returns the content of a `config.json` that `transformers` loads.

    Args:
      family: `t5` or `decoder`.
      config: fields of that family's configuration; those that are absent have their defaults.
      token_ids: any of `bos`, `eos`, `pad`, `decoder_start`.
      max_positions: longest text of a decoder-only model; T5 has no limit.

    Raises:
      UserError: a configuration that no architecture of `transformers` computes.
    """
    about = _write_t5(config) if family == "t5" else _write_decoder(config, max_positions)
    # What is absent takes the defaults of another vocabulary, so each is named.
    ids = {f"{name}_token_id": token_ids.get(name) for name in ("bos", "eos", "pad")}
    if family == "t5":
        ids = {
            "pad_token_id": token_ids.get("pad", 0),
            "eos_token_id": token_ids.get("eos", 1),
            "decoder_start_token_id": token_ids.get("decoder_start", 0),
        }
    return {**about, **ids, "use_cache": True}


def _need(about: Mapping[str, Any], key: str, file: str) -> int:
    value = about.get(key)
    if type(value) is not int or value < 1:
        raise UserError(f"{file}: {key} is {value}, expected a positive integer")
    return value


def _refuse(about: Mapping[str, Any], key: str, default: Any, supported: Any, file: str) -> None:
    value = about.get(key, default)
    if value != supported and (value or supported):
        raise UserError(f"{file}: {key} is {value}, which is not supported; only {supported} is")


def _read_t5(about: Mapping[str, Any], file: str) -> dict[str, Any]:
    kind = about["model_type"]
    mlp = about.get("feed_forward_proj", "relu" if kind == "t5" else "gated-gelu")
    if mlp not in _T5_MLPS:
        raise UserError(
            f"{file}: feed_forward_proj is {mlp}; supported are {', '.join(sorted(_T5_MLPS))}"
        )
    _refuse(about, "relative_attention_num_buckets", 32, 32, file)
    _refuse(about, "relative_attention_max_distance", 128, 128, file)
    _refuse(about, "layer_norm_epsilon", 1e-6, 1e-6, file)
    # transformers 5 ties T5's embeddings whatever the file says, and keeps the scale that goes
    # with tied ones in a key of its own. Its mT5 never scales.
    tied = about.get("tie_word_embeddings") is not False
    scaled = kind == "t5" and about.get("scale_decoder_outputs", tied)
    layers = _need(about, "num_layers", file)
    return {
        "vocab_size": _need(about, "vocab_size", file),
        "emb_dim": _need(about, "d_model", file),
        "num_heads": _need(about, "num_heads", file),
        "head_dim": _need(about, "d_kv", file),
        "mlp_dim": _need(about, "d_ff", file),
        "num_encoder_layers": layers,
        "num_decoder_layers": _need(
            {"num_decoder_layers": about.get("num_decoder_layers") or layers},
            "num_decoder_layers",
            file,
        ),
        "mlp_activations": _T5_MLPS[mlp],
        "logits_via_embedding": bool(scaled),
    }


def _read_decoder(about: Mapping[str, Any], file: str, kind: _Decoder) -> dict[str, Any]:
    for key, (default, supported) in kind.refused.items():
        _refuse(about, key, default, supported, file)
    activation = about.get("hidden_act", "silu")
    if activation not in _ACTIVATIONS:
        raise UserError(
            f"{file}: hidden_act is {activation}; supported are {', '.join(_ACTIVATIONS)}"
        )
    width, heads = _need(about, "hidden_size", file), _need(about, "num_attention_heads", file)
    known = {
        "num_key_value_heads": about.get("num_key_value_heads", kind.num_kv_heads) or heads,
        "head_dim": about.get("head_dim", kind.head_dim) or width // heads,
    }
    max_positions = about.get("max_position_embeddings", kind.max_positions)
    if max_positions is not None:
        max_positions = _need(
            {"max_position_embeddings": max_positions}, "max_position_embeddings", file
        )
    rope_base, rope_scaling = rope_config.read(about, file, kind.rope_base, max_positions)
    epsilon, default_epsilon = kind.epsilon
    config = {
        "vocab_size": _need(about, "vocab_size", file),
        "emb_dim": width,
        "num_heads": heads,
        "num_kv_heads": _need(known, "num_key_value_heads", file),
        "head_dim": _need(known, "head_dim", file),
        "mlp_dim": _need(about, "intermediate_size", file),
        "num_layers": _need(about, "num_hidden_layers", file),
        "mlp_activations": (_ACTIVATIONS[activation], "linear"),
        "norm_epsilon": rope_config.positive(about.get(epsilon, default_epsilon), epsilon, file),
        "rope_base": rope_base,
        "rope_scaling": rope_scaling,
        "max_positions": max_positions,
        "logits_via_embedding": bool(about.get("tie_word_embeddings", kind.tied)),
        **kind.fixed,
        **_read_biases(about, kind),
        **_read_windows(about, file, kind),
    }
    if kind is _DECODERS["cohere"]:
        config["logit_scale"] = float(about.get("logit_scale", 0.0625))
    return config


def _read_biases(about: Mapping[str, Any], kind: _Decoder) -> dict[str, bool]:
    found = {}
    if "attention_bias" in kind.biases and about.get("attention_bias"):
        found = {"qkv_bias": True, "out_bias": True}
    if "mlp_bias" in kind.biases and about.get("mlp_bias"):
        found["mlp_bias"] = True
    return found


_FULL, _SLIDING = "full_attention", "sliding_attention"


def _read_windows(about: Mapping[str, Any], file: str, kind: _Decoder) -> dict[str, int]:
    """Returns `sliding_window` and `full_layers`, as far as the layers have windows."""
    layers = _need(about, "num_hidden_layers", file)
    kinds = about.get("layer_types")
    if strange := set(kinds or ()) - {_FULL, _SLIDING}:
        raise UserError(f"{file}: layer_types has {sorted(strange)[0]}, which is not supported")
    window = about.get("sliding_window", kind.window) if kind.window else None
    if kind.architecture != "MistralForCausalLM" and not about.get("use_sliding_window", False):
        window = None
    # Mistral's class looks at nothing but the window.
    if window is None or (kinds and _SLIDING not in kinds):
        if _SLIDING in (kinds or ()):
            raise UserError(f"{file}: layer_types has {_SLIDING}, but there is no window")
        return {}
    window = _need({"sliding_window": window}, "sliding_window", file)
    if kind.architecture == "MistralForCausalLM":
        return {"sliding_window": window}
    full = about.get("max_window_layers", 28)
    kinds = kinds or [_FULL if i < full else _SLIDING for i in range(layers)]
    full = kinds.count(_FULL)
    if len(kinds) != layers or kinds != [_FULL] * full + [_SLIDING] * (layers - full):
        raise UserError(
            f"{file}: layer_types has windows in other layers than the last ones, which is not "
            "supported"
        )
    return {"sliding_window": window, "full_layers": full} if full < layers else {}


def _write_t5(config: Mapping[str, Any]) -> dict[str, Any]:
    activations = tuple(config.get("mlp_activations", ("gelu", "linear")))
    # The first name of several wins: "gated-gelu" of "gated-gelu_new".
    names = {ours: theirs for theirs, ours in reversed(_T5_MLPS.items())}
    if activations not in names:
        raise UserError(f"mlp_activations {activations}: no T5 of transformers has them")
    tied = config.get("logits_via_embedding", False)
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "is_encoder_decoder": True,
        "vocab_size": config["vocab_size"],
        "d_model": config["emb_dim"],
        "num_heads": config["num_heads"],
        "d_kv": config["head_dim"],
        "d_ff": config["mlp_dim"],
        "num_layers": config["num_encoder_layers"],
        "num_decoder_layers": config["num_decoder_layers"],
        "feed_forward_proj": names[activations],
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        # False also tells transformers 5 not to scale what goes into the output; it then keeps
        # the two matrices apart because the file has both.
        "tie_word_embeddings": tied,
    }


def _write_decoder(config: Mapping[str, Any], max_positions: int) -> dict[str, Any]:
    name = _model_type(config)
    kind = _DECODERS[name]
    activation = _decoder_activation(config.get("mlp_activations", ("silu", "linear")))
    about = {
        "model_type": name,
        "architectures": [kind.architecture],
        "vocab_size": config["vocab_size"],
        "hidden_size": config["emb_dim"],
        "num_attention_heads": config["num_heads"],
        "num_key_value_heads": config["num_kv_heads"],
        "head_dim": config["head_dim"],
        "intermediate_size": config["mlp_dim"],
        "num_hidden_layers": config["num_layers"],
        "hidden_act": activation,
        kind.epsilon[0]: config.get("norm_epsilon", 1e-6),
        "max_position_embeddings": config.get("max_positions") or max_positions,
        # The spelling before transformers 5, which reads it too.
        "rope_theta": config.get("rope_base", 10000.0),
        "rope_scaling": rope_config.write(config.get("rope_scaling")),
        "tie_word_embeddings": config.get("logits_via_embedding", True),
        **{key: supported for key, (_, supported) in kind.refused.items()},
        **_written_biases(config, kind),
        **_written_windows(config, kind),
    }
    if name == "cohere":
        about["logit_scale"] = config.get("logit_scale", 1.0)
    return about


def _written_biases(config: Mapping[str, Any], kind: _Decoder) -> dict[str, bool]:
    ours = {"attention_bias": "out_bias", "mlp_bias": "mlp_bias"}
    return {key: bool(config.get(ours[key], False)) for key in kind.biases}


def _written_windows(config: Mapping[str, Any], kind: _Decoder) -> dict[str, Any]:
    window, layers = config.get("sliding_window"), config["num_layers"]
    if not kind.window:
        return {}
    if kind.architecture == "MistralForCausalLM":
        return {"sliding_window": window}
    if window is None:
        return {"use_sliding_window": False}
    full = config.get("full_layers", 0)
    kinds = [_FULL] * full + [_SLIDING] * (layers - full)
    about = {"use_sliding_window": True, "sliding_window": window, "max_window_layers": full}
    return {**about, "layer_types": kinds}


def _decoder_activation(activations: Sequence[str]) -> str:
    theirs = {"silu": "silu", "gelu": "gelu_pytorch_tanh", "relu": "relu"}
    gate, *rest = activations
    if gate not in theirs or rest != ["linear"]:
        raise UserError(
            f"mlp_activations {tuple(activations)}: no decoder of transformers has them; "
            f"supported are one of {', '.join(theirs)}, and linear"
        )
    return theirs[gate]


def _model_type(config: Mapping[str, Any]) -> str:
    """Returns the `model_type` that computes a decoder-only configuration.

    Raises:
      UserError: there is none.
    """
    norm, qk_norm = config.get("norm", "rms"), config.get("qk_norm", False)
    qkv, out = config.get("qkv_bias", False), config.get("out_bias", False)
    mlp, window = config.get("mlp_bias", False), config.get("sliding_window") is not None
    # Llama's class wants a width that its heads divide, Mistral's computes the same without.
    divides = config["emb_dim"] % config["num_heads"] == 0
    if config.get("parallel", False):
        if norm == "layer" and qkv == out and not (mlp or qk_norm or window):
            return "cohere"
    elif norm == "rms" and config.get("logit_scale", 1.0) == 1.0:
        if qk_norm and qkv == out and not mlp:
            return "qwen3"
        if qkv and not (out or mlp or qk_norm):
            return "qwen2"
        if qkv == out and not (qk_norm or window) and divides:
            return "llama"
        if not (qkv or out or mlp or qk_norm or config.get("full_layers", 0)):
            return "mistral"
    names = ("parallel", "norm", "qkv_bias", "out_bias", "mlp_bias", "qk_norm", "logit_scale")
    names += ("sliding_window", "full_layers")
    values = ", ".join(f"{name}={config[name]}" for name in names if name in config)
    raise UserError(f"{values}: no architecture of transformers has this combination")
