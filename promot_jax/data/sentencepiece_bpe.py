"""A SentencePiece model, as Llama 2 and its kin have it, as a tokenizer of the tokenizers library.

T5's models are read by seqio. Those of decoder-only models differ: pieces are merged pair by pair,
unknown characters fall back to bytes, a start token precedes a text, and none ends it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

SPACE = "▁"
# Values of a piece's type.
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
# Values of the trainer's model_type.
UNIGRAM, BPE = 1, 2


def parse(content: bytes) -> Any:
    """Returns the model that a file holds.

    Raises:
      ValueError: it holds none.
    """
    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(content)
    except Exception as error:  # of protocol buffers, whose versions disagree on its class
        raise ValueError(str(error)) from None
    if not proto.pieces:
        raise ValueError("it has no pieces")
    if proto.trainer_spec.model_type not in (UNIGRAM, BPE):
        raise ValueError("it splits into words or characters; unigram and bpe can be read")
    return proto


def has_start(content: bytes) -> bool:
    """Says whether a model has a token that begins a text."""
    return parse(content).trainer_spec.bos_id >= 0


def build(content: bytes, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Returns the tokenizer.

    Args:
      content: of the file.
      settings: of the `tokenizer_config.json` beside it, which may say `add_bos_token`,
        `add_prefix_space` and `legacy`; by default a start token is put before a text if there
        is one, and a space as the model was trained.

    Raises:
      ValueError: no SentencePiece model, or one that cannot be read.
    """
    proto = parse(content)
    tokenizer = tokenizers.Tokenizer(_model(proto))
    for special, kinds in ((True, (UNKNOWN, CONTROL)), (False, (USER_DEFINED,))):
        chosen = [piece.piece for piece in proto.pieces if piece.type in kinds]
        tokenizer.add_tokens([AddedToken(t, special=special, normalized=False) for t in chosen])
    if steps := _normalizers(proto.normalizer_spec):
        tokenizer.normalizer = normalizers.Sequence(steps)
    prefix = settings.get("add_prefix_space")
    prefix = proto.normalizer_spec.add_dummy_prefix if prefix is None else prefix
    # transformers' words: behind a special token inside a text only old tokenizers add a space.
    scheme = "always" if settings.get("legacy") else "first"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        SPACE, prepend_scheme=scheme if prefix else "never", split=False
    )
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    start = proto.trainer_spec.bos_id
    if start >= 0 and settings.get("add_bos_token") is not False:
        piece = proto.pieces[start].piece
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[piece, "$A"], special_tokens=[(piece, start)]
        )
    return tokenizer


def eos_piece(content: bytes) -> str | None:
    """Returns the piece that ends a text, None where a model has none."""
    proto = parse(content)
    end = proto.trainer_spec.eos_id
    return proto.pieces[end].piece if end >= 0 else None


def _model(proto) -> models.Model:
    unknown = next((i for i, p in enumerate(proto.pieces) if p.type == UNKNOWN), None)
    fallback = proto.trainer_spec.byte_fallback
    if proto.trainer_spec.model_type == UNIGRAM:
        pieces = [(piece.piece, piece.score) for piece in proto.pieces]
        return models.Unigram(pieces, unknown, fallback)
    vocab = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    # Pieces of other types are never the result of a merge.
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == 1}
    return models.BPE(
        vocab,
        merges(vocab, scores),
        unk_token=None if unknown is None else proto.pieces[unknown].piece,
        fuse_unk=True,
        byte_fallback=fallback,
    )


def merges(vocab: Mapping[str, int], scores: Mapping[str, float]) -> Sequence[tuple[str, str]]:
    """Returns the pairs that may be joined, those that are joined first in front.

    SentencePiece joins the pair whose whole has the best score; the tokenizers library wants every
    pair that can make a piece.

    Args:
      vocab: {piece: id}.
      scores: {piece: score} of those that are joined from others.
    """
    pairs = [
        (score, len(piece[:cut]), piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    return [(left, right) for _, _, left, right in sorted(pairs, key=lambda p: (-p[0], -p[1]))]


def _normalizers(spec) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    return steps
