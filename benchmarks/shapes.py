"""Networks and batches that the benchmarks compare, and the data that all contenders share.

Only numpy is imported here, so that a contender's memory holds nothing of another one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

PAD, END = 0, 1
# Ids below it have a meaning of their own.
FIRST_WORD = 3

# Batches of uneven rows that training steps take in turn.
UNEVEN = 4

# Inputs [T] and targets [U] of a row.
Row = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a network and of its batches.

    Attributes:
      family: "t5" or "decoder".
      config: fields of the family's configuration in promot_jax.
      rows: B.
      inputs: T, in tokens.
      targets: U, in tokens; decoding makes as many.
      prompt: P, rows of the soft prompt.
      scanned: whether promot_jax trains it with the settings of `gin/models/checkpoint.gin`.
    """

    family: str
    config: Mapping[str, Any]
    rows: int
    inputs: int
    targets: int
    prompt: int
    scanned: bool = False


def _t5(vocab, emb, heads, head_dim, mlp, layers, activations) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "emb_dim": emb,
        "num_heads": heads,
        "head_dim": head_dim,
        "mlp_dim": mlp,
        "num_encoder_layers": layers[0],
        "num_decoder_layers": layers[1],
        "mlp_activations": activations,
        "dropout_rate": 0.0,
    }


def _llama(vocab, emb, heads, kv_heads, head_dim, mlp, layers) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "emb_dim": emb,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "mlp_dim": mlp,
        "num_layers": layers,
        "rope_base": 100000.0,
    }


_GATED = ("gelu", "linear")

SHAPES: Mapping[str, Shape] = {
    # For the test of the benchmarks themselves.
    "tiny": Shape("t5", _t5(256, 32, 2, 16, 64, (1, 1), _GATED), 4, 12, 6, 3),
    "tiny_llama": Shape("decoder", _llama(256, 32, 2, 1, 16, 64, 1), 4, 12, 6, 3),
    # The bundled miniature's sizes.
    "mini": Shape("t5", _t5(1280, 128, 4, 32, 512, (3, 2), ("relu",)), 32, 40, 4, 16),
    "mt5_small": Shape("t5", _t5(250112, 512, 6, 64, 1024, (8, 8), _GATED), 8, 64, 16, 20, True),
    # SmolLM2-135M's sizes.
    "smollm2": Shape("decoder", _llama(49152, 576, 9, 3, 64, 1536, 30), 8, 64, 16, 20, True),
}


def words(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Returns random full rows: inputs int32 [B, T] and targets int32 [B, U]."""
    rng = np.random.default_rng(0)
    high = shape.config["vocab_size"]
    inputs = rng.integers(FIRST_WORD, high, (shape.rows, shape.inputs), dtype=np.int32)
    targets = rng.integers(FIRST_WORD, high, (shape.rows, shape.targets), dtype=np.int32)
    return inputs, targets


def full_rows(shape: Shape) -> list[Row]:
    """Returns the rows of `words`."""
    return list(zip(*words(shape), strict=True))


def uneven_rows(shape: Shape, number: int) -> list[Row]:
    """Returns the rows of a batch whose lengths are drawn evenly on a logarithmic scale.

    Args:
      shape: its `inputs` and `targets` are the longest; an eighth of them are the shortest.
      number: of the batch; each has rows of its own.
    """
    rng = np.random.default_rng((2, number))

    def draw(longest):
        length = round(longest * 8 ** rng.uniform(-1, 0))
        return rng.integers(FIRST_WORD, shape.config["vocab_size"], max(length, 1), dtype=np.int32)

    return [(draw(shape.inputs), draw(shape.targets)) for _ in range(shape.rows)]


def step_rows(shape: Shape, uneven: bool) -> list[list[Row]]:
    """Returns the rows of the batches that training steps take in turn."""
    if not uneven:
        return [full_rows(shape)]
    return [uneven_rows(shape, number) for number in range(UNEVEN)]


def batch(shape: Shape, rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Returns rows, padded to [B, T] and [B, U], with the fields of `promot_jax.data.batching`."""
    fields = {
        "encoder_input_tokens": np.zeros((shape.rows, shape.inputs), np.int32),
        "encoder_segment_ids": np.zeros((shape.rows, shape.inputs), np.int32),
        "decoder_input_tokens": np.zeros((shape.rows, shape.targets), np.int32),
        "decoder_target_tokens": np.zeros((shape.rows, shape.targets), np.int32),
        "decoder_loss_weights": np.zeros((shape.rows, shape.targets), np.int32),
    }
    for number, (inputs, targets) in enumerate(rows):
        fields["encoder_input_tokens"][number, : len(inputs)] = inputs
        fields["encoder_segment_ids"][number, : len(inputs)] = 1
        fields["decoder_input_tokens"][number, 1 : len(targets)] = targets[:-1]
        fields["decoder_target_tokens"][number, : len(targets)] = targets
        fields["decoder_loss_weights"][number, : len(targets)] = 1
    return fields


def prompt(shape: Shape) -> np.ndarray:
    """Returns the soft prompt that all contenders begin with, float32 [P, H]."""
    rng = np.random.default_rng(1)
    return rng.normal(0.0, 0.5, (shape.prompt, shape.config["emb_dim"])).astype(np.float32)
