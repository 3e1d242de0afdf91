"""The byte-level BPE tokenizer inside a GGUF file as the text of a `tokenizer.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from promot_jax.errors import UserError

# Values of tokenizer.ggml.token_type that stand for whole tokens in a text, whatever surrounds
# them, and the one of rows of the embedding that no text uses.
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5

# How Llama 3 and Qwen 2 cut a text into words; they differ in the length of a number.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What the name in tokenizer.ggml.pre stands for.

    Attributes:
      words: regular expression of a word, None for that of GPT-2.
      digits: numbers are cut into digits first.
      nfc: texts are composed (Unicode NFC) first.
      whole: a word that is a token is not assembled from merges.
      add_bos: whether the start token is prepended where the file does not say.
    """

    words: str | None = None
    digits: bool = False
    nfc: bool = False
    whole: bool = False
    add_bos: bool = False


_LLAMA3 = _Kind(words=WORDS % "{1,3}", whole=True, add_bos=True)
# Others, `default` among them, would be guesses: a wrong cut is a silently worse model.
KINDS = {
    "gpt-2": _Kind(),
    "smollm": _Kind(digits=True),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _Kind(words=WORDS % "", nfc=True),
}


def description(metadata: Mapping[str, Any], path: str) -> dict[str, Any] | None:
    """Returns the tokenizer as `vocabularies.load` takes it.

    Args:
      metadata: {key: value} of the file; `tokenizer.ggml.` keys count.
      path: of the file, for errors.

    Returns:
      None where the file has no byte-level BPE tokenizer, or one of a kind not in `KINDS`.

    Raises:
      UserError: the parts of the tokenizer do not fit together.
    """
    ggml = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    kind = KINDS.get(ggml.get("pre"))
    if ggml.get("model") != "gpt2" or kind is None:
        return None
    try:
        tokens, eos = ggml["tokens"], ggml.get("eos_token_id")
        return {
            "kind": "tokenizers",
            "json": _build(kind, ggml).to_str(),
            "eos_token": None if eos is None else tokens[eos],
        }
    except KeyError as error:
        raise UserError(f"{path}: its tokenizer lacks tokenizer.ggml.{error.args[0]}") from None
    except Exception as error:  # the library raises nothing more specific
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: its tokenizer is inconsistent: {reason}") from None


def _build(kind: _Kind, ggml: Mapping[str, Any]) -> tokenizers.Tokenizer:
    tokens, types = ggml["tokens"], ggml["token_type"]
    vocab = {
        token: i
        for i, (token, sort) in enumerate(zip(tokens, types, strict=True))
        if sort != UNUSED
    }
    merges = [tuple(merge.split(" ", 1)) for merge in ggml["merges"]]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=kind.whole))
    for special, sort in ((True, CONTROL), (False, USER_DEFINED)):
        chosen = [token for token, found in zip(tokens, types, strict=True) if found == sort]
        tokenizer.add_tokens([AddedToken(t, special=special, normalized=False) for t in chosen])
    if kind.nfc:
        tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind.words is None)
    first = [pre_tokenizers.Digits(individual_digits=True)] if kind.digits else []
    if kind.words is not None:
        first.append(pre_tokenizers.Split(Regex(kind.words), behavior="isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    if ggml.get("add_bos_token", kind.add_bos):
        number = ggml["bos_token_id"]
        start = tokens[number]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[start, "$A"], special_tokens=[(start, number)]
        )
    return tokenizer
