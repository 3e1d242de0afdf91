"""A model as plain values, such as a JSON file holds, and back."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from promot_jax.base import values as settings
from promot_jax.base.errors import UserError
from promot_jax.data.vocabularies import Vocabulary
from promot_jax.models import DecoderOnlyModel, EncoderDecoderModel, Model
from promot_jax.models.networks.lora import Lora
from promot_jax.models.networks.parallel import Parallel

FAMILIES: Mapping[str, type[Model]] = {
    kind.family: kind for kind in (EncoderDecoderModel, DecoderOnlyModel)
}


def build(
    family: str, config: Mapping[str, Any], vocabulary: Vocabulary | None, **options: Any
) -> Model:
    """Returns a model from plain values, such as a JSON file holds; inverse of `describe`.

    Args:
      family: a key of `FAMILIES`.
      config: fields of the family's configuration; lists stand for tuples, a dict for `lora`.
      vocabulary: of the tokens, None for a model that sees no texts. A decoder-only model starts
        with the token that its vocabulary puts before texts, its `start_id`, if it has one and
        `options` do not say otherwise.
      **options: further fields of the model: `end_ids`; `start_id`; `prefix_lm` of a decoder-only
        one.

    Raises:
      UserError: an unknown family, or a field that is unknown or missing.
    """
    if family not in FAMILIES:
        raise UserError(f"unknown model family {family!r}; known are {', '.join(sorted(FAMILIES))}")
    kind = FAMILIES[family]
    fields = dataclasses.fields(kind.config_class)
    _only_known(f"{family} configuration", config, [field.name for field in fields])
    given = [field.name for field in dataclasses.fields(kind)][2:]
    _only_known(f"{family} model", options, given)
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in config]:
        raise UserError(f"{family} configuration has no {', '.join(missing)}; add what is missing")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    if isinstance(lora := values.get("lora"), Mapping):
        kind_of_adapter = Parallel if "width" in lora else Lora
        fields = dataclasses.fields(kind_of_adapter)
        _only_known("lora", lora, [field.name for field in fields])
        needed = [field.name for field in fields if field.default is dataclasses.MISSING]
        if missing := [name for name in needed if name not in lora]:
            raise UserError(f"lora has no {', '.join(missing)}; add what is missing")
        values["lora"] = kind_of_adapter(**lora)
    if kind is DecoderOnlyModel:
        options = {"start_id": getattr(vocabulary, "start_id", None)} | options
    return kind(kind.network_class(kind.config_class(**values)), vocabulary, **options)


# Fields of models that are no plain values, or, as `end_ids`, do not decide what is computed.
RUNTIME = ("network", "vocabulary", "end_ids")


# Fields of configurations that earlier versions did not have, and their defaults.
LATER = {"sliding_window": None, "full_layers": 0, "out_bias": False, "mlp_bias": False}


def _only_known(what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    if unknown := [name for name in given if name not in known]:
        raise UserError(f"{what} has no field {unknown[0]!r}; it has {', '.join(known)}")


def describe(model: Model) -> dict[str, Any]:
    """Returns `family`, `config` and further fields of a model as plain values; see `build`.

    They are what decides the results: `max_positions` is none of them.
    """
    config = dataclasses.asdict(model.network.config)
    # The leaves of prompts tell their kind.
    del config["prompt_init"], config["prompt_kind"]
    # What came later is left out where it changes nothing: descriptions stay those of before.
    for name, usual in LATER.items():
        if config.get(name, usual) == usual:
            config.pop(name, None)
    if isinstance(lora := config.get("lora"), dict):
        later = settings.later(type(model.network.config.lora))
        config["lora"] = {k: v for k, v in lora.items() if k not in later or v != later[k]}
    # It warns and computes nothing.
    config.pop("max_positions", None)
    fields = [field.name for field in dataclasses.fields(model) if field.name not in RUNTIME]
    if model.family == "t5" and model.start_id == 0:
        fields.remove("start_id")
    return {
        "family": model.family,
        "config": {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()},
        **{name: getattr(model, name) for name in fields},
    }
